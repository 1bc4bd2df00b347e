//! Load balancing of services inside of each container's namespace: connections to a virtual address are led to one of
//! the service's endpoints by the packet filter of the container itself.

mod guard;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::conntrack::{self, Flow};
use crate::error::NetworkError;
use crate::firewall::{NetlinkTables, Tables};
use crate::links::Detail;
use crate::netlink::NetlinkError;
use crate::network::{Inner, lock};
use crate::nft::{Batch, Family};
use crate::sandbox::duplicate;
use crate::spec::Protocol;
use guard::{Guarded, Own};
use rustix::io::Errno;
use table::Slots;

/// The services that a container reaches by virtual addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// The virtual addresses, each once.
    pub virtuals: Arc<Vec<VirtualService>>,
    /// Every address that somebody still has. Established connections to one of these go on when it is no longer an
    /// endpoint; those to any other address are forgotten.
    pub in_use: Arc<BTreeSet<IpAddr>>,
    /// What containers accept, by their addresses; those of other containers are passed over.
    pub guards: Arc<Guards>,
}

/// What containers accept, by their addresses; one whose address is not here accepts everything.
pub type Guards = BTreeMap<IpAddr, Arc<Guard>>;

/// The new connections that a container accepts at an address; it refuses all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Addresses that may open any.
    pub from: BTreeSet<IpAddr>,
    /// Addresses that may open some, with the ports.
    pub ports: BTreeSet<(IpAddr, Protocol, u16)>,
    /// Ports that are open to everybody.
    pub open: BTreeSet<(Protocol, u16)>,
}

/// A virtual address, and where connections to it are led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// The virtual address.
    pub vip: IpAddr,
    /// The endpoints, of the same family; others are passed over. Without any, connections are refused.
    pub endpoints: BTreeSet<IpAddr>,
}

/// The tables of the containers that have any.
pub(crate) type Balancers = HashMap<String, Arc<Mutex<Balancer>>>;

/// The table of one container.
pub(crate) struct Balancer {
    /// Of the container's namespace.
    tables: NetlinkTables,
    /// What the kernel holds; `None` before the first change and after a failure.
    held: Option<Slots>,
    /// The same for what the container accepts.
    guarded: Option<BTreeMap<bool, Guarded>>,
    last: Services,
}

impl Inner {
    pub(crate) fn set_services(&self, container_id: &str, wanted: &Services) -> Result<(), NetworkError> {
        let failed = || NetworkError::firewall("lead a container to services");
        let balancer = self.balancer(container_id)?;
        let mut balancer = lock(&balancer);
        let own = match wanted.guards.is_empty() {
            true => Own::new(),
            false => self.addresses_of(container_id)?,
        };
        // What it may not be sent comes first.
        balancer
            .guard(&self.guard_table, &wanted.guards, &own)
            .map_err(NetworkError::firewall("guard a container"))?;
        balancer
            .set(&self.service_table, container_id, wanted)
            .map_err(failed())
    }

    fn addresses_of(&self, container_id: &str) -> Result<Own, NetworkError> {
        let mut links = self.links_of(&self.require_sandbox(container_id)?)?;
        let failed = NetworkError::link("read the addresses of", container_id);
        let read = links
            .list(Detail::Identity)
            .and_then(|named| Ok((named, links.addresses_of_links()?)));
        let (named, owned) = read.map_err(failed)?;
        let name = |index| named.iter().find(|link| link.index == index);
        let own = owned.iter().map(|(index, net)| {
            let interface = name(*index).map(|link| link.name.clone());
            (net.address(), interface)
        });
        Ok(own.collect())
    }

    fn balancer(&self, container_id: &str) -> Result<Arc<Mutex<Balancer>>, NetworkError> {
        if let Some(balancer) = lock(&self.balancers).get(container_id) {
            return Ok(Arc::clone(balancer));
        }
        let netns = self.require_sandbox(container_id)?.netns;
        let opened = self.namespaces.run_in(duplicate(&netns)?, NetlinkTables::open)?;
        let tables = opened.map_err(NetworkError::firewall("open the packet filter of a container"))?;
        let balancer = Balancer {
            tables,
            held: None,
            guarded: None,
            last: Services::default(),
        };
        let mut balancers = lock(&self.balancers);
        // One that is being removed is not kept by this: the removal looks here once the pin is gone.
        self.require_sandbox(container_id)?;
        let kept = balancers.entry(container_id.to_owned());
        Ok(Arc::clone(kept.or_insert_with(|| Arc::new(Mutex::new(balancer)))))
    }
}

/// The kernel was built without tables of the family, or without their chains.
fn is_unknown_family(error: &NetlinkError) -> bool {
    let unknown = [Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::NOENT];
    error.errno().is_some_and(|errno| unknown.contains(&errno))
}

