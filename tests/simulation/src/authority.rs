//! Who may do what: every question, session and Raft message passes the production's own functions, with the
//! certificate that its sender dialled with. Certificates are issued and renewed as the node's services do it.

use crate::controllers::{CLUSTER, Waiter, name};
use crate::planted::PlantedBug;
use crate::rpc::{Purpose, ReplyTo};
use crate::wire::{Answer, Call};
use crate::world::World;
use muster_controller::authorize::{
    Authority, Denied, Identity, authorize, authorize_download, authorize_heartbeat, authorize_member,
    authorize_write,
};
use muster_controller::control::{ControlError, ControlRequest};
use muster_controller::core::io::{Input, ReadView};
use muster_state::ClusterState;
use muster_types::{Availability, ClusterId, NodeId, NodeRole, RaftId, RequestId};

/// A certificate is renewed after this, at random; production draws from a share of its validity.
const RENEW_AFTER_US: (u64, u64) = (40_000_000, 160_000_000);
/// Longest wait for a certificate.
const RENEW_TIMEOUT_US: u64 = 6_000_000;

/// A certificate of the cluster's authority.
pub fn certificate(node: NodeId, role: NodeRole, as_of: u64) -> Identity {
    Identity {
        cluster: ClusterId::from_u128(CLUSTER),
        node,
        role,
        as_of,
    }
}

impl World {
    /// Whether a question may be asked of the controller on this machine; an answer is sent when not.
    pub fn may_ask(&mut self, machine: usize, reply: ReplyTo, caller: Option<Identity>, body: &Call) -> bool {
        let Some(state) = self.state_of(machine) else {
            return false;
        };
        let Some(caller) = caller else {
            // The Engine API knows its callers by other means, and who joins has a token.
            return matches!(
                body,
                Call::ClientWrite { .. } | Call::ClientRead | Call::JoinNode { .. }
            );
        };
        let verdict = match body {
            Call::ClientWrite { .. } | Call::ClientRead | Call::JoinNode { .. } => return true,
            Call::Write { request, .. } => authorize_write(caller, request, &state),
            Call::JoinRaft { .. } => authorize(caller, &state, Authority::Controller),
            Call::Renew => authorize(caller, &state, Authority::Node),
            Call::Heartbeat { node, .. } => authorize_heartbeat(caller, *node, &state),
            Call::Chunk { .. } => authorize_download(caller, &state).map(|_| ()),
        };
        let needs_controller = match body {
            Call::Write { request, .. } => request.of_node() != Some(caller.node),
            other => matches!(other, Call::JoinRaft { .. }),
        };
        let admitted = self.admitted(verdict, caller, needs_controller);
        match admitted {
            Ok(()) => {
                self.check_rights(&state, caller, needs_controller);
                true
            }
            Err(denied) => {
                self.story.mark(&[31, machine as u64]);
                self.answer(machine, reply, Answer::Denied(denied));
                false
            }
        }
    }

    /// Whether the node may have a session with the controller on this machine.
    pub fn may_open_session(&mut self, machine: usize, caller: Option<Identity>) -> bool {
        let (Some(state), Some(caller)) = (self.state_of(machine), caller) else {
            return false;
        };
        let verdict = authorize(caller, &state, Authority::Node);
        let admitted = self.admitted(verdict, caller, false).is_ok();
        if admitted {
            self.check_rights(&state, caller, false);
        }
        admitted
    }

    /// Whether the controller on this machine hears the caller as this member of the Raft group.
    pub fn may_speak(&mut self, machine: usize, caller: Identity, raft_id: RaftId) -> bool {
        let Some(state) = self.state_of(machine) else {
            return false;
        };
        let verdict = authorize_member(caller, raft_id, &state);
        let admitted = self.admitted(verdict, caller, true).is_ok();
        let Some(cluster) = state.cluster().filter(|_| admitted) else {
            return admitted;
        };
        // Said once more in other words: a place in the group is its owner's, and who left it is not heard.
        let heard_in_vain = match state.node_by_raft_id(raft_id) {
            Some(owner) => owner.id != caller.node,
            None => raft_id.0 < cluster.next_raft_id || state.is_removed_node(caller.node),
        };
        if heard_in_vain {
            let what = format!(
                "{} heard node {} as Raft id {raft_id}",
                name(machine),
                caller.node
            );
            self.violated("only members of the Raft group are heard", what);
        }
        true
    }

