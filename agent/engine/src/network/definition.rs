//! What a network is: its record, and how a request becomes one.

use super::ipam::{self, AddressPool, SubnetPool};
use super::options::{self, GatewayMode, Options};
use super::ranges::{is_empty, parse_subnet, pool, problems_of};
use super::{OVERLAY, WAY_OUT};
use crate::clock;
use crate::error::{Error, Result};
use muster_network::{BridgeSpec, IpNet};
use muster_types::Timestamp;
use muster_types::network::{AddressRange, NetworkInfo, NetworkSpec};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Networks that exist by themselves, with their drivers.
pub(crate) const BUILT_IN: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];
/// Ranges of one network.
const RANGES_MAX: usize = 64;
/// Longest name.
const NAME_CHARS_MAX: usize = 255;

/// A network's durable record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// 64 hexadecimal characters.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// What it is, with the subnets and gateways in effect.
    pub spec: NetworkSpec,
    /// The link of the host that it stands on: its bridge, or the parent of its macvlan interfaces.
    pub link: String,
    /// That link was made for it, and goes with it.
    #[serde(default)]
    pub owns_link: bool,
}

impl NetworkRecord {
    /// Whether its name, not the user, made it.
    pub fn is_built_in(&self) -> bool {
        BUILT_IN.iter().any(|(name, _)| *name == self.spec.name)
    }

    /// Whether nodes share it, so that its addresses and names come from elsewhere.
    pub fn is_shared(&self) -> bool {
        self.spec.driver == OVERLAY
    }

    /// Whether containers find each other by name in it.
    pub fn resolves_names(&self) -> bool {
        !self.is_built_in() && self.spec.name != WAY_OUT && !self.spec.ingress
    }

    /// As clients see it.
    pub fn info(&self) -> NetworkInfo {
        NetworkInfo {
            id: self.id.clone(),
            cluster_scope: self.is_shared(),
            created: self.created,
            spec: self.spec.clone(),
        }
    }

    /// What its driver options mean.
    pub fn options(&self) -> Result<Options> {
        if self.is_shared() {
            // They were for who manages the network.
            return Ok(Options::default());
        }
        options::read(&self.spec.driver, &self.spec.options)
    }

    /// The pools of its addresses; none where others give them out.
    pub fn pools(&self) -> Result<Vec<AddressPool>> {
        if self.is_shared() {
            return Ok(Vec::new());
        }
        self.spec
            .ranges
            .iter()
            .map(|range| pool(&self.spec.name, range))
            .collect()
    }

    /// Its subnets.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.spec
            .ranges
            .iter()
            .filter_map(|range| range.subnet.parse().ok())
    }

    /// Its bridge, where it is one.
    pub fn bridge(&self) -> Result<Option<BridgeSpec>> {
        if self.spec.driver != "bridge" {
            return Ok(None);
        }
        let options = self.options()?;
        let gateways = self.spec.ranges.iter().filter_map(|range| {
            let subnet: IpNet = range.subnet.parse().ok()?;
            let mode = options.gateway_mode(subnet.is_ipv4());
            (mode != GatewayMode::Isolated).then(|| subnet.with_address(range.gateway?))?
        });
        Ok(Some(BridgeSpec {
            name: self.link.clone(),
            gateways: gateways.collect(),
            mtu: options.mtu,
            internal: self.spec.internal,
            masquerade: options.masquerade,
            icc: options.icc,
            unprotected: options.unprotected(),
            routed: options.routed(),
        }))
    }
}

/// A fresh id.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// What a new network must not collide with.
pub(crate) struct Surroundings<'a> {
    /// Where subnets are chosen from.
    pub pools: &'a [SubnetPool],
    /// Subnets of the other networks.
    pub subnets: &'a [IpNet],
    /// Networks that this host has routes to; what is chosen avoids them, what a user asks for need not.
    pub routes: &'a [IpNet],
    /// Links that the other networks stand on.
    pub links: &'a [String],
}

