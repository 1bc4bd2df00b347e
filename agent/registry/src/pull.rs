//! `docker pull`: the documents, then the layers side by side, unpacked while they come.

use crate::assemble::Assembly;
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::progress::{Progress, Report};
use crate::registries::{Endpoints, Opened, Opening, Registries};
use crate::repository::{Fetched, Repository, pull_scope};
use crate::session::Session;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use muster_images::limits::{DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX};
use muster_images::{
    ArchiveError, BlobDescriptor, ComingImage, ImagePlatform, ImageStore, Reference, RemoteDocument,
    RemoteImage,
};
use std::future::Future;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// All tags of the reference's repository.
    pub all_tags: bool,
    /// Of several platforms this one, else that of this machine.
    pub platform: Option<ImagePlatform>,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// Lines of an operation, which goes on whether they are read or not, and ends when they are dropped.
pub type ProgressStream = BoxStream<'static, Result<Progress>>;

/// A pull that has begun.
struct Pull {
    registries: Registries,
    store: ImageStore,
    session: Session,
    /// Those that are asked when the session is with a mirror that fails.
    rest: Endpoints,
    request: PullRequest,
    scopes: [String; 1],
    report: Report,
}

impl Registries {
    /// Begins a pull: returns once the registry gave the manifest, or said why not. Nothing of a pull that fails or is
    /// dropped stays visible.
    pub async fn pull(&self, store: &ImageStore, request: PullRequest) -> Result<ProgressStream> {
        let reference = request.reference.clone();
        let opening = Opening::of(&request);
        let mut rest = self.endpoints(&reference);
        let (session, opened) = self
            .open(&mut rest, &reference, &request.credentials, &opening)
            .await?;
        let (report, lines) = Report::new();
        let pull = Pull {
            registries: self.clone(),
            store: store.clone(),
            session,
            rest,
            scopes: [pull_scope(reference.path())],
            request,
            report,
        };
        Ok(driven(lines, async move { pull.run(opened).await }))
    }
}

/// The lines of an operation, which has a task of its own: other pulls wait for what it holds.
pub(crate) fn driven(
    lines: mpsc::Receiver<Progress>,
    operation: impl Future<Output = Result<()>> + Send + 'static,
) -> ProgressStream {
    let operation = AbortOnDropHandle::new(tokio::spawn(operation));
    let outcome = stream::once(operation).filter_map(|joined| async move {
        let outcome = joined.unwrap_or(Err(Error::Interrupted));
        outcome.err().map(Err)
    });
    let lines = ReceiverStream::new(lines).map(Ok);
    // The channel closes with the operation, whose error then is the last line.
    stream::select(lines, outcome).boxed()
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> muster_images::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(operation).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Interrupted),
    }
}

impl<'a> Opening<'a> {
    fn of(request: &'a PullRequest) -> Self {
        match request.all_tags {
            true => Self::Tags,
            false => Self::Manifest(&request.reference),
        }
    }
}

impl Pull {
    async fn run(mut self, opened: Opened) -> Result<()> {
        let mut opened = opened;
        loop {
            match self.pull(opened).await {
                Err(error) if self.session.is_passed_over(&error) => {}
                outcome => return outcome,
            }
            let reference = self.request.reference.clone();
            (self.session, opened) = self
                .registries
                .open(
                    &mut self.rest,
                    &reference,
                    &self.request.credentials,
                    &Opening::of(&self.request),
                )
                .await?;
        }
    }

    async fn pull(&self, opened: Opened) -> Result<()> {
        let reference = &self.request.reference;
        match opened {
            Opened::Manifest(fetched) => {
                let updated = self.pull_one(reference, fetched).await?;
                self.finish(&reference.familiar(), updated).await;
            }
            Opened::Tags(tags) => {
                let mut updated = false;
                for tag in tags {
                    let name = format!("{}:{tag}", reference.name());
                    let named = Reference::parse(&name).map_err(muster_images::Error::from)?;
                    let fetched = self.repository().manifest(&tag, &named.familiar()).await;
                    let fetched = fetched.map_err(|error| error.on_pull(&named))?;
                    updated |= self.pull_one(&named, fetched).await?;
                }
                self.finish(&reference.familiar_name(), updated).await;
            }
        }
        Ok(())
    }

