//! One service as the passes see and change it, before the changes become a changeset.

mod revisions;

use self::revisions::{Relation, relation};
use crate::Pending;
use crate::due::{Due, FIRST_SLOT};
use crate::networks::no_address;
use muster_scheduler::Constraints;
use muster_state::{AddressPool, ClusterState, Exhausted, ServiceTasks, TemplateRevision};
use muster_types::overlay::NetworkAddresses;
use muster_types::service::{PublishedPort, UpdateStatus};
use muster_types::{
    DesiredState, IdSource, Meta, NetworkId, NodeId, NodeState, Reason, Service, ServiceId, Slot, Task,
    TaskId, TaskState, TaskStatus, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Position of a task within its draft.
pub(crate) type TaskIndex = usize;

/// What of a service is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// These slots.
    pub(crate) slots: &'a BTreeSet<Slot>,
    /// Nodes that have no task of it, too.
    pub(crate) nodes: bool,
    /// No slot is left that changed.
    pub(crate) whole: bool,
    /// When slots are due.
    pub(crate) due: &'a Due,
}

/// One service with the slots that are looked at, and what is counted of all. Passes read and change it in turn, and
/// load further slots that they have to know; what differs in the end is the changeset.
pub(crate) struct Draft<'a> {
    pub(crate) state: &'a ClusterState,
    pub(crate) now: Timestamp,
    ids: &'a mut dyn IdSource,
    pub(crate) service: Arc<Service>,
    pub(crate) revision: Arc<TemplateRevision>,
    pub(crate) constraints: Constraints,
    pub(crate) scope: Scope<'a>,
    /// What is counted of all tasks, as they are stored.
    pub(crate) counted: Arc<ServiceTasks>,
    pub(crate) tasks: Vec<TaskDraft>,
    /// Tasks of the loaded slots, oldest first.
    slots: BTreeMap<Slot, Vec<TaskIndex>>,
    /// How each older revision compares with the current one.
    relations: BTreeMap<u64, Relation>,
    pub(crate) update: Option<UpdateStatus>,
    pub(crate) allocated_ports: Vec<PublishedPort>,
    pub(crate) vips: Vec<NetworkAddresses>,
    /// Networks on which the service can have no virtual address, and why.
    pub(crate) without_address: BTreeMap<NetworkId, String>,
    /// Networks that addresses were taken on, with what is left of them.
    pools: BTreeMap<NetworkId, AddressPool>,
    /// Return to the previous spec, with this message.
    pub(crate) rollback: Option<String>,
    pub(crate) dropped_templates: Vec<u64>,
    pub(crate) drop_service: bool,
    /// Nodes whose spec and status a placement relied on.
    pub(crate) relied_on: BTreeSet<NodeId>,
    budget: usize,
    spent: usize,
    /// The budget ended before the passes did.
    pub(crate) unfinished: bool,
    /// It ended before all that the loaded slots ask for was decided.
    pub(crate) slots_unfinished: bool,
    /// When to look at slots again.
    pub(crate) wakes: BTreeMap<Slot, Timestamp>,
    /// Why some tasks have no node, and how many.
    pub(crate) unplaced: Option<(usize, String)>,
}

impl TaskDraft {
    /// This draft gave it its node.
    pub(crate) fn is_placed(&self) -> bool {
        let had_node = self.stored.as_ref().is_some_and(|stored| stored.node.is_some());
        self.row.node.is_some() && !had_node
    }
}

/// A task as it is stored and as it shall be.
pub(crate) struct TaskDraft {
    /// `None`: made by this draft.
    pub(crate) stored: Option<Arc<Task>>,
    pub(crate) row: Arc<Task>,
    pub(crate) removed: bool,
    charged: bool,
}

/// Changes that touching a stored task may cost: control and status.
const TOUCH_COST: usize = 2;

