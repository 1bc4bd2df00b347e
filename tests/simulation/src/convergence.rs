//! Once nothing goes wrong any more, the cluster must become what its users want, and then rest.

use crate::controllers::name;
use crate::networks::is_starved;
use crate::planted::PlantedBug;
use crate::world::World;
use muster_controller::core::io::Input;
use muster_controller::leases::RESTART_GRACE;
use muster_state::ClusterState;
use muster_types::node::Availability;
use muster_types::service::{RestartCondition, ServiceMode};
use muster_types::{DesiredState, IdSource, NodeRole, NodeState, Service, SessionId, TaskId, TaskState};
use std::collections::BTreeSet;

/// Nothing may be written to the log for this long.
const QUIET_US: u64 = 6_000_000;
/// A node that is without a daemon for this long is down, unless that said that it restarts.
const NOTICED_WITHIN_US: u64 = 12_000_000;

impl World {
    /// What keeps the cluster from being as it should; `None` when it is.
    pub fn unrest(&mut self) -> Option<String> {
        let leader = match self.leader() {
            Some(leader) => leader,
            None => return Some("no controller leads".to_owned()),
        };
        let state = self.machines[leader].controller()?.core.state().clone();
        self.note_index(&state);
        let missing = self
            .members_missing(leader, &state)
            .or_else(|| {
                state
                    .services()
                    .find_map(|service| service_missing(&state, service))
            })
            .or_else(|| self.containers_missing(&state))
            .or_else(|| self.places_missing(&state));
        self.settle_held(&state);
        if missing.is_some() {
            return missing;
        }
        if self.now_us - self.quiet.1 < QUIET_US {
            return Some(format!("index {} was written lately", self.quiet.0));
        }
        self.undecided(&state, state.time())
    }

    /// Tells where every machine and record stands.
    pub fn describe(&mut self) {
        let newest = self.oracle().newest().clone();
        for node in newest.nodes() {
            let machine = self.owners.get(&node.id).map(|machine| name(*machine));
            self.tell(format_args!(
                "{machine:?}: wanted {:?} {:?}, is {:?}, {:?}",
                node.spec.role, node.spec.availability, node.status.state, node.controller
            ));
        }
        for machine in 0..self.machines.len() {
            let found = &self.machines[machine];
            let agent = found.agent().map(|agent| (agent.connected(), agent.role));
            let raft = found.controller().map(|controller| {
                let status = controller.core.raft().status();
                let caught: Vec<_> = status
                    .peers
                    .iter()
                    .map(|peer| (peer.raft_id, peer.caught_up, peer.matched))
                    .collect();
                format!(
                    "Raft id {}, {:?}, {:?}, commit {}, last {}, peers {caught:?}, download {:?}, removed {}",
                    status.raft_id,
                    status.role,
                    status.membership,
                    status.commit,
                    status.last_index,
                    status.download,
                    controller.removed,
                )
            });
            let failed = found
                .daemon
                .as_ref()
                .map(|daemon| (daemon.controller_failed, daemon.joining));
            self.tell(format_args!(
                "{}: agent {agent:?}, {failed:?}, {raft:?}",
                name(machine)
            ));
        }
        for service in newest.services() {
            self.tell(format_args!(
                "service {} {:?} {:?}",
                service.spec.name, service.spec.mode, service.update
            ));
            for task in newest.tasks_of_service(service.id) {
                let node = task
                    .node
                    .and_then(|node| self.owners.get(&node))
                    .map(|machine| name(*machine));
                self.tell(format_args!(
                    "  {} {} on {node:?}: {:?}, wanted {:?}, {}, {:?}",
                    task.id, task.slot, task.status.state, task.desired, task.reason, task.status.error
                ));
            }
        }
    }