    async fn finish(&self, name: &str, updated: bool) {
        let status = match updated {
            true => format!("Status: Downloaded newer image for {name}"),
            false => format!("Status: Image is up to date for {name}"),
        };
        self.report.status(status).await;
    }

    fn repository(&self) -> Repository<'_> {
        Repository {
            session: &self.session,
            path: self.request.reference.path(),
            scopes: &self.scopes,
        }
    }

    /// Pulls one tag or digest; returns whether its name now means another image than before.
    async fn pull_one(&self, reference: &Reference, top: Fetched) -> Result<bool> {
        let label = match (reference.tag(), reference.digest()) {
            (_, Some(digest)) => digest.to_string(),
            (tag, None) => tag.unwrap_or("latest").to_owned(),
        };
        let from = format!("Pulling from {}", reference.path());
        self.report.of(&label, &from);
        let (store, name) = (self.store.clone(), reference.to_string());
        let before = blocking(move || Ok(store.resolve(&name).ok().map(|image| image.id))).await?;
        let digest = top.digest;
        let (manifest, image) = self.image_of(top.clone(), reference).await?;
        let by_digest = reference.at_digest(digest);
        let references = match reference.digest() {
            Some(_) => vec![by_digest],
            None => vec![reference.clone(), by_digest],
        };
        let coming = ComingImage {
            manifest: manifest.digest,
            index: (manifest.digest != digest).then_some(digest),
            references,
        };
        let lease = self.store.lease(
            [digest, manifest.digest, image.config.digest]
                .into_iter()
                .chain(image.layers.iter().map(|layer| layer.digest)),
        );
        // First: nothing is stored of an image whose configuration does not come.
        let config = self.config(&image.config).await?;
        let (store, named, announced) = (self.store.clone(), coming.clone(), image.config);
        let known = blocking(move || {
            if let Some(bytes) = config {
                store.import_blob(&announced.digest, Some(announced.bytes), bytes.as_ref())?;
            }
            for document in [top, manifest] {
                let bytes = document.bytes;
                store.import_blob(&document.digest, Some(bytes.len() as u64), bytes.as_ref())?;
            }
            store.name_known(&named)
        })
        .await?;
        let id = match known {
            Some(id) => id,
            None => {
                let origin = self.repository();
                let assembly = Assembly::new(&self.registries, &self.store, &self.report, Some(&origin));
                assembly.image(coming, image, lease).await?
            }
        };
        self.report.status(format!("Digest: {digest}")).await;
        Ok(before != Some(id))
    }

    /// The manifest for the platform that is wanted, through indexes.
    async fn image_of(&self, top: Fetched, reference: &Reference) -> Result<(Fetched, RemoteImage)> {
        let mut fetched = top;
        for _ in 0..=INDEX_DEPTH_MAX {
            let what = format!("manifest {}", fetched.digest);
            match RemoteDocument::parse(&fetched.bytes, &what).map_err(Error::from)? {
                RemoteDocument::Image(image) => return Ok((fetched, image)),
                RemoteDocument::Index(index) => {
                    let chosen = index.choose(self.request.platform.as_ref())?;
                    let wanted = chosen.digest.to_string();
                    let answered = self.repository().manifest(&wanted, &reference.familiar()).await;
                    fetched = answered.map_err(|error| error.on_pull(reference))?;
                }
            }
        }
        let limit = INDEX_DEPTH_MAX as u64;
        Err(muster_images::Error::from(ArchiveError::Limit {
            what: "the nesting of indexes",
            limit,
        })
        .into())
    }

    /// The configuration, unless it is stored.
    async fn config(&self, config: &BlobDescriptor) -> Result<Option<Bytes>> {
        let (store, digest) = (self.store.clone(), config.digest);
        if blocking(move || store.has_blob(&digest)).await? {
            return Ok(None);
        }
        let bytes_max = config.bytes.min(DOCUMENT_BYTES_MAX);
        let bytes = self.repository().small_blob(&config.digest, bytes_max).await?;
        self.registries.traffic().came_from_registry(bytes.len());
        Ok(Some(bytes))
    }
}
