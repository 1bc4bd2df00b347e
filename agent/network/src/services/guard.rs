//! The table by which a container accepts connections from those alone that may open them: what should be in it, as
//! changes. Nothing here acts.
//!
//! ```text
//! input   begins a connection or is of none:
//!             to an address in @own: jump guarded
//!             by an interface in @by, and not of IGMP: jump guarded
//! guarded from an address in @from: accept
//!         from.protocol.port in @ports: accept
//!         to.protocol.port in @open: accept
//!         by.protocol.port in @open-by: accept
//!         begins a connection: reject;  else: drop
//! ```
//!
//! The interfaces are those that have the addresses. What comes by them is guarded whatever it is sent to: the address
//! that IPv6 makes for a link, a multicast group or everybody. Questions about neighbours and about groups of IPv6 are of
//! no state that this looks at.
//!
//! Connections that stand go on whatever changes. A change of who may is some elements, whatever else the table holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Guard, Guards};
use crate::addresses::with_octets;
use crate::nft::terms::{STATE_NEW, STATE_NEW_OR_INVALID, address_type, in_state, interface_key, padded};
use crate::nft::{
    Change, Element, Expression, Family, Header, Hook, HookPoint, MetaKey, Name, Register, SetSpec,
    ValueType, Verdict,
};
use crate::spec::Protocol;

const INPUT: &str = "input";
const GUARDED: &str = "guarded";
const OWN: &str = "own";
const BY: &str = "by";
const FROM: &str = "from";
const PORTS: &str = "ports";
const OPEN: &str = "open";
const OPEN_BY: &str = "open-by";
const SETS: [&str; 6] = [OWN, BY, FROM, PORTS, OPEN, OPEN_BY];
const PRIORITY_FILTER: i32 = 0;
const FIRST: Register = Register(0);
/// Codes of ICMP and of ICMPv6 for a port that nobody listens on.
const PORT_UNREACHABLE: [u8; 2] = [3, 4];
/// Number of the protocol by which routers and bridges ask who is in a group of IPv4.
const IGMP: u8 = 2;
/// A name of an interface fills so many registers.
const INTERFACE_REGISTERS: u32 = 4;

/// The elements of one family's table, by set.
pub(crate) type Guarded = BTreeMap<&'static str, BTreeSet<Vec<u8>>>;
/// A container's addresses, and the interfaces that have them; one may have gone meanwhile.
pub(crate) type Own = BTreeMap<IpAddr, Option<String>>;

/// What the guards of a container's own addresses are in the table of a family. A container may always talk to itself.
/// An interface is guarded in both families, because IPv6 can be there without addresses of ours.
pub(crate) fn guarded(guards: &Guards, own: &Own, family: Family) -> Guarded {
    let fits = |address: &IpAddr| address.is_ipv4() == (family == Family::Ipv4);
    let mut sets = Guarded::new();
    let mut add = |set, key: Vec<u8>| {
        sets.entry(set).or_default().insert(key);
    };
    for (address, interface) in own {
        let Some(guard) = guards.get(address) else {
            continue;
        };
        let Guard { from, ports, open } = &**guard;
        if let Some(interface) = interface {
            let interface = interface_key(interface);
            add(BY, interface.to_vec());
            for (protocol, port) in open {
                add(OPEN_BY, key(&interface, *protocol, *port));
            }
        }
        if !fits(address) {
            continue;
        }
        add(OWN, octets(*address));
        add(FROM, octets(*address));
        for source in from.iter().filter(|source| fits(source)) {
            add(FROM, octets(*source));
        }
        for (source, protocol, port) in ports.iter().filter(|(source, ..)| fits(source)) {
            add(PORTS, key(&octets(*source), *protocol, *port));
        }
        for (protocol, port) in open {
            add(OPEN, key(&octets(*address), *protocol, *port));
        }
    }
    sets
}

fn octets(address: IpAddr) -> Vec<u8> {
    with_octets(address, <[u8]>::to_vec)
}

/// Whether any address is guarded, and not interfaces only.
pub(crate) fn has_addresses(guarded: &Guarded) -> bool {
    guarded.contains_key(OWN)
}

