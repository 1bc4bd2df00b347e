//! Questions and answers between machines, with time-outs.

use crate::network::OUTSIDE;
use crate::networks::Chore;
use crate::planted::PlantedBug;
use crate::wire::{Answer, Call, Packet, machine_at};
use crate::world::{Event, World};
use muster_consensus::SnapshotId;
use muster_controller::authorize::Identity;
use muster_controller::control::ControlRequest;
use muster_controller::core::io::Input;
use muster_types::{NodeId, RaftId, SessionId};

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
pub struct ReplyTo {
    /// The machine, or [`OUTSIDE`].
    pub machine: usize,
    /// The question's number.
    pub call: u64,
}

/// Why a question was asked, and so what to do with its answer.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// An agent renews its lease.
    Heartbeat {
        /// Of this session.
        session: SessionId,
    },
    /// A controller passes a heartbeat on.
    PassedOn(ReplyTo),
    /// A controller forwards a write to the leader.
    Forward {
        /// The write.
        write: u64,
    },
    /// A controller fetches a piece of a snapshot.
    Chunk {
        /// From whom.
        from: RaftId,
        /// Of which.
        id: SnapshotId,
    },
    /// A daemon asks for a new certificate.
    Renew {
        /// To ask for a Raft id with it.
        then_join: bool,
    },
    /// A daemon asks for a node record.
    JoinNode,
    /// A daemon asks for a Raft id.
    JoinRaft,
    /// A client's operation.
    Client(usize),
    /// An administrator removes the record of a node that left.
    RemoveNode(NodeId),
    /// A service is made in the cluster that rests.
    Probe,
    /// A machine's own containers.
    Own(Option<Chore>),
}

/// A question that waits for its answer.
#[derive(Debug)]
pub struct PendingCall {
    machine: usize,
    epoch: u64,
    purpose: Purpose,
}

impl World {
    /// Asks another machine. Exactly one answer follows, unless the asking daemon ends.
    pub fn call(&mut self, from: usize, to: usize, body: Call, timeout_us: u64, purpose: Purpose) {
        self.next_call += 1;
        let call = self.next_call;
        let epoch = self.epoch_of(from);
        let caller = self.certificate_for(from, &purpose);
        let pending = PendingCall {
            machine: from,
            epoch,
            purpose,
        };
        self.calls.insert(call, pending);
        self.push(timeout_us, Event::CallTimeout { call });
        self.send_call(from, to, Packet::Call { call, body, caller });
    }

    /// The certificate of the connection that carries the question: a controller's connections are as old as it is,
    /// the daemon dials anew.
    fn certificate_for(&self, machine: usize, purpose: &Purpose) -> Option<Identity> {
        let machine = self.machines.get(machine)?;
        match purpose {
            Purpose::PassedOn(_) | Purpose::Forward { .. } | Purpose::Chunk { .. } => {
                machine.controller().map(|controller| controller.certificate)
            }
            Purpose::Heartbeat { .. } | Purpose::Renew { .. } | Purpose::JoinRaft | Purpose::Own(_) => {
                machine.files.certificate
            }
            Purpose::JoinNode | Purpose::Client(_) | Purpose::RemoveNode(_) | Purpose::Probe => None,
        }
    }

    fn epoch_of(&self, machine: usize) -> u64 {
        self.machines.get(machine).map_or(0, |machine| machine.epoch)
    }

    /// Answers a question.
    pub fn answer(&mut self, from: usize, reply: ReplyTo, body: Answer) {
        let call = reply.call;
        self.send_call(from, reply.machine, Packet::Answer { call, body });
    }

    /// A question came to the machine.
    pub fn call_arrived(
        &mut self,
        from: usize,
        machine: usize,
        call: u64,
        (caller, body): (Option<Identity>, Call),
    ) {
        let reply = ReplyTo { machine: from, call };
        if !self.machines[machine].powered {
            return;
        }
        if self.machines[machine].controller().is_none() {
            self.answer(machine, reply, Answer::Unavailable);
            return;
        }
        if !self.may_ask(machine, reply, caller, &body) {
            return;
        }
        let node = caller.map(|caller| caller.node).unwrap_or_default();
        match body {
            Call::Write { id, request } => {
                let request = self.maybe_ignore_precondition(machine, request);
                self.ask_core(machine, reply, |token| Input::Write { token, id, request });
            }
            Call::ClientWrite { id, request } => self.begin_write(machine, reply, id, request),
            Call::ClientRead => self.ask_core(machine, reply, |token| Input::Read { token }),
            Call::Heartbeat { node: of, session } => {
                self.heartbeat_arrived(machine, reply, (of, session), node)
            }
            Call::Chunk { id, offset } => {
                let state = self.machines[machine].controller().map(|c| c.core.state());
                let record = state.and_then(|state| state.node(node));
                let member = record.and_then(|record| record.controller.as_ref());
                let Some(from) = member.map(|member| member.raft_id) else {
                    return;
                };
                self.ask_core(machine, reply, |token| Input::ServeChunk {
                    token,
                    from,
                    id,
                    offset,
                });
            }
            Call::Renew => self.renew(machine, reply, node),
            Call::JoinNode { id, role } => self.issue(machine, reply, id, role),
            Call::JoinRaft {
                id,
                address,
                replaces,
            } => {
                let request = ControlRequest::JoinRaft {
                    node,
                    address,
                    replaces,
                };
                self.begin_write(machine, reply, id, request);
            }
        }
    }

