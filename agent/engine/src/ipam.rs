//! Addresses of the default bridge: which subnet it takes, and which container has which address.

use crate::error::{Error, Result};
use muster_network::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The subnets tried in turn for the default bridge: Docker's pool of /16 networks.
const POOL_SECOND_OCTETS: std::ops::RangeInclusive<u8> = 17..=31;

/// The subnet for the default bridge: the wanted one, or the next free one of the pool when a route of the host overlaps
/// it. `None` when every one overlaps.
pub fn choose_subnet(wanted: Ipv4Net, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let pool = POOL_SECOND_OCTETS.filter_map(|octet| Ipv4Net::new(Ipv4Addr::new(172, octet, 0, 0), 16));
    std::iter::once(wanted)
        .chain(pool)
        .find(|subnet| !taken.iter().any(|other| overlaps(subnet, other)))
}

fn overlaps(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

/// The addresses of one subnet. The first usable one is the gateway's.
#[derive(Debug)]
pub struct AddressPool {
    network: String,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    used: BTreeSet<u32>,
}

impl AddressPool {
    /// The pool of a subnet with room for a gateway and one container at least.
    pub fn new(network: &str, subnet: Ipv4Net) -> Result<Self> {
        let gateway = subnet.nth(1).filter(|_| subnet.prefix() <= 30).ok_or_else(|| {
            Error::invalid(format!("the subnet {subnet} of network {network} is too small"))
        })?;
        Ok(Self {
            network: network.to_owned(),
            subnet,
            gateway: gateway.address(),
            used: BTreeSet::from([gateway.address().to_bits()]),
        })
    }

    /// The gateway, with the subnet's prefix.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The subnet.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The subnet's prefix length.
    pub fn prefix(&self) -> u8 {
        self.subnet.prefix()
    }

    /// Takes the lowest free address.
    pub fn allocate(&mut self) -> Result<Ipv4Addr> {
        let first = self.subnet.network().to_bits() + 1;
        let last = self.subnet.broadcast().to_bits() - 1;
        // `used` is sorted, so the first gap is where it leaves the run that starts at the first address.
        let mut candidate = first;
        for taken in self.used.range(first..=last) {
            if *taken != candidate {
                break;
            }
            candidate += 1;
        }
        if candidate > last {
            return Err(Error::AddressesExhausted {
                network: self.network.clone(),
            });
        }
        self.used.insert(candidate);
        Ok(Ipv4Addr::from_bits(candidate))
    }

    /// Takes this address, which a running container has; false when it is taken or not of the subnet.
    pub fn claim(&mut self, address: Ipv4Addr) -> bool {
        self.subnet.contains(address) && self.used.insert(address.to_bits())
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        if address != self.gateway {
            self.used.remove(&address.to_bits());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_given() {
        let mut pool = AddressPool::new("bridge", net("10.9.0.0/29")).unwrap();
        assert_eq!(pool.gateway(), Ipv4Addr::new(10, 9, 0, 1));
        let given: Vec<_> = (0..5).map(|_| pool.allocate().unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(matches!(pool.allocate(), Err(Error::AddressesExhausted { .. })));
        pool.release(Ipv4Addr::new(10, 9, 0, 4));
        pool.release(pool.gateway());
        assert_eq!(pool.allocate().unwrap(), Ipv4Addr::new(10, 9, 0, 4));
        assert!(pool.allocate().is_err());
    }

    #[test]
    fn claimed_addresses_are_not_given_again() {
        let mut pool = AddressPool::new("bridge", net("172.17.0.0/16")).unwrap();
        assert!(pool.claim(Ipv4Addr::new(172, 17, 0, 2)));
        assert!(!pool.claim(Ipv4Addr::new(172, 17, 0, 2)));
        assert!(!pool.claim(Ipv4Addr::new(172, 18, 0, 2)));
        assert_eq!(pool.allocate().unwrap(), Ipv4Addr::new(172, 17, 0, 3));
    }

    #[test]
    fn an_overlapping_subnet_moves_on() {
        let wanted = net("172.17.0.0/16");
        assert_eq!(choose_subnet(wanted, &[net("192.0.2.0/24")]), Some(wanted));
        assert_eq!(
            choose_subnet(wanted, &[net("172.17.5.0/24"), net("172.18.0.0/15")]),
            Some(net("172.20.0.0/16"))
        );
        assert_eq!(choose_subnet(wanted, &[net("172.0.0.0/8")]), None);
    }
}
