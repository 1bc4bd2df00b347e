//! A cluster in memory: the real state and reconcile function, with agents that do at once what they are told.

#![allow(dead_code, reason = "each test target uses its part of it")]

use muster_orchestration::networks::{self, Surroundings};
use muster_orchestration::{Dirty, Limits, Plan, reconcile, reconcile_within};
use muster_state::{
    Application, Change, Changeset, ClusterState, Entry, Outcome, Reporter, invariants, service_update,
};
use muster_types::network::{AddressRange, NetworkSpec};
use muster_types::node::Availability;
use muster_types::overlay::{INGRESS_NETWORK, NetworkAddresses, OVERLAY_DRIVER};
use muster_types::policy::NetworkPolicy;
use muster_types::{
    AttachmentId, Cluster, ClusterId, ClusterSpec, ContainerId, DesiredState, IdSource, JoinToken,
    JoinTokens, Meta, NetworkId, Node, NodeDescription, NodeId, NodeSpec, NodeState, Reason, Resources,
    RootCa, Service, ServiceId, ServiceSpec, Slot, Task, TaskState, TaskStatus, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// More rounds than any story needs: beyond it the function does not come to rest.
const ROUNDS_MAX: usize = 400;

#[derive(Clone)]
pub struct Counter(pub u128);

impl IdSource for Counter {
    fn next_u128(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

pub struct World {
    pub state: ClusterState,
    pub dirty: Dirty,
    pub now: Timestamp,
    ids: Counter,
    nodes: BTreeMap<String, NodeId>,
    /// Nodes whose agents do not act.
    held: BTreeSet<NodeId>,
    pub rejected: usize,
    /// Every call of reconcile looks at everything.
    pub looks_at_everything: bool,
    pub limits: Limits,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self {
            state: ClusterState::new(),
            dirty: Dirty::everything(),
            now: Timestamp::from_secs(1_000_000),
            ids: Counter(0),
            nodes: BTreeMap::new(),
            held: BTreeSet::new(),
            rejected: 0,
            looks_at_everything: false,
            limits: Limits::default(),
        };
        let token = JoinToken {
            root_digest: [0; 32],
            secret: 1,
        };
        world.propose(Change::ClusterCreate(Box::new(Cluster {
            id: ClusterId::from_u128(1),
            meta: Meta::default(),
            spec: ClusterSpec::default(),
            root_ca: RootCa {
                certificate_pem: String::new(),
                key_pem: String::new(),
            },
            join_tokens: JoinTokens {
                worker: token,
                controller: token,
            },
            incarnation: 1,
            feature_level: 1,
            next_raft_id: 1,
            issuer: None,
            root_rotation: None,
        })));
        world
    }

    /// Applies a changeset of one change and checks every invariant.
    pub fn propose(&mut self, change: Change) -> Application {
        self.propose_set(Changeset::new(Reason::UserRequest, vec![change]))
    }

    pub fn propose_set(&mut self, changeset: Changeset) -> Application {
        let before = self.state.clone();
        let entry = Entry::new(self.now, changeset);
        assert!(invariants::entry_round_trips(&entry), "{entry:?}");
        let applied = self.state.apply(before.index() + 1, &entry);
        self.rejected += usize::from(matches!(applied.outcome, Outcome::Rejected(_)));
        self.dirty.touch(&applied.touched);
        let mut violations = invariants::check_step(&before, &self.state);
        violations.extend(invariants::check(&self.state));
        assert_eq!(violations, Vec::new(), "after {entry:?}");
        applied
    }

    /// One call of reconcile, whose plan is applied.
    pub fn reconcile(&mut self) -> Plan {
        if self.looks_at_everything {
            self.dirty = Dirty::everything();
        }
        let plan = reconcile_within(self.limits, &self.state, &self.dirty, self.now, &mut self.ids);
        assert!(plan.change_count() <= muster_orchestration::CHANGES_MAX);
        self.dirty = plan.leftover.clone();
        for changeset in plan.changesets.clone() {
            let applied = self.propose_set(changeset.clone());
            assert_eq!(applied.outcome, Outcome::Applied, "{changeset:?}");
        }
        plan
    }

    /// Reconciles until nothing is due.
    pub fn quiesce(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.dirty.is_due(self.now) {
                let full = reconcile(&self.state, &Dirty::everything(), self.now, &mut self.ids.clone());
                assert_eq!(full.changesets, Vec::new(), "a full look finds more");
                return;
            }
            self.reconcile();
        }
        panic!("reconcile does not come to rest:\n{}", self.show_all());
    }

    /// Reconciles and lets agents act until nothing changes.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.quiesce();
            if !self.agents() {
                return;
            }
        }
        panic!("the cluster does not come to rest:\n{}", self.show_all());
    }

    /// Lets time pass, stopping wherever the plan wants to be called.
    pub fn tick(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        self.settle();
        for _ in 0..ROUNDS_MAX {
            // Agents wait for start times of their own.
            let starts = self.state.tasks().filter_map(|task| task.start_after);
            let next = starts
                .chain(self.dirty.wake_at())
                .filter(|at| *at > self.now)
                .min();
            match next {
                Some(at) if at < end => self.now = at,
                Some(_) | None => {
                    self.now = end;
                    self.settle();
                    return;
                }
            }
            self.settle();
        }
        panic!("time does not pass:\n{}", self.show_all());
    }

    /// Every agent does what it is told; whether that changed anything.
    pub fn agents(&mut self) -> bool {
        let mut reports = Vec::new();
        for task in self.state.tasks().filter(|task| !task.is_terminal()) {
            let ready = |node: NodeId| {
                !self.held.contains(&node)
                    && self
                        .state
                        .node(node)
                        .is_some_and(|node| node.status.state == NodeState::Ready)
            };
            let Some(node) = task.node.filter(|node| ready(*node)) else {
                continue;
            };
            if let Some((state, error)) = self.next_state(task) {
                reports.push((task.id, node, state, error));
            }
        }
        let any = !reports.is_empty();
        for (task, node, state, error) in reports {
            self.report(task, node, state, error);
        }
        any
    }

    fn next_state(&self, task: &Task) -> Option<(TaskState, Option<String>)> {
        let image = self.image(task);
        let may_start = task.start_after.is_none_or(|at| at <= self.now);
        match task.desired {
            DesiredState::Shutdown | DesiredState::Remove => Some((TaskState::Shutdown, None)),
            DesiredState::Running if task.status.state < TaskState::Running && may_start => {
                match image.as_str() {
                    "bad" => Some((TaskState::Failed, Some("task: non-zero exit (1)".to_owned()))),
                    "once" => Some((TaskState::Complete, None)),
                    _ => Some((TaskState::Running, None)),
                }
            }
            DesiredState::Ready if task.status.state < TaskState::Ready => Some((TaskState::Ready, None)),
            DesiredState::Running | DesiredState::Ready => None,
        }
    }

    pub fn report(
        &mut self,
        task: muster_types::TaskId,
        node: NodeId,
        state: TaskState,
        error: Option<String>,
    ) {
        let status = TaskStatus {
            attempt: 0,
            state,
            at: self.now,
            message: String::new(),
            error,
            container: None,
        };
        self.propose_set(Changeset::new(
            Reason::AgentReport,
            vec![Change::TaskStatus {
                task,
                reporter: Reporter::Agent(node),
                status,
            }],
        ));
    }

    pub fn node_named(&self, name: &str) -> NodeId {
        self.nodes[name]
    }

    pub fn node(&self, name: &str) -> &Arc<Node> {
        self.state.node(self.nodes[name]).expect("the node exists")
    }

    pub fn add_node(&mut self, name: &str, memory_mib: u64, labels: &[(&str, &str)]) {
        let node = NodeId::from_u128(1000 + self.nodes.len() as u128);
        self.nodes.insert(name.to_owned(), node);
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.propose(Change::NodeCreate {
            node,
            spec: NodeSpec {
                labels: labels.collect(),
                ..Default::default()
            },
            description: Arc::new(NodeDescription {
                hostname: name.to_owned(),
                resources: Resources {
                    nano_cpus: 4_000_000_000,
                    memory_bytes: memory_mib << 20,
                    pids: 0,
                },
                ..Default::default()
            }),
        });
        self.set_state(name, NodeState::Ready);
    }

    pub fn set_state(&mut self, name: &str, state: NodeState) {
        self.propose(Change::NodeStatus {
            node: self.nodes[name],
            state,
            message: String::new(),
            address: "10.0.0.1".to_owned(),
        });
    }

    pub fn set_availability(&mut self, name: &str, availability: Availability) {
        let mut spec = self.node(name).spec.clone();
        spec.availability = availability;
        let node = self.nodes[name];
        self.propose(Change::NodeSpec { node, spec });
    }

    pub fn set_label(&mut self, name: &str, key: &str, value: &str) {
        let mut spec = self.node(name).spec.clone();
        spec.labels.insert(key.to_owned(), value.to_owned());
        let node = self.nodes[name];
        self.propose(Change::NodeSpec { node, spec });
    }

    pub fn set_memory(&mut self, name: &str, mib: u64) {
        self.describe(name, |node| node.resources.memory_bytes = mib << 20);
    }

    pub fn describe(&mut self, name: &str, edit: impl FnOnce(&mut NodeDescription)) {
        let mut description = self.node(name).description.as_ref().clone();
        edit(&mut description);
        let (node, description) = (self.nodes[name], Arc::new(description));
        self.propose(Change::NodeDescription { node, description });
    }

    pub fn remove_node(&mut self, name: &str) {
        let node = self.nodes[name];
        self.propose(Change::NodeRemove { node });
    }

    pub fn hold(&mut self, name: &str, held: bool) {
        let node = self.nodes[name];
        if held {
            self.held.insert(node);
        } else {
            self.held.remove(&node);
        }
    }

    /// A network with these subnets, or one from the cluster's pool.
    pub fn create_network(&mut self, name: &str, subnets: &[&str]) {
        let range = |subnet: &&str| AddressRange {
            subnet: (*subnet).to_owned(),
            ..AddressRange::default()
        };
        let spec = match name {
            INGRESS_NETWORK => networks::ingress_spec(),
            _ => NetworkSpec {
                name: name.to_owned(),
                driver: OVERLAY_DRIVER.to_owned(),
                attachable: true,
                ranges: subnets.iter().map(range).collect(),
                ..NetworkSpec::default()
            },
        };
        let id = NetworkId::from_u128(3000 + self.ids.next_u128());
        let surroundings = Surroundings::of(&self.state).expect("there is a cluster");
        let network = surroundings.plan(id, &spec).expect("the network can be made");
        self.propose(Change::NetworkCreate(Box::new(network)));
    }

    /// Gives a network these rules, or none.
    pub fn set_policy(&mut self, name: &str, rules: &[&str]) {
        let network = self.state.network_by_name(name).expect("the network exists").id;
        let policy = NetworkPolicy::read("allow", rules.iter().copied()).expect("these are rules");
        let policy = (!policy.is_empty()).then(|| Arc::new(policy));
        self.propose(Change::NetworkPolicy { network, policy });
    }

    /// Why a network cannot be removed, if so.
    pub fn remove_network(&mut self, name: &str) -> Option<String> {
        let network = self.state.network_by_name(name).expect("the network exists").id;
        match self.propose(Change::NetworkRemove { network }).outcome {
            Outcome::Rejected(rejection) => Some(rejection.to_string()),
            Outcome::Applied | Outcome::Duplicate(_) => None,
        }
    }

    /// A standalone container takes a place in a network.
    pub fn attach(&mut self, node: &str, network: &str) -> String {
        let id = AttachmentId::from_u128(self.ids.next_u128());
        let container = ContainerId::from_bytes([self.ids.0 as u8; 32]);
        let network = self
            .state
            .network_by_name(network)
            .expect("the network exists")
            .id;
        let place = (self.nodes[node], &container);
        match networks::plan_attachment(&self.state, id, place, network, &[], &[]) {
            Ok(row) => {
                let address = row.place.addresses[0].to_string();
                self.propose(Change::AttachmentCreate(Box::new(row)));
                address
            }
            Err(problem) => format!("{problem:?}"),
        }
    }

    /// The container that was attached first leaves.
    pub fn detach(&mut self) {
        let attachment = self.state.attachments().next().expect("one is attached").id;
        self.propose(Change::AttachmentRemove { attachment });
    }

    /// Addresses of a service and of its tasks that hold one.
    pub fn addresses(&self, name: &str) -> String {
        let service = self.service(name);
        let mut text = String::new();
        let mut show = |what: String, places: &[NetworkAddresses]| {
            for place in places {
                let network = self.state.network(place.network).expect("the network exists");
                let _ = writeln!(text, "{what} on {}: {}", network.spec.name, place.addresses[0]);
            }
        };
        show(name.to_owned(), &service.vips);
        let mut tasks: Vec<_> = self.state.tasks_of_service(service.id).collect();
        tasks.sort_by_key(|task| (task.slot, task.meta.created_at, task.id));
        for task in tasks.into_iter().filter(|task| !task.is_terminal()) {
            show(format!("{name}.{}", task.slot), &task.addresses);
        }
        text
    }

    /// The spec with the ids of the networks that it names.
    fn resolved(&self, mut spec: ServiceSpec) -> ServiceSpec {
        for attachment in &mut spec.template.networks {
            if let Some(network) = self.state.network_by_name(&attachment.target) {
                attachment.target = network.id.to_string();
            }
        }
        spec
    }

    pub fn create_service(&mut self, spec: ServiceSpec) -> Application {
        let spec = self.resolved(spec);
        let service = ServiceId::from_u128(5000 + self.ids.next_u128());
        self.propose(Change::ServiceCreate {
            service,
            spec: Arc::new(spec),
        })
    }

    pub fn service(&self, name: &str) -> &Arc<Service> {
        self.state.service_by_name(name).expect("the service exists")
    }

    pub fn update_service(&mut self, name: &str, edit: impl FnOnce(&mut ServiceSpec)) -> Application {
        let service = self.service(name).clone();
        let mut spec = service.spec.as_ref().clone();
        edit(&mut spec);
        let spec = self.resolved(spec);
        self.propose(service_update::update(&service, Arc::new(spec)))
    }

    pub fn roll_back(&mut self, name: &str) {
        let change = service_update::rollback(self.service(name), self.now);
        self.propose(change.expect("there is a previous spec"));
    }

    pub fn remove_service(&mut self, name: &str) {
        let service = self.service(name).id;
        self.propose(Change::ServiceRemoving { service });
    }

    /// The newest running task of a slot ends so.
    pub fn end(&mut self, name: &str, slot: u64, state: TaskState) {
        let service = self.service(name).id;
        let task = self
            .state
            .tasks_of_slot(service, Slot::Replica(slot))
            .filter(|task| task.wants_to_run() && !task.is_terminal() && task.node.is_some())
            .max_by_key(|task| task.meta.created_at)
            .map(|task| (task.id, task.node));
        if let Some((task, Some(node))) = task {
            let error = (state == TaskState::Failed).then(|| "task: non-zero exit (1)".to_owned());
            self.report(task, node, state, error);
        }
    }

    /// The oldest task of a slot that has not stopped ends so, although it shall stop.
    pub fn end_late(&mut self, name: &str, slot: u64, state: TaskState) {
        let service = self.service(name).id;
        let task = self
            .state
            .tasks_of_slot(service, Slot::Replica(slot))
            .filter(|task| !task.is_terminal())
            .min_by_key(|task| task.meta.created_at)
            .map(|task| (task.id, task.node));
        let (task, node) = task.expect("a task has not stopped");
        self.report(task, node.expect("it has a node"), state, None);
    }

    fn image(&self, task: &Task) -> String {
        let revision = self.state.template(task.service, task.template_version);
        revision
            .map(|revision| revision.template.container.image.clone())
            .unwrap_or_default()
    }

    fn name_of(&self, node: NodeId) -> String {
        let name = self
            .nodes
            .iter()
            .find(|(_, id)| **id == node)
            .map(|(name, _)| name.clone());
        name.unwrap_or_else(|| node.to_string())
    }

    pub fn show(&self, service: &Service) -> String {
        let mut text = String::new();
        if let Some(update) = &service.update {
            let message = update.message.split(" of task ").next().unwrap_or_default();
            let _ = writeln!(text, "{}: {:?}: {message}", service.spec.name, update.state);
        }
        let mut tasks: Vec<_> = self.state.tasks_of_service(service.id).collect();
        tasks.sort_by_key(|task| (task.slot, task.meta.created_at, task.id));
        for task in tasks {
            let slot = match task.slot {
                Slot::Replica(number) => number.to_string(),
                Slot::Node(node) => self.name_of(node),
            };
            let node = task.node.map_or("-".to_owned(), |node| self.name_of(node));
            let (state, image, desired) = (task.status.state.name(), self.image(task), task.desired.name());
            let error = task
                .status
                .error
                .as_ref()
                .map(|error| format!(" ({error})"))
                .unwrap_or_default();
            let name = &service.spec.name;
            let _ = writeln!(
                text,
                "{name}.{slot} {image} on {node}: {state}, wants {desired}{error}"
            );
        }
        text
    }

    pub fn show_all(&self) -> String {
        let mut services: Vec<_> = self.state.services().collect();
        services.sort_by_key(|service| (service.removing, service.spec.name.clone()));
        services.into_iter().map(|service| self.show(service)).collect()
    }
}

/// A replicated service without a restart delay.
pub fn spec(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: name.to_owned(),
        mode: muster_types::ServiceMode::Replicated { replicas },
        ..Default::default()
    };
    spec.template.container.image = "v1".to_owned();
    spec
}
