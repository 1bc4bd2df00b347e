//! Raft messages and snapshot data from other controllers.

use super::controller;
use crate::authorize::{authorize_download, authorize_member};
use crate::core::io::Input;
use crate::shell::authorize::identity_of;
use crate::shell::handle::ControllerSlot;
use crate::shell::peers::pack_chunk;
use muster_consensus::SnapshotId;
use muster_proto::raft::raft_server::Raft;
use muster_proto::raft::{Batch, Chunk, ChunkRequest, Done};
use muster_types::RaftId;
use tonic::{Request, Response, Status, Streaming};

/// The Raft service.
pub struct RaftService(pub ControllerSlot);

#[tonic::async_trait]
impl Raft for RaftService {
    async fn exchange(&self, request: Request<Streaming<Batch>>) -> Result<Response<Done>, Status> {
        let handle = controller(&self.0)?;
        let identity = identity_of(&request)?;
        let mut batches = request.into_inner();
        while let Some(batch) = batches.message().await? {
            if batch.to != handle.raft_id().0 {
                return Err(Status::failed_precondition(
                    "the messages are for another Raft id",
                ));
            }
            let from = RaftId(batch.from);
            // Every time: a member that leaves loses its voice on streams that are open, too.
            authorize_member(identity, from, &handle.state())?;
            if !batch.address.is_empty() && !handle.knows(from) {
                let (node, address) = (identity.node, address_of(batch.address)?);
                let raft_id = from;
                handle
                    .send(Input::Met {
                        raft_id,
                        node,
                        address,
                    })
                    .await;
            }
            for message in batch.messages {
                handle.send(Input::Raft { from, message }).await;
            }
        }
        Ok(Response::new(Done {}))
    }

    async fn snapshot_chunk(&self, request: Request<ChunkRequest>) -> Result<Response<Chunk>, Status> {
        let handle = controller(&self.0)?;
        let caller = authorize_download(identity_of(&request)?, &handle.state())?;
        let request = request.into_inner();
        let id = SnapshotId::decode(&request.snapshot)
            .ok_or_else(|| Status::invalid_argument("a malformed snapshot id"))?;
        match handle.serve_chunk(caller, id, request.offset).await {
            Some(chunk) => Ok(Response::new(Chunk {
                chunk: pack_chunk(chunk)?,
            })),
            None => Err(Status::not_found("the snapshot is gone")),
        }
    }
}

fn address_of(text: String) -> Result<String, Status> {
    match text.parse::<std::net::SocketAddr>() {
        Ok(_) => Ok(text),
        Err(_) => Err(Status::invalid_argument(
            "a controller's address is an IP address with port",
        )),
    }
}