impl<'a> Draft<'a> {
    /// The service as it is; `None` when it does not exist.
    pub(crate) fn new(
        state: &'a ClusterState,
        id: ServiceId,
        now: Timestamp,
        budget: usize,
        ids: &'a mut dyn IdSource,
        scope: Scope<'a>,
    ) -> Option<Self> {
        let service = state.service(id)?.clone();
        let revision = state.template(id, service.template_version)?.clone();
        let relations = state
            .templates_of(id)
            .map(|(version, older)| (version, relation(older, &revision)))
            .collect();
        let mut draft = Self {
            state,
            now,
            ids,
            update: service.update.clone(),
            allocated_ports: service.allocated_ports.clone(),
            vips: service.vips.clone(),
            without_address: BTreeMap::new(),
            pools: BTreeMap::new(),
            constraints: Constraints::of(&revision.template.placement),
            service,
            revision,
            scope,
            counted: state.service_tasks(id),
            tasks: Vec::new(),
            slots: BTreeMap::new(),
            relations,
            rollback: None,
            dropped_templates: Vec::new(),
            drop_service: false,
            relied_on: BTreeSet::new(),
            // The service's own row may change too.
            budget: budget.saturating_sub(1),
            spent: 0,
            unfinished: false,
            slots_unfinished: false,
            wakes: BTreeMap::new(),
            unplaced: None,
        };
        for slot in scope.slots {
            draft.load(*slot);
        }
        Some(draft)
    }

    /// Brings in a slot, unless it is there already.
    pub(crate) fn load(&mut self, slot: Slot) {
        if self.slots.contains_key(&slot) {
            return;
        }
        let first = self.tasks.len();
        let stored = self.state.tasks_of_slot(self.service.id, slot);
        self.tasks.extend(stored.map(|task| TaskDraft {
            stored: Some(task.clone()),
            row: task.clone(),
            removed: false,
            charged: false,
        }));
        self.tasks[first..].sort_by_key(|task| (task.row.meta.created_at, task.row.id));
        self.slots.insert(slot, (first..self.tasks.len()).collect());
    }

    /// Brings in the slots whose tasks have no node.
    pub(crate) fn load_unplaced(&mut self) {
        let state = self.state;
        for task in state.unplaced_tasks_of(self.service.id) {
            self.load(task.slot);
        }
    }

    /// Brings in every slot, for the few rules that weigh all against each other.
    pub(crate) fn load_all(&mut self) {
        let state = self.state;
        for slot in state.slots_of_service(self.service.id, FIRST_SLOT) {
            self.load(slot);
        }
    }

    /// Whether the slot was brought in.
    pub(crate) fn is_loaded(&self, slot: Slot) -> bool {
        self.slots.contains_key(&slot)
    }

    /// The task as it shall be.
    pub(crate) fn task(&self, index: TaskIndex) -> &Task {
        &self.tasks[index].row
    }

    /// Loaded tasks that are not removed, in slot order.
    pub(crate) fn indexes(&self) -> Vec<TaskIndex> {
        let all = self.slots.values().flatten().copied();
        all.filter(|index| !self.tasks[*index].removed).collect()
    }

    /// Every loaded task in slot order, also those that are removed.
    pub(crate) fn drafts(&self) -> impl Iterator<Item = &TaskDraft> {
        self.slots.values().flatten().map(|index| &self.tasks[*index])
    }

    /// Tasks of a slot that are not removed, oldest first.
    pub(crate) fn in_slot(&self, slot: Slot) -> impl Iterator<Item = TaskIndex> {
        let indexes = self.slots.get(&slot).map_or(&[][..], Vec::as_slice);
        indexes
            .iter()
            .copied()
            .filter(|index| !self.tasks[*index].removed)
    }

    /// Every loaded slot that has, or had, a record.
    pub(crate) fn slot_list(&self) -> Vec<Slot> {
        let held = self.slots.iter().filter(|(_, tasks)| !tasks.is_empty());
        held.map(|(slot, _)| *slot).collect()
    }

    /// The controller wants the task to run.
    pub(crate) fn is_wanted(&self, index: TaskIndex) -> bool {
        !self.tasks[index].removed && self.task(index).wants_to_run()
    }

    /// The slot's newest task that is wanted.
    pub(crate) fn wanted_in(&self, slot: Slot) -> Option<TaskIndex> {
        self.in_slot(slot).filter(|index| self.is_wanted(*index)).last()
    }

