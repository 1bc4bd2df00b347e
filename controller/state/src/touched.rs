//! Which rows an entry changed, so that nobody has to look at all of them.

use muster_types::overlay::EndpointOwner;
use muster_types::{NetworkId, NodeId, ServiceId, Slot, TaskId};
use std::collections::BTreeSet;

/// Which rows an entry changed. An optimisation only: looking at more never changes a decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// The cluster's own row.
    pub cluster: bool,
    /// Node rows.
    pub nodes: BTreeSet<NodeId>,
    /// Service rows.
    pub services: BTreeSet<ServiceId>,
    /// Services of which every slot may have to follow the row.
    pub whole_services: BTreeSet<ServiceId>,
    /// Slots of which a task changed, came or went, or lost its node's row.
    pub slots: BTreeSet<(ServiceId, Slot)>,
    /// Task rows.
    pub tasks: BTreeSet<TaskId>,
    /// Nodes whose assignment set changed: a task came, went, has a new desired state or needs no secrets any more.
    pub assignments: BTreeSet<NodeId>,
    /// Networks of which the row changed.
    pub networks: BTreeSet<NetworkId>,
    /// Places in networks that are new, changed or free again.
    pub endpoints: BTreeSet<(NetworkId, EndpointOwner)>,
    /// Services that look different to containers of a network.
    pub network_services: BTreeSet<(NetworkId, ServiceId)>,
    /// Some node's load changed, addresses came free or a network has other rules, so that a waiting task may fit, or wait
    /// for another cause.
    pub loads: bool,
}

impl Touched {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another entry changed.
    pub fn merge(&mut self, other: Self) {
        self.cluster |= other.cluster;
        self.nodes.extend(other.nodes);
        self.services.extend(other.services);
        self.whole_services.extend(other.whole_services);
        self.slots.extend(other.slots);
        self.tasks.extend(other.tasks);
        self.assignments.extend(other.assignments);
        self.networks.extend(other.networks);
        self.endpoints.extend(other.endpoints);
        self.network_services.extend(other.network_services);
        self.loads |= other.loads;
    }
}
