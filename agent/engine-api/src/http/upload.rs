//! Large request bodies.

use super::body::RequestBody;
use crate::backend::UploadStream;
use futures::StreamExt;
use http_body_util::BodyExt;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Longest time for which a body is read whose content is not wanted any more.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Pieces of the body between the connection and the reader.
const AHEAD: usize = 4;

/// A body as a stream, and the work that feeds it, to be awaited beside its reader. What the reader leaves is still
/// taken from the client, for a while: clients send the whole body before they look at the answer, and report a broken
/// pipe instead of it when the connection closes under them.
pub(crate) fn upload(body: RequestBody) -> (UploadStream, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    (Box::pin(ReceiverStream::new(receiver)), feed(body, sender))
}

async fn feed(body: RequestBody, sender: mpsc::Sender<io::Result<bytes::Bytes>>) {
    let mut parts = body.into_data_stream();
    loop {
        let part = tokio::select! {
            () = sender.closed() => break,
            part = parts.next() => part,
        };
        let Some(part) = part else { return };
        let part = part.map_err(|error| io::Error::other(error.to_string()));
        if sender.send(part).await.is_err() {
            break;
        }
    }
    // Whatever is left after the time belongs to a client that gets its broken pipe.
    let _ = tokio::time::timeout(DRAIN_MAX, parts.for_each(async |_| ())).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A body of so many pieces, and the count of those taken from it.
    fn body(pieces: usize) -> (RequestBody, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let frames = stream::iter(0..pieces).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(Frame::data(bytes::Bytes::from_static(b"piece")))
        });
        (BodyExt::boxed(StreamBody::new(frames)), taken)
    }

    #[tokio::test]
    async fn a_reader_gets_the_whole_body_and_its_end() {
        let (body, _) = body(1000);
        let (stream, feeding) = upload(body);
        let (count, ()) = tokio::join!(stream.count(), feeding);
        assert_eq!(count, 1000);
    }

    #[tokio::test]
    async fn what_a_reader_leaves_is_taken_from_the_client() {
        let (body, taken) = body(1000);
        let (mut stream, feeding) = upload(body);
        let reading = async move { stream.next().await.is_some() };
        let (first, ()) = tokio::join!(reading, feeding);
        assert!(first);
        assert_eq!(taken.load(Ordering::Relaxed), 1000);
    }
}
