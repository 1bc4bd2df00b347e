//! Making a cluster, joining one, and asking its certificate authority.

use super::address::MemberAddresses;
use super::files::{Credentials, Membership};
use anyhow::{Context, bail};
use muster_controller::authority::{self, KeyAndRequest, Subject};
use muster_controller::networks::{Surroundings, ingress_spec};
use muster_proto::ca::certificate_authority_client::CertificateAuthorityClient;
use muster_proto::ca::{
    IssueRequest, JoinRaftRequest, LeaveRaftRequest, RenewRequest, RootRequest, WithdrawRequest,
};
use muster_proto::transport::{Dialer, dial_unverified, issuer_of, root_digest};
use muster_state::{Change, Changeset, ClusterState, Entry, Outcome};
use muster_types::node::ControllerMember;
use muster_types::{
    Availability, Cluster, ClusterId, ClusterSpec, JoinToken, JoinTokens, Meta, NetworkId, NodeDescription,
    NodeId, NodeRole, NodeSpec, RaftId, Reason, Timestamp,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A join that takes longer goes on in the background in Swarm; here it fails with the last error.
const JOIN_WITHIN: Duration = Duration::from_secs(18);
/// Wait before the controllers are tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The first controller's Raft id.
const FIRST_RAFT_ID: RaftId = RaftId(1);

/// A new cluster, not started yet.
pub struct NewCluster {
    /// The first node's membership.
    pub membership: Membership,
    /// Its credentials.
    pub credentials: Credentials,
    /// The cluster's first state.
    pub state: ClusterState,
}

/// Makes a cluster with this node as its first controller.
pub fn make_cluster(
    addresses: MemberAddresses,
    spec: ClusterSpec,
    availability: Availability,
    description: NodeDescription,
) -> anyhow::Result<NewCluster> {
    let (cluster, node) = (
        ClusterId::from_u128(rand::random()),
        NodeId::from_u128(rand::random()),
    );
    let now = time::OffsetDateTime::from(SystemTime::now());
    let root = authority::make_root(now)?;
    let pair = authority::key_and_request()?;
    let subject = Subject {
        cluster,
        node,
        role: NodeRole::Controller,
        as_of: 0,
    };
    let certificate_pem = authority::issue(&root, &pair.request_pem, subject, spec.certificate_expiry, now)?;
    let issuer = issuer_of(&root.certificate_pem)?;
    let root_digest = root_digest(&root.certificate_pem);
    let token = || JoinToken {
        root_digest,
        secret: rand::random(),
    };
    let credentials = Credentials {
        root_pem: root.certificate_pem.clone(),
        certificate_pem,
        key_pem: pair.key_pem,
    };
    let surroundings = Surroundings {
        state: &ClusterState::new(),
        settings: &spec,
        cluster,
        routes: description.routes.clone(),
    };
    let ingress = surroundings
        .plan(NetworkId::from_u128(rand::random()), &ingress_spec())
        .map_err(|problem| anyhow::anyhow!("{problem}: choose other subnets with --default-addr-pool"))?;
    let record = Cluster {
        id: cluster,
        meta: Meta::default(),
        spec,
        root_ca: root,
        join_tokens: JoinTokens {
            worker: token(),
            controller: token(),
        },
        incarnation: 1,
        feature_level: muster_state::SUPPORTED_FEATURE_LEVEL,
        next_raft_id: FIRST_RAFT_ID.0,
        issuer: Some(issuer),
        root_rotation: None,
    };
    let member = ControllerMember {
        raft_id: FIRST_RAFT_ID,
        address: addresses.advertise.to_string(),
        voter: true,
    };
    let node_spec = NodeSpec {
        role: NodeRole::Controller,
        availability,
        ..NodeSpec::default()
    };
    let description = Arc::new(description);
    let changes = vec![
        Change::ClusterCreate(Box::new(record)),
        Change::NodeCreate {
            node,
            spec: node_spec,
            description,
        },
        Change::NodeController {
            node,
            member: Some(member),
        },
        Change::NetworkCreate(Box::new(ingress)),
    ];
    let mut state = ClusterState::new();
    let entry = Entry::new(
        Timestamp(now.unix_timestamp_nanos() as i64),
        Changeset::new(Reason::Bootstrap, changes),
    );
    match state.apply(1, &entry).outcome {
        Outcome::Applied => {}
        other => bail!("the first state of the cluster was not accepted: {other:?}"),
    }
    let controllers = vec![addresses.advertise.to_string()];
    let membership = Membership {
        cluster,
        node,
        raft_id: Some(FIRST_RAFT_ID),
        listen: addresses.listen,
        advertise: addresses.advertise,
        data_path: addresses.data_path,
        controllers,
        begins_anew: false,
    };
    Ok(NewCluster {
        membership,
        credentials,
        state,
    })
}

/// How to join.
pub struct JoinPlan {
    /// Where the cluster server will listen, and where other nodes will reach it.
    pub addresses: MemberAddresses,
    /// Controllers to ask.
    pub remotes: Vec<String>,
    /// The token.
    pub token: JoinToken,
    /// Whether the node takes tasks.
    pub availability: Availability,
}

/// Gets a node id and certificate from the cluster; the token decides the role.
pub async fn join(plan: &JoinPlan) -> anyhow::Result<(Membership, Credentials, NodeRole)> {
    let request_id: u128 = rand::random();
    let pair = authority::key_and_request()?;
    let deadline = tokio::time::Instant::now() + JOIN_WITHIN;
    loop {
        let mut last = None;
        for remote in &plan.remotes {
            match join_through(remote, plan, request_id, &pair).await {
                Ok(joined) => return Ok(joined),
                Err(JoinError::Refused(error)) => return Err(error),
                Err(JoinError::Unreachable(error)) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| anyhow::anyhow!("no remote address was given"));
        if tokio::time::Instant::now() >= deadline {
            return Err(error.context("no controller could be reached"));
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

enum JoinError {
    /// Asking again will not help.
    Refused(anyhow::Error),
    /// Another controller, or a later try, may help.
    Unreachable(anyhow::Error),
}

async fn join_through(
    remote: &str,
    plan: &JoinPlan,
    request_id: u128,
    pair: &KeyAndRequest,
) -> Result<(Membership, Credentials, NodeRole), JoinError> {
    let refused = |error: anyhow::Error| JoinError::Refused(error);
    let channel = dial_unverified(remote).map_err(|error| refused(error.into()))?;
    let root = CertificateAuthorityClient::new(channel)
        .root(RootRequest {})
        .await
        .map_err(from_status)?;
    let root_pem = root.into_inner().certificate_pem;
    if root_digest(&root_pem) != plan.token.root_digest {
        return Err(refused(anyhow::anyhow!(
            "remote CA does not match fingerprint: the node at {remote} is not of the cluster that the join token is for"
        )));
    }
    let dialer = Dialer::anonymous(&root_pem).map_err(|error| refused(error.into()))?;
    let request = IssueRequest {
        token: plan.token.to_string(),
        request_pem: pair.request_pem.clone(),
        request_id: request_id.to_be_bytes().to_vec().into(),
        availability: availability_text(plan.availability).to_owned(),
    };
    let mut client = CertificateAuthorityClient::new(dialer.controller(remote));
    let issued = client.issue(request).await.map_err(from_status)?.into_inner();
    let credentials = Credentials {
        root_pem,
        certificate_pem: issued.certificate_pem,
        key_pem: pair.key_pem.clone(),
    };
    let identity = identity_of(&credentials).map_err(refused)?;
    let membership = Membership {
        cluster: identity.cluster,
        node: identity.node,
        raft_id: None,
        listen: plan.addresses.listen,
        advertise: plan.addresses.advertise,
        data_path: plan.addresses.data_path,
        controllers: plan.remotes.clone(),
        begins_anew: false,
    };
    Ok((membership, credentials, identity.role))
}

/// Who a certificate says that its node is.
pub fn identity_of(credentials: &Credentials) -> anyhow::Result<muster_proto::transport::Identity> {
    let certificate = muster_proto::transport::NodeCertificate::new(
        &credentials.root_pem,
        &credentials.certificate_pem,
        &credentials.key_pem,
    )?;
    Ok(certificate.identity())
}

fn from_status(status: tonic::Status) -> JoinError {
    let error = anyhow::anyhow!("{}", status.message());
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => {
            JoinError::Refused(error)
        }
        _ => JoinError::Unreachable(error),
    }
}

fn availability_text(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

/// Asks the controllers in turn for a new certificate with the role of the node's record.
pub async fn renew(dialer: &Dialer, controllers: &[String], root_pem: &str) -> anyhow::Result<Credentials> {
    let pair = authority::key_and_request()?;
    let mut last = anyhow::anyhow!("no controller is known");
    for address in controllers {
        let request = RenewRequest {
            request_pem: pair.request_pem.clone(),
        };
        match CertificateAuthorityClient::new(dialer.controller(address))
            .renew(request)
            .await
        {
            Ok(reply) => {
                let certificate_pem = reply.into_inner().certificate_pem;
                let (root_pem, key_pem) = (root_pem.to_owned(), pair.key_pem);
                return Ok(Credentials {
                    root_pem,
                    certificate_pem,
                    key_pem,
                });
            }
            Err(status) => last = anyhow::anyhow!("{address}: {}", status.message()),
        }
    }
    Err(last).context("no controller renewed the certificate")
}

/// A Raft id and the members to expect.
pub struct RaftMembership {
    /// This controller's Raft id.
    pub raft_id: RaftId,
    /// The others.
    pub members: Vec<(RaftId, String)>,
}

/// Asks the controllers in turn for a Raft id.
pub async fn join_raft(
    dialer: &Dialer,
    controllers: &[String],
    advertise: SocketAddr,
) -> anyhow::Result<RaftMembership> {
    let mut request_id: u128 = rand::random();
    // Nobody runs under an id of the record, or this would not be asked; which one it has, if any, the answer tells.
    let (mut replaces, mut told) = (0, false);
    let mut last = anyhow::anyhow!("no controller is known");
    let mut next = controllers.iter().peekable();
    while let Some(address) = next.peek().copied() {
        let request = JoinRaftRequest {
            address: advertise.to_string(),
            request_id: request_id.to_be_bytes().to_vec().into(),
            replaces,
        };
        match CertificateAuthorityClient::new(dialer.controller(address))
            .join_raft(request)
            .await
        {
            Ok(reply) => {
                let reply = reply.into_inner();
                if reply.raft_id == 0 {
                    (request_id, replaces) = (rand::random(), reply.held);
                    last = anyhow::anyhow!("{address}: the node's record has Raft id {}", reply.held);
                    // The same one, once more.
                    anyhow::ensure!(!told, "the node's record is being changed: {last}");
                    told = true;
                    continue;
                }
                let members = reply
                    .members
                    .into_iter()
                    .map(|member| (RaftId(member.raft_id), member.address));
                return Ok(RaftMembership {
                    raft_id: RaftId(reply.raft_id),
                    members: members.collect(),
                });
            }
            Err(status) => last = anyhow::anyhow!("{address}: {}", status.message()),
        }
        next.next();
    }
    Err(last).context("no controller gave out a Raft id")
}

/// Takes a join back that failed after the cluster had made a record of the node.
pub async fn withdraw(dialer: &Dialer, controllers: &[String]) -> anyhow::Result<()> {
    let mut last = anyhow::anyhow!("no controller is known");
    for address in controllers {
        match CertificateAuthorityClient::new(dialer.controller(address))
            .withdraw(WithdrawRequest {})
            .await
        {
            Ok(_) => return Ok(()),
            Err(status) => last = anyhow::anyhow!("{address}: {}", status.message()),
        }
    }
    Err(last)
}

/// Asks to be a worker, before leaving.
pub async fn leave_raft(dialer: &Dialer, controllers: &[String]) -> anyhow::Result<()> {
    let mut last = anyhow::anyhow!("no controller is known");
    for address in controllers {
        match CertificateAuthorityClient::new(dialer.controller(address))
            .leave_raft(LeaveRaftRequest {})
            .await
        {
            Ok(_) => return Ok(()),
            Err(status) => last = anyhow::anyhow!("{address}: {}", status.message()),
        }
    }
    Err(last)
}
