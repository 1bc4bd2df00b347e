//! Daemons that start and end, with their machines or without, and the roles that they take on.

use crate::controllers::name;
use crate::history::{Action, Key, Operation, Told};
use crate::machine::{Daemon, Files};
use crate::network::OUTSIDE;
use crate::planted::PlantedBug;
use crate::rpc::Purpose;
use crate::wire::{Answer, Call, address_of, machine_at};
use crate::world::{Event, World};
use muster_consensus::sim::SimDisk;
use muster_controller::authorize::may_replace;
use muster_controller::control::{ControlError, ControlReply, ControlRequest, RefusalKind};
use muster_state::ClusterState;
use muster_types::{IdSource, NodeId, NodeRole, RaftId, RequestId, ServiceId};

/// Wait before a failed change of role is tried again.
const ROLE_RETRY_US: u64 = 1_000_000;
/// How often the role is looked at when nothing tells of a change.
const ROLE_LOOK_US: u64 = 20_000_000;
/// Wait before the removal of a node's record is tried again.
const REMOVE_RETRY_US: u64 = 500_000;
/// Longest wait for a node record or a Raft id.
const JOIN_TIMEOUT_US: u64 = 6_000_000;

impl World {
    /// The machine has power and its daemon starts.
    pub fn start_daemon(&mut self, machine: usize) {
        if self.machines[machine].daemon.is_some() || self.machines[machine].banished {
            return;
        }
        let now_us = self.now_us;
        let found = &mut self.machines[machine];
        found.powered = true;
        found.down_since_us = None;
        found.said_farewell = false;
        found.epoch += 1;
        found.disk.power_on();
        found.daemon = Some(Daemon {
            started_us: now_us,
            agent: None,
            controller: None,
            controller_failed: false,
            joining: false,
            held_raft_id: None,
        });
        self.tell(format_args!("{} starts its daemon", name(machine)));
        if self.machines[machine].files.node.is_some() {
            self.become_member(machine);
        } else {
            self.join_node(machine);
        }
    }

    /// The first machine makes the cluster and starts.
    pub fn begin_cluster(&mut self, state: &ClusterState) {
        self.machines[0].epoch += 1;
        self.machines[0].daemon = Some(Daemon {
            started_us: self.now_us,
            agent: None,
            controller: None,
            controller_failed: false,
            joining: false,
            held_raft_id: None,
        });
        self.start_agent(0);
        self.start_controller(0, Vec::new(), Some(state));
        let epoch = self.machines[0].epoch;
        self.push(ROLE_LOOK_US, Event::LookAtRole { machine: 0, epoch });
    }

    fn become_member(&mut self, machine: usize) {
        self.start_agent(machine);
        if self.machines[machine].files.raft_id.is_some() {
            self.start_controller(machine, Vec::new(), None);
        }
        let epoch = self.machines[machine].epoch;
        self.push(ROLE_LOOK_US, Event::LookAtRole { machine, epoch });
    }

    /// A node without a record asks for one.
    pub fn join_node(&mut self, machine: usize) {
        let role = self.wanted_role(machine);
        let id = *self
            .join_requests
            .entry(machine)
            .or_insert_with(|| RequestId::from_u128(self.dice.next_u128()));
        let contacts = self.machines_with_controllers();
        let Some(contact) = self.dice.pick(&contacts).copied() else {
            let epoch = self.machines[machine].epoch;
            self.push(ROLE_RETRY_US, Event::JoinAgain { machine, epoch });
            return;
        };
        self.call(
            machine,
            contact,
            Call::JoinNode { id, role },
            JOIN_TIMEOUT_US,
            Purpose::JoinNode,
        );
    }

    fn wanted_role(&self, machine: usize) -> NodeRole {
        if machine < self.settings.controllers {
            NodeRole::Controller
        } else {
            NodeRole::Worker
        }
    }

