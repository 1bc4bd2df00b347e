//! Where the packets of an overlay go, as data: what should be in the kernel, and what to do about what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::OverlaySpec;
use crate::address::MacAddress;

/// The forwarding and neighbour entries of an overlay's VXLAN device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// To which node a hardware address is sent.
    pub tunnels: BTreeMap<MacAddress, IpAddr>,
    /// Hardware addresses that the bridge finds behind the device.
    pub behind: BTreeSet<MacAddress>,
    /// What the device answers to containers that ask for an address.
    pub neighbours: BTreeMap<IpAddr, MacAddress>,
}

/// One change to the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    SetTunnel(MacAddress, IpAddr),
    SetBehind(MacAddress),
    SetNeighbour(IpAddr, MacAddress),
    RemoveNeighbour(IpAddr),
    RemoveBehind(MacAddress),
    RemoveTunnel(MacAddress, IpAddr),
}

impl Entries {
    /// The entries that a specification asks for. A station on a node that this one cannot tunnel to, or on this very
    /// node, has none.
    pub fn wanted(spec: &OverlaySpec) -> Self {
        let mut entries = Self::default();
        for station in &spec.stations {
            if !is_peer(spec.underlay, station.node) {
                continue;
            }
            entries.tunnels.insert(station.mac, station.node);
            entries.behind.insert(station.mac);
            for address in &station.addresses {
                entries.neighbours.insert(*address, station.mac);
            }
        }
        entries
    }

    /// The nodes that packets are sent to, and so may come from.
    pub fn nodes(&self) -> BTreeSet<IpAddr> {
        self.tunnels.values().copied().collect()
    }
}

fn is_peer(own: IpAddr, node: IpAddr) -> bool {
    let usable = !node.is_unspecified() && !node.is_multicast() && !node.is_loopback();
    usable && node != own && node.is_ipv4() == own.is_ipv4()
}

/// The changes that make `present` what is `wanted`. An address is answered for only once there is a way to it, and
/// no longer when the way goes.
pub(crate) fn difference(wanted: &Entries, present: &Entries) -> Vec<Operation> {
    let differs = |mac: &MacAddress, node: &IpAddr| present.tunnels.get(mac) != Some(node);
    let tunnels = wanted.tunnels.iter().filter(|(mac, node)| differs(mac, node));
    let behind = wanted.behind.difference(&present.behind);
    let unknown = |address: &IpAddr, mac: &MacAddress| present.neighbours.get(address) != Some(mac);
    let neighbours = wanted
        .neighbours
        .iter()
        .filter(|(address, mac)| unknown(address, mac));
    let silent = present
        .neighbours
        .keys()
        .filter(|address| !wanted.neighbours.contains_key(*address));
    let gone = present
        .tunnels
        .iter()
        .filter(|(mac, _)| !wanted.tunnels.contains_key(*mac));
    let set_tunnels = tunnels.map(|(mac, node)| Operation::SetTunnel(*mac, *node));
    set_tunnels
        .chain(behind.map(|mac| Operation::SetBehind(*mac)))
        .chain(neighbours.map(|(address, mac)| Operation::SetNeighbour(*address, *mac)))
        .chain(silent.map(|address| Operation::RemoveNeighbour(*address)))
        .chain(
            present
                .behind
                .difference(&wanted.behind)
                .map(|mac| Operation::RemoveBehind(*mac)),
        )
        .chain(gone.map(|(mac, node)| Operation::RemoveTunnel(*mac, *node)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Station;
    use super::*;

    fn spec(stations: &[(&str, &str)]) -> OverlaySpec {
        let station = |(address, node): &(&str, &str)| {
            let address: IpAddr = address.parse().unwrap();
            Station {
                addresses: vec![address],
                mac: MacAddress::for_address(address),
                node: node.parse().unwrap(),
            }
        };
        OverlaySpec {
            id: "net".to_owned(),
            vni: 4097,
            gateways: vec!["10.0.1.1/24".parse().unwrap()],
            mtu: None,
            underlay: "192.0.2.1".parse().unwrap(),
            port: 4789,
            stations: stations.iter().map(station).collect(),
        }
    }

    fn entries(stations: &[(&str, &str)]) -> Entries {
        Entries::wanted(&spec(stations))
    }

    fn apply(entries: &mut Entries, operation: Operation) {
        match operation {
            Operation::SetTunnel(mac, node) => drop(entries.tunnels.insert(mac, node)),
            Operation::SetBehind(mac) => assert!(entries.behind.insert(mac)),
            Operation::SetNeighbour(address, mac) => drop(entries.neighbours.insert(address, mac)),
            Operation::RemoveNeighbour(address) => assert!(entries.neighbours.remove(&address).is_some()),
            Operation::RemoveBehind(mac) => assert!(entries.behind.remove(&mac)),
            Operation::RemoveTunnel(mac, node) => assert_eq!(entries.tunnels.remove(&mac), Some(node)),
        }
    }

    #[test]
    fn the_difference_leads_from_one_to_the_other_and_is_empty_between_equals() {
        let sets: [&[(&str, &str)]; 4] = [
            &[],
            &[("10.0.1.2", "192.0.2.2"), ("10.0.1.3", "192.0.2.3")],
            &[("10.0.1.2", "192.0.2.9"), ("10.0.1.4", "192.0.2.3")],
            &[("fd00::7", "192.0.2.2")],
        ];
        for from in sets {
            for to in sets {
                let (mut state, wanted) = (entries(from), entries(to));
                for operation in difference(&wanted, &state.clone()) {
                    apply(&mut state, operation);
                }
                assert_eq!(state, wanted, "{from:?} -> {to:?}");
                assert_eq!(difference(&wanted, &state), []);
            }
        }
    }

    #[test]
    fn a_way_is_there_before_anybody_is_told_of_it() {
        let all = difference(
            &entries(&[("10.0.1.2", "192.0.2.2")]),
            &entries(&[("10.0.1.3", "192.0.2.3")]),
        );
        let place = |wanted: fn(&Operation) -> bool| all.iter().position(wanted).unwrap();
        let tunnel = place(|operation| matches!(operation, Operation::SetTunnel(..)));
        let told = place(|operation| matches!(operation, Operation::SetNeighbour(..)));
        let silent = place(|operation| matches!(operation, Operation::RemoveNeighbour(..)));
        let gone = place(|operation| matches!(operation, Operation::RemoveTunnel(..)));
        assert!(tunnel < told && silent < gone, "{all:?}");
    }

    #[test]
    fn nodes_that_no_tunnel_leads_to_are_passed_over() {
        let odd = ["192.0.2.1", "0.0.0.0", "224.0.0.1", "127.0.0.1", "fd00::1"];
        for node in odd {
            assert_eq!(entries(&[("10.0.1.2", node)]), Entries::default(), "{node}");
        }
        assert_eq!(entries(&[("10.0.1.2", "192.0.2.2")]).nodes().len(), 1);
    }
}
