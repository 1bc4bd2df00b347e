//! The node's membership as a whole: in no cluster, joining, a member, or a member that could not start.

use super::address::MemberAddresses;
use super::files::{Credentials, Membership, NodeFiles};
use super::join::{self, JoinPlan};
use super::member::{Member, MemberContext};
use super::roles;
use anyhow::bail;
use muster_agent::agent::Stop;
use muster_agent::task_engine::TaskEngine;
use muster_proto::transport::{Dialer, NodeCertificate};
use muster_types::{Availability, ClusterSpec, JoinToken, NodeId, NodeRole};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// How long a leaving controller waits until the others let it go.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// How long a joining node tries to become a controller: the one that it asks may lag or have no leader.
const BECOME_CONTROLLER_WITHIN: Duration = Duration::from_secs(10);
/// Wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long a failed join tries to take its record back; without that the cluster forgets it later.
const TAKE_BACK_WITHIN: Duration = Duration::from_secs(6);

/// Where the node stands.
#[derive(Clone)]
pub enum Standing {
    /// In no cluster.
    Inactive,
    /// Joining.
    Pending,
    /// A member.
    Active(Arc<Member>),
    /// A member that could not start, for this reason.
    Error(String),
}

/// This node.
pub struct NodeHost {
    pub(super) context: MemberContext,
    standing: RwLock<Standing>,
    roles: Mutex<Option<(watch::Sender<bool>, JoinHandle<()>)>>,
    /// One change of membership at a time.
    pub(super) changing: Mutex<()>,
}

impl NodeHost {
    /// A node that is in no cluster until [`NodeHost::resume`].
    pub fn new(context: MemberContext) -> Arc<Self> {
        Arc::new(Self {
            context,
            standing: RwLock::new(Standing::Inactive),
            roles: Mutex::new(None),
            changing: Mutex::new(()),
        })
    }

    /// Where the node stands. Never waits.
    pub fn standing(&self) -> Standing {
        self.standing
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The membership, if there is one.
    pub fn member(&self) -> Option<Arc<Member>> {
        match self.standing() {
            Standing::Active(member) => Some(member),
            Standing::Inactive | Standing::Pending | Standing::Error(_) => None,
        }
    }

    /// Comes back as the member that the files name. A failure is kept as the node's standing: containers go on.
    pub async fn resume(&self) {
        let _changing = self.changing.lock().await;
        let resumed = async {
            let Some((mut membership, credentials)) = self.files().load()? else {
                return Ok(None);
            };
            if membership.begins_anew && !self.files().has_raft_log() {
                // Nothing is left to begin with; the others may have it.
                membership.begins_anew = false;
                self.files().save_membership(&membership)?;
            }
            let started = Member::start(self.context.clone(), membership, &credentials, None);
            started.await.map(Some)
        };
        match resumed.await {
            // What an earlier membership left goes.
            Ok(None) => self.context.tasks.set_networks(Vec::new(), 0),
            Ok(Some(member)) => self.activate(member).await,
            Err(error) => {
                let error: anyhow::Error = error;
                tracing::error!(error = format!("{error:#}"), "cannot come back to the cluster");
                self.set(Standing::Error(format!("{error:#}")));
            }
        }
    }

    /// Makes a cluster with this node as its first controller.
    pub async fn init(
        &self,
        addresses: MemberAddresses,
        spec: ClusterSpec,
        availability: Availability,
    ) -> anyhow::Result<NodeId> {
        let _changing = self.changing.lock().await;
        self.check_inactive()?;
        let description = self.context.describe(addresses.advertise, addresses.data_path);
        let new = join::make_cluster(addresses, spec, availability, description)?;
        let files = self.files();
        let node = new.membership.node;
        let started = async {
            files.remove()?;
            files.save_credentials(&new.credentials)?;
            let member = Member::start(
                self.context.clone(),
                new.membership.clone(),
                &new.credentials,
                Some(new.state),
            )
            .await?;
            if let Err(error) = files.save_membership(&new.membership) {
                member.stop(Stop::Leave).await;
                return Err(error);
            }
            Ok(member)
        };
        match started.await {
            Ok(member) => self.activate(member).await,
            Err(error) => {
                files.remove()?;
                return Err(error);
            }
        }
        self.wait_for_leader().await;
        Ok(node)
    }

    /// Joins a cluster; the token decides the role.
    pub async fn join(
        &self,
        addresses: MemberAddresses,
        remotes: Vec<String>,
        token: JoinToken,
        availability: Availability,
    ) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        self.check_inactive()?;
        self.set(Standing::Pending);
        let plan = JoinPlan {
            addresses,
            remotes,
            token,
            availability,
        };
        let joined = async {
            let (membership, credentials, role) = join::join(&plan).await?;
            let started = self.start_joined(membership, &credentials, role).await;
            if started.is_err() {
                take_back(&credentials, &plan.remotes).await;
            }
            started
        };
        match joined.await {
            Ok(member) => {
                self.activate(member.clone()).await;
                self.wait_for_session(&member).await;
                Ok(())
            }
            Err(error) => {
                self.set(Standing::Inactive);
                self.files().remove()?;
                Err(error)
            }
        }
    }

