//! The table that leads a container to services: what should be in it, as changes. Nothing here acts.
//!
//! ```text
//! output           to an address in @vips: its own chain
//! vip-ADDRESS      next number below the count of endpoints, looked up in map vip-ADDRESS: dnat
//! refuse           to an address in @idle: reject   (a service without endpoints)
//! ```
//!
//! A change of one endpoint is an element or two and the rule of its service, whatever else the table holds.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::addresses::with_octets;
use crate::nft::terms::address_type;
use crate::nft::{
    Change, Element, ElementData, Expression, Family, Header, Hook, HookPoint, Name, Register, SetSpec,
    Translation, ValueType, Verdict,
};

const VIPS: &str = "vips";
const IDLE: &str = "idle";
const OUTPUT: &str = "output";
const REFUSE: &str = "refuse";
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
/// Codes of ICMP and of ICMPv6 for a port that nobody listens on.
const PORT_UNREACHABLE: [u8; 2] = [3, 4];

/// The endpoints of each virtual address, by the number under which the table has them.
pub(crate) type Slots = BTreeMap<IpAddr, Vec<IpAddr>>;

/// Arranges `wanted` so that what stays keeps its number where it can. `seed` says with which endpoint a container
/// begins, or all of them would begin with the same one.
pub(crate) fn arranged(held: &[IpAddr], wanted: &BTreeSet<IpAddr>, seed: &str) -> Vec<IpAddr> {
    let mut fresh: Vec<IpAddr> = wanted
        .iter()
        .filter(|address| !held.contains(address))
        .copied()
        .collect();
    fresh.sort_by_key(|address| {
        let mut hasher = DefaultHasher::new();
        (seed, address).hash(&mut hasher);
        hasher.finish()
    });
    let mut fresh = fresh.into_iter();
    let kept = |address: &IpAddr| wanted.contains(address).then_some(*address);
    let mut slots: Vec<Option<IpAddr>> = held
        .iter()
        .map(|address| kept(address).or_else(|| fresh.next()))
        .collect();
    let mut place = 0;
    while place < slots.len() {
        if slots[place].is_some() {
            place += 1;
        } else {
            slots.swap_remove(place);
        }
    }
    slots.into_iter().flatten().chain(fresh).collect()
}

/// Makes the table of a family, or replaces it.
pub(crate) fn whole(family: Family, slots: &Slots) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::DeleteTable];
    if slots.is_empty() {
        return changes;
    }
    let address = address_type(family);
    let set = |name: &'static str, data| {
        Change::AddSet(SetSpec {
            name: name.into(),
            key: vec![address],
            data,
        })
    };
    let chain = |name: &'static str, kind, priority| Change::AddChain {
        name: name.into(),
        hook: Some(Hook {
            kind,
            point: HookPoint::Output,
            priority,
        }),
    };
    let lookup = Expression::Map {
        map: VIPS.into(),
        from: Register(0),
        to: None,
    };
    let is_idle = Expression::Member {
        set: IDLE.into(),
        from: Register(0),
        inverted: false,
    };
    let [icmp, icmpv6] = PORT_UNREACHABLE;
    let icmp_code = if family == Family::Ipv6 { icmpv6 } else { icmp };
    changes.extend([
        Change::AddTable,
        set(VIPS, Some(vec![ValueType::Verdict])),
        set(IDLE, None),
        chain(OUTPUT, "nat", PRIORITY_DESTINATION_NAT),
        chain(REFUSE, "filter", PRIORITY_FILTER),
        Change::AddRule {
            chain: OUTPUT.into(),
            expressions: vec![destination(family), lookup],
        },
        Change::AddRule {
            chain: REFUSE.into(),
            expressions: vec![destination(family), is_idle, Expression::Refuse { icmp_code }],
        },
    ]);
    for (vip, endpoints) in slots {
        changes.extend(with_service(family, *vip, endpoints));
    }
    changes
}

