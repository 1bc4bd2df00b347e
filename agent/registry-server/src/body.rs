//! Bodies of answers.

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use std::convert::Infallible;
use std::io::{self, Read};

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

/// A body of what a reader gives, so many bytes. It is read on a blocking thread, piece by piece as the client takes it;
/// a reader that ends early breaks the answer off.
pub(crate) fn of_reader(reader: Box<dyn Read + Send>, bytes: u64) -> Answer {
    let frames = pieces(reader, bytes).map(|piece| piece.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn pieces(reader: Box<dyn Read + Send>, bytes: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((Some(reader), bytes), |(reader, left)| async move {
        let reader = reader.filter(|_| left > 0)?;
        let read = tokio::task::spawn_blocking(move || read_piece(reader, left)).await;
        Some(match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok((reader, piece)) => {
                let left = left - piece.len() as u64;
                (Ok(piece), (Some(reader), left))
            }
            Err(error) => (Err(error), (None, 0)),
        })
    })
}

fn read_piece(mut reader: Box<dyn Read + Send>, left: u64) -> io::Result<(Box<dyn Read + Send>, Bytes)> {
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
    Ok((reader, piece.freeze()))
}
