//! A channel of a container's standard input, written to as a stream.

use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Standard input as a writer: dropping or shutting it down closes the process's standard input.
pub(super) struct InputWriter {
    sender: PollSender<Bytes>,
}

impl InputWriter {
    /// A writer into this channel.
    pub(super) fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self {
            sender: PollSender::new(sender),
        }
    }
}

fn closed<T>(_: T) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process closed its input")
}

impl AsyncWrite for InputWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.sender.poll_reserve(cx) {
            Poll::Ready(Ok(())) => {
                self.sender
                    .send_item(Bytes::copy_from_slice(bytes))
                    .map_err(closed)?;
                Poll::Ready(Ok(bytes.len()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(closed(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.close();
        Poll::Ready(Ok(()))
    }
}