/// The record of a network that a user asked for.
pub(crate) fn define(mut spec: NetworkSpec, surroundings: &Surroundings<'_>) -> Result<NetworkRecord> {
    check_name(&spec.name)?;
    check_driver(&spec)?;
    let options = options::read(&spec.driver, &spec.options)?;
    options.check_modes(spec.internal)?;
    check_families(&spec)?;
    spec.ranges.retain(|range| !is_empty(range));
    let problems: Vec<String> = spec.ranges.iter().flat_map(problems_of).collect();
    if !problems.is_empty() {
        return Err(Error::invalid(format!(
            "invalid network config:\n{}",
            problems.join("\n")
        )));
    }
    // Without its family, a range means nothing.
    let (ipv4, ipv6) = (spec.ipv4, spec.ipv6);
    spec.ranges.retain(|range| {
        parse_subnet(&range.subnet).map_or(ipv4, |subnet| if subnet.is_ipv4() { ipv4 } else { ipv6 })
    });
    complete(&mut spec, surroundings)?;
    let id = random_id();
    let link = match spec.driver.as_str() {
        "macvlan" => options.parent.unwrap_or_else(|| format!("dm-{}", &id[..12])),
        _ => options.bridge_name.unwrap_or_else(|| format!("br-{}", &id[..12])),
    };
    if spec.driver == "bridge" && surroundings.links.contains(&link) {
        return Err(Error::forbidden(format!(
            "cannot create network {}: conflicts with another network: networks have same bridge name {link}",
            spec.name
        )));
    }
    Ok(NetworkRecord {
        id,
        created: clock::now(),
        spec,
        link,
        owns_link: false,
    })
}

/// A name that is an id's could not be told from one.
fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let valid = starts
        && name.len() <= NAME_CHARS_MAX
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.- ".contains(&byte));
    if !valid {
        return Err(Error::invalid(format!(
            "invalid network name {name:?}: it begins with a letter or digit and takes letters, digits and any of _.-"
        )));
    }
    match name {
        "bridge" | "host" | "none" | "default" | "container" => Err(Error::forbidden(format!(
            "operation is not permitted on predefined {name} network"
        ))),
        _ => Ok(()),
    }
}

fn check_driver(spec: &NetworkSpec) -> Result<()> {
    match spec.driver.as_str() {
        "bridge" | "macvlan" => Ok(()),
        "host" | "null" => Err(Error::forbidden(format!(
            "only one instance of \"{}\" network is allowed",
            spec.driver
        ))),
        "overlay" => Err(Error::not_supported("the network driver \"overlay\"".to_owned())),
        "ipvlan" => Err(Error::not_supported(
            "the network driver \"ipvlan\" (use macvlan)".to_owned(),
        )),
        other => Err(Error::NoSuchPlugin {
            name: other.to_owned(),
        }),
    }
}

fn check_families(spec: &NetworkSpec) -> Result<()> {
    if spec.ranges.len() > RANGES_MAX {
        return Err(Error::invalid(format!("a network can have {RANGES_MAX} subnets")));
    }
    if !spec.ipv4 && !spec.ipv6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    let of_family = |wanted: bool| {
        let families = spec
            .ranges
            .iter()
            .filter_map(|range| range.subnet.parse::<IpNet>().ok());
        families.filter(|subnet| subnet.is_ipv4() == wanted).count()
    };
    if spec.driver == "bridge" && (of_family(true) > 1 || of_family(false) > 1) {
        return Err(Error::forbidden("bridge driver doesn't support multiple subnets"));
    }
    Ok(())
}