    /// With this bug planted, a write is decided as if it had been made from the newest version.
    pub fn maybe_ignore_precondition(&self, machine: usize, request: ControlRequest) -> ControlRequest {
        if self.planted != Some(PlantedBug::IgnoredPrecondition) {
            return request;
        }
        let state = self.machines[machine]
            .controller()
            .map(|controller| controller.core.state());
        match (request, state) {
            (ControlRequest::UpdateService { id, version, change }, Some(state)) => {
                let version = state
                    .service(id)
                    .map_or(version, |service| service.meta.spec_version);
                ControlRequest::UpdateService { id, version, change }
            }
            (ControlRequest::UpdateNode { id, version, spec }, Some(state)) => {
                let version = state.node(id).map_or(version, |node| node.meta.spec_version);
                ControlRequest::UpdateNode { id, version, spec }
            }
            (request, _) => request,
        }
    }

    fn heartbeat_arrived(
        &mut self,
        machine: usize,
        reply: ReplyTo,
        (node, session): (NodeId, SessionId),
        caller: NodeId,
    ) {
        let Some(controller) = self.machines[machine].controller() else {
            return;
        };
        let leader = controller.leader_address().filter(|_| caller == node);
        if let Some(leader) = leader.and_then(|leader| machine_at(&leader)) {
            let call = Call::Heartbeat { node, session };
            self.call(machine, leader, call, 1_000_000, Purpose::PassedOn(reply));
        } else if !controller.members.leading {
            self.answer(machine, reply, Answer::Unavailable);
        } else if self.planted == Some(PlantedBug::ForgottenHeartbeat) {
            self.answer(machine, reply, Answer::Heartbeat { accepted: true });
        } else {
            self.ask_core(machine, reply, |token| Input::Heartbeat { token, node, session });
        }
    }

    /// An answer came to the machine that asked.
    pub fn answer_arrived(&mut self, call: u64, body: Answer) {
        let Some(pending) = self.calls.remove(&call) else {
            return;
        };
        let machine = pending.machine;
        if pending.epoch != self.epoch_of(machine) {
            return;
        }
        match pending.purpose {
            Purpose::Heartbeat { session } => self.heartbeat_answered(machine, session, &body),
            Purpose::PassedOn(reply) => {
                let body = if matches!(body, Answer::Silence) {
                    Answer::Unavailable
                } else {
                    body
                };
                self.answer(machine, reply, body);
            }
            Purpose::Forward { write } => self.write_answered(machine, write, body),
            Purpose::Chunk { from, id } => match body {
                Answer::Chunk(Some(chunk)) => self.input(machine, Input::Chunk { from, chunk }),
                Answer::Chunk(None) => self.input(machine, Input::ChunkUnavailable(id)),
                Answer::Write(_)
                | Answer::Read(_)
                | Answer::Heartbeat { .. }
                | Answer::Certificate(_)
                | Answer::Denied(_)
                | Answer::Unavailable
                | Answer::Silence => {}
            },
            Purpose::Renew { then_join } => self.certificate_renewed(machine, body, then_join),
            Purpose::JoinNode => self.node_joined(machine, body),
            Purpose::JoinRaft => self.raft_joined(machine, body),
            Purpose::Client(client) => self.client_answered(client, body),
            Purpose::RemoveNode(node) => self.node_removed(node, &body),
            Purpose::Probe => self.probe_answered(&body),
            Purpose::Own(chore) => self.own_answered(machine, chore, &body),
        }
    }

    /// Whether it stands for the clients.
    pub fn is_outside(machine: usize) -> bool {
        machine == OUTSIDE
    }
}
