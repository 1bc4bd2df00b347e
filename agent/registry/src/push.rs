//! `docker push`: the blobs that the registry lacks, then the manifest.

use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::progress::Report;
use crate::pull::{ProgressStream, blocking, driven};
use crate::registries::{Registries, goes_on};
use crate::session::Session;
use crate::upload::{Arrival, Uploads, push_scopes};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use muster_images::{
    BlobDescriptor, ComingImage, Digest, ImageStore, Reference, RemoteDocument, RemoteImage,
};
use std::collections::HashSet;

/// Blobs that are sent at once, as Docker's.
const UPLOADS_MAX: usize = 5;
/// Repositories from which a registry is asked to take a blob over: each costs a request.
const MOUNTS_MAX: usize = 2;
/// Type of a manifest that does not say its own.
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is to be pushed.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The image, with a tag unless all are meant.
    pub reference: Reference,
    /// All tags of the reference's repository.
    pub all_tags: bool,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// A tag that is pushed.
struct Pushed {
    reference: Reference,
    digest: Digest,
    media_type: String,
    manifest: Bytes,
    image: RemoteImage,
    /// Layers that nobody compared with the image's content.
    unseen: Vec<Digest>,
    /// Its blobs stay while they are read.
    _lease: muster_images::Lease,
}

struct Push {
    store: ImageStore,
    session: Session,
    reference: Reference,
    tags: Vec<Reference>,
    report: Report,
}

impl Registries {
    /// Begins a push: returns once the registry answered.
    pub async fn push(&self, store: &ImageStore, request: PushRequest) -> Result<ProgressStream> {
        let (own, asked) = (store.clone(), request.clone());
        let tags = blocking(move || find(&own, &asked)).await?;
        if tags.is_empty() {
            return Err(Error::NothingToPush {
                name: request.reference.familiar(),
            });
        }
        let session = self
            .connect(request.reference.domain(), request.credentials)
            .await?;
        let (report, lines) = Report::new();
        let push = Push {
            store: store.clone(),
            session,
            reference: request.reference,
            tags,
            report,
        };
        Ok(driven(lines, async move { push.run().await }))
    }

    /// A session with the registry itself, which has answered.
    async fn connect(&self, domain: &str, credentials: Option<Credentials>) -> Result<Session> {
        let all = self.registry_endpoints(domain);
        let mut tried = Error::protocol(domain, "this is no host of a registry");
        for (position, endpoint) in all.iter().enumerate() {
            let session = Session::new(endpoint.clone(), self.settings.clone(), credentials.clone());
            match session.probe().await {
                Ok(()) => return Ok(session),
                Err(error) if goes_on(&error, endpoint, all.get(position + 1)) => tried = error,
                Err(error) => return Err(error),
            }
        }
        Err(tried)
    }
}

/// The tags that are meant and that images have.
fn find(store: &ImageStore, request: &PushRequest) -> muster_images::Result<Vec<Reference>> {
    let names = match request.all_tags {
        true => store.tags_of(&request.reference)?,
        false => vec![request.reference.clone().with_default_tag()],
    };
    let mut found = Vec::new();
    for reference in names {
        match store.resolve(&reference.to_string()) {
            Err(error) if error.kind() == muster_images::ErrorKind::NotFound => {}
            image => {
                image?;
                found.push(reference);
            }
        }
    }
    Ok(found)
}

/// In which form an image is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it came, where it came from elsewhere.
    Own,
    /// All layers compressed here.
    Repacked,
}

/// The manifest of a tag, as the registry gets it.
fn prepare(store: &ImageStore, reference: Reference, form: Form) -> muster_images::Result<Option<Pushed>> {
    let packed = match form {
        Form::Own => store.packed_manifest(&reference.to_string())?,
        Form::Repacked => store.repacked_manifest(&reference.to_string())?,
    };
    Ok(match RemoteDocument::parse(&packed.bytes, "a stored manifest")? {
        RemoteDocument::Image(image) => Some(Pushed {
            media_type: manifest_type(&packed.bytes),
            reference,
            digest: packed.digest,
            manifest: Bytes::from(packed.bytes),
            image,
            unseen: packed.unseen,
            _lease: packed.lease,
        }),
        RemoteDocument::Index(_) => None,
    })
}

