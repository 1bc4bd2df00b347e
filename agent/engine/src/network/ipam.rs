//! Addresses: which subnet a network takes, and which container has which address of it.

use crate::error::{Error, Result};
use muster_network::{IpNet, address_from, bits_of};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// Subnets are this long in IPv6, which is what hosts expect of a link.
const SUBNET_PREFIX_V6: u8 = 64;
/// Subnets looked at in one pool before it counts as full: all of a /8 in /24s.
const CANDIDATES_MAX: u128 = 65_536;

/// Where subnets are taken from: pieces of `base` with the prefix length `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetPool {
    /// The whole.
    pub base: IpNet,
    /// The prefix length of the pieces.
    pub size: u8,
}

impl SubnetPool {
    /// A pool; `None` where the pieces are larger than the whole, or too small for a gateway and a container.
    pub fn new(base: IpNet, size: u8) -> Option<Self> {
        let largest = if base.is_ipv4() { 30 } else { 126 };
        (base.prefix() <= size && size <= largest).then_some(Self {
            base: base.network(),
            size,
        })
    }

    fn subnets(self) -> impl Iterator<Item = IpNet> {
        let width = if self.base.is_ipv4() { 32 } else { 128 };
        let step = 1_u128 << (width - self.size);
        let count = 1_u128
            .checked_shl(u32::from(self.size - self.base.prefix()))
            .unwrap_or(u128::MAX);
        let first = bits_of(self.base.address());
        (0..count.min(CANDIDATES_MAX))
            .filter_map(move |n| IpNet::new(address_from(first + n * step, self.base.is_ipv4()), self.size))
    }
}

/// Docker's pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in pieces of /20; for IPv6 a /48 of this engine
/// alone, drawn from its id.
pub fn default_pools(engine_id: &str) -> Vec<SubnetPool> {
    let seventeen_to_thirty_one = (17..=31).map(|octet| (format!("172.{octet}.0.0/16"), 16));
    let texts = seventeen_to_thirty_one.chain([("192.168.0.0/16".to_owned(), 20)]);
    let v4 = texts.filter_map(|(base, size)| SubnetPool::new(base.parse().ok()?, size));
    let mut local = [0; 16];
    local[0] = 0xfd;
    let drawn = hex::decode(engine_id.get(..10).unwrap_or_default()).unwrap_or_default();
    for (to, from) in local[1..6].iter_mut().zip(drawn) {
        *to = from;
    }
    let v6 = IpNet::new(IpAddr::V6(Ipv6Addr::from(local)), 48);
    let v6 = v6.and_then(|base| SubnetPool::new(base, SUBNET_PREFIX_V6));
    v4.chain(v6).collect()
}

/// The first subnet of the pools, of one family, that overlaps nothing that is taken.
pub fn choose_subnet(pools: &[SubnetPool], is_ipv4: bool, taken: &[IpNet]) -> Option<IpNet> {
    let pools = pools.iter().filter(|pool| pool.base.is_ipv4() == is_ipv4);
    pools
        .flat_map(|pool| pool.subnets())
        .find(|subnet| !taken.iter().any(|other| subnet.overlaps(other)))
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct AddressPool {
    network: String,
    subnet: IpNet,
    /// The addresses that are given out without being asked for by name.
    given: std::ops::RangeInclusive<u128>,
    gateway: Option<IpAddr>,
    used: BTreeSet<u128>,
    reserved: BTreeSet<u128>,
}

impl AddressPool {
    /// The pool of a subnet: addresses are given from `range`, or from all of it; `reserved` ones are somebody else's.
    pub fn new(
        network: &str,
        subnet: IpNet,
        range: Option<IpNet>,
        gateway: Option<IpAddr>,
        reserved: impl Iterator<Item = IpAddr>,
    ) -> Result<Self> {
        let usable = usable(subnet).ok_or_else(|| {
            Error::invalid(format!("the subnet {subnet} of network {network} is too small"))
        })?;
        let given = match range {
            None => usable,
            Some(range) => {
                let first = bits_of(range.network().address()).max(*usable.start());
                first..=bits_of(range.last()).min(*usable.end())
            }
        };
        Ok(Self {
            network: network.to_owned(),
            subnet: subnet.network(),
            given,
            gateway,
            used: BTreeSet::new(),
            reserved: reserved.chain(gateway).map(bits_of).collect(),
        })
    }

    /// The subnet.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The gateway, where there is one.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.gateway
    }

    /// Takes the lowest free address.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let exhausted = || Error::AddressesExhausted {
            network: self.network.clone(),
        };
        let mut candidate = *self.given.start();
        // Both are sorted, so the first gap is where they leave the run that starts at the first address.
        let mut taken = self.used.range(self.given.clone()).peekable();
        let mut reserved = self.reserved.range(self.given.clone()).peekable();
        loop {
            let in_use = taken.next_if(|taken| **taken == candidate).is_some();
            if reserved.next_if(|reserved| **reserved == candidate).is_none() && !in_use {
                break;
            }
            candidate = candidate.checked_add(1).ok_or_else(exhausted)?;
        }
        if !self.given.contains(&candidate) {
            return Err(exhausted());
        }
        self.used.insert(candidate);
        Ok(address_from(candidate, self.subnet.is_ipv4()))
    }

    /// Takes this address; false when it is taken, reserved or not of the subnet.
    pub fn claim(&mut self, address: IpAddr) -> bool {
        let bits = bits_of(address);
        let free = usable(self.subnet).is_some_and(|usable| usable.contains(&bits))
            && !self.reserved.contains(&bits);
        self.subnet.contains(address) && free && self.used.insert(bits)
    }

    /// Gives an address back.
    pub fn release(&mut self, address: IpAddr) {
        if self.subnet.contains(address) {
            self.used.remove(&bits_of(address));
        }
    }
}