impl Balancer {
    fn set(&mut self, table: &str, container_id: &str, wanted: &Services) -> Result<(), NetlinkError> {
        if self.held.is_some() && self.last == *wanted {
            return Ok(());
        }
        let held = self.held.take();
        let slots = arrange(held.as_ref(), wanted, container_id);
        for family in [Family::Ipv4, Family::Ipv6] {
            let now = of_family(&slots, family);
            match &held {
                Some(held) => self.change(family, table, &of_family(held, family), &now)?,
                None => self.replace(family, table, &now)?,
            }
        }
        let lost = |vip: &IpAddr, address: &IpAddr| slots.get(vip).is_none_or(|now| !now.contains(address));
        let lost_any = held.as_ref().is_none_or(|held| {
            held.iter()
                .any(|(vip, endpoints)| endpoints.iter().any(|address| lost(vip, address)))
        });
        if lost_any || !self.last.in_use.is_subset(&wanted.in_use) {
            // Flows to an address that is no longer a service's lead nowhere any more either.
            let gone = held
                .iter()
                .flat_map(|held| held.keys())
                .map(|vip| (*vip, Vec::new()));
            let known = gone.chain(slots.clone()).collect();
            self.forget(&known, &wanted.in_use)?;
        }
        self.held = Some(slots);
        self.last = wanted.clone();
        Ok(())
    }

    fn guard(&mut self, table: &str, guards: &Guards, own: &Own) -> Result<(), NetlinkError> {
        let held = self.guarded.take();
        let mut now = BTreeMap::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let wanted = guard::guarded(guards, own, family);
            let held = held.as_ref().and_then(|held| held.get(&(family == Family::Ipv4)));
            let changes = match held {
                Some(held) => guard::between(family, held, &wanted),
                None => guard::whole(family, &wanted),
            };
            let mut committed = match changes.is_empty() {
                true => Ok(()),
                false => self.commit(family, table, changes),
            };
            let refused =
                |result: &Result<(), NetlinkError>| matches!(result, Err(error) if error.errno().is_some());
            // The container changed its table.
            if held.is_some() && refused(&committed) {
                committed = self.commit(family, table, guard::whole(family, &wanted));
            }
            // A kernel without IPv6 has no such tables, and nothing to guard with them.
            let dispensable = family == Family::Ipv6 && !guard::has_addresses(&wanted);
            match committed {
                Err(error) if dispensable && is_unknown_family(&error) => {}
                committed => {
                    committed?;
                    now.insert(family == Family::Ipv4, wanted);
                }
            }
        }
        self.guarded = Some(now);
        Ok(())
    }

    /// Makes a small change; where the table is not as expected, because the container changed it, replaces it.
    fn change(&mut self, family: Family, table: &str, held: &Slots, now: &Slots) -> Result<(), NetlinkError> {
        let changes = table::between(family, held, now);
        if changes.is_empty() {
            return Ok(());
        }
        match self.commit(family, table, changes) {
            Err(error) if error.errno().is_some() => self.replace(family, table, now),
            other => other,
        }
    }

    fn replace(&mut self, family: Family, table: &str, now: &Slots) -> Result<(), NetlinkError> {
        match self.commit(family, table, table::whole(family, now)) {
            // A kernel without IPv6 has no such tables.
            Err(error) if family == Family::Ipv6 && now.is_empty() && error.errno().is_some() => Ok(()),
            other => other,
        }
    }

    fn commit(
        &mut self,
        family: Family,
        table: &str,
        changes: Vec<crate::nft::Change>,
    ) -> Result<(), NetlinkError> {
        self.tables.commit(&Batch {
            family,
            table: table.to_owned(),
            changes,
        })
    }

    /// Forgets flows that lead where their service no longer is. A protocol without connections that end would go on
    /// there for as long as anything is sent.
    fn forget(&mut self, slots: &Slots, in_use: &BTreeSet<IpAddr>) -> Result<(), NetlinkError> {
        for is_ipv4 in [true, false] {
            if slots.keys().any(|vip| vip.is_ipv4() == is_ipv4) {
                conntrack::forget_stale(self.tables.socket(), is_ipv4, |flow| {
                    is_stale(flow, slots, in_use)
                })?;
            }
        }
        Ok(())
    }
}

fn is_stale(flow: &Flow, slots: &Slots, in_use: &BTreeSet<IpAddr>) -> bool {
    let Some(endpoints) = slots.get(&flow.destination.0) else {
        return false;
    };
    let at = flow.answered_by.0;
    let goes_on = flow.protocol == Protocol::Tcp.number() || flow.protocol == Protocol::Sctp.number();
    let stays = endpoints.contains(&at) || (goes_on && in_use.contains(&at));
    !stays
}

fn arrange(held: Option<&Slots>, wanted: &Services, container_id: &str) -> Slots {
    let arranged = wanted.virtuals.iter().map(|service| {
        let before = held
            .and_then(|held| held.get(&service.vip))
            .map_or(&[][..], Vec::as_slice);
        let same_family = |address: &&IpAddr| address.is_ipv4() == service.vip.is_ipv4();
        let endpoints = service.endpoints.iter().filter(same_family).copied().collect();
        (service.vip, table::arranged(before, &endpoints, container_id))
    });
    arranged.collect()
}

fn of_family(slots: &Slots, family: Family) -> Slots {
    let fits = |vip: &IpAddr| vip.is_ipv4() == (family == Family::Ipv4);
    let of_family = slots.iter().filter(|(vip, _)| fits(vip));
    of_family
        .map(|(vip, endpoints)| (*vip, endpoints.clone()))
        .collect()
}
