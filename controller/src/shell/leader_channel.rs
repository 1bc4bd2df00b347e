//! The connection to the controller that leads, shared by everything that is passed on to it.

use muster_proto::transport::Dialer;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tonic::transport::Channel;

/// At most one connection, to the leader that was asked last.
pub(super) struct LeaderChannel {
    dialer: Dialer,
    current: Mutex<Option<(String, Channel)>>,
}

impl LeaderChannel {
    /// Not connected yet.
    pub(super) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            current: Mutex::new(None),
        }
    }

    /// The connection to the leader at this address; one to another address is given up.
    pub(super) fn to(&self, address: &str) -> Channel {
        let mut current = self.lock();
        match &*current {
            Some((known, channel)) if known == address => channel.clone(),
            Some(_) | None => {
                let channel = self.dialer.controller(address);
                *current = Some((address.to_owned(), channel.clone()));
                channel
            }
        }
    }

    /// Gives the connection up unless the leader is still at its address: it failed, or another controller leads.
    pub(super) fn keep_only(&self, leader: Option<&str>) {
        let mut current = self.lock();
        if current
            .as_ref()
            .is_some_and(|(known, _)| Some(known.as_str()) != leader)
        {
            *current = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, Channel)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Subject, issue, key_and_request, make_root};
    use crate::control::{ControlError, ControlReply, ControlRequest};
    use crate::core::io::{Input, Members};
    use crate::sample::{CLUSTER, node};
    use crate::shell::handle::{ControllerHandle, Responder, Shared};
    use arc_swap::ArcSwap;
    use muster_proto::control::control_server::{Control, ControlServer};
    use muster_proto::control::{WriteReply, WriteRequest};
    use muster_proto::pack::pack;
    use muster_proto::transport::{NodeCertificate, accept_tls};
    use muster_types::{NodeRole, RaftId, RequestId, ServiceId};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::net::TcpListener;
    use tokio::sync::{broadcast, mpsc, watch};
    use tokio_stream::StreamExt;
    use tonic::{Request, Response, Status};

    /// A leader that carries out every write.
    struct Done;

    #[tonic::async_trait]
    impl Control for Done {
        async fn write(&self, _: Request<WriteRequest>) -> Result<Response<WriteReply>, Status> {
            let result = pack(&Ok::<_, ControlError>(ControlReply::Done)).unwrap();
            Ok(Response::new(WriteReply { result }))
        }
    }

    fn certificate() -> Arc<NodeCertificate> {
        let now = time::OffsetDateTime::now_utc();
        let (root, pair) = (make_root(now).unwrap(), key_and_request().unwrap());
        let subject = Subject {
            cluster: CLUSTER,
            node: node(1),
            role: NodeRole::Controller,
            as_of: 0,
        };
        let day = Duration::from_secs(86_400);
        let pem = issue(&root, &pair.request_pem, subject, day, now).unwrap();
        NodeCertificate::new(&root.certificate_pem, &pem, &pair.key_pem).unwrap()
    }

    /// Serves a leader and counts its connections.
    async fn serve(certificate: &Arc<NodeCertificate>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accept, connections) = accept_tls(listener, certificate.server_config().unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let counted = connections.map(move |connection| {
            counter.fetch_add(1, Ordering::SeqCst);
            connection
        });
        let server = tonic::transport::Server::builder().add_service(ControlServer::new(Done));
        tokio::spawn(accept);
        tokio::spawn(server.serve_with_incoming(counted));
        (address, count)
    }

    /// A controller that does not lead; the sender changes who it says does.
    fn follower(dialer: Dialer, leader: &str) -> (ControllerHandle, watch::Sender<String>) {
        let (inputs, mut received) = mpsc::channel(1);
        let handle = ControllerHandle(Arc::new(Shared {
            inputs,
            responders: Mutex::default(),
            sessions: Mutex::default(),
            tokens: AtomicU64::new(1),
            members: watch::channel(Members::default()).1,
            removed: watch::channel(false).1,
            state: ArcSwap::default(),
            changes: broadcast::channel(1).0,
            leader_channel: LeaderChannel::new(dialer.clone()),
            dialer,
            own: RaftId(1),
        }));
        let (leader, told) = watch::channel(leader.to_owned());
        let answering = handle.clone();
        tokio::spawn(async move {
            while let Some(input) = received.recv().await {
                let Input::Write { token, .. } = input else {
                    continue;
                };
                let leader = Some(told.borrow().clone());
                if let Some(Responder::Write(waiting)) = answering.take_responder(token) {
                    let _ = waiting.send(Err(ControlError::NotLeader { leader }));
                }
            }
        });
        (handle, leader)
    }

    #[tokio::test]
    async fn forwarded_writes_share_one_connection_to_each_leader() {
        let certificate = certificate();
        let (first, to_first) = serve(&certificate).await;
        let (second, to_second) = serve(&certificate).await;
        let (handle, leader) = follower(Dialer::new(&certificate).unwrap(), &first);
        let write = || {
            let id = ServiceId::from_u128(1);
            handle.write(RequestId::from_u128(1), ControlRequest::RemoveService { id })
        };
        for _ in 0..5 {
            assert_eq!(write().await, Ok(ControlReply::Done));
        }
        assert_eq!(to_first.load(Ordering::SeqCst), 1);
        leader.send_replace(second);
        for _ in 0..5 {
            assert_eq!(write().await, Ok(ControlReply::Done));
        }
        assert_eq!(to_second.load(Ordering::SeqCst), 1);
        leader.send_replace(first);
        assert_eq!(write().await, Ok(ControlReply::Done));
        assert_eq!(to_first.load(Ordering::SeqCst), 2, "the old connection was kept");
    }
}