    /// The task runs what the service says now.
    pub(crate) fn is_current(&self, index: TaskIndex) -> bool {
        let task = self.task(index);
        if task.template_version == self.service.template_version {
            return true;
        }
        match self.relations.get(&task.template_version) {
            Some(Relation::Same) => true,
            Some(Relation::OnlyConstraints) => task
                .node
                .and_then(|node| self.state.node(node))
                .is_some_and(|node| muster_scheduler::filter::misfit(&self.constraints, node).is_none()),
            Some(Relation::Different) | None => false,
        }
    }

    /// Nothing follows the slot's last task, and the service still says the same: its restart policy let it end, or it is
    /// of a job and completed.
    pub(crate) fn is_finished(&self, slot: Slot) -> bool {
        self.in_slot(slot).last().is_some_and(|index| {
            let task = self.task(index);
            task.reason.ends_slot() && self.is_current(index)
        })
    }

    /// The task still runs although it shall not, on a node that can say when it stopped.
    pub(crate) fn is_stopping(&self, index: TaskIndex) -> bool {
        let task = self.task(index);
        !task.wants_to_run()
            && !task.is_terminal()
            && task.node.is_some_and(|node| self.absence(node).is_none())
    }

    /// The task is recorded as ended. What this draft decides must be recorded before the record may go.
    pub(crate) fn was_over(&self, index: TaskIndex) -> bool {
        let stored = self.tasks[index].stored.as_ref();
        stored.is_some_and(|task| task.is_terminal())
    }

    /// Why tasks on the node cannot be expected to run, if so.
    pub(crate) fn absence(&self, id: NodeId) -> Option<Reason> {
        match self.state.node(id).map(|node| node.status.state) {
            None => Some(Reason::NodeRemoved { node: id }),
            Some(NodeState::Down | NodeState::Disconnected) => Some(Reason::NodeDown { node: id }),
            Some(NodeState::Ready | NodeState::Unknown) => None,
        }
    }

    /// Whether `changes` more fit the budget; notes it when they do not.
    pub(crate) fn has_room(&mut self, changes: usize) -> bool {
        let fits = self.may_add(changes);
        self.slots_unfinished |= !fits;
        fits
    }

    /// The same for what is found again by counts, without a look at the slots that are loaded.
    pub(crate) fn may_add(&mut self, changes: usize) -> bool {
        let fits = self.spent + changes <= self.budget;
        self.unfinished |= !fits;
        fits
    }

    /// Whether touching this task fits the budget.
    pub(crate) fn has_room_for(&mut self, index: TaskIndex) -> bool {
        let cost = if self.tasks[index].charged { 0 } else { TOUCH_COST };
        self.has_room(cost)
    }

    /// Counts a change of something else than a task.
    pub(crate) fn charge(&mut self) {
        self.spent += 1;
    }

    /// Wants something else of a task, never less than before.
    pub(crate) fn set_desired(&mut self, index: TaskIndex, desired: DesiredState, reason: Reason) {
        if self.task(index).desired >= desired {
            return;
        }
        let row = self.touch(index);
        row.desired = desired;
        row.reason = reason;
    }

    /// Says why the task is wanted as it is.
    pub(crate) fn set_reason(&mut self, index: TaskIndex, reason: Reason) {
        if self.task(index).reason != reason {
            self.touch(index).reason = reason;
        }
    }

    /// Says something about a task that its agent cannot say.
    pub(crate) fn set_status(
        &mut self,
        index: TaskIndex,
        state: TaskState,
        message: &str,
        error: Option<String>,
    ) {
        let now = self.now;
        let before = &self.task(index).status;
        if (before.state, before.message.as_str(), &before.error) == (state, message, &error) {
            return;
        }
        let row = self.touch(index);
        row.status.state = state;
        row.status.at = now;
        row.status.message = message.to_owned();
        row.status.error = error;
    }

