//! Connections to the other controllers. Raft tolerates lost messages, so nothing here waits: a full queue drops.

use super::handle::ControllerHandle;
use crate::core::io::{Input, Members};
use bytes::Bytes;
use muster_consensus::{SnapshotChunk, SnapshotId};
use muster_proto::pack::{pack, unpack};
use muster_proto::raft::raft_client::RaftClient;
use muster_proto::raft::{Batch, ChunkRequest};
use muster_types::RaftId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Messages waiting for one peer. Raft has at most 256 appends in flight to it.
const PEER_QUEUE: usize = 1024;
/// Messages in one batch.
const BATCH_MESSAGES: usize = 64;
/// Bytes in one batch; a larger single message goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// Batches on their way to one peer.
const BATCHES_IN_FLIGHT: usize = 8;
/// Wait before a broken stream to a peer is opened again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// Longest fetch of one piece of a snapshot.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// A piece of a snapshot on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireChunk {
    pub(super) total: u64,
    #[serde(with = "serde_bytes")]
    pub(super) data: Vec<u8>,
}

struct Peer {
    address: String,
    queue: mpsc::Sender<Bytes>,
    channel: Channel,
    task: tokio::task::AbortHandle,
}

/// The other controllers.
pub(super) struct Peers {
    handle: ControllerHandle,
    peers: BTreeMap<RaftId, Peer>,
    tasks: JoinSet<()>,
}

impl Peers {
    pub(super) fn new(handle: ControllerHandle) -> Self {
        Self {
            handle,
            peers: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Follows the list of members; a peer with another address is dialled anew.
    pub(super) fn update(&mut self, members: &Members) {
        let own = self.handle.raft_id();
        let wanted: BTreeMap<RaftId, &String> = members
            .members
            .iter()
            .filter(|(id, _, _)| *id != own)
            .map(|(id, _, address)| (*id, address))
            .collect();
        self.peers.retain(|id, peer| {
            let keep = wanted.get(id).is_some_and(|address| **address == peer.address);
            if !keep {
                peer.task.abort();
            }
            keep
        });
        for (id, address) in wanted {
            if !self.peers.contains_key(&id) {
                let peer = self.dial(id, address.clone());
                self.peers.insert(id, peer);
            }
        }
    }

    fn dial(&mut self, id: RaftId, address: String) -> Peer {
        let channel = self.handle.0.dialer.controller(&address);
        let (queue, messages) = mpsc::channel(PEER_QUEUE);
        let task = self
            .tasks
            .spawn(exchange(self.handle.clone(), id, channel.clone(), messages));
        Peer {
            address,
            queue,
            channel,
            task,
        }
    }

    /// Queues a Raft message; without room or a known peer it is lost, which Raft tolerates.
    pub(super) fn send(&mut self, to: RaftId, message: Bytes) {
        let sent = self
            .peers
            .get(&to)
            .is_some_and(|peer| peer.queue.try_send(message).is_ok());
        if !sent {
            tracing::trace!(%to, "a Raft message was dropped");
        }
    }

    /// Fetches a piece of a snapshot in the background; Raft asks again when nothing comes.
    pub(super) fn fetch_chunk(&mut self, from: RaftId, id: SnapshotId, offset: u64) {
        while self.tasks.try_join_next().is_some() {}
        let Some(channel) = self.peers.get(&from).map(|peer| peer.channel.clone()) else {
            return;
        };
        let handle = self.handle.clone();
        self.tasks.spawn(async move {
            let fetched = tokio::time::timeout(CHUNK_TIMEOUT, fetch(channel, from, &id, offset)).await;
            match fetched {
                Ok(Ok(chunk)) => handle.send(Input::Chunk { from, chunk }).await,
                Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                    handle.send(Input::ChunkUnavailable(id)).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%from, error = %error, "a piece of a snapshot did not come")
                }
                Err(_) => tracing::debug!(%from, "a piece of a snapshot did not come in time"),
            }
        });
    }

    pub(super) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn fetch(
    channel: Channel,
    from: RaftId,
    id: &SnapshotId,
    offset: u64,
) -> Result<SnapshotChunk, tonic::Status> {
    let request = ChunkRequest {
        snapshot: id.encode().into(),
        offset,
        to: from.0,
    };
    let mut client = RaftClient::new(channel).max_decoding_message_size(4 << 20);
    let reply = client.snapshot_chunk(request).await?.into_inner();
    let chunk: WireChunk =
        unpack(&reply.chunk).map_err(|error| tonic::Status::data_loss(error.to_string()))?;
    Ok(SnapshotChunk {
        id: *id,
        offset,
        total: chunk.total,
        data: chunk.data.into(),
    })
}

/// Packs a piece of a snapshot for the wire.
pub(super) fn pack_chunk(chunk: SnapshotChunk) -> Result<Bytes, tonic::Status> {
    let wire = WireChunk {
        total: chunk.total,
        data: chunk.data.to_vec(),
    };
    pack(&wire).map_err(|error| tonic::Status::internal(error.to_string()))
}

/// Keeps a stream to one peer open and feeds it from the queue.
async fn exchange(
    handle: ControllerHandle,
    to: RaftId,
    channel: Channel,
    mut messages: mpsc::Receiver<Bytes>,
) {
    let own = handle.raft_id();
    loop {
        let (batches, stream) = mpsc::channel(BATCHES_IN_FLIGHT);
        let mut client = RaftClient::new(channel.clone());
        let feed = async {
            while let Some(mut batch) = next_batch(own, to, &mut messages).await {
                batch.address = handle.address_of(own).unwrap_or_default();
                if batches.send(batch).await.is_err() {
                    // The stream broke; the call says so in a moment. Only the end of the queue ends the exchange.
                    std::future::pending::<()>().await;
                }
            }
        };
        let request = ReceiverStream::new(stream);
        tokio::select! {
            done = client.exchange(request) => {
                if let Err(error) = done {
                    tracing::debug!(%to, error = %error, "the stream to a controller broke");
                }
            }
            () = feed => return,
        }
        handle.send(Input::Unreachable(to)).await;
        // What waited is old news; Raft sends what matters again.
        while messages.try_recv().is_ok() {}
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

async fn next_batch(own: RaftId, to: RaftId, messages: &mut mpsc::Receiver<Bytes>) -> Option<Batch> {
    let first = messages.recv().await?;
    let mut bytes = first.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_MESSAGES
        && bytes < BATCH_BYTES
        && let Ok(next) = messages.try_recv()
    {
        bytes += next.len();
        batch.push(next);
    }
    Some(Batch {
        from: own.0,
        to: to.0,
        messages: batch,
        address: String::new(),
    })
}
