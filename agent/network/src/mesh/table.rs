//! The host's table of ports that lead to containers of any node: what should be in it, as changes. Nothing here acts.
//!
//! ```text
//! prerouting   to this host, not its loopback: publish
//! output       to this host: publish
//! publish      protocol.port in @ports: its own chain
//! PROTOCOL-PORT  (to an address at which it answers:) next number below the count of endpoints, looked up in map PROTOCOL-PORT: dnat
//! input        from the mesh's interface, begins a connection: drop   (containers of other nodes come in by no other port)
//! ```
//!
//! A change of one port's endpoints is a change of its own chain and map, whatever else the table holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{LINK, MeshPort};
use crate::addresses::with_octets;
use crate::ip_net::IpNet;
use crate::nft::terms::{
    STATE_NEW_OR_INVALID, address_type, from_interface, in_state, padded, to_network, to_this_host,
};
use crate::nft::{
    Change, Element, ElementData, Expression, Family, Header, Hook, HookPoint, MetaKey, Name, Register,
    SetSpec, Translation, ValueType, Verdict,
};
use crate::spec::Protocol;

const PORTS: &str = "ports";
const PUBLISH: &str = "publish";
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const FIRST: Register = Register(0);

/// Ports, in the tables of one family.
pub(crate) type Ports = BTreeMap<(Protocol, u16), MeshPort>;

/// The ports of a family, of all; those are left out that have no endpoint of that family, or answer at no address of it.
pub(crate) fn of_family(ports: &Ports, family: Family) -> Ports {
    let is_ipv4 = family == Family::Ipv4;
    let of_family = ports.iter().filter_map(|(port, led)| {
        let endpoints = led
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_ipv4() == is_ipv4);
        let at = led.at.iter().filter(|net| net.is_ipv4() == is_ipv4);
        let (endpoints, at): (BTreeSet<SocketAddr>, BTreeSet<IpNet>) =
            (endpoints.copied().collect(), at.copied().collect());
        let answers = !endpoints.is_empty() && at.is_empty() == led.at.is_empty();
        answers.then_some((*port, MeshPort { endpoints, at }))
    });
    of_family.collect()
}

/// Makes the table of a family, or replaces it; none where the mesh has nothing of the family.
pub(crate) fn whole(family: Family, stands: bool, ports: &Ports) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::DeleteTable];
    if !stands {
        return changes;
    }
    let chain = |name: &'static str, kind, point, priority| Change::AddChain {
        name: name.into(),
        hook: Some(Hook {
            kind,
            point,
            priority,
        }),
    };
    changes.extend([
        Change::AddTable,
        Change::AddSet(SetSpec {
            name: PORTS.into(),
            key: vec![ValueType::Protocol, ValueType::Port],
            data: Some(vec![ValueType::Verdict]),
        }),
        Change::AddChain {
            name: PUBLISH.into(),
            hook: None,
        },
        chain(
            "prerouting",
            "nat",
            HookPoint::Prerouting,
            PRIORITY_DESTINATION_NAT,
        ),
        chain("output", "nat", HookPoint::Output, PRIORITY_DESTINATION_NAT),
        chain("input", "filter", HookPoint::Input, PRIORITY_FILTER),
    ]);
    let rule = |chain: &'static str, parts: Vec<Vec<Expression>>| Change::AddRule {
        chain: chain.into(),
        expressions: parts.concat(),
    };
    let publish = || vec![Expression::Verdict(Verdict::Jump(PUBLISH.into()))];
    changes.extend([
        rule(
            "prerouting",
            vec![to_loopback(family), vec![Expression::Verdict(Verdict::Return)]],
        ),
        rule("prerouting", vec![to_this_host(), publish()]),
        rule("output", vec![to_this_host(), publish()]),
        rule(PUBLISH, vec![by_port()]),
        rule(
            "input",
            vec![
                from_interface(LINK),
                in_state(STATE_NEW_OR_INVALID),
                vec![Expression::Verdict(Verdict::Drop)],
            ],
        ),
    ]);
    for (port, led) in ports {
        changes.extend(with_port(family, *port, led));
    }
    changes
}

/// Makes a table that holds `held` one that holds `wanted`.
pub(crate) fn between(family: Family, held: &Ports, wanted: &Ports) -> Vec<Change> {
    let gone = held.keys().filter(|port| !wanted.contains_key(*port));
    let mut changes: Vec<Change> = gone.flat_map(|port| without_port(*port)).collect();
    for (port, led) in wanted {
        match held.get(port) {
            None => changes.extend(with_port(family, *port, led)),
            Some(before) if before != led => {
                let name = name_of(*port);
                changes.push(Change::FlushChain { name: name.clone() });
                changes.push(Change::Flush { set: name.clone() });
                changes.extend(filled(family, &name, led));
            }
            Some(_) => {}
        }
    }
    changes
}

fn with_port(family: Family, port: (Protocol, u16), led: &MeshPort) -> Vec<Change> {
    let name = name_of(port);
    let map = SetSpec {
        name: name.clone(),
        key: vec![ValueType::Number],
        data: Some(vec![address_type(family), ValueType::Port]),
    };
    let chain = Change::AddChain {
        name: name.clone(),
        hook: None,
    };
    let mut changes = vec![Change::AddSet(map), chain];
    changes.extend(filled(family, &name, led));
    changes.push(Change::AddElements {
        set: PORTS.into(),
        elements: vec![entry(port)],
    });
    changes
}

