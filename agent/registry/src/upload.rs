//! Writing to one repository: blobs and manifests (OCI distribution specification 1.1, "Push").

use crate::address::Target;
use crate::error::{Error, Result};
use crate::progress::{Pace, Report};
use crate::pull::blocking;
use crate::retry::Attempts;
use crate::session::{Ask, Body, Session, header};
use crate::transport::{Activity, RequestBody};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION};
use hyper::{Method, Response, StatusCode};
use muster_images::{BlobDescriptor, Digest, ImageStore};
use std::io::{self, Read};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Bytes that are read of a blob at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces between the disk and the network.
const PIECES_BUFFERED: usize = 4;

/// A repository that is written to.
pub(crate) struct Uploads<'a> {
    pub session: &'a Session,
    /// Its path.
    pub path: &'a str,
    pub scopes: Vec<String>,
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was there.
    Existed,
    /// The registry had it in this repository.
    Mounted(String),
    /// It was sent.
    Sent,
}

/// Scopes that writing to a repository needs, and reading from those that blobs may be mounted from.
pub(crate) fn push_scopes(path: &str, from: Option<&str>) -> Vec<String> {
    let mount = from.map(crate::repository::pull_scope);
    [Some(format!("repository:{path}:pull,push")), mount]
        .into_iter()
        .flatten()
        .collect()
}

impl Uploads<'_> {
    /// Makes sure that the repository has the blob. `mounts` are repositories of the same registry that may have it.
    pub async fn blob(
        &self,
        store: &ImageStore,
        blob: BlobDescriptor,
        mounts: &[String],
        report: &Report,
    ) -> Result<Arrival> {
        if self.has(&blob.digest).await? {
            return Ok(Arrival::Existed);
        }
        let mut begun = None;
        for from in mounts {
            match self.mount(&blob.digest, from).await? {
                None => return Ok(Arrival::Mounted(from.clone())),
                // It is the beginning of an upload that nobody needs to begin again.
                Some(location) => begun = Some(location),
            }
        }
        let (own, digest) = (store.clone(), blob.digest);
        if !blocking(move || own.has_blob(&digest)).await? {
            return Err(muster_images::Error::NoSuchBlob { digest }.into());
        }
        let mut attempts = Attempts::default();
        loop {
            let location = match begun.take() {
                Some(location) => location,
                None => self.begin().await?,
            };
            match self.send(store, blob, location, report).await {
                Ok(()) => return Ok(Arrival::Sent),
                Err(error) if error.is_passing() => {
                    let Some(pause) = attempts.pause(rand::random()) else {
                        return Err(error);
                    };
                    tracing::debug!(blob = %blob.digest, error = %error, "an upload is made again");
                    let seconds = pause.as_secs_f64().ceil();
                    report.of(&blob.digest.short(), &format!("Retrying in {seconds} seconds"));
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the repository has the blob.
    pub async fn has(&self, digest: &Digest) -> Result<bool> {
        let target = self.session.target(&format!("/v2/{}/blobs/{digest}", self.path));
        match self
            .session
            .ask(Ask::new(Method::HEAD, target), &self.scopes)
            .await
        {
            Ok(_) => Ok(true),
            Err(Error::Answer { status, .. }) if status == StatusCode::NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the blob over from another repository: `None`, or where it is to be sent after all.
    async fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Target>> {
        let target = self.uploads();
        let target = target
            .with_parameter("mount", &digest.to_string())
            .with_parameter("from", from);
        let scopes = push_scopes(self.path, Some(from));
        let ask = Ask::new(Method::POST, target).with(CONTENT_LENGTH, "0");
        let (target, response) = match self.session.ask(ask, &scopes).await {
            Ok(answered) => answered,
            // Whoever may not read there sends it.
            Err(Error::Answer { .. } | Error::Unauthorized { .. }) => return self.begin().await.map(Some),
            Err(error) => return Err(error),
        };
        match response.status() {
            StatusCode::CREATED => Ok(None),
            _ => self.location(&target, &response).map(Some),
        }
    }

    async fn begin(&self) -> Result<Target> {
        let ask = Ask::new(Method::POST, self.uploads()).with(CONTENT_LENGTH, "0");
        let (target, response) = self.session.ask(ask, &self.scopes).await?;
        self.location(&target, &response)
    }

    fn uploads(&self) -> Target {
        self.session.target(&format!("/v2/{}/blobs/uploads/", self.path))
    }

    fn location(&self, from: &Target, response: &Response<Incoming>) -> Result<Target> {
        let location = header(response, &LOCATION)
            .ok_or_else(|| Error::protocol(&from.url(), "it does not say where to send the blob"))?;
        self.session.follow(from, location)
    }

    /// Sends the whole blob in one request.
    async fn send(
        &self,
        store: &ImageStore,
        blob: BlobDescriptor,
        location: Target,
        report: &Report,
    ) -> Result<()> {
        let activity = Activity::of(blob.bytes);
        let body = content(store, blob, activity.clone(), report.clone());
        let target = location.with_parameter("digest", &blob.digest.to_string());
        let ask = Ask::new(Method::PUT, target)
            .with(CONTENT_TYPE, "application/octet-stream")
            .with(CONTENT_LENGTH, blob.bytes.to_string())
            .body(Body::Stream(body, activity));
        self.session.ask(ask, &self.scopes).await?;
        Ok(())
    }

    /// Puts a manifest under a tag.
    pub async fn manifest(&self, tag: &str, media_type: &str, bytes: Bytes, digest: &Digest) -> Result<()> {
        let target = self.session.target(&format!("/v2/{}/manifests/{tag}", self.path));
        let ask = Ask::new(Method::PUT, target)
            .with(CONTENT_TYPE, media_type)
            .body(Body::Bytes(bytes));
        let (target, response) = self.session.ask(ask, &self.scopes).await?;
        match header(&response, &CONTENT_DIGEST).map(str::parse::<Digest>) {
            Some(Ok(stored)) if stored != *digest => Err(Error::protocol(
                &target.url(),
                format!("it stored the manifest as {stored}, expected {digest}"),
            )),
            _ => Ok(()),
        }
    }
}

/// The blob as a body, read on a thread of its own.
fn content(store: &ImageStore, blob: BlobDescriptor, activity: Activity, report: Report) -> RequestBody {
    let (pieces, received) = mpsc::channel::<io::Result<Bytes>>(PIECES_BUFFERED);
    let store = store.clone();
    // It ends with the channel, also when the request is given up.
    tokio::task::spawn_blocking(move || {
        let outcome = read_pieces(&store, &blob, |piece| pieces.blocking_send(Ok(piece)).is_ok());
        if let Err(error) = outcome {
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let (mut sent, mut pace, id) = (0, Pace::new(), blob.digest.short());
    let frames = ReceiverStream::new(received).map(move |piece| {
        let piece = piece?;
        activity.add(piece.len() as u64);
        sent += piece.len() as u64;
        if pace.is_due() {
            report.bytes(&id, "Pushing", sent, blob.bytes);
        }
        Ok(Frame::data(piece))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn read_pieces(
    store: &ImageStore,
    blob: &BlobDescriptor,
    mut take: impl FnMut(Bytes) -> bool,
) -> io::Result<()> {
    let file = store.open_blob(&blob.digest);
    let mut file = file.map_err(|error| io::Error::other(error.full_message()))?;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = file.read(&mut piece)?;
        piece.truncate(read);
        if read == 0 || !take(Bytes::from(piece)) {
            return Ok(());
        }
    }
}
