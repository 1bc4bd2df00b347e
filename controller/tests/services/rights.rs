//! Who may call what: every RPC of a controller with every kind of caller.

use super::cluster::{CALLERS, Caller, LIMIT, Served, node};
use futures::FutureExt;
use futures::future::BoxFuture;
use muster_consensus::SnapshotId;
use muster_controller::authority::key_and_request;
use muster_controller::control::ControlRequest;
use muster_proto::ca::certificate_authority_client::CertificateAuthorityClient;
use muster_proto::ca::{
    IssueRequest, JoinRaftRequest, LeaveRaftRequest, RenewRequest, RootRequest, WithdrawRequest,
};
use muster_proto::control::WriteRequest;
use muster_proto::control::control_client::ControlClient;
use muster_proto::dispatcher::agent_message::Message;
use muster_proto::dispatcher::dispatcher_client::DispatcherClient;
use muster_proto::dispatcher::{AgentMessage, HeartbeatRequest, Hello};
use muster_proto::pack::pack;
use muster_proto::raft::raft_client::RaftClient;
use muster_proto::raft::{Batch, ChunkRequest};
use muster_types::{JoinToken, NetworkId, NodeDescription, NodeId};
use std::collections::BTreeSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A call, and what it is answered to each of [`CALLERS`] in their order.
struct Row {
    rpc: &'static str,
    call: fn(Channel, Own) -> BoxFuture<'static, Result<(), Status>>,
    answers: [Code; 5],
}

/// What a caller says of itself.
struct Own {
    node: NodeId,
    token: JoinToken,
}

const OK: Code = Code::Ok;
/// No certificate.
const UNKNOWN: Code = Code::Unauthenticated;
const DENIED: Code = Code::PermissionDenied;
/// The caller may ask, and is refused for another reason.
const REFUSED: Code = Code::FailedPrecondition;

const ROWS: &[Row] = &[
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/Root",
        call: |channel, _| async move { authority(channel).root(RootRequest {}).await.map(drop) }.boxed(),
        answers: [OK, OK, OK, OK, OK],
    },
    // The token counts and not the certificate.
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/Issue",
        call: |channel, own| issue(channel, own.token),
        answers: [OK, OK, OK, OK, OK],
    },
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/Issue",
        call: |channel, own| {
            issue(
                channel,
                JoinToken {
                    secret: 5,
                    ..own.token
                },
            )
        },
        answers: [DENIED, DENIED, DENIED, DENIED, DENIED],
    },
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/Renew",
        call: |channel, _| {
            let request_pem = key_and_request().unwrap().request_pem;
            async move {
                authority(channel)
                    .renew(RenewRequest { request_pem })
                    .await
                    .map(drop)
            }
            .boxed()
        },
        answers: [UNKNOWN, OK, DENIED, OK, OK],
    },
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/JoinRaft",
        call: |channel, _| {
            let request = JoinRaftRequest {
                address: "127.0.0.1:9".to_owned(),
                request_id: request_id(),
                replaces: 2,
            };
            async move { authority(channel).join_raft(request).await.map(drop) }.boxed()
        },
        answers: [UNKNOWN, DENIED, DENIED, DENIED, OK],
    },
    // A node withdraws itself alone: one that never came, and has no place in the Raft group.
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/Withdraw",
        call: |channel, _| {
            async move { authority(channel).withdraw(WithdrawRequest {}).await.map(drop) }.boxed()
        },
        answers: [UNKNOWN, OK, REFUSED, OK, REFUSED],
    },
    Row {
        rpc: "muster.ca.v1.CertificateAuthority/LeaveRaft",
        call: |channel, _| {
            async move { authority(channel).leave_raft(LeaveRaftRequest {}).await.map(drop) }.boxed()
        },
        answers: [UNKNOWN, DENIED, DENIED, DENIED, OK],
    },
    Row {
        rpc: "muster.control.v1.Control/Write",
        call: |channel, _| {
            let id = NetworkId::from_u128(1);
            write(channel, ControlRequest::RemoveNetwork { id })
        },
        answers: [UNKNOWN, DENIED, DENIED, DENIED, OK],
    },
    Row {
        rpc: "muster.control.v1.Control/Write",
        call: |channel, own| write(channel, about(own.node)),
        answers: [UNKNOWN, OK, DENIED, OK, OK],
    },
    Row {
        rpc: "muster.control.v1.Control/Write",
        call: |channel, _| write(channel, about(node(1))),
        answers: [UNKNOWN, DENIED, DENIED, DENIED, OK],
    },
    Row {
        rpc: "muster.dispatcher.v1.Dispatcher/Session",
        call: |channel, _| {
            let description = pack(&NodeDescription::default()).unwrap();
            let hello = AgentMessage {
                message: Some(Message::Hello(Hello { description })),
            };
            let hello = tokio_stream::iter([hello]);
            async move { DispatcherClient::new(channel).session(hello).await.map(drop) }.boxed()
        },
        answers: [UNKNOWN, OK, DENIED, OK, OK],
    },
    Row {
        rpc: "muster.dispatcher.v1.Dispatcher/Heartbeat",
        call: |channel, own| heartbeat(channel, own.node),
        answers: [UNKNOWN, OK, DENIED, OK, OK],
    },
    Row {
        rpc: "muster.dispatcher.v1.Dispatcher/Heartbeat",
        call: |channel, _| heartbeat(channel, node(1)),
        answers: [UNKNOWN, DENIED, DENIED, DENIED, OK],
    },
    Row {
        rpc: "muster.raft.v1.Raft/Exchange",
        call: |channel, _| exchange(channel, 2),
        answers: [UNKNOWN, DENIED, DENIED, DENIED, OK],
    },
    Row {
        rpc: "muster.raft.v1.Raft/Exchange",
        call: |channel, _| exchange(channel, 1),
        answers: [UNKNOWN, DENIED, DENIED, DENIED, DENIED],
    },
    Row {
        rpc: "muster.raft.v1.Raft/SnapshotChunk",
        call: |channel, _| {
            let id = SnapshotId {
                index: 1,
                term: 1,
                digest: [0; 32],
            };
            let request = ChunkRequest {
                snapshot: id.encode().into(),
                offset: 0,
                to: 1,
            };
            async move { RaftClient::new(channel).snapshot_chunk(request).await.map(drop) }.boxed()
        },
        answers: [UNKNOWN, DENIED, DENIED, DENIED, Code::NotFound],
    },
];

