//! Getting an image from another node of the cluster: manifest, then the blobs that are missing, each verified by its
//! digest.

use anyhow::Context;
use muster_images::{BlobDescriptor, Digest, ImageStore, LoadLimits};
use muster_proto::node::node_client::NodeClient;
use muster_proto::node::{FetchBlobRequest, FindImageReply, FindImageRequest};
use muster_proto::transport::Dialer;
use std::io::{self, Read};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Streaming;

/// A peer that does not say within this whether it has an image is passed over.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer serves few blobs at once. One whose turn does not come within this is passed over: by then others have the
/// image, too.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the peers are asked while one that has the image has no time for it.
const WALKS_MAX: usize = 10;
/// Time without a piece after which a transfer has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pieces between the network and the disk.
const PIECES_BUFFERED: usize = 8;

/// The peer has the image and serves others.
#[derive(Debug, thiserror::Error)]
#[error("it has no time for another transfer")]
struct Busy;

/// No peer has the image.
#[derive(Debug, thiserror::Error)]
#[error("No such image: {reference} (no node of the cluster has it; load it on one)")]
pub struct Nowhere {
    reference: String,
}

/// Fetches the image from the first of these nodes that has it and has time. The error is [`Nowhere`] when all
/// of them lack it.
pub async fn fetch_image(
    images: &ImageStore,
    dialer: &Dialer,
    peers: &[String],
    reference: &str,
) -> anyhow::Result<()> {
    let mut failure = None;
    for _ in 0..WALKS_MAX {
        let mut busy = false;
        for peer in peers {
            match fetch_from(images, dialer, peer, reference).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        peer,
                        reference,
                        error = format!("{error:#}"),
                        "cannot fetch an image from a node"
                    );
                    busy |= error.is::<Busy>();
                    failure = Some(error);
                }
            }
        }
        if !busy {
            break;
        }
    }
    match failure {
        Some(error) => Err(error.context(format!("cannot fetch image {reference} from the cluster's nodes"))),
        None => Err(anyhow::Error::new(Nowhere {
            reference: reference.to_owned(),
        })),
    }
}

async fn fetch_from(
    images: &ImageStore,
    dialer: &Dialer,
    peer: &str,
    reference: &str,
) -> anyhow::Result<bool> {
    let mut client = NodeClient::new(dialer.node(peer)).max_decoding_message_size(8 << 20);
    let request = FindImageRequest {
        reference: reference.to_owned(),
    };
    let found = tokio::time::timeout(FIND_TIMEOUT, client.find_image(request))
        .await
        .context("it does not answer")?;
    let found = found
        .map_err(|status| anyhow::anyhow!("{}", status.message()))?
        .into_inner();
    if found.manifest_digest.is_empty() {
        return Ok(false);
    }
    let digest: Digest = found
        .manifest_digest
        .parse()
        .context("it sent a malformed manifest digest")?;
    // Held until the image is registered, so that no collection takes a blob in between.
    let _manifest_lease = images.lease([digest]);
    let mut missing = import_manifest(images, &digest, &found).await?;
    let mut leases = Vec::new();
    // An index leads to a manifest, which says what else is needed.
    while !missing.is_empty() {
        leases.push(images.lease(missing.iter().map(|blob| blob.digest)));
        for blob in missing {
            fetch_blob(images, &mut client, blob).await?;
        }
        let store = images.clone();
        missing = tokio::task::spawn_blocking(move || store.missing_blobs(&digest)).await??;
    }
    let (images, references) = (images.clone(), found.references);
    let imported = tokio::task::spawn_blocking(move || {
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        images.import_image(&digest, &references, &LoadLimits::default())
    });
    imported.await??;
    Ok(true)
}

async fn import_manifest(
    images: &ImageStore,
    digest: &Digest,
    found: &FindImageReply,
) -> anyhow::Result<Vec<BlobDescriptor>> {
    let (images, digest, manifest) = (images.clone(), *digest, found.manifest.clone());
    let imported = tokio::task::spawn_blocking(move || {
        images.import_blob(&digest, Some(manifest.len() as u64), manifest.as_ref())?;
        images.missing_blobs(&digest)
    });
    Ok(imported.await??)
}

async fn fetch_blob(
    images: &ImageStore,
    client: &mut NodeClient<tonic::transport::Channel>,
    blob: BlobDescriptor,
) -> anyhow::Result<()> {
    let request = FetchBlobRequest {
        digest: blob.digest.to_string(),
        offset: 0,
    };
    let pieces = tokio::time::timeout(TURN_TIMEOUT, client.fetch_blob(request))
        .await
        .context(Busy)?
        .map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let (sender, receiver) = mpsc::channel(PIECES_BUFFERED);
    let images = images.clone();
    let store = tokio::task::spawn_blocking(move || {
        let bytes = (blob.bytes > 0).then_some(blob.bytes);
        images.import_blob(
            &blob.digest,
            bytes,
            PieceReader {
                receiver,
                piece: bytes::Bytes::new(),
            },
        )
    });
    receive(pieces.into_inner(), sender).await;
    store.await??;
    Ok(())
}

/// Passes pieces on until the stream ends; an error reaches the reader as one.
async fn receive(
    mut pieces: Streaming<muster_proto::node::BlobPiece>,
    sender: mpsc::Sender<io::Result<bytes::Bytes>>,
) {
    loop {
        let piece = match tokio::time::timeout(STALL_TIMEOUT, pieces.message()).await {
            Ok(Ok(Some(piece))) => Ok(piece.data),
            Ok(Ok(None)) => return,
            Ok(Err(status)) => Err(io::Error::other(status.message().to_owned())),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the node stopped sending",
            )),
        };
        let failed = piece.is_err();
        // A closed channel means that the store gave up, and says why itself.
        if sender.send(piece).await.is_err() || failed {
            return;
        }
    }
}

/// Pieces as a reader, on a blocking thread.
struct PieceReader {
    receiver: mpsc::Receiver<io::Result<bytes::Bytes>>,
    piece: bytes::Bytes,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
