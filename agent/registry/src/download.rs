//! One blob into the store: resumed where it broke off, given up when it is too slow, too long or not what it should be.

use crate::error::{Error, Result};
use crate::progress::{Pace, Report};
use crate::repository::Repository;
use crate::retry::Attempts;
use crate::transport::broken;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use muster_images::{BlobDescriptor, BlobWriter};
use std::time::Duration;
use tokio::sync::mpsc;

/// A download that brings less than [`PIECE_BYTES_MIN`] in this time has stopped.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// As little as that is no progress: a body of one byte now and then would never end.
const PIECE_BYTES_MIN: u64 = 16 << 10;
/// Pieces between the network and the disk.
const PIECES_BUFFERED: usize = 32;

/// Downloads a blob into its writer, which verifies it. `id` is for the report.
pub(crate) async fn download(
    repository: &Repository<'_>,
    blob: BlobDescriptor,
    writer: BlobWriter,
    report: &Report,
    id: &str,
) -> Result<()> {
    let (pieces, mut received) = mpsc::channel::<Bytes>(PIECES_BUFFERED);
    let mut writer = writer;
    // It ends with the channel, also when this future is dropped; what is not whole then is not kept.
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = received.blocking_recv() {
            writer.write(&piece)?;
        }
        writer.finish()
    });
    let mut transfer = Transfer {
        blob,
        done: 0,
        pieces,
        pace: Pace::new(),
        report,
        id,
    };
    let transferred = transfer.run(repository).await;
    if transferred.is_ok() {
        report.of(id, "Verifying Checksum");
    }
    drop(transfer);
    let written = writing.await.map_err(|_| Error::Interrupted)?;
    // What the disk says explains why no piece was taken any more.
    match transferred {
        Err(Failure::Final(error)) => Err(error),
        Err(Failure::NotTaken) | Ok(()) => Ok(written?),
    }
}

struct Transfer<'a> {
    blob: BlobDescriptor,
    done: u64,
    pieces: mpsc::Sender<Bytes>,
    pace: Pace,
    report: &'a Report,
    id: &'a str,
}

enum Failure {
    Final(Error),
    /// The writer gave up, and says why.
    NotTaken,
}

impl Transfer<'_> {
    async fn run(&mut self, repository: &Repository<'_>) -> Result<(), Failure> {
        let mut attempts = Attempts::default();
        loop {
            let before = self.done;
            let error = match self.attempt(repository).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) if error.is_passing() => error,
                Err(failure) => return Err(failure),
            };
            if self.done - before >= PIECE_BYTES_MIN {
                attempts.gained();
            }
            let Some(pause) = attempts.pause(rand::random()) else {
                return Err(Failure::Final(error));
            };
            tracing::debug!(blob = %self.blob.digest, from = self.done, error = %error, "a download is resumed");
            let seconds = pause.as_secs_f64().ceil();
            self.report.of(self.id, &format!("Retrying in {seconds} seconds"));
            tokio::time::sleep(pause).await;
        }
    }

    /// One request; what it brings counts for the next.
    async fn attempt(&mut self, repository: &Repository<'_>) -> Result<(), Failure> {
        let asked = repository.blob(&self.blob.digest, self.done).await;
        let (url, response) = asked.map_err(Failure::Final)?;
        // A registry without ranges begins anew.
        let mut skipped = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => self.done,
        };
        let mut body = response.into_body();
        let mut stall = Stall::new();
        loop {
            let mut piece = match next_piece(&url, &mut body, &mut stall).await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // Nothing is missing, and no registry has a range behind the last byte.
                Err(_) if self.done == self.blob.bytes => break,
                Err(error) => return Err(Failure::Final(error)),
            };
            let dropped = skipped.min(piece.len() as u64);
            skipped -= dropped;
            let piece = piece.split_off(usize::try_from(dropped).unwrap_or(piece.len()));
            if piece.is_empty() {
                continue;
            }
            self.done += piece.len() as u64;
            if self.done > self.blob.bytes {
                let problem = format!(
                    "blob {} has more than its {} bytes",
                    self.blob.digest, self.blob.bytes
                );
                return Err(Failure::Final(Error::protocol(&url, problem)));
            }
            self.pieces.send(piece).await.map_err(|_| Failure::NotTaken)?;
            if self.pace.is_due() {
                self.report
                    .bytes(self.id, "Downloading", self.done, self.blob.bytes);
            }
        }
        match self.done == self.blob.bytes {
            true => Ok(()),
            false => Err(Failure::Final(Error::Unreachable {
                what: "GET".to_owned(),
                url,
                why: format!(
                    "the answer ended after {} of {} bytes",
                    self.done, self.blob.bytes
                ),
                timed_out: false,
            })),
        }
    }
}

/// Watches that enough comes.
struct Stall {
    deadline: tokio::time::Instant,
    bytes: u64,
}

impl Stall {
    fn new() -> Self {
        Self {
            deadline: tokio::time::Instant::now() + STALL_TIMEOUT,
            bytes: 0,
        }
    }

    fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= PIECE_BYTES_MIN {
            *self = Self::new();
        }
    }
}

async fn next_piece(url: &str, body: &mut Incoming, stall: &mut Stall) -> Result<Option<Bytes>> {
    loop {
        let Ok(frame) = tokio::time::timeout_at(stall.deadline, body.frame()).await else {
            return Err(Error::Unreachable {
                what: "GET".to_owned(),
                url: url.to_owned(),
                why: "it sends too slowly".to_owned(),
                timed_out: true,
            });
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(broken(url, &error)),
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    stall.took(piece.len());
                    return Ok(Some(piece));
                }
            }
        }
    }
}
