//! The packet filters of both families, and the administrator's chain before them.

use super::{Firewall, Model, NetlinkTables, PortKey, Tables, Target, admin};
use crate::error::NetworkError;
use crate::netlink::NetlinkError;
use crate::nft::Family;

/// The tables of this node. The one of IPv6 is made when something needs it.
pub(crate) struct Firewalls {
    /// IPv4.
    pub v4: Firewall<NetlinkTables>,
    v6: Option<Firewall<NetlinkTables>>,
    table: String,
}

impl Firewalls {
    /// Takes over what the kernel holds from an earlier run, and replaces it by this version's rules.
    pub fn open(table: &str) -> Result<Self, NetlinkError> {
        let mut tables = NetlinkTables::open()?;
        admin::ensure(&mut tables, table)?;
        let v4 = Firewall::open(tables, Family::Ipv4, table.to_owned())?;
        let mut tables = NetlinkTables::open()?;
        let used = super::elements::read_model(Family::Ipv6, |set| tables.elements(Family::Ipv6, table, set));
        let v6 = match used {
            Ok(model) if model != Model::default() => {
                Some(Firewall::open(tables, Family::Ipv6, table.to_owned())?)
            }
            // A kernel without IPv6 has no such tables.
            Ok(_) | Err(_) => None,
        };
        Ok(Self {
            v4,
            v6,
            table: table.to_owned(),
        })
    }

    /// The table of IPv6, made now if there is none.
    pub fn v6(&mut self) -> Result<&mut Firewall<NetlinkTables>, NetworkError> {
        let opened = match self.v6.take() {
            Some(firewall) => firewall,
            None => NetlinkTables::open()
                .and_then(|tables| Firewall::open(tables, Family::Ipv6, self.table.clone()))
                .map_err(NetworkError::firewall("install our rules for IPv6"))?,
        };
        Ok(self.v6.insert(opened))
    }

    /// Forgets a bridge of IPv6. Idempotent.
    pub fn forget_ipv6_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.v6.as_mut().map_or(Ok(()), |v6| v6.remove_bridge(name))
    }

    /// All published ports.
    pub fn published(&self) -> impl Iterator<Item = (&PortKey, &Target)> {
        let v6 = self.v6.iter().flat_map(|v6| &v6.model().published);
        self.v4.model().published.iter().chain(v6)
    }

    /// Opens ports, in each family all of them or none; none of either where one family fails.
    pub fn publish(&mut self, ports: &[(PortKey, Target)]) -> Result<(), NetworkError> {
        let failed = || NetworkError::firewall("publish ports");
        let (v4, v6): (Vec<_>, Vec<_>) = ports.iter().cloned().partition(|(key, _)| key.address.is_ipv4());
        let earlier = self.v4.model().published.clone();
        self.v4.publish(&v4).map_err(failed())?;
        if v6.is_empty() {
            return Ok(());
        }
        let opened = self
            .v6()
            .and_then(|firewall| firewall.publish(&v6).map_err(failed()));
        if opened.is_err() {
            let fresh: Vec<_> = v4
                .iter()
                .map(|(key, _)| *key)
                .filter(|key| !earlier.contains_key(key))
                .collect();
            self.v4.unpublish(&fresh).map_err(failed())?;
        }
        opened
    }

    /// Closes ports.
    pub fn unpublish(&mut self, keys: &[PortKey]) -> Result<(), NetlinkError> {
        let (v4, v6): (Vec<PortKey>, Vec<PortKey>) = keys.iter().partition(|key| key.address.is_ipv4());
        self.v4.unpublish(&v4)?;
        self.v6
            .as_mut()
            .map_or(Ok(()), |firewall| firewall.unpublish(&v6))
    }

    /// Replaces what others changed; tells whether anything was.
    pub fn repair(&mut self) -> Result<bool, NetlinkError> {
        let mut repaired = false;
        for firewall in std::iter::once(&mut self.v4).chain(&mut self.v6) {
            if !firewall.matches_kernel()? {
                firewall.repair()?;
                repaired = true;
            }
        }
        Ok(repaired)
    }
}
