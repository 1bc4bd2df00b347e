//! One blob into the store, from peers and the registry: resumed where it broke off, also from another source, given up
//! when it is too slow, too long or not what it should be.

use crate::error::{Error, Result};
use crate::peers::{PeerBlob, Pieces, Traffic};
use crate::progress::{Pace, Report};
use crate::repository::Repository;
use crate::retry::Attempts;
use crate::sources::rate_of;
use crate::stall::{PROGRESS_BYTES_MIN, Stall};
use crate::transport::broken;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use muster_images::{BlobDescriptor, BlobWriter, VerifiedBlob};
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces between the network and the disk.
const PIECES_BUFFERED: usize = 32;

/// How long the registry is watched before it is compared with the peers.
const COMPARED_AFTER: Duration = Duration::from_secs(3);

/// Where a blob may be.
pub(crate) struct Sources<'a> {
    pub origin: Option<&'a Repository<'a>>,
    pub peers: Option<Box<dyn PeerBlob>>,
    pub traffic: &'a Traffic,
}

/// Downloads a blob into its writer, which verifies it. `id` is for the report. It is not stored yet.
pub(crate) async fn download(
    sources: &mut Sources<'_>,
    blob: BlobDescriptor,
    writer: BlobWriter,
    report: &Report,
    id: &str,
) -> Result<VerifiedBlob> {
    let (pieces, mut received) = mpsc::channel::<Bytes>(PIECES_BUFFERED);
    let mut writer = writer;
    // It ends with the channel, also when this future is dropped; what is not whole then is not kept.
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = received.blocking_recv() {
            writer.write(&piece)?;
        }
        writer.verify()
    });
    let mut transfer = Transfer {
        blob,
        done: 0,
        pieces,
        pace: Pace::new(),
        report,
        id,
    };
    let transferred = transfer.run(sources).await;
    if transferred.is_ok() {
        report.of(id, "Verifying Checksum");
    }
    drop(transfer);
    let written = writing.await.map_err(|_| Error::Interrupted)?;
    // What the disk says explains why no piece was taken any more.
    let verified = match transferred {
        Err(Failure::Final(error)) => return Err(error),
        Err(Failure::NotTaken) | Ok(()) => written?,
    };
    if let Some(peers) = &mut sources.peers {
        peers.verified();
    }
    Ok(verified)
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

/// How a request to the registry ended well.
enum Attempt {
    /// All is here.
    Whole,
    /// A peer is faster.
    Outrun(Pieces),
}

