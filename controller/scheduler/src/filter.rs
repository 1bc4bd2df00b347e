//! The yes/no rules, each of which explains itself.

use crate::{Cause, Constraints, NodeView, explain::Absence};
use muster_types::node::Availability;
use muster_types::service::{Platform, Protocol};
use muster_types::{Node, TaskId, TaskTemplate};
use std::sync::Arc;

/// Tasks of one service and one template revision, which are alike.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they run.
    pub template: Arc<TaskTemplate>,
    /// Host-mode ports that each needs.
    pub ports: Vec<(Protocol, u16)>,
    /// The feature level that a node's version must have to run them as they are meant.
    pub feature_level: u32,
    /// The tasks, placed in this order.
    pub tasks: Vec<TaskId>,
}

/// A filter: the cause when the node does not fit one more task of the group.
type Filter = fn(&Group, &Constraints, &NodeView) -> Option<Cause>;

/// Every filter, in the order in which they are asked; the first that objects names the cause.
const FILTERS: &[Filter] = &[
    ready,
    version,
    availability,
    constraints_hold,
    platform,
    resources,
    host_ports,
    replicas_per_node,
];

/// The first cause why the node does not fit one more task of the group.
pub fn objection(group: &Group, constraints: &Constraints, view: &NodeView) -> Option<Cause> {
    FILTERS.iter().find_map(|filter| filter(group, constraints, view))
}

/// Why the node may not hold tasks of this template at all, whatever else runs there: the constraints that are
/// enforced on tasks already placed.
pub fn misfit(constraints: &Constraints, node: &Node) -> Option<Cause> {
    constraints.unsatisfied(node).map(Cause::Constraint)
}

fn ready(_: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    Absence::of(view.node.status.state).map(Cause::NotReady)
}

/// A node that has not told its level is new.
fn version(group: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    let older = (1..group.feature_level).contains(&view.node.description.feature_level);
    older.then_some(Cause::OlderVersion)
}

fn availability(_: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    match view.node.spec.availability {
        Availability::Active => None,
        Availability::Pause => Some(Cause::Paused),
        Availability::Drain => Some(Cause::Drained),
    }
}

fn constraints_hold(_: &Group, constraints: &Constraints, view: &NodeView) -> Option<Cause> {
    misfit(constraints, &view.node)
}

fn platform(group: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    let wanted = &group.template.placement.platforms;
    let fits = wanted.is_empty()
        || wanted
            .iter()
            .any(|wanted| runs(&view.node.description.platform, wanted));
    (!fits).then_some(Cause::Platform)
}

/// Whether a node of this platform runs an image built for `wanted`; an empty field means any.
pub fn runs(node: &Platform, wanted: &Platform) -> bool {
    let os = wanted.os.is_empty() || wanted.os.eq_ignore_ascii_case(&node.os);
    let architecture = wanted.architecture.is_empty()
        || architecture_name(&wanted.architecture) == architecture_name(&node.architecture);
    os && architecture
}

/// Processors have two names each: the kernel's and Go's.
fn architecture_name(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    }
}

fn resources(group: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    let short = group.template.reservations.minus(view.free);
    if short.memory_bytes > 0 {
        return Some(Cause::Memory(short.memory_bytes));
    }
    (short.nano_cpus > 0).then_some(Cause::Cpu(short.nano_cpus))
}

fn host_ports(group: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    group
        .ports
        .iter()
        .find(|port| view.ports.contains(port))
        .map(|(protocol, port)| Cause::PortInUse(*protocol, *port))
}

fn replicas_per_node(group: &Group, _: &Constraints, view: &NodeView) -> Option<Cause> {
    let most = group.template.placement.replicas_per_node_max;
    (most > 0 && view.service_tasks >= most).then_some(Cause::ReplicasPerNode(most))
}
