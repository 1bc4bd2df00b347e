//! A blocking writer whose bytes go to an asynchronous reader in pieces, no faster than it takes them.

use bytes::{Bytes, BytesMut};
use std::io::{self, Write};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes of one piece: large enough that passing it on costs little beside filling it.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Writes pieces; to be used on a blocking thread of the runtime that it was made in.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    stopping: CancellationToken,
    runtime: Handle,
    filled: BytesMut,
}

impl PieceWriter {
    /// A writer that gives up when the reader is gone or the engine stops.
    pub fn new(pieces: mpsc::Sender<io::Result<Bytes>>, stopping: CancellationToken) -> Self {
        Self {
            pieces,
            stopping,
            runtime: Handle::current(),
            filled: BytesMut::with_capacity(PIECE_BYTES),
        }
    }

    /// Ends the stream in an error; what is not sent yet is dropped.
    pub fn fail(mut self, error: io::Error) {
        self.filled.clear();
        // A reader that is gone needs no error.
        let _ = self.send(Err(error));
    }

    fn send(&mut self, piece: io::Result<Bytes>) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client left");
        self.runtime.block_on(async {
            tokio::select! {
                sent = self.pieces.send(piece) => sent.map_err(|_| gone()),
                () = self.stopping.cancelled() => Err(gone()),
            }
        })
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.filled.len());
        self.filled.extend_from_slice(&bytes[..taken]);
        if self.filled.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.filled, BytesMut::with_capacity(PIECE_BYTES));
        self.send(Ok(piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_in_order_and_a_reader_that_leaves_ends_the_writer() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut writer = PieceWriter::new(sender, CancellationToken::new());
        let writing = tokio::task::spawn_blocking(move || {
            let content: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
            writer.write_all(&content).and_then(|()| writer.flush()).unwrap();
            writer
        });
        let mut read = Vec::new();
        while read.len() < 200_000 {
            read.extend_from_slice(&receiver.recv().await.unwrap().unwrap());
        }
        assert!(read.iter().enumerate().all(|(index, byte)| index as u8 == *byte));
        let mut writer = writing.await.unwrap();
        drop(receiver);
        let left = tokio::task::spawn_blocking(move || writer.write_all(&vec![0; 1 << 20]));
        assert_eq!(left.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_stopping_engine_ends_a_writer_whose_reader_does_not_read() {
        let (sender, _receiver) = mpsc::channel(1);
        let stopping = CancellationToken::new();
        let mut writer = PieceWriter::new(sender, stopping.clone());
        let writing = tokio::task::spawn_blocking(move || writer.write_all(&vec![0; 1 << 20]));
        stopping.cancel();
        assert!(writing.await.unwrap().is_err());
    }
}
