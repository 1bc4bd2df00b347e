//! Bodies of answers.

use crate::traffic::Traffic;
use crate::transfer::{Coming, Content};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::Arc;

/// Body of an answer.
pub(crate) type Answer = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// A body in memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Answer {
    let never = |never: Infallible| match never {};
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Answer {
    let never = |never: Infallible| match never {};
    Empty::new().map_err(never).boxed_unsync()
}

/// A body whose bytes are counted as the client takes them.
pub(crate) fn counted(body: Answer, traffic: Arc<Traffic>) -> Answer {
    let counted = body.map_frame(move |frame| {
        traffic.served(frame.data_ref().map_or(0, Bytes::len));
        frame
    });
    counted.boxed_unsync()
}

/// A body of what a reader gives, so many bytes. It is read on a blocking thread, piece by piece as the client takes it;
/// a reader that ends early breaks the answer off.
pub(crate) fn of_reader(reader: Box<dyn Read + Send>, bytes: u64) -> Answer {
    of_source(reader, bytes, None)
}

/// A body of a blob, which may be coming: no thread waits for it then.
pub(crate) fn of_content(content: Content, bytes: u64) -> Answer {
    match content {
        Content::Stored(file) => of_source(Box::new(file), bytes, None),
        Content::Coming(coming) => of_source(coming.reader(), bytes, Some(coming)),
    }
}

fn of_source(reader: Box<dyn Read + Send>, bytes: u64, coming: Option<Coming>) -> Answer {
    let source = Source { reader, coming };
    let frames = pieces(source, bytes).map(|piece| piece.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

struct Source {
    reader: Box<dyn Read + Send>,
    /// What the reader follows.
    coming: Option<Coming>,
}

fn pieces(source: Source, bytes: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((Some(source), 0), move |(source, read)| async move {
        let source = source.filter(|_| read < bytes)?;
        Some(match source.piece(read, bytes).await {
            Ok((source, piece)) => {
                let read = read + piece.len() as u64;
                (Ok(piece), (Some(source), read))
            }
            Err(error) => (Err(error), (None, bytes)),
        })
    })
}

impl Source {
    /// The piece behind what was read.
    async fn piece(mut self, read: u64, bytes: u64) -> io::Result<(Source, Bytes)> {
        let here = match &mut self.coming {
            Some(coming) => coming.wait_beyond(read).await?.min(bytes),
            None => bytes,
        };
        let coming = self.coming.clone();
        let piece = tokio::task::spawn_blocking(move || {
            let piece = read_piece(&mut self.reader, here.saturating_sub(read))?;
            Ok((self, piece))
        });
        match (piece.await.map_err(io::Error::other)?, coming) {
            // Not before the transfer is at its end: the client may ask again at once.
            (Err(error), Some(coming)) => Err(coming.stored().await.err().unwrap_or(error)),
            (piece, _) => piece,
        }
    }
}

fn read_piece(reader: &mut dyn Read, left: u64) -> io::Result<Bytes> {
    let size = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
    let mut piece = BytesMut::zeroed(size);
    let read = loop {
        match reader.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    piece.truncate(read);
    Ok(piece.freeze())
}
