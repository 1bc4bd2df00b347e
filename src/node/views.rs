//! Records of the state as the Engine API shows them.

use muster_controller::core::io::ReadView;
use muster_controller::core::trace::trace;
use muster_engine_api::backend::{
    ControllerReach, ControllerView, NodeView, Place, ServiceView, TaskCounts, TaskView, TraceStep,
};
use muster_proto::transport::root_digest;
use muster_state::ClusterState;
use muster_types::overlay::NetworkAddresses;
use muster_types::service::Protocol;
use muster_types::{Node, NodeState, Service, ServiceMode, Task, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A node as the API shows it.
pub(super) fn node_view(view: &ReadView, node: &Arc<Node>) -> NodeView {
    let controller = node.controller.as_ref().map(|member| ControllerView {
        leader: view.leader == Some(member.raft_id),
        reach: match &view.reachable {
            // It follows, but does not vote yet: nothing depends on it.
            _ if !member.voter => ControllerReach::Unknown,
            Some(reachable) if reachable.contains(&member.raft_id) => ControllerReach::Reachable,
            Some(_) => ControllerReach::Unreachable,
            // A follower knows only by leases who is heard of.
            None if node.status.state == NodeState::Ready => ControllerReach::Reachable,
            None => ControllerReach::Unreachable,
        },
        address: member.address.clone(),
    });
    let root = view
        .state
        .cluster()
        .map(|cluster| &cluster.root_ca.certificate_pem);
    let trusts = |root: &&String| {
        let tls = node.description.tls.as_ref();
        tls.is_some_and(|tls| tls.root_digest == root_digest(root))
    };
    NodeView {
        node: (**node).clone(),
        trusted_root_pem: root.filter(trusts).cloned(),
        controller,
    }
}

/// A service as the API shows it, with the number of its tasks if that is asked for.
pub(super) fn service_view(state: &ClusterState, service: &Arc<Service>, counts: bool) -> ServiceView {
    ServiceView {
        service: (**service).clone(),
        counts: counts.then(|| task_counts(state, service)),
        vips: places(state, &service.vips),
    }
}

fn task_counts(state: &ClusterState, service: &Service) -> TaskCounts {
    let (mut running, mut wanted) = (0, 0);
    // A slot may have completed twice, where a node was out of reach.
    let mut completed = BTreeSet::new();
    for task in state.tasks_of_service(service.id) {
        if service.job.is_some() && task.template_version != service.template_version {
            continue;
        }
        if service.job.is_some() && task.status.state == TaskState::Complete {
            completed.insert(task.slot);
        }
        wanted += u64::from(task.wants_to_run());
        running += u64::from(task.wants_to_run() && task.status.state == TaskState::Running);
    }
    let desired = match service.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::ReplicatedJob { concurrent_max, .. } => concurrent_max,
        // One task on every node that fits: those are the tasks that exist.
        ServiceMode::Global | ServiceMode::GlobalJob => wanted,
    };
    TaskCounts {
        running,
        desired,
        completed: completed.len() as u64,
    }
}

/// A task as the API shows it; `None` when its template is gone.
pub(super) fn task_view(state: &ClusterState, task: &Arc<Task>) -> Option<TaskView> {
    let revision = state.template(task.service, task.template_version)?;
    let service = state.service(task.service);
    Some(TaskView {
        task: (**task).clone(),
        template: revision.template.clone(),
        service_name: service
            .map(|service| service.spec.name.clone())
            .unwrap_or_default(),
        iteration: revision.iteration,
        up_to_date: service.is_some_and(|service| service.template_version == task.template_version),
        places: places(state, &task.addresses),
    })
}

fn places(state: &ClusterState, places: &[NetworkAddresses]) -> Vec<Place> {
    let place = |place: &NetworkAddresses| {
        Some(Place {
            network: state.network(place.network)?.clone(),
            addresses: place.addresses.clone(),
        })
    };
    places.iter().filter_map(place).collect()
}

/// The way that connections of one service to another take.
pub(super) fn trace_view(
    state: &ClusterState,
    from: &Service,
    to: &Service,
    port: Option<(Protocol, u16)>,
) -> Vec<TraceStep> {
    let steps = trace(state, from, to, port).into_iter();
    let steps = steps.map(|step| TraceStep {
        step: step.step,
        passes: step.passes,
        text: step.text,
    });
    steps.collect()
}