    /// Every controller votes, is caught up and holds the same state.
    fn members_missing(&self, leader: usize, state: &ClusterState) -> Option<String> {
        let voters = self.machines[leader]
            .controller()?
            .core
            .raft()
            .membership()
            .voters;
        let mut wanted = BTreeSet::new();
        for node in state.nodes() {
            let Some(machine) = self.owners.get(&node.id).copied() else {
                return Some(format!("node {} has no machine", node.id));
            };
            if self.machines[machine].files.node != Some(node.id) {
                return Some(format!("{} was node {} and left", name(machine), node.id));
            }
            if node.status.state != NodeState::Ready {
                return Some(format!("{} is {:?}", name(machine), node.status.state));
            }
            if node.spec.role == NodeRole::Worker {
                if self.machines[machine].controller().is_some() || node.controller.is_some() {
                    return Some(format!("{} is still a controller", name(machine)));
                }
                continue;
            }
            let Some(member) = node.controller.as_ref().filter(|member| member.voter) else {
                return Some(format!("{} is not recorded as a voter", name(machine)));
            };
            wanted.insert(member.raft_id.0);
            let Some(controller) = self.machines[machine].controller() else {
                return Some(format!("{} runs no controller", name(machine)));
            };
            if controller.core.state() != state {
                return Some(format!(
                    "{} is at index {}, the leader at {}",
                    name(machine),
                    controller.core.state().index(),
                    state.index()
                ));
            }
        }
        let voters: BTreeSet<u64> = voters.into_iter().collect();
        (voters != wanted).then(|| format!("the voters are {voters:?}, wanted are {wanted:?}"))
    }

    /// Containers run for exactly the tasks that should.
    fn containers_missing(&self, state: &ClusterState) -> Option<String> {
        let mut running = BTreeSet::new();
        for (machine, found) in self.machines.iter().enumerate() {
            for (_, task, _) in found.engine.running() {
                let row = state.task(task);
                let right = row
                    .is_some_and(|row| row.desired == DesiredState::Running && row.node == found.files.node);
                if !right {
                    return Some(format!(
                        "{} runs a container of task {task}, which should not run",
                        name(machine)
                    ));
                }
                running.insert(task);
            }
        }
        let idle = |task: &&std::sync::Arc<muster_types::Task>| {
            task.status.state == TaskState::Running && !running.contains(&task.id)
        };
        let idle: Option<TaskId> = state.tasks().find(idle).map(|task| task.id);
        idle.map(|task| format!("task {task} is recorded as running and has no container"))
    }

    /// With this bug planted, leases of machines without power are renewed.
    pub fn maybe_renew_dead_leases(&mut self) {
        if self.planted != Some(PlantedBug::EternalLease) {
            return;
        }
        let Some(leader) = self.leader() else { return };
        for machine in 0..self.machines.len() {
            let node = self.machines[machine].files.node;
            let session = node.and_then(|node| Some((node, *self.last_sessions.get(&node)?)));
            if let (false, Some((node, session))) = (self.machines[machine].powered, session) {
                // Nobody waits for the answer.
                let token = 0;
                self.input(leader, Input::Heartbeat { token, node, session });
            }
        }
    }

    /// With this bug planted, a daemon that restarts is heard to say so again, every second, whether it runs or not.
    pub fn maybe_repeat_farewells(&mut self) {
        if self.planted != Some(PlantedBug::EternalRestart) {
            return;
        }
        let Some(leader) = self.leader() else { return };
        for machine in 0..self.machines.len() {
            let found = &self.machines[machine];
            let node = found
                .files
                .node
                .filter(|_| found.daemon.is_none() && found.said_farewell);
            let Some(node) = node else { continue };
            let session = SessionId::from_u128(self.dice.next_u128());
            let address = format!("10.0.0.{}", machine + 1);
            let description = self.description_of(machine);
            let restarting = true;
            self.input(
                leader,
                Input::SessionOpen {
                    node,
                    session,
                    description,
                    address,
                },
            );
            self.input(
                leader,
                Input::Farewell {
                    node,
                    session,
                    restarting,
                },
            );
        }
    }