/// The addresses that hosts can have; `None` where there is no room for two of them.
fn usable(subnet: IpNet) -> Option<std::ops::RangeInclusive<u128>> {
    let (first, last) = (bits_of(subnet.network().address()), bits_of(subnet.last()));
    let usable = match subnet.is_ipv4() {
        // The first is the network's own, the last is everybody's.
        true => first + 1..=last.checked_sub(1)?,
        false => first + 1..=last,
    };
    (usable.start() < usable.end()).then_some(usable)
}

/// The gateway of a subnet for which none was asked: its first usable address that is nobody's.
pub fn default_gateway(subnet: IpNet, taken: &[IpAddr]) -> Option<IpAddr> {
    let mut candidates = usable(subnet)?.map(|bits| address_from(bits, subnet.is_ipv4()));
    candidates.find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pool(subnet: &str, range: Option<&str>, gateway: &str, reserved: &[&str]) -> AddressPool {
        let reserved = reserved.iter().map(|text| ip(text));
        AddressPool::new("n", net(subnet), range.map(net), Some(ip(gateway)), reserved).unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_given() {
        let mut pool = pool("10.9.0.0/29", None, "10.9.0.1", &["10.9.0.4"]);
        let given: Vec<_> = (0..4).map(|_| pool.allocate().unwrap().to_string()).collect();
        assert_eq!(given, ["10.9.0.2", "10.9.0.3", "10.9.0.5", "10.9.0.6"]);
        assert!(matches!(pool.allocate(), Err(Error::AddressesExhausted { .. })));
        pool.release(ip("10.9.0.3"));
        pool.release(ip("10.9.0.1"));
        pool.release(ip("10.9.0.4"));
        assert_eq!(pool.allocate().unwrap(), ip("10.9.0.3"));
        assert!(pool.allocate().is_err());
    }

    #[test]
    fn a_range_bounds_what_is_given_but_not_what_is_asked_for() {
        let mut pool = pool("10.9.0.0/24", Some("10.9.0.128/31"), "10.9.0.1", &[]);
        assert!(pool.claim(ip("10.9.0.9")));
        assert_eq!(pool.allocate().unwrap(), ip("10.9.0.128"));
        assert_eq!(pool.allocate().unwrap(), ip("10.9.0.129"));
        assert!(pool.allocate().is_err());
    }

    #[test]
    fn claimed_addresses_are_not_given_again() {
        let mut pool = pool("172.17.0.0/16", None, "172.17.0.1", &["172.17.0.3"]);
        assert!(pool.claim(ip("172.17.0.2")));
        for refused in [
            "172.17.0.2",
            "172.17.0.1",
            "172.17.0.3",
            "172.17.0.0",
            "172.17.255.255",
            "172.18.0.2",
            "fd00::2",
        ] {
            assert!(!pool.claim(ip(refused)), "{refused}");
        }
        assert_eq!(pool.allocate().unwrap(), ip("172.17.0.4"));
    }

    #[test]
    fn ipv6_has_room_for_everybody() {
        let mut pool = pool("fd00::/64", None, "fd00::1", &[]);
        assert_eq!(pool.allocate().unwrap(), ip("fd00::2"));
        assert!(pool.claim(ip("fd00::ffff:ffff:ffff:ffff")));
        assert_eq!(pool.allocate().unwrap(), ip("fd00::3"));
    }

    #[test]
    fn subnets_are_chosen_around_what_is_taken() {
        let pools = default_pools("0123456789abcdef");
        let choose = |v4, taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            choose_subnet(&pools, v4, &taken).unwrap().to_string()
        };
        assert_eq!(choose(true, &["192.0.2.0/24"]), "172.17.0.0/16");
        assert_eq!(choose(true, &["172.17.5.0/24", "172.18.0.0/15"]), "172.20.0.0/16");
        assert_eq!(choose(true, &["172.16.0.0/12"]), "192.168.0.0/20");
        assert_eq!(
            choose(true, &["172.16.0.0/12", "192.168.5.0/24"]),
            "192.168.16.0/20"
        );
        assert_eq!(choose(false, &[]), "fd01:2345:6789::/64");
        assert_eq!(choose(false, &["fd01:2345:6789::/64"]), "fd01:2345:6789:1::/64");
        assert!(choose_subnet(&pools, true, &[net("0.0.0.0/0")]).is_none());
    }

    #[test]
    fn gateways_come_first_and_small_subnets_are_refused() {
        assert_eq!(
            default_gateway(net("10.0.0.0/24"), &[ip("10.0.0.1")]),
            Some(ip("10.0.0.2"))
        );
        assert_eq!(default_gateway(net("fd00::/64"), &[]), Some(ip("fd00::1")));
        for small in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/128"] {
            assert!(
                AddressPool::new("n", net(small), None, None, std::iter::empty()).is_err(),
                "{small}"
            );
        }
    }
}
