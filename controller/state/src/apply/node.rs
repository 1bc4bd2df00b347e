//! Changes of node rows.

use crate::{Change, ClusterState, ObjectKey, Rejection, Touched};
use muster_types::node::ControllerMember;
use muster_types::{AttachmentId, Node, NodeDescription, NodeId, NodeSpec, NodeState, NodeStatus};
use std::sync::Arc;
use std::time::Duration;

/// How much longer than its certificate a removed node's id is remembered, as SwarmKit has it.
const REMEMBERED_BEYOND_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

impl ClusterState {
    pub(super) fn apply_node(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        let ObjectKey::Node(node) = change.object() else {
            unreachable!("apply_change sends only changes of nodes here, not {change:?}");
        };
        touched.nodes.insert(node);
        let before = self.nodes.get(&node).cloned();
        self.change_node(change, touched)?;
        let after = self.nodes.get(&node).cloned();
        self.touch_node(before.as_deref(), after.as_deref(), touched);
        Ok(())
    }

    fn change_node(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        match change {
            Change::NodeCreate {
                node,
                spec,
                description,
            } => self.create_node(*node, spec, description),
            Change::NodeSpec { node, spec } => {
                let mut row = self.node_row(*node)?;
                row.spec = spec.clone();
                row.meta.spec_version = self.index;
                row.meta.updated_at = self.time;
                self.put_node(row);
                Ok(())
            }
            Change::NodeDescription { node, description } => {
                let mut row = self.node_row(*node)?;
                row.description = description.clone();
                row.meta.status_version = self.index;
                row.meta.observed_at = self.time;
                self.put_node(row);
                Ok(())
            }
            Change::NodeStatus {
                node,
                state,
                message,
                address,
            } => {
                let mut row = self.node_row(*node)?;
                let since = if row.status.state == *state {
                    row.status.since
                } else {
                    self.time
                };
                row.status = NodeStatus {
                    state: *state,
                    since,
                    message: message.clone(),
                    address: address.clone(),
                    restarting_until: None,
                };
                row.meta.status_version = self.index;
                row.meta.observed_at = self.time;
                self.put_node(row);
                Ok(())
            }
            Change::NodeRestarting { node, until } => {
                let mut row = self.node_row(*node)?;
                row.status.restarting_until = Some(*until);
                row.meta.status_version = self.index;
                self.put_node(row);
                Ok(())
            }
            Change::NodeController { node, member } => self.set_member(*node, member.as_ref()),
            Change::NodeAddresses { node, addresses } => {
                let mut row = self.node_row(*node)?;
                self.check_new_places(&row.addresses, addresses)?;
                self.note_given(addresses);
                row.addresses.clone_from(addresses);
                self.put_node(row);
                Ok(())
            }
            Change::NodeRemove { node } => self.remove_node(*node, touched),
            other => unreachable!("apply_change sends only changes of nodes here, not {other:?}"),
        }
    }

    fn node_row(&self, id: NodeId) -> Result<Node, Rejection> {
        let object = ObjectKey::Node(id);
        self.nodes
            .get(&id)
            .map(|node| Node::clone(node))
            .ok_or(Rejection::NotFound { object })
    }

    fn create_node(
        &mut self,
        id: NodeId,
        spec: &NodeSpec,
        description: &Arc<NodeDescription>,
    ) -> Result<(), Rejection> {
        if self.removed_nodes.contains_key(&id) {
            return Err(Rejection::NodeRemoved { node: id });
        }
        if self.nodes.contains_key(&id) {
            let object = ObjectKey::Node(id);
            return Err(Rejection::AlreadyExists { object });
        }
        self.put_node(Node {
            id,
            meta: self.new_meta(),
            spec: spec.clone(),
            description: description.clone(),
            status: NodeStatus {
                state: NodeState::Unknown,
                since: self.time,
                message: String::new(),
                address: String::new(),
                restarting_until: None,
            },
            controller: None,
            addresses: Vec::new(),
        });
        Ok(())
    }

    fn set_member(&mut self, id: NodeId, member: Option<&ControllerMember>) -> Result<(), Rejection> {
        let mut row = self.node_row(id)?;
        let before = row.controller.as_ref().map(|member| member.raft_id);
        if let Some(member) = member
            && before != Some(member.raft_id)
        {
            self.use_raft_id(member.raft_id)?;
        }
        row.controller = member.cloned();
        row.meta.control_version = self.index;
        self.put_node(row);
        Ok(())
    }

    fn remove_node(&mut self, id: NodeId, touched: &mut Touched) -> Result<(), Rejection> {
        let object = ObjectKey::Node(id);
        self.take_node(id).ok_or(Rejection::NotFound { object })?;
        let attachments: Vec<AttachmentId> = self.attachments_of_node(id).map(|row| row.id).collect();
        for attachment in attachments {
            let change = Change::AttachmentRemove { attachment };
            self.apply_network(&change, touched)?;
        }
        touched.loads = true;
        // Its tasks outlive the row until reconcile gives them up, and then no key leads to them.
        touched
            .slots
            .extend(self.tasks_of_node(id).map(|task| (task.service, task.slot)));
        let validity = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.spec.certificate_expiry)
            .unwrap_or_default();
        let oldest = self
            .time
            .before(validity.saturating_add(REMEMBERED_BEYOND_EXPIRY));
        let forgotten: Vec<NodeId> = self
            .removed_nodes
            .iter()
            .filter(|(_, removed_at)| **removed_at < oldest)
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            self.removed_nodes.remove(&id);
        }
        self.removed_nodes.insert(id, self.time);
        Ok(())
    }
}