/// The media type that a manifest says it has, or that of the OCI's.
pub fn manifest_type(manifest: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let typed: Option<Typed> = serde_json::from_slice(manifest).ok();
    let own = typed.and_then(|typed| typed.media_type);
    own.unwrap_or_else(|| MANIFEST_TYPE.to_owned())
}

impl Push {
    async fn run(self) -> Result<()> {
        let name = self.reference.familiar_name();
        let to = format!("The push refers to repository [{}]", self.reference.name());
        self.report.status(to).await;
        let uploads = Uploads {
            session: &self.session,
            path: self.reference.path(),
            scopes: push_scopes(self.reference.path(), None),
        };
        let mut there = HashSet::new();
        for reference in self.tags.clone() {
            let Some(tag) = self.sent(&uploads, reference, &mut there).await? else {
                continue;
            };
            uploads
                .blob(&self.store, tag.image.config, &[], &self.report)
                .await?;
            let label = tag.reference.tag().unwrap_or_default();
            uploads
                .manifest(label, &tag.media_type, tag.manifest.clone(), &tag.digest)
                .await?;
            self.note(&tag).await?;
            let (digest, size) = (tag.digest, tag.manifest.len() as u64);
            self.report
                .status(format!("{label}: digest: {digest} size: {size}"))
                .await;
            self.report.pushed(label, &digest, size).await;
        }
        tracing::debug!(repository = name, tags = self.tags.len(), "pushed");
        Ok(())
    }

    /// A tag whose layers the registry has.
    async fn sent(
        &self,
        uploads: &Uploads<'_>,
        reference: Reference,
        there: &mut HashSet<Digest>,
    ) -> Result<Option<Pushed>> {
        for form in [Form::Own, Form::Repacked] {
            let (store, reference) = (self.store.clone(), reference.clone());
            let Some(tag) = blocking(move || prepare(&store, reference, form)).await? else {
                return Ok(None);
            };
            match self.send_layers(uploads, &tag, there).await {
                // A layer came compressed from another registry, and only what is in it was kept or seen.
                Err(Error::Store(muster_images::Error::NoSuchBlob { .. })) if form == Form::Own => {}
                outcome => return outcome.map(|()| Some(tag)),
            }
        }
        Ok(None)
    }

    async fn send_layers(
        &self,
        uploads: &Uploads<'_>,
        tag: &Pushed,
        there: &mut HashSet<Digest>,
    ) -> Result<()> {
        let mut new: Vec<BlobDescriptor> = Vec::new();
        for layer in &tag.image.layers {
            if !there.contains(&layer.digest) && new.iter().all(|known| known.digest != layer.digest) {
                self.report.of(&layer.digest.short(), "Preparing");
                new.push(*layer);
            }
        }
        let sent: Vec<Digest> = stream::iter(new)
            .map(|blob| self.send_layer(uploads, blob, tag.unseen.contains(&blob.digest)))
            .buffer_unordered(UPLOADS_MAX)
            .try_collect()
            .await?;
        there.extend(sent);
        Ok(())
    }

    /// One that is unseen has to be there: what this store has under its digest may be of an image that is not to be sent.
    async fn send_layer(&self, uploads: &Uploads<'_>, blob: BlobDescriptor, unseen: bool) -> Result<Digest> {
        let (id, digest) = (blob.digest.short(), blob.digest);
        if unseen && !uploads.has(&digest).await? {
            return Err(muster_images::Error::NoSuchBlob { digest }.into());
        }
        let (store, reference) = (self.store.clone(), self.reference.clone());
        let mut mounts = blocking(move || store.repositories_with(&blob.digest, &reference)).await?;
        mounts.truncate(MOUNTS_MAX);
        let arrival = uploads.blob(&self.store, blob, &mounts, &self.report).await?;
        let status = match arrival {
            Arrival::Existed => "Layer already exists".to_owned(),
            Arrival::Mounted(from) => format!("Mounted from {from}"),
            Arrival::Sent => "Pushed".to_owned(),
        };
        self.report.of(&id, &status);
        Ok(blob.digest)
    }

    /// The image is known by the digest that the registry now has of it.
    async fn note(&self, tag: &Pushed) -> Result<()> {
        let image = ComingImage {
            manifest: tag.digest,
            index: None,
            references: vec![tag.reference.at_digest(tag.digest)],
        };
        let store = self.store.clone();
        blocking(move || store.name_known(&image)).await?;
        Ok(())
    }
}