impl Transfer<'_> {
    async fn run(&mut self, sources: &mut Sources<'_>) -> Result<(), Failure> {
        let mut attempts = Attempts::default();
        let mut pieces = None;
        loop {
            if self.ask_peers(pieces.take(), sources).await? {
                return Ok(());
            }
            if sources.origin.is_none() {
                let blob = self.blob.digest;
                return Err(Failure::Final(Error::NoPeer { blob }));
            }
            let before = self.done;
            let error = match self.ask_registry(sources).await {
                Ok(Attempt::Whole) => return Ok(()),
                Ok(Attempt::Outrun(from_peer)) => {
                    pieces = Some(from_peer);
                    continue;
                }
                Err(Failure::Final(error)) if error.is_passing() => error,
                Err(failure) => return Err(failure),
            };
            if self.done - before >= PROGRESS_BYTES_MIN {
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

    /// What peers give, from one after the other; returns whether that is all.
    async fn ask_peers(
        &mut self,
        opened: Option<Pieces>,
        sources: &mut Sources<'_>,
    ) -> Result<bool, Failure> {
        let Some(peers) = sources.peers.as_mut().filter(|_| self.blob.bytes > 0) else {
            return Ok(false);
        };
        let mut opened = opened;
        while self.done < self.blob.bytes {
            let next = match opened.take() {
                Some(pieces) => Some(pieces),
                None => peers.open(self.done, None).await,
            };
            let Some(mut pieces) = next else { return Ok(false) };
            while self.done < self.blob.bytes {
                match pieces.next().await {
                    Some(Ok(piece)) => {
                        sources.traffic.came_from_peer(piece.len());
                        // More than was announced would be of no use to anybody.
                        let left = usize::try_from(self.blob.bytes - self.done).unwrap_or(usize::MAX);
                        self.take(piece.slice(..left.min(piece.len()))).await?;
                    }
                    Some(Err(error)) => {
                        tracing::debug!(blob = %self.blob.digest, from = self.done, error = %error, "another node is asked");
                        break;
                    }
                    None => break,
                }
            }
        }
        Ok(true)
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), Failure> {
        self.done += piece.len() as u64;
        self.pieces.send(piece).await.map_err(|_| Failure::NotTaken)?;
        if self.pace.is_due() {
            self.report
                .bytes(self.id, "Downloading", self.done, self.blob.bytes);
        }
        Ok(())
    }

    /// One request to the registry; what it brings counts for the next.
    async fn ask_registry(&mut self, sources: &mut Sources<'_>) -> Result<Attempt, Failure> {
        let Some(repository) = sources.origin else {
            unreachable!("without a registry none is asked")
        };
        let asked = repository.blob(&self.blob.digest, self.done).await;
        let (url, response) = asked.map_err(Failure::Final)?;
        // A registry without ranges begins anew.
        let mut skipped = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => self.done,
        };
        let mut body = response.into_body();
        let mut stall = Stall::within(repository.session.patience());
        let mut watch = Watch::new();
        loop {
            let next = next_piece(&url, &mut body, &mut stall);
            let Ok(next) = tokio::time::timeout_at(watch.until, next).await else {
                if let Some(pieces) = watch.compare(self.done, sources).await {
                    return Ok(Attempt::Outrun(pieces));
                }
                continue;
            };
            let mut piece = match next {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // Nothing is missing, and no registry has a range behind the last byte.
                Err(_) if self.done == self.blob.bytes => break,
                Err(error) => return Err(Failure::Final(error)),
            };
            sources.traffic.came_from_registry(piece.len());
            watch.bytes += piece.len() as u64;
            let dropped = skipped.min(piece.len() as u64);
            skipped -= dropped;
            let piece = piece.split_off(usize::try_from(dropped).unwrap_or(piece.len()));
            if piece.is_empty() {
                continue;
            }
            if self.done + piece.len() as u64 > self.blob.bytes {
                let problem = format!(
                    "blob {} has more than its {} bytes",
                    self.blob.digest, self.blob.bytes
                );
                return Err(Failure::Final(Error::protocol(&url, problem)));
            }
            self.take(piece).await?;
        }
        watch.tell(sources);
        match self.done == self.blob.bytes {
            true => Ok(Attempt::Whole),
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

/// Watches how fast the registry is, so that peers can be compared with it.
struct Watch {
    began: tokio::time::Instant,
    until: tokio::time::Instant,
    bytes: u64,
}

impl Watch {
    fn new() -> Self {
        let began = tokio::time::Instant::now();
        Self {
            began,
            until: began + COMPARED_AFTER,
            bytes: 0,
        }
    }

    fn tell(&self, sources: &mut Sources<'_>) {
        if let Some(peers) = &mut sources.peers {
            peers.registry_brought(self.bytes, self.began.elapsed());
        }
    }

    /// A peer that is faster than the registry was meanwhile; the watch begins anew.
    async fn compare(&mut self, done: u64, sources: &mut Sources<'_>) -> Option<Pieces> {
        self.tell(sources);
        let rate = rate_of(self.bytes, self.began.elapsed());
        let pieces = match &mut sources.peers {
            Some(peers) => peers.open(done, Some(rate.unwrap_or(0))).await,
            None => None,
        };
        *self = Self::new();
        pieces
    }
}

async fn next_piece(url: &str, body: &mut Incoming, stall: &mut Stall) -> Result<Option<Bytes>> {
    loop {
        let Ok(frame) = tokio::time::timeout_at(stall.until(), body.frame()).await else {
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