    /// The answer to a node that asked for a record.
    pub fn node_joined(&mut self, machine: usize, answer: Answer) {
        let Answer::Certificate(issued) = answer else {
            let epoch = self.machines[machine].epoch;
            self.push(ROLE_RETRY_US, Event::JoinAgain { machine, epoch });
            return;
        };
        let id = issued.node;
        self.join_requests.remove(&machine);
        self.keep_certificate(machine, issued);
        self.tell(format_args!("{} joins as node {id}", name(machine)));
        let contacts = self.machines_with_controllers();
        let files = &mut self.machines[machine].files;
        files.node = Some(id);
        files.controllers = contacts.into_iter().map(address_of).collect();
        self.owners.insert(id, machine);
        self.become_member(machine);
    }

    /// Compares the daemon's role with the one that its record wants.
    pub fn look_at_role(&mut self, machine: usize) {
        let Some(daemon) = &mut self.machines[machine].daemon else {
            return;
        };
        let Some(agent) = &daemon.agent else { return };
        let listed = agent.controllers.contains(&address_of(machine));
        match (agent.role, &mut daemon.controller) {
            (Some(true), None) if !daemon.controller_failed && !daemon.joining => {
                self.become_controller(machine);
            }
            (Some(true), Some(controller)) if listed => controller.listed = true,
            // It was demoted and promoted while it was away: the group knows it no more.
            (Some(true), Some(controller)) if controller.removed || controller.listed => {
                self.become_worker(machine);
                self.become_controller(machine);
            }
            (Some(false), Some(controller)) if controller.removed || !listed => self.become_worker(machine),
            (Some(_) | None, _) => {}
        }
        self.look_at_certificate(machine);
    }

    /// A demoted node drops its controller's certificate; every node renews its own in time.
    fn look_at_certificate(&mut self, machine: usize) {
        let (now_us, found) = (self.now_us, &self.machines[machine]);
        let (Some(daemon), Some(held)) = (&found.daemon, found.files.certificate) else {
            return;
        };
        let wanted = daemon.agent.as_ref().and_then(|agent| agent.role);
        let demoted =
            wanted == Some(false) && held.role == NodeRole::Controller && daemon.controller.is_none();
        if (demoted || now_us >= found.renew_at_us) && !daemon.joining {
            self.renew_at_any(machine, false);
        }
    }

    /// Always with a new certificate: a controller that lags believes only one that is newer than the record that it
    /// knows.
    fn become_controller(&mut self, machine: usize) {
        self.renew_at_any(machine, true);
    }

    fn renew_at_any(&mut self, machine: usize, then_join: bool) {
        if let Some(contact) = self.pick_contact(machine) {
            self.ask_for_certificate(machine, contact, then_join);
        }
    }

    /// The answer to a daemon that asked for a certificate.
    pub fn certificate_renewed(&mut self, machine: usize, answer: Answer, then_join: bool) {
        let Some(daemon) = &mut self.machines[machine].daemon else {
            return;
        };
        daemon.joining = false;
        let runs = daemon.controller.is_some();
        let Answer::Certificate(issued) = answer else {
            let epoch = self.machines[machine].epoch;
            self.push(ROLE_RETRY_US, Event::LookAtRole { machine, epoch });
            return;
        };
        if may_replace(issued.role, runs) {
            self.keep_certificate(machine, issued);
        }
        if then_join && !runs {
            self.join_raft(machine);
        }
    }

    fn pick_contact(&mut self, machine: usize) -> Option<usize> {
        let agent = self.machines[machine].agent()?;
        let others: Vec<usize> = agent
            .controllers
            .iter()
            .filter_map(|address| machine_at(address))
            .filter(|other| *other != machine)
            .collect();
        self.dice.pick(&others).copied()
    }

    fn join_raft(&mut self, machine: usize) {
        let Some(contact) = self.pick_contact(machine) else {
            return;
        };
        let id = RequestId::from_u128(self.dice.next_u128());
        if let Some(daemon) = &mut self.machines[machine].daemon {
            daemon.joining = true;
        }
        let address = address_of(machine);
        let replaces = self.machines[machine]
            .daemon
            .as_ref()
            .and_then(|daemon| daemon.held_raft_id);
        let call = Call::JoinRaft {
            id,
            address,
            replaces,
        };
        self.call(machine, contact, call, JOIN_TIMEOUT_US, Purpose::JoinRaft);
    }

