//! The cluster server: every service that this node offers to the others, behind mutual TLS.

use super::service::PeerService;
use anyhow::Context;
use muster_agent::agent::AgentView;
use muster_controller::shell::ControllerSlot;
use muster_controller::shell::services::{
    CertificateService, ControlService, DispatcherService, RaftService,
};
use muster_proto::ca::certificate_authority_server::CertificateAuthorityServer;
use muster_proto::control::control_server::ControlServer;
use muster_proto::dispatcher::dispatcher_server::DispatcherServer;
use muster_proto::node::node_server::NodeServer;
use muster_proto::raft::raft_server::RaftServer;
use muster_proto::transport::{NodeCertificate, accept_tls};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;

/// Largest request: a batch of Raft messages with one entry of the largest size.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// A peer that vanished without a reset is noticed within twice of this.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// A server that runs.
pub struct ClusterServer {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Binds and serves.
pub fn serve(
    listen: SocketAddr,
    certificate: &Arc<NodeCertificate>,
    controller: ControllerSlot,
    peers: PeerService,
    view: watch::Receiver<AgentView>,
) -> anyhow::Result<ClusterServer> {
    let listener = bind(listen).with_context(|| format!("cannot listen on {listen} for other nodes"))?;
    let (accept, connections) = accept_tls(listener, certificate.server_config()?);
    let dispatcher = DispatcherService {
        controller: controller.clone(),
        known: Box::new(move || view.borrow().controllers.clone()),
    };
    let (stop, mut stopped) = watch::channel(false);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(
            RaftServer::new(RaftService(controller.clone())).max_decoding_message_size(REQUEST_BYTES_MAX),
        )
        .add_service(
            ControlServer::new(ControlService(controller.clone()))
                .max_decoding_message_size(REQUEST_BYTES_MAX),
        )
        .add_service(
            DispatcherServer::new(dispatcher)
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .max_encoding_message_size(muster_proto::pack::PACKED_BYTES_MAX),
        )
        .add_service(CertificateAuthorityServer::new(CertificateService(controller)))
        .add_service(NodeServer::new(peers));
    let task = tokio::spawn(async move {
        tokio::select! {
            served = server.serve_with_incoming(connections) => {
                if let Err(error) = served {
                    tracing::error!(error = &error as &dyn std::error::Error, "the cluster server ended");
                }
            }
            () = accept => {}
            // Open streams (Raft, sessions) never end by themselves; peers connect again elsewhere.
            _ = stopped.changed() => {}
        }
    });
    Ok(ClusterServer { stop, task })
}

fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if listen.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(1024)
}

impl ClusterServer {
    /// Stops listening and drops all connections.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the cluster server panicked");
        }
    }
}
