//! Blobs and manifests in.

use crate::answer::{CONTENT_DIGEST, Call, Registry, RequestBody, set};
use crate::body::{Answer, empty};
use crate::content::blocking;
use crate::failure::{Code, Failure, Outcome};
use crate::manifest::Manifest;
use crate::patience::{Broken, Pieces};
use crate::range;
use crate::route::{self, ManifestName};
use crate::uploads::{UPLOADS_MAX, Uploads};
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use hyper::{Response, StatusCode};
use muster_images::repository::{ContentDigest, Entered, EntryKey, ManifestEntry, StoredContent, Upload};
use muster_images::{ArchiveError, Digest, Lease, LoadLimits};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, mpsc};

/// Pieces between the network and the disk.
const PIECES_BUFFERED: usize = 8;
/// How long a request waits for another one at the same upload.
const TAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most tags that come with a manifest that is pushed by its digest.
const TAGS_MAX: usize = 32;
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// An upload under way; `None` once it is complete or has failed.
type Session = Arc<tokio::sync::Mutex<Option<Upload>>>;
/// The upload, for one request alone.
type Taken = OwnedMutexGuard<Option<Upload>>;

/// The uploads under way.
pub(crate) struct Sessions(Mutex<Uploads<Session>>);

impl Sessions {
    pub fn new() -> Self {
        Sessions(Mutex::new(Uploads::new(UPLOADS_MAX)))
    }