    /// The answer to a daemon that asked for a Raft id.
    pub fn raft_joined(&mut self, machine: usize, answer: Answer) {
        let Some(daemon) = &mut self.machines[machine].daemon else {
            return;
        };
        daemon.joining = false;
        let wanted = daemon
            .agent
            .as_ref()
            .is_some_and(|agent| agent.role == Some(true));
        if let Answer::Write(Ok(ControlReply::RaftIdHeld { raft_id })) = answer {
            daemon.held_raft_id = raft_id;
        }
        if let (Answer::Write(Ok(ControlReply::RaftJoined { raft_id, members })), true) = (answer, wanted) {
            self.machines[machine].files.raft_id = Some(raft_id);
            self.start_controller(machine, members, None);
        } else {
            let epoch = self.machines[machine].epoch;
            self.push(ROLE_RETRY_US, Event::LookAtRole { machine, epoch });
        }
    }

    fn become_worker(&mut self, machine: usize) {
        self.tell(format_args!("{} becomes a worker", name(machine)));
        self.drop_controller(machine);
        self.machines[machine].files.raft_id = None;
        self.replace_disk(machine);
    }

    fn replace_disk(&mut self, machine: usize) {
        let disk = SimDisk::new(self.dice.draw());
        disk.skip_syncs(self.planted == Some(PlantedBug::SkippedSync));
        let (shortest, longest) = self.settings.sync_us;
        disk.set_sync_delay_us(shortest, longest);
        self.machines[machine].disk = disk;
    }

    /// Time to look at the role again.
    pub fn look_again(&mut self, machine: usize, epoch: u64) {
        if self.machines[machine].epoch == epoch {
            self.look_at_role(machine);
            self.push(ROLE_LOOK_US, Event::LookAtRole { machine, epoch });
        }
    }

    /// The daemon ends at once, as by kill -9; containers go on.
    pub fn kill_daemon(&mut self, machine: usize) {
        if self.machines[machine].daemon.is_none() {
            return;
        }
        self.break_streams_of(machine);
        self.abandon_operations(machine);
        let now_us = self.now_us;
        let found = &mut self.machines[machine];
        found.daemon = None;
        found.epoch += 1;
        found.down_since_us = Some(now_us);
    }

    /// The daemon ends in order.
    pub fn stop_daemon(&mut self, machine: usize) {
        self.say_farewell(machine);
        if self.machines[machine].controller().is_some() {
            self.input(machine, muster_controller::core::io::Input::StepDown);
        }
        self.kill_daemon(machine);
    }

    /// The machine loses power: what was not synced may be lost, and containers end.
    pub fn power_cut(&mut self, machine: usize) {
        self.tell(format_args!("{} loses power", name(machine)));
        let now_us = self.now_us;
        let found = &mut self.machines[machine];
        found.powered = false;
        found.disk.crash();
        found.down_since_us.get_or_insert(now_us);
        self.kill_daemon(machine);
        let found = &mut self.machines[machine];
        found.engine.lose_power();
        let mut dice = found.dice.clone();
        found.files.lose_power(&mut dice);
        found.dice = dice;
    }

    /// The disk of the controller's log is gone.
    pub fn lose_log(&mut self, machine: usize) {
        self.replace_disk(machine);
        self.machines[machine].log_lost = true;
    }

    /// A controller without a log must not vote under its old Raft id again: it asks for a new one.
    pub fn forget_raft_id(&mut self, machine: usize) {
        self.tell(format_args!(
            "{} finds no log and gives up its Raft id",
            name(machine)
        ));
        self.machines[machine].files.raft_id = None;
        self.replace_disk(machine);
        self.look_at_role(machine);
    }

