//! How long clients may take: one that stops sending or reading, or does so byte by byte, gives its place up.

use crate::answer::RequestBody;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a client has to keep to while something is under way.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// In this time so many bytes of a request's body have to come, or of an answer to be taken.
    pub within: Duration,
    /// So many. Fewer would never end.
    pub bytes_min: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            within: Duration::from_secs(60),
            bytes_min: 16 << 10,
        }
    }
}

/// Why no more of a body comes.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The client is too slow.
    TooSlow,
    /// The connection failed, or the body is none.
    Off(io::Error),
}

/// A request's body, whose pieces come in time or not at all.
pub(crate) struct Pieces {
    body: RequestBody,
    patience: Patience,
    deadline: Instant,
    bytes: u64,
}

impl Pieces {
    pub fn new(body: RequestBody, patience: Patience) -> Self {
        Self {
            body,
            patience,
            deadline: Instant::now() + patience.within,
            bytes: 0,
        }
    }

    /// The next piece; `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            let frame = tokio::time::timeout_at(self.deadline, self.body.frame());
            let frame = match frame.await.map_err(|_| Broken::TooSlow)? {
                None => return Ok(None),
                Some(frame) => frame.map_err(Broken::Off)?,
            };
            // Trailers say nothing here.
            let Ok(piece) = frame.into_data() else { continue };
            self.bytes += piece.len() as u64;
            if self.bytes >= self.patience.bytes_min {
                self.bytes = 0;
                self.deadline = Instant::now() + self.patience.within;
            }
            return Ok(Some(piece));
        }
    }

    /// Leaves time out in which nobody waited for the client.
    pub fn pardon(&mut self, time: Duration) {
        self.deadline += time;
    }
}

/// A connection whose client takes what it is sent in time, or is cut off.
pub(crate) struct Patient<S> {
    stream: S,
    patience: Patience,
    /// While the client holds up a write.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Bytes that it took since then.
    taken: u64,
}

impl<S> Patient<S> {
    pub fn new(stream: S, patience: Patience) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
            taken: 0,
        }
    }

    /// The client took so many bytes.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        if self.taken >= self.patience.bytes_min {
            self.waiting = None;
        }
    }

    /// The client holds up a write: ready with an error once it did for too long.
    fn poll_waiting<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            None => {
                self.taken = 0;
                let within = self.patience.within;
                self.waiting.insert(Box::pin(tokio::time::sleep(within)))
            }
        };
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        match Pin::new(&mut own.stream).poll_write(context, bytes) {
            Poll::Pending => own.poll_waiting(context),
            Poll::Ready(written) => {
                own.took(written.as_ref().copied().unwrap_or(0));
                Poll::Ready(written)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        match Pin::new(&mut own.stream).poll_write_vectored(context, slices) {
            Poll::Pending => own.poll_waiting(context),
            Poll::Ready(written) => {
                own.took(written.as_ref().copied().unwrap_or(0));
                Poll::Ready(written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        match Pin::new(&mut own.stream).poll_flush(context) {
            Poll::Pending => own.poll_waiting(context),
            flushed => {
                // Nothing waits for the client any more.
                own.waiting = None;
                flushed
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        match Pin::new(&mut own.stream).poll_shutdown(context) {
            Poll::Pending => own.poll_waiting(context),
            ended => ended,
        }
    }
}
