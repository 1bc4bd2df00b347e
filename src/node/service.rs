//! What this node offers to the others: blobs of its images, and the logs of its tasks.

use super::registry;
use super::spread::Spread;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use muster_agent::agent::AgentView;
use muster_engine_api::backend::{
    BackendError, ContainerFilterHint, LocalEngine, LogOptions, LogSession, StreamKind,
};
use muster_images::{Digest, ImagePlatform, ImageStore, Reference};
use muster_proto::node::node_server::Node;
use muster_proto::node::{
    BlobPiece, FetchBlobRequest, FindBlobReply, FindBlobRequest, FindImageReply, FindImageRequest, LogRecord,
    RepositoryChangesReply, RepositoryChangesRequest, TaskLogsRequest,
};
use muster_proto::transport::{Dialer, Identity, PeerIdentity};
use muster_types::{ClusterId, NodeRole, TaskId, Timestamp};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Where the logs of this node's tasks are read.
pub trait TaskLogs: Send + Sync {
    /// The log of the task's container; `NotFound` when there is none here.
    fn read(&self, task: TaskId, options: LogOptions) -> BoxFuture<'_, Result<LogSession, Status>>;
}

impl TaskLogs for Arc<dyn LocalEngine> {
    fn read(&self, task: TaskId, options: LogOptions) -> BoxFuture<'_, Result<LogSession, Status>> {
        async move {
            let internal = |error: BackendError| Status::internal(error.message);
            let containers = self.container_list(ContainerFilterHint::default()).await;
            let containers = containers.map_err(internal)?;
            let found = containers.iter().find(|info| info.config.task == Some(task));
            let found =
                found.ok_or_else(|| Status::not_found(format!("no container of task {task} is here")))?;
            let session = self.container_logs(&found.id.to_string(), options).await;
            session.map_err(internal)
        }
        .boxed()
    }
}

/// Whom the service is for: this node's own identity, and the nodes that the controllers name.
type Served = (Identity, watch::Receiver<AgentView>);

/// The node service. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    images: ImageStore,
    logs: Arc<dyn TaskLogs>,
    cluster: Arc<RwLock<Option<Served>>>,
    spread: Spread,
}

impl PeerService {
    /// Serves these images and containers' logs.
    pub fn new(images: ImageStore, logs: Arc<dyn TaskLogs>, spread: Spread) -> Self {
        Self {
            images,
            logs,
            cluster: Arc::default(),
            spread,
        }
    }

    /// From now on nodes of this cluster are served, and asked for blobs.
    pub fn enter_cluster(&self, own: Identity, dialer: Dialer, view: watch::Receiver<AgentView>) {
        self.spread.enter_cluster(own.node, dialer, view.clone());
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Some((own, view));
    }

    /// From now on nobody is served or asked.
    pub fn leave_cluster(&self) {
        self.spread.leave_cluster();
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
        let request = request.into_inner();
        let images = self.images.clone();
        let found = tokio::task::spawn_blocking(move || {
            let platform = (!request.os.is_empty()).then(|| ImagePlatform {
                os: request.os,
                architecture: request.architecture,
                variant: Some(request.variant).filter(|variant| !variant.is_empty()),
            });
            let known = images.known_image(&request.reference, platform.as_ref())?;
            let (index_digest, index) = known.index.unzip();
            Ok::<_, muster_images::Error>(FindImageReply {
                manifest_digest: known.manifest.to_string(),
                manifest: known.document.into(),
                references: known.references.iter().map(Reference::familiar).collect(),
                index_digest: index_digest.map(|digest| digest.to_string()).unwrap_or_default(),
                index: index.unwrap_or_default().into(),
            })
        });
        match found.await {
            Ok(Ok(reply)) => Ok(Response::new(reply)),
            Ok(Err(_)) => Ok(Response::new(FindImageReply::default())),
            Err(_) => Err(Status::internal("the image store failed")),
        }
    }

    async fn find_blob(&self, request: Request<FindBlobRequest>) -> Result<Response<FindBlobReply>, Status> {
        self.authorize(&request, NodeRole::Worker)?;
        let digest = digest_of(&request.into_inner().digest)?;
        let spread = self.spread.clone();
        let found = tokio::task::spawn_blocking(move || spread.find_blob(&digest)).await;
        let found = found.map_err(|_| Status::internal("the image store failed"))?;
        Ok(Response::new(found?))
    }

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        self.authorize(&request, NodeRole::Worker)?;
        let request = request.into_inner();
        let digest = digest_of(&request.digest)?;
        let pieces = self.spread.serve_blob(digest, request.offset).await?;
        Ok(Response::new(pieces))
    }

    async fn repository_changes(
        &self,
        request: Request<RepositoryChangesRequest>,
    ) -> Result<Response<RepositoryChangesReply>, Status> {
        self.authorize(&request, NodeRole::Worker)?;
        registry::changes(&self.images, request.into_inner()).await
    }

    async fn task_logs(
        &self,
        request: Request<TaskLogsRequest>,
    ) -> Result<Response<Self::TaskLogsStream>, Status> {
        self.authorize(&request, NodeRole::Controller)?;
        let request = request.into_inner();
        let task = request.task.parse();
        let task = task.map_err(|_| Status::invalid_argument("a malformed task id"))?;
        let bound = |nanoseconds: i64| (nanoseconds != 0).then_some(Timestamp(nanoseconds));
        let options = LogOptions {
            stdout: request.stdout,
            stderr: request.stderr,
            follow: request.follow,
            since: bound(request.since),
            until: bound(request.until),
            tail: u64::try_from(request.tail).ok(),
        };
        let session = self.logs.read(task, options).await?;
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

fn digest_of(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument("a malformed digest"))
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