fn authority(channel: Channel) -> CertificateAuthorityClient<Channel> {
    CertificateAuthorityClient::new(channel)
}

fn request_id() -> bytes::Bytes {
    rand::random::<u128>().to_be_bytes().to_vec().into()
}

fn issue(channel: Channel, token: JoinToken) -> BoxFuture<'static, Result<(), Status>> {
    let request = IssueRequest {
        token: token.to_string(),
        request_pem: key_and_request().unwrap().request_pem,
        request_id: request_id(),
        availability: String::new(),
    };
    async move { authority(channel).issue(request).await.map(drop) }.boxed()
}

fn write(channel: Channel, request: ControlRequest) -> BoxFuture<'static, Result<(), Status>> {
    let request = WriteRequest {
        request_id: request_id(),
        request: pack(&request).unwrap(),
    };
    async move { ControlClient::new(channel).write(request).await.map(drop) }.boxed()
}

/// A write about one node, which it may ask for itself.
fn about(node: NodeId) -> ControlRequest {
    ControlRequest::FindNetwork {
        node,
        reference: "net".to_owned(),
    }
}

fn heartbeat(channel: Channel, node: NodeId) -> BoxFuture<'static, Result<(), Status>> {
    let request = HeartbeatRequest {
        session: vec![0; 16].into(),
        node: node.to_string(),
    };
    async move { DispatcherClient::new(channel).heartbeat(request).await.map(drop) }.boxed()
}

/// Speaks for a Raft id.
fn exchange(channel: Channel, from: u64) -> BoxFuture<'static, Result<(), Status>> {
    let batches = tokio_stream::iter([Batch {
        from,
        to: 1,
        messages: Vec::new(),
        address: String::new(),
    }]);
    async move { RaftClient::new(channel).exchange(batches).await.map(drop) }.boxed()
}

/// What a row is answered, in a cluster of its own: some calls change the caller's record.
async fn assert_answered(row: &Row) {
    for (caller, expected) in CALLERS.into_iter().zip(row.answers) {
        let served = Served::start().await;
        let own = Own {
            node: caller.node(),
            token: served.token(),
        };
        let call = (row.call)(served.channel(caller), own);
        let answer = tokio::time::timeout(LIMIT, call).await.expect("an answer");
        let code = answer.as_ref().map_or_else(Status::code, |()| Code::Ok);
        assert_eq!(code, expected, "{} by {caller:?}: {answer:?}", row.rpc);
        served.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_asks_the_certificate_and_the_record() {
    futures::future::join_all(ROWS.iter().map(assert_answered)).await;
}

#[test]
fn every_rpc_of_a_controller_has_a_row() {
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.rpc.to_owned()).collect();
    let served = rpcs_of_the_protos().into_iter();
    // What every node serves is tested beside it.
    let served = served.filter(|rpc| !rpc.starts_with("muster.node.v1.Node/"));
    assert_eq!(rows, served.collect());
}

/// `package.Service/Rpc` of every proto.
fn rpcs_of_the_protos() -> BTreeSet<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/proto");
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let (mut package, mut service) = ("", "");
        for line in text.lines() {
            let mut words = line.split([' ', '(', ';']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("package"), Some(name)) => package = name,
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(name)) => assert!(found.insert(format!("{package}.{service}/{name}"))),
                _ => {}
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demotion_takes_the_rights_of_a_connection_that_stands() {
    let served = Served::start().await;
    let channel = served.channel(Caller::Controller);
    let allowed = write(channel.clone(), about(node(1)));
    allowed.await.expect("a controller asks about any node");
    authority(channel.clone())
        .leave_raft(LeaveRaftRequest {})
        .await
        .expect("it is demoted");
    let denied = write(channel, about(node(1))).await.unwrap_err();
    assert_eq!(denied.code(), DENIED, "{denied}");
    served.stop().await;
}
