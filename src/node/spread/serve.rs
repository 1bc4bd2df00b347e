//! What this node gives to others of its blobs.

use super::{Feed, Spread};
use bytes::{Bytes, BytesMut};
use muster_images::{BlobReader, ComingBlob, Digest, ImageStore};
use muster_proto::node::{BlobPiece, FindBlobReply};
use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of one piece of a blob.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces on their way to one peer.
const PIECES_IN_FLIGHT: usize = 8;
/// A peer that takes no piece for so long gives its place to others: longer than any stall of a disk that recovers.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

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
    Stored(BlobReader),
    Coming(ComingBlob),
}

impl Spread {
    /// What is here of a blob.
    pub fn find_blob(&self, blob: &Digest) -> Result<FindBlobReply, Status> {
        let images = &self.inner.images;
        let stored = images
            .blob_size(blob)
            .map_err(|error| Status::internal(error.to_string()))?;
        let coming = images.coming_blob(blob).filter(|_| stored.is_none());
        let state = self.state();
        Ok(FindBlobReply {
            stored: stored.is_some(),
            coming: coming.is_some(),
            size: stored.or(coming.as_ref().map(ComingBlob::size)).unwrap_or(0),
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
                let images = self.inner.images.clone();
                // A blob that is in doubt is read as a whole first.
                let opened = tokio::task::spawn_blocking(move || open(&images, &blob, offset)).await;
                (
                    opened.map_err(|_| Status::internal("the image store failed"))??,
                    slot,
                )
            }
        };
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        tokio::task::spawn_blocking(move || give(content, offset, &reader, slot, &sender, TAKE_TIMEOUT));
        Ok(ReceiverStream::new(receiver))
    }
}

fn open(images: &ImageStore, blob: &Digest, offset: u64) -> Result<Content, Status> {
    let mut blob = images
        .open_blob_uncompared(blob)
        .map_err(|error| Status::not_found(error.to_string()))?;
    if offset > blob.size() {
        return Err(Status::out_of_range("the blob is shorter"));
    }
    blob.skip(offset)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(Content::Stored(blob))
}

/// Sends the content until it ends or the peer does not take a piece in time. For a blocking thread.
fn give(
    content: Content,
    offset: u64,
    reader: &Reader,
    slot: OwnedSemaphorePermit,
    sender: &mpsc::Sender<Result<BlobPiece, Status>>,
    take_timeout: Duration,
) {
    let runtime = tokio::runtime::Handle::current();
    let (mut bytes, size, coming): (Box<dyn Read>, _, _) = match content {
        Content::Stored(blob) => {
            let size = blob.size();
            (Box::new(blob), size, None)
        }
        Content::Coming(coming) => (Box::new(coming.reader_from(offset)), coming.size(), Some(coming)),
    };
    loop {
        let piece = read_piece(&mut bytes, coming.is_some());
        let message = match piece {
            Ok(data) if data.is_empty() => break,
            Ok(data) => {
                let here = coming.as_ref().map_or(size, ComingBlob::written);
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
        let sent = async { sender.send_timeout(message, take_timeout).await };
        if runtime.block_on(sent).is_err() || last {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_gives_its_place_to_others() {
        let place = tempfile::tempdir().unwrap();
        let images = ImageStore::open(place.path()).unwrap();
        let content = vec![7; (PIECES_IN_FLIGHT + 2) * PIECE_BYTES];
        let blob = Digest::of(&content);
        images.import_blob(&blob, None, content.as_slice()).unwrap();
        let spread = Spread::new(images.clone());
        let places = spread.inner.stored.clone();
        let free = places.available_permits();
        let slot = places.clone().acquire_owned().await.unwrap();
        let reader = Reader::new(&spread, &blob);
        let (sender, _receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let giving = tokio::task::spawn_blocking(move || {
            let content = open(&images, &blob, 0).unwrap();
            give(content, 0, &reader, slot, &sender, Duration::from_millis(50));
        });
        let ended = tokio::time::timeout(Duration::from_secs(20), giving).await;
        ended.expect("it does not wait for the peer").unwrap();
        assert_eq!(places.available_permits(), free);
        assert_eq!(spread.find_blob(&blob).unwrap().readers, 0);
    }
}
