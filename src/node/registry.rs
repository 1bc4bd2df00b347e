//! The registry in the box across the cluster: changes of repositories and blobs, from node to node.

use super::NodeHost;
use super::member::Member;
use async_trait::async_trait;
use futures::StreamExt;
use muster_images::repository::{Change, Changes, Cursor};
use muster_images::{Digest, ImageStore};
use muster_proto::node::node_client::NodeClient;
use muster_proto::node::{
    FetchBlobRequest, FindBlobRequest, RepositoryChangesReply, RepositoryChangesRequest,
};
use muster_registry_server::{BlobStream, Cluster};
use std::io;
use std::sync::Arc;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// Bytes of changes in one answer, about; a single change may be half as large again.
const CHANGES_BYTES_MAX: usize = 1 << 20;
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Answers another node that follows this one's repositories.
pub(super) async fn changes(
    images: &ImageStore,
    request: RepositoryChangesRequest,
) -> Result<Response<RepositoryChangesReply>, Status> {
    let (images, seen) = (
        images.clone(),
        Cursor {
            store: request.store,
            sequence: request.sequence,
        },
    );
    let read = tokio::task::spawn_blocking(move || images.changes_since(seen, CHANGES_BYTES_MAX));
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let read = read.await.map_err(|error| failed(&error))?;
    let read = read.map_err(|error| failed(&error.full_message()))?;
    let changes = read.changes.iter().map(serde_json::to_vec);
    let changes: Vec<Vec<u8>> = changes
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&error))?;
    Ok(Response::new(RepositoryChangesReply {
        store: read.cursor.store,
        sequence: read.cursor.sequence,
        more: read.more,
        changes: changes.into_iter().map(Into::into).collect(),
    }))
}

/// The nodes of the cluster that this node is in, as the registry sees them; nobody while it is in none.
pub struct OtherNodes(Arc<NodeHost>);

impl OtherNodes {
    /// Those beside this one.
    pub fn of(host: Arc<NodeHost>) -> Arc<Self> {
        Arc::new(Self(host))
    }

    fn client(&self, node: &str) -> io::Result<NodeClient<Channel>> {
        let member = self.0.member().ok_or(io::ErrorKind::NotConnected)?;
        Ok(NodeClient::new(member.dialer.node(node)).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

fn others(member: &Member) -> Vec<String> {
    let own = member.node();
    let view = member.view.borrow();
    let others = view.peers.iter().filter(|(node, _)| *node != own);
    others.map(|(_, address)| address.clone()).collect()
}

#[async_trait]
impl Cluster for OtherNodes {
    fn others(&self) -> Vec<String> {
        self.0.member().map_or_else(Vec::new, |member| others(&member))
    }

    async fn changes(&self, node: &str, seen: Cursor) -> io::Result<Changes> {
        let request = RepositoryChangesRequest {
            store: seen.store,
            sequence: seen.sequence,
        };
        let reply = self.client(node)?.repository_changes(request).await;
        let reply = reply.map_err(told)?.into_inner();
        let changes = reply
            .changes
            .iter()
            .map(|bytes| serde_json::from_slice::<Change>(bytes));
        Ok(Changes {
            changes: changes.collect::<Result<_, _>>()?,
            cursor: Cursor {
                store: reply.store,
                sequence: reply.sequence,
            },
            more: reply.more,
        })
    }

    async fn has_blob(&self, node: &str, digest: &Digest) -> io::Result<bool> {
        let digest = digest.to_string();
        let found = self.client(node)?.find_blob(FindBlobRequest { digest }).await;
        Ok(found.map_err(told)?.into_inner().stored)
    }

    async fn blob(&self, node: &str, digest: &Digest) -> io::Result<Option<BlobStream>> {
        let request = FetchBlobRequest {
            digest: digest.to_string(),
            offset: 0,
        };
        match self.client(node)?.fetch_blob(request).await {
            Ok(pieces) => {
                let pieces = pieces.into_inner();
                Ok(Some(
                    pieces
                        .map(|piece| piece.map(|piece| piece.data).map_err(told))
                        .boxed(),
                ))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(told(status)),
        }
    }
}

fn told(status: Status) -> io::Error {
    io::Error::other(status.message().to_owned())
}
