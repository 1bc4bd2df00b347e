//! What each node is told: its assignment set, and who is who.

use super::io::NodeView;
use muster_state::ClusterState;
use muster_types::{
    AssignedTask, AssignmentAge, AssignmentSet, AssignmentUpdate, DesiredState, NodeId, NodeRole, SessionId,
    Task, TaskId, Timestamp,
};
use std::collections::BTreeMap;

/// What was sent to one session last, to send only what differs.
#[derive(Debug)]
struct Sent {
    session: SessionId,
    set: Option<SentSet>,
    view: Option<NodeView>,
}

/// The set that a session has.
#[derive(Debug)]
struct SentSet {
    age: AssignmentAge,
    tasks: BTreeMap<TaskId, Wanted>,
}

/// All of an assigned task that can change and that its node acts on; what the node reported itself does not count.
type Wanted = (DesiredState, Option<Timestamp>);

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
                set: None,
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

    /// What to send to the node now: the whole set at first, then what differs from what was sent, if anything does.
    pub fn assignments(
        &mut self,
        state: &ClusterState,
        node: NodeId,
    ) -> Option<(SessionId, AssignmentUpdate)> {
        let sent = self.sent.get_mut(&node)?;
        let age = age_of(state);
        let now: BTreeMap<TaskId, Wanted> = state
            .tasks_of_node(node)
            .map(|task| (task.id, (task.desired, task.start_after)))
            .collect();
        let update = match &sent.set {
            None => assignment_set(state, node).into(),
            Some(before) => {
                let news = now
                    .iter()
                    .filter(|(id, wanted)| before.tasks.get(*id) != Some(*wanted));
                let gone = before.tasks.keys().filter(|id| !now.contains_key(*id));
                let update = AssignmentUpdate {
                    from: Some(before.age),
                    age,
                    node,
                    tasks: news
                        .filter_map(|(id, _)| assigned_task(state, state.task(*id)?))
                        .collect(),
                    gone: gone.copied().collect(),
                    ..AssignmentUpdate::default()
                };
                if update.tasks.is_empty() && update.gone.is_empty() {
                    return None;
                }
                update
            }
        };
        sent.set = Some(SentSet { age, tasks: now });
        Some((sent.session, update))
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
    let tasks = state
        .tasks_of_node(node)
        .filter_map(|task| assigned_task(state, task))
        .collect();
    AssignmentSet {
        age: age_of(state),
        node,
        tasks,
        networks: Vec::new(),
    }
}

fn age_of(state: &ClusterState) -> AssignmentAge {
    AssignmentAge {
        incarnation: state.cluster().map_or(0, |cluster| cluster.incarnation),
        index: state.index(),
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
        networks: Vec::new(),
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
