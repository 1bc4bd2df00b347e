//! The table as changes: its sets and its fixed rules.
//!
//! ```text
//! raw_prerouting   from a bridge to 127.0.0.0/8 or ::1: drop   (route_localnet lets published ports reach the
//!                                                        loopback's users, and must not let containers reach it)
//! prerouting       to this host, not its loopback: publish
//! output           to ::1: return   (IPv6 leads nothing from its loopback to another link; a relay's socket takes it)
//!                  to this host: publish
//! publish          address.protocol.port in @published: dnat; protocol.port in @published_any: dnat
//! postrouting      between ports of one bridge after dnat: masquerade   (else the answer would bypass the host)
//!                  from no interface, not this host's own, to a bridge after dnat: masquerade   (turned round inside
//!                                                        the bridge, with bridge-nf-call-iptables)
//!                  from @masq_bridges to no bridge: masquerade
//!                  from the loopback to a bridge: masquerade
//!                  from a bridge to @mesh_links: masquerade   (the address means nothing on other nodes)
//! forward          established: accept; within one bridge: as its element says; from @internal_bridges: drop;
//!                  to a bridge: accept after dnat, from no bridge to @unprotected_bridges, address.protocol.port in
//!                  @opened, ICMP to @routed_bridges; else drop
//! ```

use super::elements::{with_bridge, with_ports};
use super::expressions::{
    FIRST, Layout, Membership, destination, established, from_any, from_outside, interfaces, is_member,
    loopback, obey, of_protocol, protocol_and_port, to_any, to_bridge, to_published, translated,
    turned_round, verdict, within_one_bridge,
};
use super::model::Model;
use crate::nft::terms::to_this_host;
use crate::nft::{Change, Expression, Family, Hook, HookPoint, SetSpec, Translation, ValueType, Verdict};

pub(super) const BRIDGES: &str = "bridges";
pub(super) const MASQUERADED: &str = "masq_bridges";
pub(super) const INTERNAL: &str = "internal_bridges";
pub(super) const UNPROTECTED: &str = "unprotected_bridges";
pub(super) const ROUTED: &str = "routed_bridges";
pub(super) const OPENED: &str = "opened";
pub(super) const MESH: &str = "mesh_links";
pub(super) const SAME_BRIDGE: &str = "same_bridge";
pub(super) const PUBLISHED: &str = "published";
pub(super) const PUBLISHED_ANY: &str = "published_any";

const PUBLISH: &str = "publish";

const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;

/// Replaces the table, which need not exist, by one that holds `model`.
pub(super) fn whole(family: Family, model: &Model) -> Vec<Change> {
    let layout = Layout::of(family);
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    changes.extend(sets(layout).map(Change::AddSet));
    changes.extend(chains());
    changes.extend(loopback_of_ipv6(layout));
    changes.extend(rules(layout));
    for (name, policy) in &model.bridges {
        changes.extend(with_bridge(name, *policy));
    }
    let ports: Vec<_> = model
        .published
        .iter()
        .map(|(key, target)| (*key, target.clone()))
        .collect();
    changes.extend(with_ports(&ports));
    changes
}

fn sets(layout: &Layout) -> impl Iterator<Item = SetSpec> + use<> {
    use ValueType::{InterfaceName, Port, Protocol, Verdict};
    let address = layout.address;
    let target = || Some(vec![address, Port]);
    [
        SetSpec {
            name: BRIDGES.into(),
            key: vec![InterfaceName],
            data: None,
        },
        SetSpec {
            name: MASQUERADED.into(),
            key: vec![InterfaceName],
            data: None,
        },
        SetSpec {
            name: INTERNAL.into(),
            key: vec![InterfaceName],
            data: None,
        },
        SetSpec {
            name: UNPROTECTED.into(),
            key: vec![InterfaceName],
            data: None,
        },
        SetSpec {
            name: ROUTED.into(),
            key: vec![InterfaceName],
            data: None,
        },
        SetSpec {
            name: OPENED.into(),
            key: vec![address, Protocol, Port],
            data: None,
        },
        SetSpec {
            name: MESH.into(),
            key: vec![InterfaceName],
            data: None,
        },
        SetSpec {
            name: SAME_BRIDGE.into(),
            key: vec![InterfaceName, InterfaceName],
            data: Some(vec![Verdict]),
        },
        SetSpec {
            name: PUBLISHED.into(),
            key: vec![address, Protocol, Port],
            data: target(),
        },
        SetSpec {
            name: PUBLISHED_ANY.into(),
            key: vec![Protocol, Port],
            data: target(),
        },
    ]
    .into_iter()
}

