//! Heartbeats on a thread of their own, so that nothing that the daemon does delays them.

use crate::session::LiveSession;
use muster_proto::dispatcher::HeartbeatRequest;
use muster_proto::dispatcher::dispatcher_client::DispatcherClient;
use muster_proto::transport::Dialer;
use muster_types::NodeId;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

/// What the thread reads: the live session, and every controller that may pass a heartbeat on.
#[derive(Debug, Clone, Default)]
pub struct HeartbeatTarget {
    /// The live session.
    pub session: Option<LiveSession>,
    /// Addresses of all controllers.
    pub controllers: Vec<String>,
}

/// Renews the lease of the live session every period until the sender of `target` is dropped. A session that the leader
/// does not know is told by `refused`.
pub fn spawn(
    node: NodeId,
    dialer: Dialer,
    target: watch::Receiver<HeartbeatTarget>,
    refused: Arc<Notify>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(beat(node, dialer, target, refused)),
                Err(error) => tracing::error!(error = %error, "cannot run heartbeats"),
            }
        })
}

async fn beat(
    node: NodeId,
    dialer: Dialer,
    mut target: watch::Receiver<HeartbeatTarget>,
    refused: Arc<Notify>,
) {
    let mut channels: BTreeMap<String, Channel> = BTreeMap::new();
    loop {
        let now = target.borrow_and_update().clone();
        let wait = match &now.session {
            None => Duration::MAX,
            Some(session) => {
                let began = tokio::time::Instant::now();
                let accepted = renew(node, session, &now.controllers, &dialer, &mut channels).await;
                if accepted == Some(false) {
                    refused.notify_one();
                }
                session.heartbeat_period.saturating_sub(began.elapsed())
            }
        };
        channels.retain(|address, _| now.controllers.contains(address));
        tokio::select! {
            changed = target.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait.min(Duration::from_secs(3600))) => {}
        }
    }
}

/// Asks the session's own controller first, then the others, until one answers; `None` when none did.
async fn renew(
    node: NodeId,
    session: &LiveSession,
    controllers: &[String],
    dialer: &Dialer,
    channels: &mut BTreeMap<String, Channel>,
) -> Option<bool> {
    let others = controllers
        .iter()
        .filter(|address| **address != session.controller);
    for address in std::iter::once(&session.controller).chain(others) {
        let channel = channels
            .entry(address.clone())
            .or_insert_with(|| dialer.controller(address))
            .clone();
        let request = HeartbeatRequest {
            session: session.id.as_u128().to_be_bytes().to_vec().into(),
            node: node.to_string(),
        };
        // Within a period the leader must have heard of it through somebody, or a new one must be found.
        let within = session.heartbeat_period / 4;
        let mut client = DispatcherClient::new(channel);
        match tokio::time::timeout(within, client.heartbeat(request)).await {
            Ok(Ok(reply)) => return Some(reply.into_inner().accepted),
            Ok(Err(error)) => tracing::debug!(address, error = %error, "a heartbeat was not taken"),
            Err(_) => tracing::debug!(address, "a heartbeat was not answered in time"),
        }
    }
    None
}
