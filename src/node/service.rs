//! What this node offers to the others: blobs of its images, and the logs of its tasks.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use muster_agent::agent::AgentView;
use muster_engine_api::backend::{ContainerFilterHint, LocalEngine, LogOptions, StreamKind};
use muster_images::{Digest, ImageStore, Reference};
use muster_proto::node::node_server::Node;
use muster_proto::node::{
    BlobPiece, FetchBlobRequest, FindImageReply, FindImageRequest, LogRecord, TaskLogsRequest,
};
use muster_proto::transport::{Identity, PeerIdentity};
use muster_types::{ClusterId, NodeRole, TaskId, Timestamp};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Bytes of one piece of a blob.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces on their way to one peer.
const PIECES_IN_FLIGHT: usize = 8;
/// Blobs served at once; more wait, so that a rollout does not starve the node's own containers of disk.
const BLOBS_AT_ONCE: usize = 8;

/// Whom the service is for: this node's own identity, and the nodes that the controllers name.
type Served = (Identity, watch::Receiver<AgentView>);

/// The node service. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    images: ImageStore,
    engine: Arc<dyn LocalEngine>,
    cluster: Arc<RwLock<Option<Served>>>,
    blobs: Arc<Semaphore>,
}

impl PeerService {
    /// Serves these images and containers' logs.
    pub fn new(images: ImageStore, engine: Arc<dyn LocalEngine>) -> Self {
        Self {
            images,
            engine,
            cluster: Arc::default(),
            blobs: Arc::new(Semaphore::new(BLOBS_AT_ONCE)),
        }
    }

    /// From now on nodes of this cluster are served.
    pub fn enter_cluster(&self, own: Identity, view: watch::Receiver<AgentView>) {
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Some((own, view));
    }

    /// From now on nobody is served.
    pub fn leave_cluster(&self) {
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The caller must be a node that the controllers named; logs are for controllers only.
    fn authorize<T>(&self, request: &Request<T>, need: NodeRole) -> Result<(), Status> {
        let info = request.extensions().get::<(PeerIdentity, Option<SocketAddr>)>();
        let peer = info.and_then(|(peer, _)| peer.0);
        let peer = peer.ok_or_else(|| Status::unauthenticated("a node certificate is required"))?;
        let cluster = self.cluster.read().unwrap_or_else(PoisonError::into_inner);
        let (own, view) = cluster
            .as_ref()
            .ok_or_else(|| Status::unavailable("this node is in no cluster"))?;
        let view = view.borrow();
        if !may_call(peer, own.cluster, &view, need) {
            return Err(Status::permission_denied(
                "the caller's certificate or its node record does not allow this",
            ));
        }
        Ok(())
    }

    async fn task_container(&self, task: &str) -> Result<String, Status> {
        let containers = self.engine.container_list(ContainerFilterHint::default()).await;
        let containers = containers.map_err(|error| Status::internal(error.message))?;
        let wanted: TaskId = task
            .parse()
            .map_err(|_| Status::invalid_argument("a malformed task id"))?;
        let found = containers.iter().find(|info| info.config.task == Some(wanted));
        let found = found.ok_or_else(|| Status::not_found(format!("no container of task {task} is here")))?;
        Ok(found.id.to_string())
    }
}

/// The certificate names the caller; what the controllers last told of it says what it may do. A controller is one by
/// its certificate and among the controllers' addresses: a demoted one is soon no longer.
fn may_call(peer: Identity, cluster: ClusterId, view: &AgentView, need: NodeRole) -> bool {
    let address = view
        .peers
        .iter()
        .find(|(node, _)| *node == peer.node)
        .map(|(_, address)| address);
    let Some(address) = address.filter(|_| peer.cluster == cluster) else {
        return false;
    };
    match need {
        NodeRole::Worker => true,
        NodeRole::Controller => peer.role == NodeRole::Controller && view.controllers.contains(address),
    }
}

#[tonic::async_trait]
impl Node for PeerService {
    type FetchBlobStream = ReceiverStream<Result<BlobPiece, Status>>;
    type TaskLogsStream = BoxStream<'static, Result<LogRecord, Status>>;

