//! What each node is told: its assignment set, and who is who.

use super::io::NodeView;
use muster_state::ClusterState;
use muster_types::{AssignedTask, AssignmentAge, AssignmentSet, NodeId, NodeRole, SessionId, Task};
use std::collections::BTreeMap;

/// What was sent to one session last, to send only what differs.
#[derive(Debug)]
struct Sent {
    session: SessionId,
    tasks: Option<Vec<AssignedTask>>,
    view: Option<NodeView>,
}

/// The dispatcher's memory of the live sessions.
#[derive(Debug, Default)]
pub struct Dispatch {
    sent: BTreeMap<NodeId, Sent>,
}

impl Dispatch {
    /// A session began: everything is sent to it anew.
    pub fn open(&mut self, node: NodeId, session: SessionId) {
        self.sent.insert(
            node,
            Sent {
                session,
                tasks: None,
                view: None,
            },
        );
    }

    /// A session ended.
    pub fn close(&mut self, node: NodeId, session: SessionId) {
        if self.sent.get(&node).is_some_and(|sent| sent.session == session) {
            self.sent.remove(&node);
        }
    }

    /// A node was removed: returns the session that it had.
    pub fn forget(&mut self, node: NodeId) -> Option<SessionId> {
        self.sent.remove(&node).map(|sent| sent.session)
    }

    /// The nodes with a session.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.sent.keys().copied().collect()
    }

    /// The set to send to the node now, unless it was sent already.
    pub fn assignments(&mut self, state: &ClusterState, node: NodeId) -> Option<(SessionId, AssignmentSet)> {
        let sent = self.sent.get_mut(&node)?;
        let set = assignment_set(state, node);
        if sent.tasks.as_deref().is_some_and(|tasks| same(tasks, &set.tasks)) {
            return None;
        }
        sent.tasks = Some(set.tasks.clone());
        Some((sent.session, set))
    }

    /// The view to send to the node now, unless it was sent already.
    pub fn view(&mut self, node: NodeId, view: &NodeView) -> Option<(SessionId, NodeView)> {
        let sent = self.sent.get_mut(&node)?;
        if sent.view.as_ref() == Some(view) {
            return None;
        }
        sent.view = Some(view.clone());
        Some((sent.session, view.clone()))
    }
}

/// Everything that the node must run, and what it ran and must keep until its record goes.
pub fn assignment_set(state: &ClusterState, node: NodeId) -> AssignmentSet {
    let incarnation = state.cluster().map_or(0, |cluster| cluster.incarnation);
    let tasks = state
        .tasks_of_node(node)
        .filter_map(|task| assigned_task(state, task))
        .collect();
    AssignmentSet {
        age: AssignmentAge {
            incarnation,
            index: state.index(),
        },
        node,
        tasks,
    }
}

fn assigned_task(state: &ClusterState, task: &Task) -> Option<AssignedTask> {
    let revision = state.template(task.service, task.template_version)?;
    let service = state.service(task.service)?;
    Some(AssignedTask {
        id: task.id,
        service: task.service,
        service_name: service.spec.name.clone(),
        service_labels: service.spec.labels.clone(),
        slot: task.slot,
        template_version: task.template_version,
        template: revision.template.clone(),
        ports: revision.ports.clone(),
        desired: task.desired,
        start_after: task.start_after,
        recorded: (task.status.attempt, task.status.state),
    })
}

/// Equal in all that the node acts on; what it reported itself does not count.
fn same(before: &[AssignedTask], after: &[AssignedTask]) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|(before, after)| {
            before.id == after.id
                && before.desired == after.desired
                && before.start_after == after.start_after
                && before.template_version == after.template_version
                && before.service_name == after.service_name
        })
}

/// Who is who, for one node.
pub fn node_view(state: &ClusterState, node: NodeId) -> NodeView {
    let controllers = state.nodes().filter_map(|node| node.controller.as_ref());
    let peers = state
        .nodes()
        .filter(|node| !node.description.advertise_address.is_empty());
    NodeView {
        controllers: controllers.map(|member| member.address.clone()).collect(),
        controller: state
            .node(node)
            .is_some_and(|node| node.spec.role == NodeRole::Controller),
        peers: peers
            .map(|node| (node.id, node.description.advertise_address.clone()))
            .collect(),
    }
}