    /// The node leaves its cluster, containers and files and all, and its record is to be removed.
    pub fn leave(&mut self, machine: usize) {
        let Some(node) = self.machines[machine].files.node else {
            return;
        };
        self.forget_membership(machine);
        self.machines[machine].banished = true;
        self.leavers.insert(node, self.now_us);
        self.push(0, Event::RemoveNode { node });
    }

    fn forget_membership(&mut self, machine: usize) {
        self.kill_daemon(machine);
        let found = &mut self.machines[machine];
        found.files = Files::default();
        found.engine.containers.clear();
        found.held.clear();
        self.replace_disk(machine);
        self.join_requests.remove(&machine);
    }

    /// The node's record is to be removed while its daemon is down; it starts again when that is done.
    pub fn cast_out(&mut self, machine: usize) {
        let Some(node) = self.machines[machine].files.node else {
            return;
        };
        self.kill_daemon(machine);
        let found = &mut self.machines[machine];
        (found.banished, found.outcast) = (true, true);
        self.leavers.insert(node, self.now_us);
        self.push(0, Event::RemoveNode { node });
    }

    /// A machine whose record was removed leaves for good.
    pub fn forget_outcast(&mut self, machine: usize) {
        if std::mem::take(&mut self.machines[machine].outcast) {
            self.tell(format_args!(
                "{} leaves the cluster that removed it",
                name(machine)
            ));
            self.forget_membership(machine);
        }
    }

    /// An administrator asks for the removal of a node's record.
    pub fn remove_node(&mut self, node: NodeId) {
        let contacts = self.machines_with_controllers();
        let Some(contact) = self.dice.pick(&contacts).copied() else {
            self.push(REMOVE_RETRY_US, Event::RemoveNode { node });
            return;
        };
        let id = RequestId::from_u128(self.dice.next_u128());
        let request = ControlRequest::RemoveNode {
            id: node,
            force: true,
        };
        let call = Call::ClientWrite { id, request };
        self.call(OUTSIDE, contact, call, JOIN_TIMEOUT_US, Purpose::RemoveNode(node));
    }

    /// The answer to the administrator.
    pub fn node_removed(&mut self, node: NodeId, answer: &Answer) {
        let gone = match answer {
            Answer::Write(Ok(_)) => true,
            Answer::Write(Err(ControlError::Refused { kind, .. })) => *kind == RefusalKind::NotFound,
            _ => false,
        };
        if !gone {
            self.push(REMOVE_RETRY_US, Event::RemoveNode { node });
            return;
        }
        let Some(begun_us) = self.leavers.remove(&node) else {
            return;
        };
        self.tell(format_args!("the record of node {node} is removed"));
        let outcast = self.owners.get(&node).copied();
        if let Some(machine) = outcast.filter(|machine| self.machines[*machine].outcast) {
            self.machines[machine].banished = false;
            self.start_daemon(machine);
        }
        self.history.push(Operation {
            key: Key::Node(node),
            action: Action::Remove(ServiceId::from_u128(node.as_u128())),
            begun_us,
            told_us: Some(self.now_us),
            told: Told::Done,
        });
    }

    /// Machines whose controllers run.
    pub fn machines_with_controllers(&self) -> Vec<usize> {
        let running = |machine: &usize| self.machines[*machine].controller().is_some();
        (0..self.machines.len()).filter(running).collect()
    }

    /// The machine whose controller leads the highest term, if one leads.
    pub fn leader(&self) -> Option<usize> {
        let leading = self
            .machines_with_controllers()
            .into_iter()
            .filter_map(|machine| {
                let controller = self.machines[machine].controller()?;
                controller
                    .core
                    .is_leading()
                    .then(|| (controller.core.raft().role().term, machine))
            });
        leading.max().map(|(_, machine)| machine)
    }

    /// Raft ids that vote, as the leader knows.
    pub fn voters(&self) -> Vec<RaftId> {
        let leader = self
            .leader()
            .and_then(|machine| self.machines[machine].controller());
        let members = leader.map(|leader| leader.core.raft().membership().voters);
        members.into_iter().flatten().map(RaftId).collect()
    }
}