fn key(of: &[u8], protocol: Protocol, port: u16) -> Vec<u8> {
    [of, &[protocol.number(), 0, 0, 0][..], &padded(port)].concat()
}

/// Makes the table of a family, or replaces it; there is none where nothing is guarded.
pub(crate) fn whole(family: Family, wanted: &Guarded) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::DeleteTable];
    if wanted.is_empty() {
        return changes;
    }
    changes.push(Change::AddTable);
    let address = address_type(family);
    for (name, key) in [
        (OWN, vec![address]),
        (BY, vec![ValueType::InterfaceName]),
        (FROM, vec![address]),
        (PORTS, vec![address, ValueType::Protocol, ValueType::Port]),
        (OPEN, vec![address, ValueType::Protocol, ValueType::Port]),
        (
            OPEN_BY,
            vec![ValueType::InterfaceName, ValueType::Protocol, ValueType::Port],
        ),
    ] {
        changes.push(Change::AddSet(SetSpec {
            name: name.into(),
            key,
            data: None,
        }));
    }
    changes.push(Change::AddChain {
        name: GUARDED.into(),
        hook: None,
    });
    changes.push(Change::AddChain {
        name: INPUT.into(),
        hook: Some(Hook {
            kind: "filter",
            point: HookPoint::Input,
            priority: PRIORITY_FILTER,
        }),
    });
    let add = |chain: &'static str| {
        move |parts: Vec<Vec<Expression>>| Change::AddRule {
            chain: chain.into(),
            expressions: parts.concat(),
        }
    };
    changes.extend(choice(family).into_iter().map(add(INPUT)));
    changes.extend(answers(family).into_iter().map(add(GUARDED)));
    changes.extend(between_sets(&Guarded::new(), wanted));
    changes
}

/// The rules that choose what is looked at.
fn choice(family: Family) -> Vec<Vec<Vec<Expression>>> {
    let begins = || in_state(STATE_NEW_OR_INVALID);
    let look = || vec![Expression::Verdict(Verdict::Jump(GUARDED.into()))];
    vec![
        vec![begins(), side(family, Side::To), member(OWN), look()],
        vec![igmp(), vec![Expression::Verdict(Verdict::Accept)]],
        vec![begins(), by(), member(BY), look()],
    ]
}

/// The rules that let in what may come, and refuse the rest.
fn answers(family: Family) -> Vec<Vec<Vec<Expression>>> {
    let accept = || vec![Expression::Verdict(Verdict::Accept)];
    let [icmp, icmpv6] = PORT_UNREACHABLE;
    let icmp_code = if family == Family::Ipv6 { icmpv6 } else { icmp };
    let behind = address_registers(family);
    let (from, to) = (|| side(family, Side::From), || side(family, Side::To));
    vec![
        vec![from(), member(FROM), accept()],
        vec![from(), port(behind), member(PORTS), accept()],
        vec![to(), port(behind), member(OPEN), accept()],
        vec![by(), port(INTERFACE_REGISTERS), member(OPEN_BY), accept()],
        vec![in_state(STATE_NEW), vec![Expression::Refuse { icmp_code }]],
        vec![vec![Expression::Verdict(Verdict::Drop)]],
    ]
}

/// Makes a table that holds `held` one that holds `wanted`.
pub(crate) fn between(family: Family, held: &Guarded, wanted: &Guarded) -> Vec<Change> {
    match (held == wanted, held.is_empty() || wanted.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => whole(family, wanted),
        (false, false) => between_sets(held, wanted),
    }
}

fn between_sets(held: &Guarded, wanted: &Guarded) -> Vec<Change> {
    let mut changes = Vec::new();
    for name in SETS {
        let none = BTreeSet::new();
        let (before, after) = (held.get(name).unwrap_or(&none), wanted.get(name).unwrap_or(&none));
        let gone: Vec<Element> = before.difference(after).map(|key| element(key)).collect();
        let new: Vec<Element> = after.difference(before).map(|key| element(key)).collect();
        let set: Name = name.into();
        if !gone.is_empty() {
            changes.push(Change::DeleteElements {
                set: set.clone(),
                elements: gone,
            });
        }
        if !new.is_empty() {
            changes.push(Change::AddElements { set, elements: new });
        }
    }
    changes
}