/// Chooses what the user left open: a subnet for each family without one, and gateways.
fn complete(spec: &mut NetworkSpec, surroundings: &Surroundings<'_>) -> Result<()> {
    let mut own: Vec<IpNet> = Vec::new();
    for range in &spec.ranges {
        let subnet = parse_subnet(&range.subnet)?;
        if surroundings
            .subnets
            .iter()
            .chain(&own)
            .any(|other| other.overlaps(&subnet))
        {
            return Err(Error::forbidden(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
        own.push(subnet);
    }
    for (wanted, is_ipv4) in [(spec.ipv4, true), (spec.ipv6, false)] {
        if !wanted || own.iter().any(|subnet| subnet.is_ipv4() == is_ipv4) {
            continue;
        }
        let taken = [surroundings.subnets, surroundings.routes, &own].concat();
        let chosen = ipam::choose_subnet(surroundings.pools, is_ipv4, &taken).ok_or_else(|| {
            Error::invalid(
                "all predefined address pools have been fully subnetted; give --subnet to choose another one",
            )
        })?;
        own.push(chosen);
        spec.ranges.push(AddressRange {
            subnet: chosen.to_string(),
            ..AddressRange::default()
        });
    }
    for range in &mut spec.ranges {
        let taken: Vec<IpAddr> = range.auxiliary.values().copied().collect();
        if range.gateway.is_none() {
            range.gateway = ipam::default_gateway(parse_subnet(&range.subnet)?, &taken);
        } else if range.gateway.is_some_and(|gateway| taken.contains(&gateway)) {
            return Err(Error::forbidden(
                "failed to allocate gateway: Address already in use",
            ));
        }
        // A range too small for a container is refused now, not at its first start.
        pool(&spec.name, range)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn range(subnet: &str) -> AddressRange {
        AddressRange {
            subnet: subnet.to_owned(),
            ..AddressRange::default()
        }
    }

    fn spec(ranges: &[AddressRange]) -> NetworkSpec {
        NetworkSpec {
            name: "lan".to_owned(),
            ranges: ranges.to_vec(),
            ipv6: ranges.iter().any(|range| range.subnet.contains(':')),
            ..NetworkSpec::default()
        }
    }

    fn defined(spec: NetworkSpec) -> Result<NetworkRecord> {
        let pools = ipam::default_pools("0123456789");
        define(
            spec,
            &Surroundings {
                pools: &pools,
                subnets: &["172.17.0.0/16".parse().unwrap()],
                routes: &["172.18.0.0/16".parse().unwrap()],
                links: &["taken0".to_owned()],
            },
        )
    }

    #[test]
    fn what_is_left_open_is_chosen() {
        let record = defined(NetworkSpec {
            ipv6: true,
            ..spec(&[])
        })
        .unwrap();
        let chosen: Vec<_> = record
            .spec
            .ranges
            .iter()
            .map(|range| range.subnet.as_str())
            .collect();
        assert_eq!(chosen, ["172.19.0.0/16", "fd01:2345:6789::/64"]);
        let bridge = record.bridge().unwrap().unwrap();
        assert_eq!(bridge.gateways[0].to_string(), "172.19.0.1/16");
        assert_eq!(bridge.gateways[1].to_string(), "fd01:2345:6789::1/64");
        assert!(bridge.name.starts_with("br-") && bridge.name.len() == 15);
        assert_eq!(record.pools().unwrap().len(), 2);
    }

    #[test]
    fn what_a_user_asks_for_may_overlap_routes_but_no_network() {
        let record = defined(spec(&[range("172.18.0.0/24"), range("fd00::/64")])).unwrap();
        assert_eq!(record.spec.ranges.len(), 2);
        for taken in [vec![range("172.17.1.0/24")], vec![range("172.0.0.0/8")]] {
            let error = defined(spec(&taken)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forbidden);
            assert!(
                error
                    .to_string()
                    .contains("Pool overlaps with other one on this address space")
            );
        }
    }

    #[test]
    fn problems_of_ranges_are_told_together() {
        let bad = AddressRange {
            subnet: "10.0.0.1/24".to_owned(),
            ip_range: "10.0.1.0/25".to_owned(),
            gateway: "10.9.0.1".parse().ok(),
            auxiliary: [("printer".to_owned(), "fd00::1".parse().unwrap())].into(),
        };
        let error = defined(spec(&[bad])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.to_string(),
            "invalid network config:\n\
             invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24\n\
             invalid ip-range 10.0.1.0/25: parent subnet 10.0.0.1/24 doesn't contain ip-range\n\
             invalid gateway 10.9.0.1: parent subnet 10.0.0.1/24 doesn't contain this address\n\
             invalid auxiliary address printer: parent subnet is an IPv4 block"
        );
        let lonely = AddressRange {
            gateway: "10.0.0.1".parse().ok(),
            ..AddressRange::default()
        };
        assert!(defined(spec(&[lonely])).is_err());
        assert!(defined(spec(&[range("10.0.0.0/31")])).is_err());
    }

    #[test]
    fn names_drivers_and_families_are_checked() {
        let named = |name: &str| NetworkSpec {
            name: name.to_owned(),
            ..spec(&[])
        };
        for (name, kind) in [
            ("", ErrorKind::Invalid),
            ("-a", ErrorKind::Invalid),
            ("a/b", ErrorKind::Invalid),
            ("host", ErrorKind::Forbidden),
        ] {
            assert_eq!(defined(named(name)).unwrap_err().kind(), kind, "{name}");
        }
        for (driver, kind) in [
            ("host", ErrorKind::Forbidden),
            ("overlay", ErrorKind::NotImplemented),
            ("weave", ErrorKind::NotFound),
        ] {
            let spec = NetworkSpec {
                driver: driver.to_owned(),
                ..spec(&[])
            };
            assert_eq!(defined(spec).unwrap_err().kind(), kind, "{driver}");
        }
        let neither = NetworkSpec {
            ipv4: false,
            ..spec(&[])
        };
        assert!(defined(neither).is_err());
        let two = spec(&[range("10.1.0.0/24"), range("10.2.0.0/24")]);
        assert_eq!(defined(two.clone()).unwrap_err().kind(), ErrorKind::Forbidden);
        let macvlan = NetworkSpec {
            driver: "macvlan".to_owned(),
            ..two
        };
        assert!(defined(macvlan).unwrap().link.starts_with("dm-"));
    }
}
