//! The table by which a container accepts connections from those alone that may open them: what should be in it, as
//! changes. Nothing here acts.
//!
//! ```text
//! input   to an address in @own, begins a connection or is of none:
//!             from an address in @from: accept
//!             from.protocol.port in @ports: accept
//!             to.protocol.port in @open: accept
//!             begins a connection: reject;  else: drop
//! ```
//!
//! Connections that stand go on whatever changes. A change of who may is some elements, whatever else the table holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Guard, Guards};
use crate::addresses::with_octets;
use crate::nft::terms::{STATE_NEW, STATE_NEW_OR_INVALID, address_type, in_state, padded};
use crate::nft::{
    Change, Element, Expression, Family, Header, Hook, HookPoint, MetaKey, Name, Register, SetSpec,
    ValueType, Verdict,
};
use crate::spec::Protocol;

const INPUT: &str = "input";
const OWN: &str = "own";
const FROM: &str = "from";
const PORTS: &str = "ports";
const OPEN: &str = "open";
const PRIORITY_FILTER: i32 = 0;
const FIRST: Register = Register(0);
/// Codes of ICMP and of ICMPv6 for a port that nobody listens on.
const PORT_UNREACHABLE: [u8; 2] = [3, 4];

/// The elements of one family's table, by set.
pub(crate) type Guarded = BTreeMap<&'static str, BTreeSet<Vec<u8>>>;

/// What the guards of a container's own addresses are in the table of a family. A container may always talk to itself.
pub(crate) fn guarded(guards: &Guards, own: &BTreeSet<IpAddr>, family: Family) -> Guarded {
    let fits = |address: &IpAddr| address.is_ipv4() == (family == Family::Ipv4);
    let mut sets = Guarded::new();
    let mut add = |set, key: Vec<u8>| {
        sets.entry(set).or_default().insert(key);
    };
    let guards = guards
        .iter()
        .filter(|(address, _)| fits(address) && own.contains(*address));
    for (address, guard) in guards {
        let Guard { from, ports, open } = &**guard;
        add(OWN, octets(*address));
        add(FROM, octets(*address));
        for source in from.iter().filter(|source| fits(source)) {
            add(FROM, octets(*source));
        }
        for (source, protocol, port) in ports.iter().filter(|(source, ..)| fits(source)) {
            add(PORTS, key(*source, *protocol, *port));
        }
        for (protocol, port) in open {
            add(OPEN, key(*address, *protocol, *port));
        }
    }
    sets
}

fn octets(address: IpAddr) -> Vec<u8> {
    with_octets(address, <[u8]>::to_vec)
}

fn key(address: IpAddr, protocol: Protocol, port: u16) -> Vec<u8> {
    [&octets(address), &[protocol.number(), 0, 0, 0][..], &padded(port)].concat()
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
        (FROM, vec![address]),
        (PORTS, vec![address, ValueType::Protocol, ValueType::Port]),
        (OPEN, vec![address, ValueType::Protocol, ValueType::Port]),
    ] {
        changes.push(Change::AddSet(SetSpec {
            name: name.into(),
            key,
            data: None,
        }));
    }
    changes.push(Change::AddChain {
        name: INPUT.into(),
        hook: Some(Hook {
            kind: "filter",
            point: HookPoint::Input,
            priority: PRIORITY_FILTER,
        }),
    });
    let begins = || {
        [
            side(family, Side::To),
            member(OWN),
            in_state(STATE_NEW_OR_INVALID),
        ]
        .concat()
    };
    let accept = || vec![Expression::Verdict(Verdict::Accept)];
    let [icmp, icmpv6] = PORT_UNREACHABLE;
    let icmp_code = if family == Family::Ipv6 { icmpv6 } else { icmp };
    let rules = [
        vec![begins(), side(family, Side::From), member(FROM), accept()],
        vec![
            begins(),
            side(family, Side::From),
            port(family),
            member(PORTS),
            accept(),
        ],
        vec![
            begins(),
            side(family, Side::To),
            port(family),
            member(OPEN),
            accept(),
        ],
        vec![
            begins(),
            in_state(STATE_NEW),
            vec![Expression::Refuse { icmp_code }],
        ],
        vec![begins(), vec![Expression::Verdict(Verdict::Drop)]],
    ];
    changes.extend(rules.into_iter().map(|parts| Change::AddRule {
        chain: INPUT.into(),
        expressions: parts.concat(),
    }));
    changes.extend(between_sets(&Guarded::new(), wanted));
    changes
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
    for name in [OWN, FROM, PORTS, OPEN] {
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

/// Loads protocol and port into the registers behind an address.
fn port(family: Family) -> Vec<Expression> {
    let behind = match family {
        Family::Ipv6 => 4,
        Family::Ipv4 | Family::Inet | Family::Bridge => 1,
    };
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
        let own = [ip(2), "fd00::2".parse().unwrap()].into();
        let sets = guarded(&guards(&[4]), &own, Family::Ipv4);
        assert_eq!(sets[OWN], [octets(ip(2))].into());
        assert_eq!(sets[FROM], [octets(ip(2)), octets(ip(4))].into());
        assert_eq!((sets[PORTS].len(), sets[OPEN].len()), (1, 1));
        assert!(guarded(&guards(&[4]), &own, Family::Ipv6).is_empty());
        assert!(guarded(&guards(&[4]), &[ip(7)].into(), Family::Ipv4).is_empty());
    }

    #[test]
    fn one_more_that_may_is_one_element() {
        let own = [ip(2)].into();
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
