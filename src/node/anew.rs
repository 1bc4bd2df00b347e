//! `swarm init --force-new-cluster`: the node's cluster lost its quorum for good and goes on with this controller.

use super::address::MemberAddresses;
use super::backend::is_controller;
use super::host::{NodeHost, Standing};
use super::member::Member;
use super::refusals::failed;
use anyhow::{Context, bail};
use muster_agent::agent::Stop;
use muster_controller::shell::ControllerHandle;
use muster_engine_api::backend::{BackendError, NOT_CONTROLLER, NOT_PART};
use muster_types::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// How long the controller may need until it leads alone: its log is read, one election, one write.
const ALONE_WITHIN: Duration = Duration::from_secs(20);

/// Has the cluster begin anew with this node, which must be one of its controllers.
pub(super) async fn force_new_cluster(
    host: &NodeHost,
    addresses: Option<MemberAddresses>,
) -> Result<NodeId, BackendError> {
    match host.standing() {
        Standing::Inactive | Standing::Pending => return Err(BackendError::unavailable(NOT_PART)),
        Standing::Active(member) if !is_controller(&member).await => {
            return Err(BackendError::unavailable(NOT_CONTROLLER));
        }
        Standing::Active(_) | Standing::Error(_) => {}
    }
    host.begin_anew(addresses).await.map_err(failed)
}

impl NodeHost {
    /// The cluster goes on with this controller as its only one, and keeps services, tasks and workers. Containers run on.
    /// Addresses that are not given stay.
    pub async fn begin_anew(&self, addresses: Option<MemberAddresses>) -> anyhow::Result<NodeId> {
        let _changing = self.changing.lock().await;
        let Some((mut membership, credentials)) = self.files().load()? else {
            bail!(NOT_PART);
        };
        if membership.raft_id.is_none() {
            bail!(
                "this node is a worker and does not have the cluster's state: ask a controller that is left"
            );
        }
        if let Some(addresses) = addresses {
            membership.listen = addresses.listen;
            membership.advertise = addresses.advertise;
            membership.data_path = addresses.data_path;
        }
        membership.controllers = vec![membership.advertise.to_string()];
        membership.begins_anew = true;
        // From here on a restart of the daemon goes on with it.
        self.files().save_membership(&membership)?;
        self.deactivate(Stop::Restart).await;
        let started = Member::start(self.context.clone(), membership.clone(), &credentials, None).await;
        let member = match started {
            Ok(member) => member,
            Err(error) => {
                self.set(Standing::Error(format!("{error:#}")));
                return Err(error.context("the cluster could not begin anew"));
            }
        };
        self.activate(member.clone()).await;
        finish_anew(&member).await?;
        Ok(membership.node)
    }
}

/// Waits until the cluster began anew, and notes that it has.
pub(super) async fn finish_anew(member: &Arc<Member>) -> anyhow::Result<()> {
    let handle = member.controller().context("the controller ended")?;
    tokio::time::timeout(ALONE_WITHIN, alone(&handle))
        .await
        .context("the controller does not lead yet: it goes on in the background")?;
    member.began_anew().await
}

/// Returns once this controller is the only one that the records name.
async fn alone(handle: &ControllerHandle) {
    let mut changes = handle.changes();
    let is_alone = || {
        let state = handle.state();
        let mut controllers = state.nodes().filter(|node| node.controller.is_some());
        let own = controllers.next().and_then(|node| node.controller.as_ref());
        handle.is_leading()
            && own.is_some_and(|member| member.raft_id == handle.raft_id())
            && controllers.next().is_none()
    };
    let mut members = handle.members();
    while !is_alone() {
        tokio::select! {
            changed = changes.recv() => if changed == Err(RecvError::Closed) { return std::future::pending().await },
            changed = members.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}
