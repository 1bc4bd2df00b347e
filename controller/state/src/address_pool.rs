//! Which addresses of a network are in use, as few numbers as there are gaps, and which one is given out next.

use imbl::OrdMap;
use ipnet::IpNet;
use muster_types::NetworkId;
use muster_types::overlay::OverlaySubnet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// A set of addresses, kept as the runs that it consists of. Equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRuns {
    /// First and last number of each run; no two touch.
    runs: OrdMap<u128, u128>,
    count: u128,
}

impl AddressRuns {
    /// How many addresses there are.
    pub fn count(&self) -> u128 {
        self.count
    }

    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.run_of(number(address)).is_some()
    }

    /// Adds an address; false when it was there.
    pub fn insert(&mut self, address: IpAddr) -> bool {
        let number = number(address);
        if self.run_of(number).is_some() {
            return false;
        }
        let before = number.checked_sub(1).and_then(|number| self.run_of(number));
        let after = number.checked_add(1).and_then(|number| self.run_of(number));
        let first = before.map_or(number, |(first, _)| first);
        let last = after.map_or(number, |(_, last)| last);
        if let Some((first, _)) = after {
            self.runs.remove(&first);
        }
        self.runs.insert(first, last);
        self.count += 1;
        true
    }

    /// Takes an address out; false when it was not there.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        let number = number(address);
        let Some((first, last)) = self.run_of(number) else {
            return false;
        };
        self.runs.remove(&first);
        if first < number {
            self.runs.insert(first, number - 1);
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
        self.count -= 1;
        true
    }

    /// The first number of `from..=last` that is not in the set.
    fn first_free(&self, from: u128, last: u128) -> Option<u128> {
        let free = match self.run_of(from) {
            Some((_, end)) => end.checked_add(1)?,
            None => from,
        };
        (free <= last).then_some(free)
    }

    fn run_of(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.runs.get_prev(&number)?;
        (number <= *last).then_some((*first, *last))
    }
}

/// The addresses of one network, from which the next ones are taken. Taking changes this value and not the state.
#[derive(Debug, Clone)]
pub struct AddressPool {
    network: NetworkId,
    subnets: Arc<[OverlaySubnet]>,
    used: AddressRuns,
    /// The address that each subnet gave out last.
    last_given: Vec<Option<u128>>,
}

/// A network has no free address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The network.
    pub network: NetworkId,
}

impl AddressPool {
    pub(crate) fn new(
        network: NetworkId,
        subnets: &[OverlaySubnet],
        used: AddressRuns,
        last_given: Vec<Option<u128>>,
    ) -> Self {
        Self {
            network,
            subnets: subnets.into(),
            used,
            last_given,
        }
    }

    /// Takes one address of each family that the network has. The search goes on behind the address that was given out
    /// last, so that one which was returned comes again as late as possible.
    pub fn take(&mut self) -> Result<Vec<IpAddr>, Exhausted> {
        let mut taken = Vec::with_capacity(1);
        for ipv4 in [true, false] {
            let is_family = |subnet: &OverlaySubnet| subnet.subnet.addr().is_ipv4() == ipv4;
            if !self.subnets.iter().any(is_family) {
                continue;
            }
            let subnets = self.subnets.clone();
            let mut places = (0..subnets.len()).filter(|place| is_family(&subnets[*place]));
            match places.find_map(|place| self.take_from(place)) {
                Some(address) => taken.push(address),
                None => {
                    taken.iter().for_each(|address| self.give_back(*address));
                    return Err(Exhausted {
                        network: self.network,
                    });
                }
            }
        }
        Ok(taken)
    }

    /// Takes this address; false when it is in use or not of the network.
    pub fn take_this(&mut self, address: IpAddr) -> bool {
        let known = self.subnets.iter().any(|subnet| subnet.subnet.contains(&address));
        known && self.used.insert(address)
    }

    /// Returns an address that was taken of this value.
    pub fn give_back(&mut self, address: IpAddr) {
        self.used.remove(address);
    }

    fn take_from(&mut self, place: usize) -> Option<IpAddr> {
        let (first, last) = bounds(self.subnets[place].range.unwrap_or(self.subnets[place].subnet));
        let after = self.last_given[place].filter(|given| (first..last).contains(given));
        let behind = after.and_then(|given| self.used.first_free(given + 1, last));
        let free = behind.or_else(|| self.used.first_free(first, last))?;
        self.last_given[place] = Some(free);
        let address = address(free);
        self.used.insert(address);
        Some(address)
    }
}

