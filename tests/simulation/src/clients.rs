//! Clients: they read, and write what follows from what they read, and note what they were told.

use crate::history::{Action, Key, Operation, Register, Told};
use crate::network::OUTSIDE;
use crate::networks::draw_networks;
use crate::random::Dice;
use crate::rpc::Purpose;
use crate::secrets::draw_files;
use crate::settings::Settings;
use crate::wire::{Answer, Call};
use crate::world::{Event, World};
use muster_controller::control::{ControlError, ControlReply, ControlRequest, RefusalKind, ServiceChange};
use muster_state::ClusterState;
use muster_types::node::Availability;
use muster_types::service::{RestartCondition, RestartPolicy, ServiceMode, UpdateOrder};
use muster_types::{
    IdSource, Node, NodeRole, NodeSpec, RequestId, Resources, Service, ServiceId, ServiceSpec,
};
use std::time::Duration;

/// A client that hears nothing for so long does not know.
const CLIENT_TIMEOUT_US: u64 = 6_000_000;
/// Names that services have.
const NAMES: [&str; 6] = ["web", "api", "db", "queue", "batch", "cache"];
/// The label that carries a write's mark.
const MARK: &str = "mark";
/// Tries of one write by its client, all with the same id.
const TRIES_MAX: u32 = 3;

/// One client.
#[derive(Debug)]
pub struct Client {
    dice: Dice,
    /// What it read last.
    seen: Option<ClusterState>,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    begun_us: u64,
    write: Option<(RequestId, ControlRequest, Key, Action)>,
    tries: u32,
    /// Some try may have been committed.
    unknown: bool,
}

impl Client {
    /// A client that has read nothing.
    pub fn new(dice: Dice) -> Self {
        Self {
            dice,
            seen: None,
            pending: None,
        }
    }
}

/// The mark of a service's or node's newest write.
fn mark(labels: &muster_types::service::Labels) -> u64 {
    labels.get(MARK).and_then(|mark| mark.parse().ok()).unwrap_or(0)
}

/// Stands for "the node" in a node's register.
fn node_register(node: &Node) -> Register {
    Some((ServiceId::from_u128(node.id.as_u128()), mark(&node.spec.labels)))
}

impl World {
    /// The client does its next thing.
    pub fn client_acts(&mut self, client: usize) {
        if self.healing {
            return;
        }
        let begun_us = self.now_us;
        let mut found = std::mem::replace(&mut self.clients[client], Client::new(Dice::new(0)));
        let write = match &found.seen {
            Some(state) if found.dice.permille(550) => self.next_mutation(&mut found.dice, state),
            Some(_) | None => None,
        };
        found.pending = Some(Pending {
            begun_us,
            write,
            tries: 0,
            unknown: false,
        });
        self.clients[client] = found;
        self.try_client(client);
    }

    fn try_client(&mut self, client: usize) {
        let contacts = self.machines_with_controllers();
        let found = &mut self.clients[client];
        let Some(pending) = &mut found.pending else { return };
        let call = match &pending.write {
            Some((id, request, _, _)) => Call::ClientWrite {
                id: *id,
                request: request.clone(),
            },
            None => Call::ClientRead,
        };
        pending.tries += 1;
        match found.dice.pick(&contacts).copied() {
            Some(contact) => self.call(OUTSIDE, contact, call, CLIENT_TIMEOUT_US, Purpose::Client(client)),
            None => self.client_answered(client, Answer::Unavailable),
        }
    }

    /// The answer, or none.
    pub fn client_answered(&mut self, client: usize, answer: Answer) {
        let Some(mut pending) = self.clients[client].pending.take() else {
            return;
        };
        if let (Some(_), Answer::Write(Err(error))) = (&pending.write, &answer) {
            self.tell(format_args!("client {client} is told: {error}"));
        }
        match (&pending.write, answer) {
            (None, Answer::Read(Ok(view))) => self.note_read(client, pending.begun_us, view.state),
            (Some((_, _, key, action)), Answer::Write(Ok(reply))) => {
                self.note_write(pending.begun_us, key.clone(), done(action, &reply), Told::Done);
            }
            (Some((_, request, key, action)), Answer::Write(Err(ControlError::Refused { kind, .. }))) => {
                let told = match told(kind) {
                    // An earlier try may still be on its way to a leader that does not refuse it.
                    _ if pending.unknown => Told::Unknown,
                    // It may be another controller's record that changed.
                    Told::Stale if demotes(request) => Told::Nothing,
                    told => told,
                };
                self.note_write(pending.begun_us, key.clone(), action.clone(), told);
            }
            (Some((_, _, key, action)), answer) => {
                let nothing = matches!(
                    answer,
                    Answer::Write(Err(ControlError::NoLeader
                        | ControlError::NotLeader { .. }
                        | ControlError::Busy))
                );
                pending.unknown |= !nothing;
                if pending.tries < TRIES_MAX && !self.healing && self.clients[client].dice.permille(600) {
                    self.clients[client].pending = Some(pending);
                    self.push(100_000, Event::ClientTries { client });
                    return;
                }
                let told = if pending.unknown {
                    Told::Unknown
                } else {
                    Told::Nothing
                };
                self.note_write(pending.begun_us, key.clone(), action.clone(), told);
            }
            (None, _) => {}
        }
        let think = self.clients[client]
            .dice
            .between(100_000, self.settings.think_us_max);
        self.push(think, Event::ClientActs { client });
    }

