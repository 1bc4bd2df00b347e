//! Indexes over the tables, kept by the only functions that write rows.

use crate::networks::NetworkIndexes;
use crate::{ClusterState, NodeLoad, ServiceTasks};
use imbl::{OrdMap, OrdSet};
use muster_types::overlay::EndpointOwner;
use muster_types::{
    ClusterFile, FileId, FileKind, Node, NodeId, RaftId, Service, ServiceId, Slot, Task, TaskId,
};
use std::sync::Arc;

/// Derived from the tables; never part of a snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Indexes {
    pub(crate) service_by_name: OrdMap<String, ServiceId>,
    pub(crate) node_by_raft_id: OrdMap<RaftId, NodeId>,
    pub(crate) tasks_by_slot: OrdSet<(ServiceId, Slot, TaskId)>,
    pub(crate) tasks_by_node: OrdSet<(Option<NodeId>, ServiceId, TaskId)>,
    pub(crate) load: OrdMap<NodeId, NodeLoad>,
    pub(crate) service_tasks: OrdMap<ServiceId, Arc<ServiceTasks>>,
    pub(crate) networks: NetworkIndexes,
    pub(crate) file_by_name: OrdMap<(FileKind, String), FileId>,
}

impl ClusterState {
    pub(crate) fn put_node(&mut self, node: Node) {
        let raft_id = |node: &Node| node.controller.as_ref().map(|member| member.raft_id);
        let (id, new) = (node.id, raft_id(&node));
        let node = Arc::new(node);
        let before = self.nodes.insert(id, node.clone());
        let places = before.as_ref().map_or(&[][..], |node| &node.addresses);
        self.hold(EndpointOwner::Node(id), places, &node.addresses);
        let old = before.and_then(|node| raft_id(&node));
        if old != new {
            if let Some(old) = old {
                self.indexes.node_by_raft_id.remove(&old);
            }
            if let Some(new) = new {
                self.indexes.node_by_raft_id.insert(new, id);
            }
        }
    }

    pub(crate) fn take_node(&mut self, id: NodeId) -> Option<Arc<Node>> {
        let node = self.nodes.remove(&id)?;
        if let Some(member) = &node.controller {
            self.indexes.node_by_raft_id.remove(&member.raft_id);
        }
        self.hold(EndpointOwner::Node(id), &node.addresses, &[]);
        Some(node)
    }

    pub(crate) fn put_service(&mut self, service: Service) {
        let name = &service.spec.name;
        if !service.removing {
            self.indexes.service_by_name.insert(name.clone(), service.id);
        } else if self.indexes.service_by_name.get(name) == Some(&service.id) {
            self.indexes.service_by_name.remove(name);
        }
        let service = Arc::new(service);
        let before = self.services.insert(service.id, service.clone());
        self.index_service_networks(before.as_deref(), Some(&service));
    }

    pub(crate) fn take_service(&mut self, id: ServiceId) {
        let Some(service) = self.services.remove(&id) else {
            return;
        };
        if self.indexes.service_by_name.get(&service.spec.name) == Some(&id) {
            self.indexes.service_by_name.remove(&service.spec.name);
        }
        self.index_service_networks(Some(&service), None);
    }

    pub(crate) fn put_file(&mut self, file: ClusterFile) {
        let name = (file.kind, file.spec.name.clone());
        self.indexes.file_by_name.insert(name, file.id);
        self.files.insert(file.id, Arc::new(file));
    }

    pub(crate) fn take_file(&mut self, id: FileId) {
        if let Some(file) = self.files.remove(&id) {
            self.indexes
                .file_by_name
                .remove(&(file.kind, file.spec.name.clone()));
        }
    }

    pub(crate) fn put_task(&mut self, task: Task) {
        let task = Arc::new(task);
        let old = self.tasks.insert(task.id, task.clone());
        match &old {
            None => {
                self.indexes
                    .tasks_by_slot
                    .insert((task.service, task.slot, task.id));
                self.indexes
                    .tasks_by_node
                    .insert((task.node, task.service, task.id));
            }
            Some(old) if old.node != task.node => {
                self.indexes
                    .tasks_by_node
                    .remove(&(old.node, old.service, old.id));
                self.indexes
                    .tasks_by_node
                    .insert((task.node, task.service, task.id));
            }
            Some(_) => {}
        }
        self.count_task(old.as_deref(), &task);
        self.index_task_networks(old.as_deref(), Some(&task));
        let held = old.as_deref().and_then(holder);
        let holds = holder(&task);
        if held != holds {
            if let (Some((node, wanted)), Some(old)) = (held, &old) {
                self.release(node, wanted, old);
            }
            if let Some((node, wanted)) = holds {
                self.reserve(node, wanted, &task);
            }
        }
    }

    pub(crate) fn take_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        self.indexes.tasks_by_slot.remove(&(task.service, task.slot, id));
        self.indexes.tasks_by_node.remove(&(task.node, task.service, id));
        self.uncount_task(&task);
        self.index_task_networks(Some(&task), None);
        if let Some((node, wanted)) = holder(&task) {
            self.release(node, wanted, &task);
        }
    }

    fn reserve(&mut self, node: NodeId, wanted: bool, task: &Task) {
        let Some(revision) = self.template(task.service, task.template_version).cloned() else {
            return;
        };
        let load = self.indexes.load.entry(node).or_default();
        load.wanted += u64::from(wanted);
        load.add(revision.template.reservations, &revision.ports);
    }

    fn release(&mut self, node: NodeId, wanted: bool, task: &Task) {
        let Some(revision) = self.template(task.service, task.template_version).cloned() else {
            return;
        };
        let Some(load) = self.indexes.load.get_mut(&node) else {
            return;
        };
        load.wanted = load.wanted.saturating_sub(u64::from(wanted));
        load.remove(revision.template.reservations, &revision.ports);
        if load.is_empty() {
            self.indexes.load.remove(&node);
        }
    }
}

/// The node whose resources the task holds until it is seen to stop, and whether it shall run.
fn holder(task: &Task) -> Option<(NodeId, bool)> {
    let node = task.node.filter(|_| !task.is_terminal())?;
    Some((node, task.wants_to_run()))
}