    /// Forgets uploads that nobody went on with.
    pub fn expire(&self) {
        let expired = self
            .lock()
            .expire(Instant::now(), |session| session.try_lock().is_err());
        if expired > 0 {
            tracing::info!(expired, "uploads to the registry were given up");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Uploads<Session>> {
        // The table is valid after every statement that changes it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str, id: &str) -> Outcome<Session> {
        let found = self.lock().find(id, name, Instant::now());
        found.ok_or_else(|| {
            Failure::not_found(
                Code::BlobUploadUnknown,
                "there is no such upload: it is complete, was cancelled or waited too long, or the registry began anew",
            )
        })
    }
}

/// The upload behind a session, for this request alone. One that another request still looks at, or whose client is gone
/// without the server knowing yet, is free in a moment.
async fn take(session: Session) -> Outcome<Taken> {
    let taken = tokio::time::timeout(TAKE_TIMEOUT, session.lock_owned()).await;
    let taken = taken.map_err(|_| {
        Failure::new(
            StatusCode::CONFLICT,
            Code::BlobUploadInvalid,
            "another request sends to this upload",
        )
    })?;
    // The other request may have been the last one.
    match taken.is_some() {
        true => Ok(taken),
        false => Err(ended()),
    }
}

fn upload_path(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn with_status(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// Answers that a blob is in a repository.
fn created(name: &str, digest: &ContentDigest) -> Response<Answer> {
    let mut response = with_status(StatusCode::CREATED);
    set(&mut response, LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    response
}

/// Answers where an upload goes on.
fn goes_on(status: StatusCode, name: &str, id: &str, written: u64) -> Response<Answer> {
    let mut response = with_status(status);
    set(&mut response, LOCATION, &upload_path(name, id));
    set(&mut response, RANGE, &range::received(written));
    set(&mut response, HeaderName::from_static("docker-upload-uuid"), id);
    response
}

/// `POST` of an upload: mounts a blob that is here, takes one whole, or begins an upload.
pub(crate) async fn begin(registry: &Registry, name: &str, call: Call) -> Outcome {
    if let Some(text) = call.query.get("mount") {
        let digest = route::digest(text)?;
        let from = call.query.get("from").map(route::name).transpose()?;
        if let Some(content) = mountable(registry, &digest, from.as_deref()).await?
            && registry.repositories.can_be_given(content).await?
        {
            enter_blob(registry, name, &digest, content, Vec::new()).await?;
            return Ok(created(name, &digest));
        }
    }
    let images = registry.repositories.images.clone();
    let upload = blocking("begin an upload", move || images.begin_upload()).await?;
    if let Some(text) = call.query.get("digest") {
        let digest = route::digest(text)?;
        let upload = Arc::new(tokio::sync::Mutex::new(Some(upload))).lock_owned().await;
        let length = content_length(&call)?;
        let (upload, received) = receive(registry, upload, call.body, length).await?;
        received?;
        return finish(registry, name, upload, &digest).await;
    }
    let id = format!("{:032x}", rand::random::<u128>());
    let session = Arc::new(tokio::sync::Mutex::new(Some(upload)));
    let added = registry
        .sessions
        .lock()
        .add(id.clone(), name, session, Instant::now());
    added.map_err(|_| {
        Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            Code::TooManyRequests,
            format!("{UPLOADS_MAX} uploads are under way; try again later"),
        )
    })?;
    Ok(goes_on(StatusCode::ACCEPTED, name, &id, 0))
}

/// A blob that another repository has: the one that the client names, else any.
async fn mountable(
    registry: &Registry,
    digest: &ContentDigest,
    from: Option<&str>,
) -> Outcome<Option<StoredContent>> {
    let repositories = &registry.repositories;
    if let Some(from) = from
        && let Some(content) = repositories.blob(from, digest).await?
    {
        return Ok(Some(content));
    }
    let (images, digest) = (repositories.images.clone(), digest.clone());
    blocking("look for a blob", move || images.blob_of_any_repository(&digest)).await
}

async fn enter_blob(
    registry: &Registry,
    name: &str,
    digest: &ContentDigest,
    content: StoredContent,
    held: Vec<Digest>,
) -> Outcome<()> {
    let entry = (EntryKey::Blob(digest.clone()), Some(Entered::Blob(content)));
    registry.repositories.enter(name, vec![entry], held).await
}

/// `GET` of an upload.
pub(crate) async fn status(registry: &Registry, name: &str, id: &str) -> Outcome {
    let upload = take(registry.sessions.find(name, id)?).await?;
    let written = upload.as_ref().map_or(0, Upload::written);
    Ok(goes_on(StatusCode::NO_CONTENT, name, id, written))
}

/// `DELETE` of an upload.
pub(crate) async fn cancel(registry: &Registry, name: &str, id: &str) -> Outcome {
    // Not while another request is at it: that one would put a complete blob where nobody looks for it.
    let mut upload = take(registry.sessions.find(name, id)?).await?;
    registry.sessions.lock().remove(id);
    *upload = None;
    Ok(with_status(StatusCode::NO_CONTENT))
}

/// `PATCH` of an upload: one more piece.
pub(crate) async fn append(registry: &Registry, name: &str, id: &str, call: Call) -> Outcome {
    let upload = take_piece(registry, name, id, call).await?;
    let written = upload.as_ref().map_or(0, Upload::written);
    Ok(goes_on(StatusCode::ACCEPTED, name, id, written))
}

/// `PUT` of an upload: perhaps the last piece, and the digest of all.
pub(crate) async fn complete(registry: &Registry, name: &str, id: &str, call: Call) -> Outcome {
    let digest = call
        .query
        .get("digest")
        .ok_or_else(|| Failure::bad_request(Code::DigestInvalid, "the parameter digest is missing"))?;
    let digest = route::digest(digest)?;
    let upload = take_piece(registry, name, id, call).await?;
    registry.sessions.lock().remove(id);
    finish(registry, name, upload, &digest).await
}

/// Takes the piece of a request into its upload.
async fn take_piece(registry: &Registry, name: &str, id: &str, call: Call) -> Outcome<Taken> {
    let upload = take(registry.sessions.find(name, id)?).await?;
    let length = check_piece(&upload, name, id, &call)?;
    let (upload, received) = receive(registry, upload, call.body, length).await?;
    if upload.is_none() {
        registry.sessions.lock().remove(id);
    }
    received.map(|()| upload)
}

fn content_length(call: &Call) -> Outcome<Option<u64>> {
    call.header(CONTENT_LENGTH)
        .map(|text| {
            text.parse()
                .map_err(|_| Failure::bad_request(Code::SizeInvalid, "Content-Length is not a number"))
        })
        .transpose()
}

/// Checks that a piece follows what has come; its length, where it is told.
fn check_piece(upload: &Taken, name: &str, id: &str, call: &Call) -> Outcome<Option<u64>> {
    let written = upload.as_ref().map_or(0, Upload::written);
    let length = content_length(call)?;
    let Some(text) = call.header(CONTENT_RANGE) else {
        return Ok(length);
    };
    let piece = range::of_piece(text);
    let piece = piece.filter(|piece| piece.start == written).ok_or_else(|| {
        Failure::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Code::BlobUploadInvalid,
            format!("the next piece begins at byte {written}"),
        )
        .with_header(LOCATION, upload_path(name, id))
        .with_header(RANGE, range::received(written))
    })?;
    let told = piece.end - piece.start;
    match length {
        Some(length) if length != told => Err(Failure::bad_request(
            Code::SizeInvalid,
            format!("Content-Range tells {told} bytes, Content-Length {length}"),
        )),
        _ => Ok(Some(told)),
    }
}

fn ended() -> Failure {
    Failure::not_found(Code::BlobUploadUnknown, "the upload has ended")
}

fn too_large() -> Failure {
    let bytes_max = LoadLimits::default().archive_bytes_max;
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        Code::SizeInvalid,
        format!("a blob has at most {bytes_max} bytes"),
    )
}

/// Writes a body to the upload, and says how that went. What came of a body that breaks off stays, also when this future
/// is dropped with the client's connection, and the client can go on after it; when the disk fails, the upload is gone.
async fn receive(
    registry: &Registry,
    mut upload: Taken,
    body: RequestBody,
    length: Option<u64>,
) -> Outcome<(Taken, Outcome<()>)> {
    let Some(before) = upload.as_ref().map(Upload::written) else {
        return Ok((upload, Err(ended())));
    };
    let left = LoadLimits::default().archive_bytes_max.saturating_sub(before);
    if length.is_some_and(|length| length > left) {
        return Ok((upload, Err(too_large())));
    }
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_BUFFERED);
    let writing = tokio::task::spawn_blocking(move || {
        let written = match upload.take() {
            None => Ok(()),
            Some(mut writing) => std::iter::from_fn(|| pieces.blocking_recv())
                .try_for_each(|piece| writing.append(&piece))
                .map(|()| *upload = Some(writing)),
        };
        (upload, written)
    });
    let (read, writing) = futures::join!(send_pieces(registry, body, sender, left), writing);
    let (upload, written) = writing.map_err(|error| Failure::internal("write an upload", &error))?;
    let outcome = match (written, read) {
        (Err(error), _) => Err(Failure::of_store("write an upload", &error)),
        (Ok(()), Err(failure)) => Err(failure),
        (Ok(()), Ok(received)) => match length {
            Some(length) if length != received => Err(Failure::bad_request(
                Code::SizeInvalid,
                format!("{received} of {length} bytes came"),
            )),
            _ => Ok(()),
        },
    };
    Ok((upload, outcome))
}

/// Hands the pieces of a body on; how many bytes came.
async fn send_pieces(
    registry: &Registry,
    body: RequestBody,
    sender: mpsc::Sender<Bytes>,
    bytes_max: u64,
) -> Outcome<u64> {
    let mut body = Pieces::new(body, registry.patience);
    let mut received = 0;
    loop {
        let next = body.next().await;
        let next = next.map_err(|broken| broken_off(broken, Code::BlobUploadInvalid))?;
        let Some(piece) = next else {
            return Ok(received);
        };
        registry.traffic.received(piece.len());
        received += piece.len() as u64;
        if received > bytes_max {
            return Err(too_large());
        }
        let sent = Instant::now();
        // A closed channel means that writing failed, which the writer tells.
        if sender.send(piece).await.is_err() {
            return Ok(received);
        }
        body.pardon(sent.elapsed());
    }
}

/// Makes a blob of a whole upload.
async fn finish(registry: &Registry, name: &str, mut upload: Taken, digest: &ContentDigest) -> Outcome {
    let whole = upload.take().ok_or_else(ended)?;
    let (content, _lease) = store(whole, digest.clone()).await?;
    enter_blob(registry, name, digest, content, vec![content.digest]).await?;
    Ok(created(name, digest))
}

async fn store(upload: Upload, digest: ContentDigest) -> Outcome<(StoredContent, Lease)> {
    let stored = tokio::task::spawn_blocking(move || upload.finish(&digest)).await;
    match stored {
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(muster_images::Error::Archive(error))) => Err(digest_invalid(&error)),
        Ok(Err(error)) => Err(Failure::of_store("store a blob", &error)),
        Err(error) => Err(Failure::internal("store a blob", &error)),
    }
}

