//! What each node is told: its assignment set, and who is who.

use super::io::NodeView;
use super::network_rows::{assigned_network, endpoint, facts, networks_of_node, service_row, task_networks};
use super::settling::Settling;
use muster_state::{ClusterState, TemplateRevision, Touched};
use muster_types::overlay::{EndpointOwner, NetworkUpdate};
use muster_types::service::RestartCondition;
use muster_types::{
    AssignedFile, AssignedTask, AssignmentAge, AssignmentSet, AssignmentUpdate, DesiredState, FileId,
    NetworkId, NodeId, NodeRole, ServiceId, SessionId, Task, TaskId, TaskTemplate, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was sent to one session last, to send only what differs.
#[derive(Debug)]
struct Sent {
    session: SessionId,
    set: Option<SentSet>,
    news: News,
    view: Option<NodeView>,
    settling: Settling,
}

/// The set that a session has.
#[derive(Debug)]
struct SentSet {
    age: AssignmentAge,
    tasks: BTreeMap<TaskId, Wanted>,
    networks: BTreeSet<NetworkId>,
    files: BTreeSet<FileId>,
}

/// What changed in a session's networks since they were sent.
#[derive(Debug, Default)]
struct News {
    facts: BTreeSet<NetworkId>,
    endpoints: BTreeSet<(NetworkId, EndpointOwner)>,
    services: BTreeSet<(NetworkId, ServiceId)>,
}

impl News {
    /// Adds what concerns these networks; whether there is any.
    fn add(&mut self, touched: &Touched, networks: &BTreeSet<NetworkId>) -> bool {
        let facts = touched.networks.intersection(networks).copied();
        let endpoints = touched
            .endpoints
            .iter()
            .filter(|(on, _)| networks.contains(on))
            .copied();
        let services = touched
            .network_services
            .iter()
            .filter(|(on, _)| networks.contains(on))
            .copied();
        self.facts.extend(facts);
        self.endpoints.extend(endpoints);
        self.services.extend(services);
        !(self.facts.is_empty() && self.endpoints.is_empty() && self.services.is_empty())
    }

    /// What to send of a network that the session has.
    fn take(&mut self, state: &ClusterState, id: NetworkId) -> Option<NetworkUpdate> {
        let mut update = NetworkUpdate {
            id,
            facts: self.facts.remove(&id).then(|| facts(state, id)).flatten(),
            endpoints: Vec::new(),
            endpoints_gone: Vec::new(),
            services: Vec::new(),
            services_gone: Vec::new(),
        };
        for (_, owner) in self.endpoints.extract_if(.., |(on, _)| *on == id) {
            match endpoint(state, id, owner) {
                Some(row) => update.endpoints.push(row),
                None => update.endpoints_gone.push(owner),
            }
        }
        for (_, service) in self.services.extract_if(.., |(on, _)| *on == id) {
            match service_row(state, id, service) {
                Some(row) => update.services.push(row),
                None => update.services_gone.push(service),
            }
        }
        (!update.is_empty()).then_some(update)
    }
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
                news: News::default(),
                view: None,
                settling: Settling::default(),
            },
        );
    }

    /// The agent of a live session says which networks stand, or asks for others'.
    pub(super) fn settle(&mut self, node: NodeId, session: SessionId, note: impl FnOnce(&mut Settling)) {
        let sent = self.sent.get_mut(&node);
        if let Some(sent) = sent.filter(|sent| sent.session == session) {
            note(&mut sent.settling);
        }
    }

    /// Who can be told now that every node has applied everything up to what they asked for.
    pub fn settled(&mut self) -> Vec<(SessionId, u64)> {
        if !self.sent.values().any(|sent| sent.settling.is_awaiting()) {
            return Vec::new();
        }
        let all: Vec<Settling> = self.sent.values().map(|sent| sent.settling).collect();
        let asked = self.sent.values_mut();
        asked
            .filter_map(|sent| Some((sent.session, sent.settling.answer(&all)?)))
            .collect()
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

    /// Notes what an entry changed in networks: the nodes that are to hear of it.
    pub fn touched(&mut self, state: &ClusterState, touched: &Touched) -> BTreeSet<NodeId> {
        if touched.networks.is_empty() && touched.endpoints.is_empty() && touched.network_services.is_empty()
        {
            return BTreeSet::new();
        }
        // A network that is new to a node comes with a place there.
        let owners = touched.endpoints.iter().filter_map(|(_, owner)| match owner {
            EndpointOwner::Node(node) => Some(*node),
            EndpointOwner::Task(task) => state.task(*task)?.node,
            EndpointOwner::Attachment(attachment) => Some(state.attachment(*attachment)?.node),
        });
        let mut due: BTreeSet<NodeId> = owners.collect();
        let ingress = state.ingress_network().map(|network| network.id);
        for (node, sent) in &mut self.sent {
            let Some(set) = &sent.set else { continue };
            let begins = ingress.is_some_and(|ingress| touched.networks.contains(&ingress));
            if sent.news.add(touched, &set.networks) || begins {
                due.insert(*node);
            }
        }
        due
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
        let networks = networks_of_node(state, node);
        let files = files_of_node(state, node);
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
                    networks: networks
                        .iter()
                        .filter_map(|id| match before.networks.contains(id) {
                            true => sent.news.take(state, *id),
                            false => Some(assigned_network(state, *id)?.into()),
                        })
                        .collect(),
                    networks_gone: before.networks.difference(&networks).copied().collect(),
                    files: files
                        .difference(&before.files)
                        .filter_map(|id| assigned_file(state, *id))
                        .collect(),
                    files_gone: before.files.difference(&files).copied().collect(),
                };
                let tasks = !update.tasks.is_empty() || !update.gone.is_empty();
                let networks = !update.networks.is_empty() || !update.networks_gone.is_empty();
                let files = !update.files.is_empty() || !update.files_gone.is_empty();
                if !(tasks || networks || files) {
                    return None;
                }
                update
            }
        };
        let whole = update.from.is_none();
        if whole || !update.networks.is_empty() || !update.networks_gone.is_empty() {
            sent.settling.sent(age.index);
        }
        // What is left of the news is of networks that were sent as a whole, or that are gone.
        sent.news = News::default();
        sent.set = Some(SentSet {
            age,
            tasks: now,
            networks,
            files,
        });
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
        networks: networks_of_node(state, node)
            .into_iter()
            .filter_map(|id| assigned_network(state, id))
            .collect(),
        files: files_of_node(state, node)
            .into_iter()
            .filter_map(|id| assigned_file(state, id))
            .collect(),
    }
}