/// Makes a table that holds `held` one that holds `wanted`.
pub(crate) fn between(family: Family, held: &Slots, wanted: &Slots) -> Vec<Change> {
    if held.is_empty() || wanted.is_empty() {
        return if held == wanted {
            Vec::new()
        } else {
            whole(family, wanted)
        };
    }
    let gone = held.iter().filter(|(vip, _)| !wanted.contains_key(vip));
    let mut changes: Vec<Change> = gone
        .flat_map(|(vip, endpoints)| without_service(*vip, endpoints))
        .collect();
    for (vip, endpoints) in wanted {
        match held.get(vip) {
            None => changes.extend(with_service(family, *vip, endpoints)),
            Some(before) if before != endpoints => changes.extend(changed(family, *vip, before, endpoints)),
            Some(_) => {}
        }
    }
    changes
}

fn name_of(vip: IpAddr) -> Name {
    format!("vip-{vip}").replace(':', "-").into()
}

fn with_service(family: Family, vip: IpAddr, endpoints: &[IpAddr]) -> Vec<Change> {
    let name = name_of(vip);
    let map = SetSpec {
        name: name.clone(),
        key: vec![ValueType::Number],
        data: Some(vec![address_type(family)]),
    };
    let chain = Change::AddChain {
        name: name.clone(),
        hook: None,
    };
    let mut changes = vec![Change::AddSet(map), chain];
    changes.extend(filled(&name, numbered(endpoints)));
    changes.extend(rule(family, &name, endpoints));
    changes.push(entry(vip, endpoints, add));
    changes
}

fn without_service(vip: IpAddr, endpoints: &[IpAddr]) -> [Change; 4] {
    let name = name_of(vip);
    [
        entry(vip, endpoints, delete),
        Change::FlushChain { name: name.clone() },
        Change::DeleteChain { name: name.clone() },
        Change::DeleteSet { name },
    ]
}

fn changed(family: Family, vip: IpAddr, before: &[IpAddr], now: &[IpAddr]) -> Vec<Change> {
    let name = name_of(vip);
    let differs = |(slot, address): &(usize, IpAddr), other: &[IpAddr]| other.get(*slot) != Some(address);
    let stale = numbered(before).filter(|numbered| differs(numbered, now));
    let stale: Vec<Element> = stale.map(|(slot, address)| element(slot, address)).collect();
    let mut changes = Vec::new();
    if before.is_empty() != now.is_empty() {
        changes.push(entry(vip, before, delete));
    }
    if before.len() != now.len() {
        changes.push(Change::FlushChain { name: name.clone() });
    }
    if !stale.is_empty() {
        changes.push(delete(name.clone(), stale));
    }
    changes.extend(filled(
        &name,
        numbered(now).filter(|numbered| differs(numbered, before)),
    ));
    if before.len() != now.len() {
        changes.extend(rule(family, &name, now));
    }
    if before.is_empty() != now.is_empty() {
        changes.push(entry(vip, now, add));
    }
    changes
}

fn numbered(endpoints: &[IpAddr]) -> impl Iterator<Item = (usize, IpAddr)> {
    endpoints.iter().copied().enumerate()
}

fn filled(name: &Name, endpoints: impl Iterator<Item = (usize, IpAddr)>) -> Option<Change> {
    let elements: Vec<Element> = endpoints.map(|(slot, address)| element(slot, address)).collect();
    (!elements.is_empty()).then(|| add(name.clone(), elements))
}

fn element(slot: usize, address: IpAddr) -> Element {
    Element {
        key: (slot as u32).to_ne_bytes().to_vec(),
        data: Some(ElementData::Value(with_octets(address, <[u8]>::to_vec))),
        comment: None,
    }
}

fn add(set: Name, elements: Vec<Element>) -> Change {
    Change::AddElements { set, elements }
}

fn delete(set: Name, elements: Vec<Element>) -> Change {
    Change::DeleteElements { set, elements }
}