    async fn find_image(
        &self,
        request: Request<FindImageRequest>,
    ) -> Result<Response<FindImageReply>, Status> {
        self.authorize(&request, NodeRole::Worker)?;
        let reference = request.into_inner().reference;
        let images = self.images.clone();
        let found = tokio::task::spawn_blocking(move || {
            let image = images.resolve(&reference)?;
            let (digest, manifest) = images.manifest(&reference)?;
            let mut references = image.repo_tags;
            // By the digest that was asked for, it is known there, too.
            let asked = Reference::parse(&reference).ok();
            let by_digest = asked.filter(|asked| asked.digest() == Some(digest));
            references.extend(by_digest.map(|asked| asked.at_digest(digest).familiar()));
            Ok::<_, muster_images::Error>(FindImageReply {
                manifest_digest: digest.to_string(),
                manifest: manifest.into(),
                references,
            })
        });
        match found.await {
            Ok(Ok(reply)) => Ok(Response::new(reply)),
            Ok(Err(_)) => Ok(Response::new(FindImageReply::default())),
            Err(_) => Err(Status::internal("the image store failed")),
        }
    }

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        self.authorize(&request, NodeRole::Worker)?;
        let request = request.into_inner();
        let digest: Digest = request
            .digest
            .parse()
            .map_err(|_| Status::invalid_argument("a malformed digest"))?;
        let slot = self
            .blobs
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let mut file = self
            .images
            .open_blob(&digest)
            .map_err(|error| Status::not_found(error.to_string()))?;
        file.seek(SeekFrom::Start(request.offset))
            .map_err(|error| Status::internal(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            loop {
                let piece = read_piece(&mut file);
                let last = !matches!(&piece, Ok(data) if !data.is_empty());
                let message = match piece {
                    Ok(data) if data.is_empty() => break,
                    Ok(data) => Ok(BlobPiece { data }),
                    Err(error) => Err(Status::internal(error.to_string())),
                };
                if sender.blocking_send(message).is_err() || last {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn task_logs(
        &self,
        request: Request<TaskLogsRequest>,
    ) -> Result<Response<Self::TaskLogsStream>, Status> {
        self.authorize(&request, NodeRole::Controller)?;
        let request = request.into_inner();
        let container = self.task_container(&request.task).await?;
        let bound = |nanoseconds: i64| (nanoseconds != 0).then_some(Timestamp(nanoseconds));
        let options = LogOptions {
            stdout: request.stdout,
            stderr: request.stderr,
            follow: request.follow,
            since: bound(request.since),
            until: bound(request.until),
            tail: u64::try_from(request.tail).ok(),
        };
        let session = self.engine.container_logs(&container, options).await;
        let session = session.map_err(|error| Status::internal(error.message))?;
        let records = session.entries.map(|entry| match entry {
            Ok(entry) => Ok(LogRecord {
                stderr: entry.stream == StreamKind::Stderr,
                at: entry.at.unix_ns(),
                line: entry.data,
            }),
            Err(error) => Err(Status::internal(error.message)),
        });
        Ok(Response::new(records.boxed()))
    }
}

fn read_piece(file: &mut std::fs::File) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(PIECE_BYTES);
    let mut length = 0;
    while length < PIECE_BYTES {
        match file.read(&mut piece[length..])? {
            0 => break,
            count => length += count,
        }
    }
    piece.truncate(length);
    Ok(piece.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::NodeId;

    #[test]
    fn a_node_is_served_by_what_the_controllers_say_of_it() {
        let cluster = ClusterId::from_u128(1);
        let node = NodeId::from_u128;
        let view = AgentView {
            controllers: vec!["10.0.0.1:2377".to_owned()],
            peers: vec![
                (node(1), "10.0.0.1:2377".to_owned()),
                (node(2), "10.0.0.2:2377".to_owned()),
            ],
            ..AgentView::default()
        };
        let caller = |number, role| Identity {
            cluster,
            node: node(number),
            role,
            as_of: 0,
        };
        let may = |number, role, need| may_call(caller(number, role), cluster, &view, need);
        use NodeRole::{Controller, Worker};
        assert!(may(1, Controller, Controller));
        assert!(may(2, Worker, Worker));
        assert!(!may(2, Controller, Controller), "it was demoted");
        assert!(!may(1, Worker, Controller), "its certificate is a worker's");
        assert!(!may(3, Controller, Worker), "it was removed");
        let foreign = caller(1, Controller);
        assert!(!may_call(foreign, ClusterId::from_u128(2), &view, Worker));
    }
}