    /// Takes an address on each of these networks, or on none of them and says why.
    pub(crate) fn take_addresses(&mut self, networks: &[NetworkId]) -> Result<Vec<NetworkAddresses>, String> {
        let mut taken: Vec<NetworkAddresses> = Vec::with_capacity(networks.len());
        for network in networks {
            match self.take_address(*network) {
                Ok(addresses) => taken.push(NetworkAddresses {
                    network: *network,
                    addresses,
                }),
                Err(exhausted) => {
                    self.return_addresses(&taken);
                    return Err(no_address(self.state, exhausted));
                }
            }
        }
        Ok(taken)
    }

    fn take_address(&mut self, network: NetworkId) -> Result<Vec<IpAddr>, Exhausted> {
        if !self.pools.contains_key(&network) {
            let pool = self.state.address_pool(network);
            self.pools.insert(network, pool.ok_or(Exhausted { network })?);
        }
        let pool = self.pools.get_mut(&network).ok_or(Exhausted { network })?;
        pool.take()
    }

    fn return_addresses(&mut self, places: &[NetworkAddresses]) {
        for place in places {
            if let Some(pool) = self.pools.get_mut(&place.network) {
                place
                    .addresses
                    .iter()
                    .for_each(|address| pool.give_back(*address));
            }
        }
    }

    /// Gives a task its node, with its addresses.
    pub(crate) fn assign(&mut self, index: TaskIndex, node: NodeId, addresses: Vec<NetworkAddresses>) {
        self.relied_on.insert(node);
        let row = self.touch(index);
        row.node = Some(node);
        row.addresses = addresses;
        let message = Reason::Placed.to_string();
        self.set_status(index, TaskState::Assigned, &message, None);
    }

    /// Makes a task. Without a `start_after` it starts at once, or when the tasks before it in its slot stopped.
    pub(crate) fn create(&mut self, slot: Slot, start_after: Option<Timestamp>, reason: Reason) -> TaskIndex {
        self.load(slot);
        let waits = start_after.is_some()
            || self
                .in_slot(slot)
                .collect::<Vec<_>>()
                .into_iter()
                .any(|index| self.is_stopping(index));
        let desired = if waits {
            DesiredState::Ready
        } else {
            DesiredState::Running
        };
        let id = TaskId::from_u128(self.ids.next_u128());
        let row = Task {
            id,
            meta: Meta {
                created_at: self.now,
                updated_at: self.now,
                observed_at: self.now,
                ..Meta::default()
            },
            service: self.service.id,
            slot,
            template_version: self.service.template_version,
            node: None,
            desired,
            start_after,
            reason,
            status: TaskStatus {
                attempt: 0,
                state: TaskState::Pending,
                at: self.now,
                message: "waiting for a node".to_owned(),
                error: None,
                container: None,
            },
            addresses: Vec::new(),
        };
        self.spent += 1;
        self.tasks.push(TaskDraft {
            stored: None,
            row: Arc::new(row),
            removed: false,
            charged: true,
        });
        let index = self.tasks.len() - 1;
        self.slots.entry(slot).or_default().push(index);
        index
    }

    /// Forgets a task's record.
    pub(crate) fn remove(&mut self, index: TaskIndex) {
        let task = &mut self.tasks[index];
        if !task.charged {
            task.charged = true;
            self.spent += 1;
        }
        task.removed = true;
    }

    /// Looks at the slot again at this time, if it is still to come.
    pub(crate) fn wake(&mut self, slot: Slot, at: Timestamp) {
        if at > self.now {
            let wake = self.wakes.entry(slot).or_insert(at);
            *wake = at.min(*wake);
        }
    }

    /// What the plan says about tasks without a node.
    pub(crate) fn pending(&self) -> Option<Pending> {
        let (tasks, causes) = self.unplaced.clone()?;
        Some(Pending {
            service: self.service.id,
            tasks,
            reason: Reason::NoSuitableNode { causes },
        })
    }

    fn touch(&mut self, index: TaskIndex) -> &mut Task {
        let task = &mut self.tasks[index];
        if !task.charged {
            task.charged = true;
            self.spent += TOUCH_COST;
        }
        Arc::make_mut(&mut task.row)
    }
}