/// Where the table finds a virtual address: among those that lead somewhere, or among those that do not.
fn entry(vip: IpAddr, endpoints: &[IpAddr], change: fn(Name, Vec<Element>) -> Change) -> Change {
    let key = with_octets(vip, <[u8]>::to_vec);
    let (set, data) = match endpoints.is_empty() {
        true => (IDLE, None),
        false => (VIPS, Some(ElementData::Verdict(Verdict::Jump(name_of(vip))))),
    };
    let element = Element {
        key,
        data,
        comment: None,
    };
    change(set.into(), vec![element])
}

fn rule(family: Family, name: &Name, endpoints: &[IpAddr]) -> Option<Change> {
    let first = Register(0);
    let expressions = vec![
        Expression::NextOf {
            count: endpoints.len() as u32,
            to: first,
        },
        Expression::Map {
            map: name.clone(),
            from: first,
            to: Some(first),
        },
        Expression::Translate(Translation::Destination {
            family,
            address: first,
            port: None,
        }),
    ];
    (!endpoints.is_empty()).then(|| Change::AddRule {
        chain: name.clone(),
        expressions,
    })
}

fn destination(family: Family) -> Expression {
    let (offset, length) = match family {
        Family::Ipv6 => (24, 16),
        Family::Ipv4 | Family::Inet | Family::Bridge => (16, 4),
    };
    Expression::Payload {
        header: Header::Network,
        offset,
        length,
        to: Register(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|n| IpAddr::from([10, 0, 1, *n])).collect()
    }

    fn set(last: &[u8]) -> BTreeSet<IpAddr> {
        addresses(last).into_iter().collect()
    }

    #[test]
    fn what_stays_keeps_its_number_and_no_number_is_left_out() {
        let held = addresses(&[5, 6, 7, 8]);
        assert_eq!(arranged(&held, &set(&[5, 6, 7, 8]), "a"), held);
        assert_eq!(
            arranged(&held, &set(&[5, 7, 8]), "a"),
            addresses(&[5, 8, 7]),
            "the last one moves"
        );
        assert_eq!(
            arranged(&held, &set(&[5, 7, 8, 9]), "a"),
            addresses(&[5, 9, 7, 8]),
            "the new one takes the place"
        );
        assert_eq!(arranged(&held, &set(&[8]), "a"), addresses(&[8]));
        assert!(arranged(&held, &set(&[]), "a").is_empty());
        let mut all = arranged(&held, &set(&[1, 2, 3, 5, 6, 7, 8]), "a");
        assert_eq!(all[..4], held[..]);
        all.sort();
        assert_eq!(all, addresses(&[1, 2, 3, 5, 6, 7, 8]));
    }

    #[test]
    fn containers_begin_with_different_endpoints() {
        let wanted = set(&[1, 2, 3, 4]);
        let firsts: BTreeSet<_> = (0..50)
            .map(|n| arranged(&[], &wanted, &format!("c{n}"))[0])
            .collect();
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn one_endpoint_more_of_a_thousand_is_a_small_change() {
        let before: Slots = (0..=250)
            .map(|n| {
                (
                    IpAddr::from([10, 0, 0, n]),
                    addresses(&(0..=200).collect::<Vec<_>>()),
                )
            })
            .collect();
        let mut after = before.clone();
        after
            .get_mut(&IpAddr::from([10, 0, 0, 7]))
            .unwrap()
            .push(IpAddr::from([10, 0, 1, 250]));
        let changes = between(Family::Ipv4, &before, &after);
        let elements = changes.iter().map(|change| match change {
            Change::AddElements { elements, .. } | Change::DeleteElements { elements, .. } => elements.len(),
            _ => 0,
        });
        assert_eq!((changes.len(), elements.sum::<usize>()), (3, 1), "{changes:?}");
        assert_eq!(between(Family::Ipv4, &after, &after), []);
    }
}