    /// Time for another try of the same write.
    pub fn client_tries(&mut self, client: usize) {
        self.try_client(client);
    }

    fn note_write(&mut self, begun_us: u64, key: Key, action: Action, told: Told) {
        let told_us = (told != Told::Unknown).then_some(self.now_us);
        self.tell(format_args!("client: {action:?} of {key:?}: {told:?}"));
        self.story.mark(&[7, self.now_us, begun_us]);
        self.history.push(Operation {
            key,
            action,
            begun_us,
            told_us,
            told,
        });
    }

    fn note_read(&mut self, client: usize, begun_us: u64, state: ClusterState) {
        let told_us = Some(self.now_us);
        let read = |key, seen| Operation {
            key,
            action: Action::Read,
            begun_us,
            told_us,
            told: Told::Saw(seen),
        };
        for name in NAMES {
            let service = state.service_by_name(name);
            let seen = service.map(|service| (service.id, mark(&service.spec.labels)));
            self.history.push(read(Key::Service(name.to_owned()), seen));
        }
        for node in state.nodes() {
            self.history.push(read(Key::Node(node.id), node_register(node)));
        }
        self.story.mark(&[6, self.now_us, state.index()]);
        self.clients[client].seen = Some(state);
    }

    /// Whether some client waits for the demotion of a node.
    pub fn is_demoting(&self) -> bool {
        self.clients.iter().any(|client| {
            let write = client.pending.as_ref().and_then(|pending| pending.write.as_ref());
            write.is_some_and(|(_, request, ..)| demotes(request))
        })
    }

    fn next_mutation(
        &mut self,
        dice: &mut Dice,
        state: &ClusterState,
    ) -> Option<(RequestId, ControlRequest, Key, Action)> {
        let id = RequestId::from_u128(dice.next_u128());
        self.next_mark += 1;
        let mark = self.next_mark;
        let services: Vec<&Service> = state
            .services()
            .filter(|service| !service.removing)
            .map(AsRef::as_ref)
            .collect();
        let (request, key, action) = match dice.below(100) {
            0..12 => {
                // With a log lost, one controller less may be too few.
                let whole = self.machines.iter().all(|machine| !machine.log_lost);
                let may_demote = self.settings.membership_changes && whole;
                mutate_node(dice, state, mark, may_demote)?
            }
            12..40 => create(dice, id, mark, (state, &self.settings)),
            40..88 => {
                let service = dice_service(dice, &services)?;
                update(dice, service, mark, state)
            }
            _ => {
                let service = dice_service(dice, &services)?;
                let action = Action::Remove(service.id);
                let key = Key::Service(service.spec.name.clone());
                (ControlRequest::RemoveService { id: service.id }, key, action)
            }
        };
        Some((id, request, key, action))
    }
}

fn dice_service<'a>(dice: &mut Dice, services: &[&'a Service]) -> Option<&'a Service> {
    dice.pick(services).copied()
}

/// A write's effect as the reply names it: a new service has the id that was told.
fn done(action: &Action, reply: &ControlReply) -> Action {
    match (action, reply) {
        (Action::Create(_, mark), ControlReply::ServiceCreated { id }) => Action::Create(*id, *mark),
        (other, _) => other.clone(),
    }
}

fn demotes(request: &ControlRequest) -> bool {
    matches!(request, ControlRequest::UpdateNode { spec, .. } if spec.role == NodeRole::Worker)
}

fn told(kind: RefusalKind) -> Told {
    match kind {
        RefusalKind::OutOfSequence => Told::Stale,
        RefusalKind::NotFound | RefusalKind::Conflict => Told::Refused,
        RefusalKind::Invalid | RefusalKind::Forbidden | RefusalKind::Unavailable | RefusalKind::Internal => {
            Told::Nothing
        }
    }
}