    /// Begins the membership that the cluster has a record of now.
    async fn start_joined(
        &self,
        membership: Membership,
        credentials: &Credentials,
        role: NodeRole,
    ) -> anyhow::Result<Arc<Member>> {
        let files = self.files();
        files.remove()?;
        files.save_credentials(credentials)?;
        files.save_membership(&membership)?;
        let member = Member::start(self.context.clone(), membership, credentials, None).await?;
        if role == NodeRole::Controller
            && let Err(error) = become_controller(&member).await
        {
            member.stop(Stop::Leave).await;
            return Err(error);
        }
        Ok(member)
    }

    /// Leaves the cluster: a controller leaves the Raft group first, as far as the others can be reached.
    pub async fn leave(&self) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        if let Standing::Active(member) = self.standing() {
            if member.controller().is_some() {
                self.leave_group(&member).await;
            }
            self.deactivate(Stop::Leave).await;
        }
        self.set(Standing::Inactive);
        self.files().remove()
    }

    /// Stops everything and leaves containers running; the node comes back with the daemon.
    pub async fn shutdown(&self) {
        let _changing = self.changing.lock().await;
        self.deactivate(Stop::Restart).await;
    }

    /// The last controller, or one without quorum, cannot be let go by anybody: it goes all the same.
    async fn leave_group(&self, member: &Member) {
        let others = join::leave_raft(&member.dialer, &member.controllers()).await;
        if let Err(error) = others {
            tracing::warn!(
                error = format!("{error:#}"),
                "leaving without the other controllers' consent"
            );
            return;
        }
        let Some(handle) = member.controller() else { return };
        let mut removed = handle.removed();
        let gone = removed.wait_for(|removed| *removed);
        if tokio::time::timeout(LEAVE_WITHIN, gone).await.is_err() {
            tracing::warn!("the Raft group did not let this controller go in time");
        }
    }

    pub(super) async fn activate(&self, member: Arc<Member>) {
        member.start_agent().await;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(roles::supervise(member.clone(), stopped));
        *self.roles.lock().await = Some((stop, task));
        self.set(Standing::Active(member));
    }

    pub(super) async fn deactivate(&self, reason: Stop) {
        if let Some((stop, task)) = self.roles.lock().await.take() {
            stop.send_replace(true);
            if task.await.is_err() {
                tracing::error!("the role supervisor panicked");
            }
        }
        if let Standing::Active(member) = self.standing() {
            member.stop(reason).await;
        }
    }

    /// A new cluster answers at once when its first election is over; it takes a few ticks.
    async fn wait_for_leader(&self) {
        let Some(handle) = self.member().and_then(|member| member.controller()) else {
            return;
        };
        let mut members = handle.members();
        let leading = members.wait_for(|members| members.leading);
        if !matches!(
            tokio::time::timeout(Duration::from_secs(5), leading).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("the new cluster has no leader yet");
        }
    }

    async fn wait_for_session(&self, member: &Member) {
        let mut view = member.view.clone();
        let connected = view.wait_for(|view| view.connected);
        if !matches!(
            tokio::time::timeout(Duration::from_secs(5), connected).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("joined, but there is no session with the leader yet");
        }
    }

    fn check_inactive(&self) -> anyhow::Result<()> {
        match self.standing() {
            Standing::Inactive => Ok(()),
            Standing::Pending | Standing::Active(_) | Standing::Error(_) => {
                bail!(muster_engine_api::backend::ALREADY_MEMBER)
            }
        }
    }

    pub(super) fn files(&self) -> &NodeFiles {
        &self.context.files
    }

    pub(super) fn set(&self, standing: Standing) {
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// Becomes a controller, with the patience that a joining node needs.
async fn become_controller(member: &Member) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + BECOME_CONTROLLER_WITHIN;
    loop {
        match member.become_controller().await {
            Err(error)
                if tokio::time::Instant::now() < deadline && member.controller_failure().await.is_none() =>
            {
                tracing::debug!(error = format!("{error:#}"), "not a controller yet");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            result => return result,
        }
    }
}

/// Asks the cluster to forget a node whose join failed.
async fn take_back(credentials: &Credentials, remotes: &[String]) {
    let asked = async {
        let certificate = NodeCertificate::new(
            &credentials.root_pem,
            &credentials.certificate_pem,
            &credentials.key_pem,
        )?;
        join::withdraw(&Dialer::new(&certificate)?, remotes).await
    };
    let error = match tokio::time::timeout(TAKE_BACK_WITHIN, asked).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => anyhow::anyhow!("no controller answered"),
    };
    tracing::warn!(
        error = format!("{error:#}"),
        "the cluster keeps a record of this node for a while"
    );
}