fn digest_invalid(error: &ArchiveError) -> Failure {
    Failure::bad_request(Code::DigestInvalid, error.to_string())
}

/// `PUT` of a manifest, by a tag or its digest.
pub(crate) async fn manifest(
    registry: &Registry,
    name: &str,
    reference: ManifestName,
    call: Call,
) -> Outcome {
    let content_type = call.header(CONTENT_TYPE).map(str::to_owned);
    let extra: Vec<String> = call
        .query
        .all("tag")
        .take(TAGS_MAX + 1)
        .map(str::to_owned)
        .collect();
    let bytes = read_document(registry, call.body).await?;
    let manifest = Manifest::parse(&bytes, content_type.as_deref())?;
    let (digest, tags) = named(&bytes, reference, extra)?;
    for blob in &manifest.blobs {
        if registry.repositories.blob(name, blob).await?.is_none() {
            return Err(Failure::new(
                StatusCode::NOT_FOUND,
                Code::ManifestBlobUnknown,
                format!(
                    "the manifest names blob {blob}, which repository {name} does not have: push it first"
                ),
            ));
        }
    }
    let images = registry.repositories.images.clone();
    let (document, own) = (bytes.clone(), digest.clone());
    let (content, _lease) = blocking("store a manifest", move || {
        let mut upload = images.begin_upload()?;
        upload.append(&document)?;
        upload.finish(&own)
    })
    .await?;
    let subject = manifest.subject.clone();
    let entry = ManifestEntry {
        media_type: manifest.media_type,
        content,
        subject: manifest.subject,
        references: manifest.blobs.into_iter().chain(manifest.manifests).collect(),
    };
    let mut entries = vec![(EntryKey::Manifest(digest.clone()), Some(Entered::Manifest(entry)))];
    entries.extend(
        tags.iter()
            .map(|tag| (EntryKey::Tag(tag.clone()), Some(Entered::Tag(digest.clone())))),
    );
    registry
        .repositories
        .enter(name, entries, vec![content.digest])
        .await?;
    let mut response = with_status(StatusCode::CREATED);
    set(&mut response, LOCATION, &format!("/v2/{name}/manifests/{digest}"));
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    if let Some(subject) = subject {
        set(&mut response, SUBJECT, &subject.to_string());
    }
    if call.query.get("tag").is_some() {
        set(&mut response, TAG, &tags.join(", "));
    }
    Ok(response)
}

