//! Who may call what of [`PeerService`], over mutual TLS: every RPC with every kind of caller.

use super::service::{PeerService, TaskLogs};
use super::spread::Spread;
use futures::FutureExt;
use futures::future::BoxFuture;
use muster_agent::agent::AgentView;
use muster_controller::authority::{Subject, issue, key_and_request, make_root};
use muster_engine_api::backend::{LogOptions, LogSession};
use muster_images::ImageStore;
use muster_proto::node::node_client::NodeClient;
use muster_proto::node::node_server::NodeServer;
use muster_proto::node::{
    FetchBlobRequest, FindBlobRequest, FindImageRequest, RepositoryChangesRequest, TaskLogsRequest,
};
use muster_proto::transport::{Dialer, NodeCertificate, accept_tls};
use muster_types::{ClusterId, NodeId, NodeRole, RootCa, TaskId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(60);
const OWN: u128 = 1;
const WORKER: u128 = 2;
const CONTROLLER: u128 = 3;
/// Its certificate is a controller's, and the controllers name it no more among theirs.
const DEMOTED: u128 = 4;
/// The controllers name it no more at all.
const REMOVED: u128 = 5;

/// No task has a container here.
struct NoLogs;

impl TaskLogs for NoLogs {
    fn read(&self, _: TaskId, _: LogOptions) -> BoxFuture<'_, Result<LogSession, Status>> {
        async { Err(Status::not_found("no container")) }.boxed()
    }
}

type Call = fn(Channel) -> BoxFuture<'static, Result<(), Status>>;

/// An RPC, and what it is answered to nobody, the worker, the controller, the demoted and the removed node.
const ROWS: [(&str, Call, [Code; 5]); 5] = [
    (
        "FindImage",
        |channel| {
            let request = FindImageRequest {
                reference: "nothing".to_owned(),
                ..FindImageRequest::default()
            };
            async move { NodeClient::new(channel).find_image(request).await.map(drop) }.boxed()
        },
        [
            Code::Unauthenticated,
            Code::Ok,
            Code::Ok,
            Code::Ok,
            Code::PermissionDenied,
        ],
    ),
    (
        "FindBlob",
        |channel| {
            let digest = digest();
            async move {
                NodeClient::new(channel)
                    .find_blob(FindBlobRequest { digest })
                    .await
                    .map(drop)
            }
            .boxed()
        },
        [
            Code::Unauthenticated,
            Code::Ok,
            Code::Ok,
            Code::Ok,
            Code::PermissionDenied,
        ],
    ),
    (
        "FetchBlob",
        |channel| {
            let (digest, offset) = (digest(), 0);
            let request = FetchBlobRequest { digest, offset };
            async move { NodeClient::new(channel).fetch_blob(request).await.map(drop) }.boxed()
        },
        [
            Code::Unauthenticated,
            Code::NotFound,
            Code::NotFound,
            Code::NotFound,
            Code::PermissionDenied,
        ],
    ),
    (
        "RepositoryChanges",
        |channel| {
            let request = RepositoryChangesRequest::default();
            async move {
                NodeClient::new(channel)
                    .repository_changes(request)
                    .await
                    .map(drop)
            }
            .boxed()
        },
        [
            Code::Unauthenticated,
            Code::Ok,
            Code::Ok,
            Code::Ok,
            Code::PermissionDenied,
        ],
    ),
    (
        "TaskLogs",
        |channel| {
            let request = TaskLogsRequest {
                task: TaskId::from_u128(1).to_string(),
                ..TaskLogsRequest::default()
            };
            async move { NodeClient::new(channel).task_logs(request).await.map(drop) }.boxed()
        },
        [
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::NotFound,
            Code::PermissionDenied,
            Code::PermissionDenied,
        ],
    ),
];

fn digest() -> String {
    format!("sha256:{}", "0".repeat(64))
}

fn certificate(root: &RootCa, number: u128, role: NodeRole) -> Arc<NodeCertificate> {
    let (pair, now) = (key_and_request().unwrap(), OffsetDateTime::now_utc());
    let subject = Subject {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(number),
        role,
        as_of: 0,
    };
    let hour = Duration::from_secs(3600);
    let pem = issue(root, &pair.request_pem, subject, hour, now).unwrap();
    NodeCertificate::new(&root.certificate_pem, &pem, &pair.key_pem).unwrap()
}

/// What the controllers told this node of the others.
fn view() -> AgentView {
    let address = |number: u128| format!("10.0.0.{number}:2377");
    AgentView {
        controllers: vec![address(CONTROLLER)],
        peers: [OWN, WORKER, CONTROLLER, DEMOTED]
            .map(|number| (NodeId::from_u128(number), address(number)))
            .to_vec(),
        ..AgentView::default()
    }
}

#[tokio::test]
async fn every_rpc_asks_the_certificate_and_what_the_controllers_told() {
    let directory = tempfile::tempdir().unwrap();
    let images = ImageStore::open(directory.path()).unwrap();
    let root = make_root(OffsetDateTime::now_utc()).unwrap();
    let own = certificate(&root, OWN, NodeRole::Worker);
    let peers = PeerService::new(images.clone(), Arc::new(NoLogs), Spread::new(images));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (accept, connections) = accept_tls(listener, own.server_config().unwrap());
    let serving = Server::builder().add_service(NodeServer::new(peers.clone()));
    let serving = tokio::spawn(async move {
        tokio::select! {
            served = serving.serve_with_incoming(connections) => served.unwrap(),
            () = accept => {}
        }
    });
    let dialers = [
        Dialer::anonymous(&root.certificate_pem).unwrap(),
        Dialer::new(&certificate(&root, WORKER, NodeRole::Worker)).unwrap(),
        Dialer::new(&certificate(&root, CONTROLLER, NodeRole::Controller)).unwrap(),
        Dialer::new(&certificate(&root, DEMOTED, NodeRole::Controller)).unwrap(),
        Dialer::new(&certificate(&root, REMOVED, NodeRole::Controller)).unwrap(),
    ];
    let ask = async |call: Call, dialer: &Dialer| {
        let answer = tokio::time::timeout(LIMIT, call(dialer.node(&address))).await;
        answer
            .expect("an answer")
            .map_or_else(|status| status.code(), |()| Code::Ok)
    };
    for (rpc, call, _) in ROWS {
        assert_eq!(
            ask(call, &dialers[1]).await,
            Code::Unavailable,
            "{rpc}: it is in no cluster"
        );
    }
    let (_told, view) = watch::channel(view());
    peers.enter_cluster(own.identity(), Dialer::new(&own).unwrap(), view);
    for (rpc, call, answers) in ROWS {
        for (caller, (dialer, expected)) in dialers.iter().zip(answers).enumerate() {
            assert_eq!(ask(call, dialer).await, expected, "{rpc}, caller {caller}");
        }
    }
    peers.leave_cluster();
    for (rpc, call, _) in ROWS {
        assert_eq!(
            ask(call, &dialers[1]).await,
            Code::Unavailable,
            "{rpc}: it has left"
        );
    }
    serving.abort();
}

#[test]
fn every_rpc_has_a_row() {
    let proto = include_str!("../../proto/proto/node.proto");
    let rpcs = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
    let rpcs: BTreeSet<&str> = rpcs.filter_map(|line| line.split('(').next()).collect();
    assert_eq!(rpcs, ROWS.iter().map(|(rpc, ..)| *rpc).collect());
}