fn without_port(port: (Protocol, u16)) -> [Change; 4] {
    let name = name_of(port);
    [
        Change::DeleteElements {
            set: PORTS.into(),
            elements: vec![entry(port)],
        },
        Change::FlushChain { name: name.clone() },
        Change::DeleteChain { name: name.clone() },
        Change::DeleteSet { name },
    ]
}

fn name_of((protocol, port): (Protocol, u16)) -> Name {
    format!("{protocol}-{port}").into()
}

/// The endpoints of a port by number, and the rules that choose among them: one for each network at whose addresses it
/// answers, where it does not at all.
fn filled(family: Family, name: &Name, led: &MeshPort) -> Vec<Change> {
    let elements = led
        .endpoints
        .iter()
        .enumerate()
        .map(|(number, endpoint)| Element {
            key: (number as u32).to_ne_bytes().to_vec(),
            data: Some(ElementData::Value(with_octets(endpoint.ip(), |octets| {
                [octets, &padded(endpoint.port())].concat()
            }))),
            comment: None,
        });
    let choice = vec![
        Expression::NextOf {
            count: led.endpoints.len() as u32,
            to: FIRST,
        },
        Expression::Map {
            map: name.clone(),
            from: FIRST,
            to: Some(FIRST),
        },
        Expression::Translate(Translation::Destination {
            family,
            address: FIRST,
            port: Some(Register(address_bytes(family) / 4)),
        }),
    ];
    let mut changes = vec![Change::AddElements {
        set: name.clone(),
        elements: elements.collect(),
    }];
    let conditions: Vec<Vec<Expression>> = match led.at.is_empty() {
        true => vec![Vec::new()],
        false => led.at.iter().map(|net| to_network(*net)).collect(),
    };
    changes.extend(conditions.into_iter().map(|condition| Change::AddRule {
        chain: name.clone(),
        expressions: [condition, choice.clone()].concat(),
    }));
    changes
}

fn entry((protocol, port): (Protocol, u16)) -> Element {
    Element {
        key: [[protocol.number(), 0, 0, 0], padded(port)].concat(),
        data: Some(ElementData::Verdict(Verdict::Jump(name_of((protocol, port))))),
        comment: None,
    }
}

fn address_bytes(family: Family) -> u32 {
    match family {
        Family::Ipv6 => 16,
        Family::Ipv4 | Family::Inet | Family::Bridge => 4,
    }
}

fn to_loopback(family: Family) -> Vec<Expression> {
    let (offset, value) = match family {
        Family::Ipv6 => (24, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
        Family::Ipv4 | Family::Inet | Family::Bridge => (16, vec![127]),
    };
    vec![
        Expression::Payload {
            header: Header::Network,
            offset,
            length: value.len() as u32,
            to: FIRST,
        },
        Expression::Equal { from: FIRST, value },
    ]
}

fn by_port() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: FIRST,
        },
        Expression::Payload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: Register(1),
        },
        Expression::Map {
            map: PORTS.into(),
            from: FIRST,
            to: None,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(all: &[(u16, &[&str])]) -> Ports {
        let port = |(port, endpoints): &(u16, &[&str])| {
            let led = MeshPort {
                endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
                at: BTreeSet::new(),
            };
            ((Protocol::Tcp, *port), led)
        };
        all.iter().map(port).collect()
    }

    #[test]
    fn a_port_at_addresses_of_one_family_is_not_led_in_the_other() {
        let mut both = ports(&[(80, &["10.0.0.2:8080", "[fd00::2]:8080"])]);
        let at = ["192.0.2.0/24", "127.0.0.0/8"].map(|text| text.parse().unwrap());
        both.get_mut(&(Protocol::Tcp, 80)).unwrap().at = at.into();
        assert!(of_family(&both, Family::Ipv6).is_empty());
        let changes = whole(Family::Ipv4, true, &of_family(&both, Family::Ipv4));
        let choices = changes.iter().filter(|change| {
            matches!(change, Change::AddRule { chain, .. } if *chain == name_of((Protocol::Tcp, 80)))
        });
        assert_eq!(choices.count(), 2);
    }

    #[test]
    fn a_port_is_of_the_families_of_its_endpoints() {
        let both = ports(&[(80, &["10.0.0.2:8080", "[fd00::2]:8080"]), (81, &["10.0.0.3:1"])]);
        assert_eq!(of_family(&both, Family::Ipv4).len(), 2);
        assert_eq!(
            of_family(&both, Family::Ipv6),
            ports(&[(80, &["[fd00::2]:8080"])])
        );
    }

    #[test]
    fn one_port_that_changes_leaves_the_others_alone() {
        let before = ports(&[
            (80, &["10.0.0.2:8080"]),
            (81, &["10.0.0.3:1"]),
            (82, &["10.0.0.4:1"]),
        ]);
        let after = ports(&[(80, &["10.0.0.2:8080"]), (81, &["10.0.0.3:1", "10.0.0.5:1"])]);
        let changes = between(Family::Ipv4, &before, &after);
        assert_eq!(changes.len(), 8, "{changes:?}");
        assert!(!format!("{changes:?}").contains("tcp-80"));
        assert_eq!(between(Family::Ipv4, &after, &after), []);
    }
}
