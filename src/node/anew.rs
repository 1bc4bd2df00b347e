//! `swarm init --force-new-cluster`: the node's cluster lost its quorum for good and goes on with this controller.

use super::address::MemberAddresses;
use super::backend::is_controller;
use super::host::{NodeHost, Standing};
use super::member::{ControllerNotStarted, Member};
use super::refusals::failed;
use anyhow::{Context, bail, ensure};
use muster_agent::agent::Stop;
use muster_engine_api::backend::{BackendError, NOT_CONTROLLER, NOT_PART};
use muster_types::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// How long the controller may need until it has begun: its log is read, one election, one write.
const BEGUN_WITHIN: Duration = Duration::from_secs(20);

/// Has the cluster begin anew with this node, which must be one of its controllers. It goes on when the caller does not.
pub(super) async fn force_new_cluster(
    host: &Arc<NodeHost>,
    addresses: Option<MemberAddresses>,
) -> Result<NodeId, BackendError> {
    match host.standing() {
        Standing::Inactive | Standing::Pending => return Err(BackendError::unavailable(NOT_PART)),
        Standing::Active(member) if !is_controller(&member).await => {
            return Err(BackendError::unavailable(NOT_CONTROLLER));
        }
        Standing::Active(_) | Standing::Error(_) => {}
    }
    let host = Arc::clone(host);
    let begun = tokio::spawn(async move { host.begin_anew(addresses).await }).await;
    begun.unwrap_or_else(|error| Err(error.into())).map_err(failed)
}

impl NodeHost {
    /// The cluster goes on with this controller as its only one, and keeps services, tasks and workers. Containers run on.
    /// Addresses that are not given stay.
    async fn begin_anew(&self, addresses: Option<MemberAddresses>) -> anyhow::Result<NodeId> {
        let _changing = self.changing.lock().await;
        let Some((before, credentials)) = self.files().load()? else {
            bail!(NOT_PART);
        };
        if before.raft_id.is_none() {
            bail!(
                "this node is a worker and does not have the cluster's state: ask a controller that is left"
            );
        }
        if !self.files().has_raft_log() {
            bail!(
                "the log of this controller is gone, and with it the cluster's state: ask another controller that is left"
            );
        }
        let mut membership = before.clone();
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
        let start = |membership| Member::start(self.context.clone(), membership, &credentials, None);
        match start(membership.clone()).await {
            Ok(member) => {
                self.activate(member.clone()).await;
                tokio::time::timeout(BEGUN_WITHIN, begun(&member))
                    .await
                    .context("the controller does not lead yet: it goes on in the background")??;
                Ok(membership.node)
            }
            Err(error) => {
                self.set(Standing::Error(format!("{error:#}")));
                // Its log may name this controller as the only voter already: then the next start goes on with it.
                if !error.is::<ControllerNotStarted>() {
                    self.files().save_membership(&before)?;
                    match start(before).await {
                        Ok(member) => self.activate(member).await,
                        Err(error) => self.set(Standing::Error(format!("{error:#}"))),
                    }
                }
                Err(error.context("the cluster could not begin anew"))
            }
        }
    }
}

/// Waits until the cluster began anew and that is noted. Who supervises the node's role notes it in any case.
async fn begun(member: &Member) -> anyhow::Result<()> {
    let handle = member.controller().context("the controller ended")?;
    let mut members = handle.members();
    loop {
        member.note_anew().await?;
        if !member.begins_anew().await {
            return Ok(());
        }
        ensure!(members.changed().await.is_ok(), "the controller ended");
    }
}