/// The digest of a document that is pushed under a name, and the tags that it gets.
fn named(bytes: &[u8], reference: ManifestName, extra: Vec<String>) -> Outcome<(ContentDigest, Vec<String>)> {
    let mut tags = Vec::new();
    for tag in extra {
        match ManifestName::parse(&tag)? {
            ManifestName::Tag(tag) => tags.push(tag),
            ManifestName::Digest(_) => {
                return Err(Failure::bad_request(
                    Code::ManifestInvalid,
                    format!("{tag} is not a tag"),
                ));
            }
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(Failure::new(
            StatusCode::URI_TOO_LONG,
            Code::Unsupported,
            format!("at most {TAGS_MAX} tags come with one manifest"),
        ));
    }
    match reference {
        ManifestName::Tag(tag) => {
            tags.push(tag);
            Ok((Digest::of(bytes).into(), tags))
        }
        ManifestName::Digest(digest) if digest.is_of(bytes) => Ok((digest, tags)),
        ManifestName::Digest(digest) => Err(Failure::bad_request(
            Code::DigestInvalid,
            format!("what was sent does not have digest {digest}"),
        )),
    }
}

/// Reads a manifest, which is parsed in memory.
async fn read_document(registry: &Registry, body: RequestBody) -> Outcome<Bytes> {
    let bytes_max = muster_images::limits::DOCUMENT_BYTES_MAX;
    let mut body = Pieces::new(body, registry.patience);
    let mut bytes = Vec::new();
    loop {
        let next = body.next().await;
        let Some(piece) = next.map_err(|broken| broken_off(broken, Code::ManifestInvalid))? else {
            return Ok(bytes.into());
        };
        registry.traffic.received(piece.len());
        if (bytes.len() + piece.len()) as u64 > bytes_max {
            return Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::ManifestInvalid,
                format!("a manifest has at most {bytes_max} bytes"),
            ));
        }
        bytes.extend_from_slice(&piece);
    }
}

/// What a client is told whose body broke off.
fn broken_off(broken: Broken, code: Code) -> Failure {
    match broken {
        Broken::TooSlow => Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            code,
            "the request's body comes too slowly",
        ),
        Broken::Off(error) => Failure::bad_request(code, format!("the request broke off: {error}")),
    }
}