    /// A machine without a daemon is noticed by a leader that leads long enough.
    pub fn check_leases(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some((since, state)) = self.machines[leader]
            .controller()
            .and_then(|controller| Some((controller.leading_since_us?, controller.core.state().clone())))
        else {
            return;
        };
        // A leader that was paused gives every lease a new grace.
        let since = since.max(self.machines[leader].stalled_until_us);
        if self.stalled(leader).is_some() {
            return;
        }
        let voters = self.voters().len();
        let connected = (0..self.machines.len())
            .filter(|other| !self.network.is_cut(leader, *other) && !self.network.is_cut(*other, leader))
            .filter(|other| self.machines[*other].controller().is_some())
            .count();
        if connected * 2 <= voters {
            return;
        }
        for (machine, found) in self.machines.iter().enumerate() {
            let (Some(down), Some(node)) = (found.down_since_us, found.files.node) else {
                continue;
            };
            let unseen = self.now_us - down.max(since);
            let Some(status) = state.node(node).map(|node| &node.status) else {
                continue;
            };
            // A daemon that said that it restarts has its time, and no more.
            let grace = match status.restarting_until {
                Some(_) => RESTART_GRACE.as_micros() as u64,
                None => 0,
            };
            let ready = status.state == NodeState::Ready;
            if found.daemon.is_none() && ready && unseen > NOTICED_WITHIN_US + grace {
                let what = format!(
                    "{} has no daemon for {unseen} us and is still ready; it may restart until {:?}",
                    name(machine),
                    status.restarting_until
                );
                self.violated("a node that is gone is noticed", what);
                return;
            }
        }
    }
}

/// A service has its tasks on nodes that are ready for them.
fn service_missing(state: &ClusterState, service: &Service) -> Option<String> {
    let what = &service.spec.name;
    if service.removing {
        return Some(format!("service {what} is still being removed"));
    }
    let running: Vec<_> = state
        .tasks_of_service(service.id)
        .filter(|task| task.desired == DesiredState::Running && task.status.state == TaskState::Running)
        .collect();
    for task in &running {
        let node = task.node.and_then(|node| state.node(node));
        let fit = node.is_some_and(|node| {
            node.status.state == NodeState::Ready && node.spec.availability != Availability::Drain
        });
        if !fit {
            return Some(format!("task {} of {what} runs where it should not", task.id));
        }
    }
    let active = state
        .nodes()
        .filter(|node| node.spec.availability == Availability::Active)
        .count();
    let paused = state
        .nodes()
        .filter(|node| node.spec.availability == Availability::Pause)
        .count();
    let restart = service.spec.template.restart;
    let ends_by_condition = match service.spec.mode.is_job() {
        true => restart.condition == RestartCondition::None,
        false => restart.condition != RestartCondition::Any,
    };
    let may_end = ends_by_condition || restart.attempts_max > 0;
    let (least, most) = match service.spec.mode {
        ServiceMode::Replicated { replicas } => (replicas as usize, replicas as usize),
        ServiceMode::Global => (active, active + paused),
        ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob => (0, 0),
    };
    let least = if may_end || active == 0 || is_starved(state, service) {
        0
    } else {
        least
    };
    if let Some(missing) = completions_missing(state, service, active).filter(|_| !may_end) {
        return Some(missing);
    }
    (running.len() < least || running.len() > most).then(|| {
        format!(
            "service {what} runs {} tasks, wanted are {least} to {most}",
            running.len()
        )
    })
}

/// What a job lacks; nothing where it cannot have what it needs.
fn completions_missing(state: &ClusterState, service: &Service, active: usize) -> Option<String> {
    let wanted = match service.spec.mode {
        ServiceMode::ReplicatedJob { completions, .. } => completions as usize,
        ServiceMode::GlobalJob => active,
        ServiceMode::Replicated { .. } | ServiceMode::Global => return None,
    };
    let completed = state.tasks_of_service(service.id).filter(|task| {
        task.template_version == service.template_version && task.status.state == TaskState::Complete
    });
    let slots: BTreeSet<_> = completed.map(|task| task.slot).collect();
    let lacks = active > 0 && !is_starved(state, service) && slots.len() < wanted;
    lacks.then(|| {
        format!(
            "{} slots of job {} completed, wanted are {wanted}",
            slots.len(),
            service.spec.name
        )
    })
}