fn element(key: &[u8]) -> Element {
    Element {
        key: key.to_vec(),
        data: None,
        comment: None,
    }
}

#[derive(Clone, Copy)]
enum Side {
    From,
    To,
}

/// Loads an address of the packet into the first registers.
fn side(family: Family, side: Side) -> Vec<Expression> {
    let (from, to, length) = match family {
        Family::Ipv6 => (8, 24, 16),
        Family::Ipv4 | Family::Inet | Family::Bridge => (12, 16, 4),
    };
    let offset = match side {
        Side::From => from,
        Side::To => to,
    };
    vec![Expression::Payload {
        header: Header::Network,
        offset,
        length,
        to: FIRST,
    }]
}

fn address_registers(family: Family) -> u32 {
    match family {
        Family::Ipv6 => 4,
        Family::Ipv4 | Family::Inet | Family::Bridge => 1,
    }
}

/// Loads the name of the interface that the packet came by into the first registers.
fn by() -> Vec<Expression> {
    vec![Expression::Meta {
        key: MetaKey::InputInterfaceName,
        to: FIRST,
    }]
}

fn igmp() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: vec![IGMP],
        },
    ]
}

/// Loads protocol and port into the registers behind so many.
fn port(behind: u32) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: Register(behind),
        },
        Expression::Payload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: Register(behind + 1),
        },
    ]
}

fn member(set: &'static str) -> Vec<Expression> {
    vec![Expression::Member {
        set: set.into(),
        from: FIRST,
        inverted: false,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, last])
    }

    fn guards(from: &[u8]) -> Guards {
        let guard = Guard {
            from: from.iter().map(|last| ip(*last)).collect(),
            ports: [(ip(9), Protocol::Tcp, 80)].into(),
            open: [(Protocol::Udp, 53)].into(),
        };
        [(ip(2), Arc::new(guard)), (ip(3), Arc::default())].into()
    }

    #[test]
    fn only_the_containers_own_addresses_are_guarded() {
        let at = |address, interface: &str| (address, Some(interface.to_owned()));
        let own = [at(ip(2), "eth0"), at("fd00::2".parse().unwrap(), "eth1")].into();
        let sets = guarded(&guards(&[4]), &own, Family::Ipv4);
        assert_eq!(sets[OWN], [octets(ip(2))].into());
        assert_eq!(sets[BY], [interface_key("eth0").to_vec()].into());
        assert_eq!(sets[FROM], [octets(ip(2)), octets(ip(4))].into());
        let lengths = [PORTS, OPEN, OPEN_BY].map(|set| sets[set].len());
        assert_eq!(lengths, [1, 1, 1]);
        // IPv6 may be there without an address of ours.
        let other = guarded(&guards(&[4]), &own, Family::Ipv6);
        assert_eq!(other.keys().copied().collect::<Vec<_>>(), [BY, OPEN_BY]);
        assert!(!has_addresses(&other) && has_addresses(&sets));
        let unguarded = [at(ip(7), "eth0")].into();
        assert!(guarded(&guards(&[4]), &unguarded, Family::Ipv4).is_empty());
    }

    #[test]
    fn one_more_that_may_is_one_element() {
        let own = [(ip(2), Some("eth0".to_owned()))].into();
        let of = |from: &[u8]| guarded(&guards(from), &own, Family::Ipv4);
        let changes = between(Family::Ipv4, &of(&[4, 5]), &of(&[5, 6]));
        let [
            Change::DeleteElements { elements: gone, .. },
            Change::AddElements { elements: new, .. },
        ] = &changes[..]
        else {
            panic!("{changes:?}")
        };
        assert_eq!(
            (gone[0].key.clone(), new[0].key.clone()),
            (octets(ip(4)), octets(ip(6)))
        );
        assert_eq!(between(Family::Ipv4, &of(&[4]), &of(&[4])), []);
        assert_eq!(between(Family::Ipv4, &of(&[4]), &Guarded::new()).len(), 2);
    }
}