fn create(
    dice: &mut Dice,
    id: RequestId,
    mark: u64,
    (state, settings): (&ClusterState, &Settings),
) -> (ControlRequest, Key, Action) {
    let name = NAMES[dice.below(NAMES.len() as u64) as usize];
    let mut spec = ServiceSpec {
        name: name.to_owned(),
        ..ServiceSpec::default()
    };
    spec.labels.insert(MARK.to_owned(), mark.to_string());
    spec.template.container.image = "busybox".to_owned();
    draw_mode(dice, &mut spec, settings.jobs);
    draw_template(dice, &mut spec);
    draw_networks(dice, &mut spec, state);
    if settings.files {
        draw_files(dice, &mut spec, state);
    }
    let action = Action::Create(ServiceId::from_u128(id.as_u128()), mark);
    let request = ControlRequest::CreateService { spec: Box::new(spec) };
    (request, Key::Service(name.to_owned()), action)
}

fn draw_mode(dice: &mut Dice, spec: &mut ServiceSpec, jobs: bool) {
    spec.mode = if jobs && dice.permille(500) {
        if dice.permille(200) {
            ServiceMode::GlobalJob
        } else {
            ServiceMode::ReplicatedJob {
                concurrent_max: dice.between(1, 3),
                completions: dice.between(0, 5),
            }
        }
    } else if dice.permille(120) {
        ServiceMode::Global
    } else {
        ServiceMode::Replicated {
            replicas: dice.between(0, 5),
        }
    };
}

fn draw_template(dice: &mut Dice, spec: &mut ServiceSpec) {
    let life = match dice.below(10) {
        0..6 => "long",
        6..9 => "flaky",
        _ => "short",
    };
    let life = if spec.mode.is_job() { "job" } else { life };
    spec.template.container.args = vec![life.to_owned()];
    spec.template.force_update = dice.draw() >> 32;
    spec.template.restart = RestartPolicy {
        condition: match dice.below(10) {
            0 => RestartCondition::OnFailure,
            1 => RestartCondition::None,
            _ => RestartCondition::Any,
        },
        delay: Duration::from_millis([0, 200, 1000, 5000][dice.below(4) as usize]),
        attempts_max: if dice.permille(100) { 3 } else { 0 },
        window: Duration::ZERO,
    };
    spec.template.reservations = Resources {
        nano_cpus: 100_000_000 * dice.below(4),
        memory_bytes: (64 << 20) * dice.below(3),
        pids: 0,
    };
    spec.update.order = if dice.permille(300) {
        UpdateOrder::StartFirst
    } else {
        UpdateOrder::StopFirst
    };
    spec.update.parallelism = dice.below(4);
    spec.update.monitor = Duration::from_secs(dice.below(6));
}

fn update(
    dice: &mut Dice,
    service: &Service,
    to: u64,
    state: &ClusterState,
) -> (ControlRequest, Key, Action) {
    let mut spec = service.spec.as_ref().clone();
    let from = mark(&spec.labels);
    spec.labels.insert(MARK.to_owned(), to.to_string());
    match (dice.below(10), spec.mode) {
        (0..6, ServiceMode::Replicated { .. }) => {
            spec.mode = ServiceMode::Replicated {
                replicas: dice.between(0, 6),
            };
        }
        (0..6, ServiceMode::ReplicatedJob { concurrent_max, .. }) => {
            spec.mode = ServiceMode::ReplicatedJob {
                concurrent_max,
                completions: dice.between(0, 6),
            };
        }
        (6..8, _) => draw_template(dice, &mut spec),
        (8..9, _) => draw_networks(dice, &mut spec, state),
        (_, _) => {}
    }
    let key = Key::Service(spec.name.clone());
    let request = ControlRequest::UpdateService {
        id: service.id,
        version: service.meta.spec_version,
        change: ServiceChange::Spec(Box::new(spec)),
    };
    (request, key, Action::Update(service.id, from, to))
}

fn mutate_node(
    dice: &mut Dice,
    state: &ClusterState,
    to: u64,
    membership: bool,
) -> Option<(ControlRequest, Key, Action)> {
    let nodes: Vec<&Node> = state.nodes().map(AsRef::as_ref).collect();
    let node = dice.pick(&nodes).copied()?;
    let mut spec = NodeSpec {
        availability: match dice.below(4) {
            0 => Availability::Drain,
            1 => Availability::Pause,
            _ => Availability::Active,
        },
        ..node.spec.clone()
    };
    if membership && dice.permille(300) {
        spec.role = match spec.role {
            NodeRole::Controller => NodeRole::Worker,
            NodeRole::Worker => NodeRole::Controller,
        };
    }
    let from = mark(&spec.labels);
    spec.labels.insert(MARK.to_owned(), to.to_string());
    let request = ControlRequest::UpdateNode {
        id: node.id,
        version: node.meta.spec_version,
        spec,
    };
    let own = ServiceId::from_u128(node.id.as_u128());
    Some((request, Key::Node(node.id), Action::Update(own, from, to)))
}