fn chains() -> impl Iterator<Item = Change> {
    let hooked = |name: &'static str, kind, point, priority| Change::AddChain {
        name: name.into(),
        hook: Some(Hook {
            kind,
            point,
            priority,
        }),
    };
    [
        Change::AddChain {
            name: PUBLISH.into(),
            hook: None,
        },
        hooked("raw_prerouting", "filter", HookPoint::Prerouting, PRIORITY_RAW),
        hooked(
            "prerouting",
            "nat",
            HookPoint::Prerouting,
            PRIORITY_DESTINATION_NAT,
        ),
        hooked("output", "nat", HookPoint::Output, PRIORITY_DESTINATION_NAT),
        hooked("postrouting", "nat", HookPoint::Postrouting, PRIORITY_SOURCE_NAT),
        hooked("forward", "filter", HookPoint::Forward, PRIORITY_FILTER),
    ]
    .into_iter()
}

fn loopback_of_ipv6(layout: &Layout) -> Option<Change> {
    let rule = || Change::AddRule {
        chain: "output".into(),
        expressions: [loopback(layout, layout.destination), verdict(Verdict::Return)].concat(),
    };
    (layout.family == Family::Ipv6).then(rule)
}

fn rules(layout: &Layout) -> impl Iterator<Item = Change> + use<> {
    let masquerade = || Expression::Translate(Translation::Masquerade);
    let rule = |chain: &'static str, parts: Vec<Vec<Expression>>| Change::AddRule {
        chain: chain.into(),
        expressions: parts.concat(),
    };
    [
        rule(
            "raw_prerouting",
            vec![
                from_any(BRIDGES),
                loopback(layout, layout.destination),
                verdict(Verdict::Drop),
            ],
        ),
        rule(
            "prerouting",
            vec![loopback(layout, layout.destination), verdict(Verdict::Return)],
        ),
        rule(
            "prerouting",
            vec![to_this_host(), verdict(Verdict::Jump(PUBLISH.into()))],
        ),
        rule(
            "output",
            vec![to_this_host(), verdict(Verdict::Jump(PUBLISH.into()))],
        ),
        rule(
            PUBLISH,
            vec![
                destination(layout),
                to_published(layout, PUBLISHED, layout.behind()),
            ],
        ),
        rule(PUBLISH, vec![to_published(layout, PUBLISHED_ANY, FIRST)]),
        rule(
            "postrouting",
            vec![within_one_bridge(), translated(), vec![masquerade()]],
        ),
        rule(
            "postrouting",
            vec![
                turned_round(),
                to_bridge(Membership::Inside),
                translated(),
                vec![masquerade()],
            ],
        ),
        rule(
            "postrouting",
            vec![
                from_any(MASQUERADED),
                to_bridge(Membership::Outside),
                vec![masquerade()],
            ],
        ),
        rule(
            "postrouting",
            vec![
                loopback(layout, layout.source),
                to_bridge(Membership::Inside),
                vec![masquerade()],
            ],
        ),
        rule(
            "postrouting",
            vec![from_any(BRIDGES), to_any(MESH), vec![masquerade()]],
        ),
        rule("forward", vec![established(), verdict(Verdict::Accept)]),
        rule("forward", vec![interfaces(), vec![obey(SAME_BRIDGE)]]),
        rule("forward", vec![from_any(INTERNAL), verdict(Verdict::Drop)]),
        rule(
            "forward",
            vec![
                to_bridge(Membership::Inside),
                translated(),
                verdict(Verdict::Accept),
            ],
        ),
        rule(
            "forward",
            vec![from_outside(), to_any(UNPROTECTED), verdict(Verdict::Accept)],
        ),
        rule(
            "forward",
            vec![
                to_bridge(Membership::Inside),
                destination(layout),
                protocol_and_port(layout.behind()),
                vec![is_member(OPENED)],
                verdict(Verdict::Accept),
            ],
        ),
        rule(
            "forward",
            vec![to_any(ROUTED), of_protocol(layout.icmp), verdict(Verdict::Accept)],
        ),
        rule(
            "forward",
            vec![to_bridge(Membership::Inside), verdict(Verdict::Drop)],
        ),
    ]
    .into_iter()
}
