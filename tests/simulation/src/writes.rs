//! How a controller carries out a write: here if it leads, else through the one that does, as
//! `ControllerHandle::write` does it.

use crate::controllers::Waiter;
use crate::planted::PlantedBug;
use crate::rpc::{Purpose, ReplyTo};
use crate::wire::{Answer, Call, machine_at};
use crate::world::{Event, World};
use muster_controller::authorize::Identity;
use muster_controller::control::{ControlError, ControlReply, ControlRequest};
use muster_controller::core::io::Input;
use muster_types::{IdSource, RequestId, ServiceId};

/// A cluster call fails within this without a leader.
const CALL_WITHIN_US: u64 = 4_800_000;
/// Wait before the next look for a leader.
const LEADER_POLL_US: u64 = 30_000;

/// Where a write is being tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// By this controller.
    Here,
    /// By the leader that this controller knows.
    There,
    /// Nowhere, before the next look for a leader.
    Waiting,
}

/// A write that somebody waits for.
#[derive(Debug)]
pub struct WriteLoop {
    id: RequestId,
    request: ControlRequest,
    deadline_us: u64,
    /// What is said when the time is over.
    last: ControlError,
    stage: Stage,
    /// What the node that joins by it gets.
    certificate: Option<Identity>,
    /// Who waits.
    pub reply: ReplyTo,
}

impl World {
    /// Begins a write at the controller of this machine.
    pub fn begin_write(&mut self, machine: usize, reply: ReplyTo, id: RequestId, request: ControlRequest) {
        self.begin_certified_write(machine, reply, (id, request), None);
    }

    /// Begins a write that is answered by a certificate once it is done.
    pub fn begin_certified_write(
        &mut self,
        machine: usize,
        reply: ReplyTo,
        (id, request): (RequestId, ControlRequest),
        certificate: Option<Identity>,
    ) {
        self.next_write += 1;
        let write = self.next_write;
        let deadline_us = self.now_us + CALL_WITHIN_US;
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        let run = controller.run;
        controller.writes.insert(
            write,
            WriteLoop {
                id,
                request,
                deadline_us,
                last: ControlError::NoLeader,
                stage: Stage::Waiting,
                certificate,
                reply,
            },
        );
        self.push(CALL_WITHIN_US, Event::WriteDeadline { machine, run, write });
        self.try_write(machine, write);
    }

    /// Tries the write here.
    pub fn try_write(&mut self, machine: usize, write: u64) {
        let forgets = self.planted == Some(PlantedBug::ForgottenRequestId);
        let fresh = RequestId::from_u128(if forgets { self.dice.next_u128() } else { 0 });
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        let Some(pending) = controller.writes.get_mut(&write) else {
            return;
        };
        pending.stage = Stage::Here;
        let mut id = pending.id;
        let is_update = !matches!(
            pending.request,
            ControlRequest::CreateService { .. } | ControlRequest::JoinNode { .. }
        );
        if forgets && is_update {
            id = fresh;
        }
        let request = pending.request.clone();
        let token = controller.expect(Waiter::Write(write));
        let request = self.maybe_ignore_precondition(machine, request);
        let leads = self.machines[machine]
            .controller()
            .is_some_and(|c| c.core.is_leading());
        self.input(machine, Input::Write { token, id, request });
        if leads && self.planted == Some(PlantedBug::EarlyAcknowledgement) {
            let pending = self.machines[machine]
                .controller()
                .and_then(|c| c.writes.get(&write));
            let reply = pending.map(|pending| match pending.request {
                ControlRequest::CreateService { .. } => ControlReply::ServiceCreated {
                    id: ServiceId::from_u128(pending.id.as_u128()),
                },
                _ => ControlReply::Done,
            });
            let joins = pending.is_some_and(|pending| {
                matches!(
                    pending.request,
                    ControlRequest::JoinNode { .. } | ControlRequest::JoinRaft { .. }
                )
            });
            if let Some(reply) = reply.filter(|_| !joins) {
                self.finish_write(machine, write, Ok(reply));
            }
        }
    }

    /// The core, or the leader elsewhere, answered.
    pub fn write_answered(&mut self, machine: usize, write: u64, answer: Answer) {
        let result = match answer {
            Answer::Write(result) => result,
            // Nothing was sent.
            Answer::Unavailable => Err(ControlError::NoLeader),
            Answer::Read(_)
            | Answer::Heartbeat { .. }
            | Answer::Chunk(_)
            | Answer::Certificate(_)
            | Answer::Denied(_)
            | Answer::Silence => Err(ControlError::OutcomeUnknown),
        };
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        let run = controller.run;
        let Some(pending) = controller.writes.get_mut(&write) else {
            return;
        };
        match result {
            Ok(_) | Err(ControlError::Refused { .. }) => {
                self.finish_write(machine, write, result);
                return;
            }
            Err(ControlError::NotLeader {
                leader: Some(address),
            }) if pending.stage == Stage::Here => {
                let (id, request) = (pending.id, pending.request.clone());
                let left = pending.deadline_us.saturating_sub(self.now_us);
                // One that does not lead either ends this try.
                pending.stage = Stage::There;
                match machine_at(&address) {
                    Some(leader) => {
                        let call = Call::Write { id, request };
                        self.call(machine, leader, call, left, Purpose::Forward { write });
                    }
                    None => self.push(LEADER_POLL_US, Event::WriteRetry { machine, run, write }),
                }
                return;
            }
            // Once a try may have been committed, no later one makes that unhappen.
            Err(_) if pending.last == ControlError::OutcomeUnknown => {}
            Err(ControlError::NotLeader { .. }) => pending.last = ControlError::NoLeader,
            Err(error @ (ControlError::NoLeader | ControlError::Busy | ControlError::OutcomeUnknown)) => {
                pending.last = error;
            }
        }
        pending.stage = Stage::Waiting;
        self.push(LEADER_POLL_US, Event::WriteRetry { machine, run, write });
    }

    /// The time for the write is over.
    pub fn write_deadline(&mut self, machine: usize, run: u64, write: u64) {
        let controller = self.machines[machine]
            .controller()
            .filter(|controller| controller.run == run);
        let error = controller
            .and_then(|controller| controller.writes.get(&write))
            .map(|pending| match pending.stage {
                Stage::Waiting => pending.last.clone(),
                Stage::Here | Stage::There => ControlError::OutcomeUnknown,
            });
        if let Some(error) = error {
            self.finish_write(machine, write, Err(error));
        }
    }

    fn finish_write(&mut self, machine: usize, write: u64, result: Result<ControlReply, ControlError>) {
        let controller = self.machines[machine].controller_mut();
        if let Some(pending) = controller.and_then(|controller| controller.writes.remove(&write)) {
            if result.is_ok() && !matches!(pending.request, ControlRequest::JoinRaft { .. }) {
                self.oracle().acknowledged(pending.id);
            }
            let answer = match (&result, pending.certificate) {
                (Ok(ControlReply::NodeJoined { id }), Some(issued)) if *id == issued.node => {
                    Answer::Certificate(issued)
                }
                _ => Answer::Write(result),
            };
            self.answer(machine, pending.reply, answer);
        }
    }
}