/// The secrets and configs that a node may hold: those that a task needs which has not stopped there.
fn files_of_node(state: &ClusterState, node: NodeId) -> BTreeSet<FileId> {
    let tasks = state.tasks_of_node(node).filter(|task| !task.is_terminal());
    let templates = tasks.filter_map(|task| state.template(task.service, task.template_version));
    let needed = templates.flat_map(|revision| revision.template.files().map(|(_, file)| file.id));
    needed.filter(|id| state.file(*id).is_some()).collect()
}

fn assigned_file(state: &ClusterState, id: FileId) -> Option<AssignedFile> {
    let file = state.file(id)?;
    Some(AssignedFile {
        id,
        kind: file.kind,
        name: file.spec.name.clone(),
        data: file.spec.data.clone(),
        template: file.spec.template.clone(),
    })
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
        template: template_for_agent(revision),
        ports: revision.ports.clone(),
        desired: task.desired,
        start_after: task.start_after,
        recorded: (task.status.attempt, task.status.state),
        networks: task_networks(task, &revision.template),
    })
}

/// What the agent runs. It never runs a task of a job again by itself, as it does others after a reboot with no controller
/// in reach: only a controller knows what completed elsewhere.
fn template_for_agent(revision: &TemplateRevision) -> Arc<TaskTemplate> {
    let mut template = revision.template.clone();
    if revision.iteration.is_some() {
        Arc::make_mut(&mut template).restart.condition = RestartCondition::None;
    }
    template
}

/// Who is who, for one node.
pub fn node_view(state: &ClusterState, node: NodeId) -> NodeView {
    let cluster = state.cluster();
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
        root_pem: cluster.map_or_else(String::new, |cluster| cluster.root_ca.certificate_pem.clone()),
        issuer_public_key: cluster
            .and_then(|cluster| cluster.issuer.as_ref())
            .map_or_else(Vec::new, |issuer| issuer.public_key.clone()),
    }
}