    /// With the bug planted, a certificate's word is enough.
    fn admitted(
        &self,
        verdict: Result<(), Denied>,
        caller: Identity,
        needs_controller: bool,
    ) -> Result<(), Denied> {
        let believed = caller.role == NodeRole::Controller || !needs_controller;
        if self.planted == Some(PlantedBug::BelievedCertificate) && believed {
            return Ok(());
        }
        verdict
    }

    /// A caller that was let in is in the cluster, and a demoted one is no controller.
    fn check_rights(&self, state: &ClusterState, caller: Identity, as_controller: bool) {
        if state.cluster().is_none() {
            return;
        }
        let demoted = state
            .node(caller.node)
            .is_some_and(|node| node.spec.role == NodeRole::Worker && caller.as_of <= node.meta.spec_version);
        if state.node(caller.node).is_none() || (as_controller && demoted) {
            let what = format!("node {} was let in with {caller:?}", caller.node);
            self.violated("a removed or demoted node has no rights", what);
        }
    }

    fn state_of(&self, machine: usize) -> Option<ClusterState> {
        let controller = self.machines[machine].controller()?;
        Some(controller.core.state().clone())
    }

    /// A node asks for a certificate by its token: first the state as of now is read, as for a renewal.
    pub fn issue(&mut self, machine: usize, reply: ReplyTo, id: RequestId, role: NodeRole) {
        self.read_for(machine, Waiter::Issue { reply, id, role });
    }

    /// A node asks for a certificate with the role of its record.
    pub fn renew(&mut self, machine: usize, reply: ReplyTo, node: NodeId) {
        self.read_for(machine, Waiter::Renew { reply, node });
    }

    fn read_for(&mut self, machine: usize, waiter: Waiter) {
        if let Some(controller) = self.machines[machine].controller_mut() {
            let token = controller.expect(waiter);
            self.input(machine, Input::Read { token });
        }
    }

    /// The state for a node that asked by its token: its record is made, and its certificate is of the state before.
    pub fn issue_read(
        &mut self,
        machine: usize,
        reply: ReplyTo,
        (id, role): (RequestId, NodeRole),
        view: Result<Box<ReadView>, ControlError>,
    ) {
        match view {
            Ok(view) => {
                let issued = certificate(NodeId::from_u128(id.as_u128()), role, view.state.index());
                let availability = Availability::Active;
                let request = ControlRequest::JoinNode { role, availability };
                self.begin_certified_write(machine, reply, (id, request), Some(issued));
            }
            Err(_) => self.answer(machine, reply, Answer::Unavailable),
        }
    }

    /// The state for a renewal.
    pub fn renewal_read(
        &mut self,
        machine: usize,
        reply: ReplyTo,
        node: NodeId,
        view: Result<Box<ReadView>, ControlError>,
    ) {
        let answer = match view {
            Ok(view) => match view.state.node(node) {
                Some(record) => Answer::Certificate(certificate(node, record.spec.role, view.state.index())),
                None => Answer::Denied(Denied::NoNode(node)),
            },
            Err(_) => Answer::Unavailable,
        };
        self.answer(machine, reply, answer);
    }

    /// Asks a controller for a new certificate, and then for a Raft id where the node is to be a controller.
    pub fn ask_for_certificate(&mut self, machine: usize, contact: usize, then_join: bool) {
        if let Some(daemon) = &mut self.machines[machine].daemon {
            daemon.joining = true;
        }
        let purpose = Purpose::Renew { then_join };
        self.call(machine, contact, Call::Renew, RENEW_TIMEOUT_US, purpose);
    }

    /// Keeps a certificate, and draws when to renew it.
    pub fn keep_certificate(&mut self, machine: usize, issued: Identity) {
        let after = self.dice.between(RENEW_AFTER_US.0, RENEW_AFTER_US.1);
        let renew_at_us = self.now_us + after;
        let found = &mut self.machines[machine];
        found.files.certificate = Some(issued);
        found.renew_at_us = renew_at_us;
    }
}
