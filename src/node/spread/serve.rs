//! What this node gives to others of its blobs.

use super::{Feed, Spread};
use bytes::{Bytes, BytesMut};
use muster_images::{ComingBlob, Digest};
use muster_proto::node::{BlobPiece, FindBlobReply};
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of one piece of a blob.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces on their way to one peer.
const PIECES_IN_FLIGHT: usize = 8;

/// Counts one that takes a blob.
struct Reader {
    spread: Spread,
    blob: Digest,
}

impl Reader {
    fn new(spread: &Spread, blob: &Digest) -> Self {
        *spread.state().readers.entry(*blob).or_default() += 1;
        Self {
            spread: spread.clone(),
            blob: *blob,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.spread.state();
        if let Some(readers) = state.readers.get_mut(&self.blob) {
            *readers -= 1;
            if *readers == 0 {
                state.readers.remove(&self.blob);
            }
        }
    }
}

/// Where the bytes are.
enum Content {
    Stored(std::fs::File, u64),
    Coming(ComingBlob),
}

impl Spread {
    /// What is here of a blob.
    pub fn find_blob(&self, blob: &Digest) -> Result<FindBlobReply, Status> {
        let images = &self.inner.images;
        let stored = images
            .has_blob(blob)
            .map_err(|error| Status::internal(error.to_string()))?;
        let coming = images.coming_blob(blob).filter(|_| !stored);
        let state = self.state();
        Ok(FindBlobReply {
            stored,
            coming: coming.is_some(),
            bytes: coming.map_or(0, |coming| coming.written()),
            first_hand: state.feeds.get(blob) == Some(&Feed::FirstHand),
            readers: state.readers.get(blob).copied().unwrap_or(0),
        })
    }

    /// The pieces of a blob from this byte on.
    pub async fn serve_blob(
        &self,
        blob: Digest,
        offset: u64,
    ) -> Result<ReceiverStream<Result<BlobPiece, Status>>, Status> {
        let reader = Reader::new(self, &blob);
        // First what is coming: it may be stored at any moment, and can be read on then.
        let (content, slot) = match self.inner.images.coming_blob(&blob) {
            Some(coming) => {
                let slot = self.inner.coming.clone().try_acquire_owned();
                let slot = slot.map_err(|_| Status::resource_exhausted("too many nodes follow this one"))?;
                (Content::Coming(coming), slot)
            }
            None => {
                let slot = self.inner.stored.clone().acquire_owned().await;
                let slot = slot.map_err(|_| Status::unavailable("the node is going down"))?;
                let mut file = self
                    .inner
                    .images
                    .open_blob(&blob)
                    .map_err(|error| Status::not_found(error.to_string()))?;
                let failed = |error: std::io::Error| Status::internal(error.to_string());
                let bytes = file.metadata().map_err(failed)?.len();
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                (Content::Stored(file, bytes), slot)
            }
        };
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        tokio::task::spawn_blocking(move || give(content, offset, &reader, slot, &sender));
        Ok(ReceiverStream::new(receiver))
    }
}

fn give(
    content: Content,
    offset: u64,
    reader: &Reader,
    slot: OwnedSemaphorePermit,
    sender: &mpsc::Sender<Result<BlobPiece, Status>>,
) {
    let mut bytes: Box<dyn Read> = match &content {
        Content::Stored(file, _) => Box::new(file),
        Content::Coming(coming) => Box::new(coming.reader_from(offset)),
    };
    loop {
        let piece = read_piece(&mut bytes, matches!(content, Content::Coming(_)));
        let message = match piece {
            Ok(data) if data.is_empty() => break,
            Ok(data) => {
                let here = match &content {
                    Content::Stored(_, bytes) => *bytes,
                    Content::Coming(coming) => coming.written(),
                };
                reader
                    .spread
                    .inner
                    .served
                    .fetch_add(data.len() as u64, Ordering::Relaxed);
                Ok(BlobPiece { data, here })
            }
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let last = message.is_err();
        if sender.blocking_send(message).is_err() || last {
            break;
        }
    }
    drop(slot);
}

/// A piece as large as it may be; what is still coming is given on as it is.
fn read_piece(bytes: &mut dyn Read, coming: bool) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(PIECE_BYTES);
    let mut length = 0;
    while length < PIECE_BYTES {
        match bytes.read(&mut piece[length..])? {
            0 => break,
            count => length += count,
        }
        if coming {
            break;
        }
    }
    piece.truncate(length);
    Ok(piece.freeze())
}