/// Addresses of a subnet that are never given out: its gateway, those that are somebody else's, and those that name
/// the subnet and everybody in it.
pub(crate) fn never_given(subnet: &OverlaySubnet) -> Vec<IpAddr> {
    let mut found = vec![subnet.gateway, subnet.subnet.network()];
    if let IpNet::V4(net) = subnet.subnet {
        found.push(net.broadcast().into());
    }
    found.extend(&subnet.reserved);
    found
}

/// First and last number of a subnet.
pub(crate) fn bounds(subnet: IpNet) -> (u128, u128) {
    (number(subnet.network()), number(subnet.broadcast()))
}

/// The address as a number; those of both families are apart from each other.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128) -> IpAddr {
    let address = Ipv6Addr::from_bits(number);
    address.to_ipv4_mapped().map_or(address.into(), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn subnet(text: &str, gateway: &str) -> OverlaySubnet {
        OverlaySubnet {
            subnet: text.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            range: None,
            reserved: Vec::new(),
        }
    }

    fn pool(subnets: &[OverlaySubnet]) -> AddressPool {
        let mut used = AddressRuns::default();
        for address in subnets.iter().flat_map(never_given) {
            used.insert(address);
        }
        AddressPool::new(NetworkId::from_u128(1), subnets, used, vec![None; subnets.len()])
    }

    fn text(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_small_subnet_is_filled_to_the_last_address() {
        let mut pool = pool(&[subnet("10.0.0.0/29", "10.0.0.1")]);
        let given: Vec<IpAddr> = (0..5).flat_map(|_| pool.take().unwrap()).collect();
        let expected: Vec<String> = (2..7).map(|last| format!("10.0.0.{last}")).collect();
        assert_eq!(text(&given), expected);
        let network = NetworkId::from_u128(1);
        assert_eq!(pool.take(), Err(Exhausted { network }));
        pool.give_back("10.0.0.4".parse().unwrap());
        assert_eq!(text(&pool.take().unwrap()), ["10.0.0.4"]);
    }

    #[test]
    fn a_returned_address_comes_last() {
        let mut pool = pool(&[subnet("10.0.0.0/29", "10.0.0.1")]);
        assert_eq!(text(&pool.take().unwrap()), ["10.0.0.2"]);
        pool.give_back("10.0.0.2".parse().unwrap());
        let given: Vec<IpAddr> = (0..5).flat_map(|_| pool.take().unwrap()).collect();
        assert_eq!(given.last().unwrap().to_string(), "10.0.0.2");
    }

    #[test]
    fn both_families_are_given_or_none() {
        let two = [subnet("10.0.0.0/30", "10.0.0.1"), subnet("fd00::/64", "fd00::1")];
        let mut pool = pool(&two);
        assert_eq!(text(&pool.take().unwrap()), ["10.0.0.2", "fd00::2"]);
        assert!(pool.take().is_err());
        pool.give_back("10.0.0.2".parse().unwrap());
        assert_eq!(text(&pool.take().unwrap()), ["10.0.0.2", "fd00::3"]);
    }

    #[test]
    fn addresses_come_from_the_range_alone() {
        let mut ranged = subnet("10.0.0.0/24", "10.0.0.1");
        ranged.range = Some("10.0.0.128/31".parse().unwrap());
        let mut pool = pool(&[ranged]);
        let given: Vec<IpAddr> = (0..2).flat_map(|_| pool.take().unwrap()).collect();
        assert_eq!(text(&given), ["10.0.0.128", "10.0.0.129"]);
        assert!(pool.take().is_err());
        assert!(pool.take_this("10.0.0.9".parse().unwrap()));
        assert!(!pool.take_this("10.0.1.9".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn runs_are_a_set(steps in prop::collection::vec((any::<bool>(), 0u8..40), 0..200)) {
            let (mut runs, mut set) = (AddressRuns::default(), BTreeSet::new());
            for (add, last) in steps {
                let address = IpAddr::from([10, 0, 0, last]);
                if add {
                    prop_assert_eq!(runs.insert(address), set.insert(address));
                } else {
                    prop_assert_eq!(runs.remove(address), set.remove(&address));
                }
                prop_assert_eq!(runs.count(), set.len() as u128);
                let (first, last) = bounds("10.0.0.0/26".parse().unwrap());
                let free = (first..=last).find(|number| !set.contains(&super::address(*number)));
                prop_assert_eq!(runs.first_free(first, last), free);
            }
            let mut again = AddressRuns::default();
            set.iter().rev().for_each(|address| { again.insert(*address); });
            prop_assert_eq!(again, runs);
        }
    }
}
