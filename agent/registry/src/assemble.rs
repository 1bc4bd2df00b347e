//! An image of layers that are missing: downloaded side by side, from peers or the registry, and unpacked while they
//! come.

use crate::download::{Sources, download};
use crate::error::{Error, Result};
use crate::layers::{Board, Going, Layers};
use crate::progress::Report;
use crate::pull::blocking;
use crate::registries::Registries;
use crate::repository::Repository;
use futures::{StreamExt, stream};
use muster_images::limits::LAYERS_MAX;
use muster_images::{
    ArchiveError, BlobDescriptor, ComingBlob, ComingImage, Digest, ErrorKind, ImageStore, LayerHere, Lease,
    LoadLimits, RemoteImage,
};
use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Layers that are downloaded at once, as Docker's.
const DOWNLOADS_MAX: usize = 3;
/// How often an image is begun anew because peers gave what is false. Each time they are fewer.
const FALSE_PEERS_MAX: usize = 8;

/// A layer that is wanted.
#[derive(Debug, Clone, Copy)]
struct Layer {
    /// Its blob.
    blob: BlobDescriptor,
    /// The digest of what is in it, uncompressed.
    content: Digest,
}

/// In which forms layers may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forms {
    /// As blobs, or uncompressed where peers have only that.
    Any,
    Blobs,
}

/// What makes an image of its documents.
pub(crate) struct Assembly<'a> {
    pub registries: &'a Registries,
    pub store: &'a ImageStore,
    pub report: &'a Report,
    /// Where the layers are, besides with peers.
    pub origin: Option<&'a Repository<'a>>,
    /// The sizes of contents that were believed.
    believed: Mutex<HashSet<BlobSize>>,
}

/// A digest and the size that others told for it.
type BlobSize = (Digest, u64);

/// What was brought of an image: whoever lets go of it last, the pull or an import that a dropped pull left running,
/// removes what no image came of.
struct Kept {
    lease: Option<Lease>,
    manifest: Digest,
    store: ImageStore,
    /// Which need no blobs once they are unpacked.
    layers: Vec<Digest>,
    /// The image stands.
    made: AtomicBool,
    /// It may succeed a little later.
    may_go_on: AtomicBool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let lease = self.lease.take();
        if *self.made.get_mut() {
            drop(lease);
            self.store.finished(&self.manifest);
            self.store.discard_unpacked(&self.layers, None);
        } else if let Some(lease) = lease.filter(|_| *self.may_go_on.get_mut()) {
            self.store.keep_unfinished(self.manifest, lease);
        } else {
            self.store.collect_after_failure();
        }
    }
}

impl Registries {
    /// Makes an image, whose documents and configuration are stored, of layers that peers have. The lease is on all of
    /// it.
    pub async fn assemble_from_peers(
        &self,
        store: &ImageStore,
        coming: ComingImage,
        image: RemoteImage,
        lease: Lease,
    ) -> Result<Digest> {
        // Nobody reads the lines; those of layers are left out then.
        let (report, _unread) = Report::new();
        let assembly = Assembly::new(self, store, &report, None);
        assembly.image(coming, image, lease).await
    }
}

impl<'a> Assembly<'a> {
    pub fn new(
        registries: &'a Registries,
        store: &'a ImageStore,
        report: &'a Report,
        origin: Option<&'a Repository<'a>>,
    ) -> Self {
        Self {
            registries,
            store,
            report,
            origin,
            believed: Mutex::default(),
        }
    }

    /// Downloads and unpacks what is missing of an image, and makes it one.
    pub async fn image(&self, coming: ComingImage, image: RemoteImage, mut lease: Lease) -> Result<Digest> {
        let (store, manifest) = (self.store.clone(), coming.manifest);
        let contents = blocking(move || store.layer_contents(&manifest)).await?;
        let layers: Vec<Layer> = image
            .layers
            .iter()
            .zip(&contents)
            .map(|(blob, content)| Layer {
                blob: *blob,
                content: *content,
            })
            .collect();
        let blobs = layers.iter().map(|layer| layer.blob.digest);
        lease.extend(contents.iter().copied());
        let kept = Arc::new(Kept {
            lease: Some(lease),
            manifest: coming.manifest,
            store: self.store.clone(),
            layers: blobs.chain(contents).collect(),
            made: AtomicBool::new(false),
            may_go_on: AtomicBool::new(false),
        });
        let outcome = self.attempts(coming, layers, &kept).await;
        let passes = |error: &Error| error.is_passing() || matches!(error, Error::NoPeer { .. });
        let may_go_on = outcome.as_ref().err().is_some_and(passes);
        kept.may_go_on.store(may_go_on, Ordering::Relaxed);
        // What holds the rest lets go here, if the import has not.
        blocking(move || {
            drop(kept);
            Ok(())
        })
        .await?;
        outcome
    }

    async fn attempts(&self, coming: ComingImage, layers: Vec<Layer>, kept: &Arc<Kept>) -> Result<Digest> {
        let mut forms = Forms::Any;
        let mut seen = 0;
        let mut is_asked_again = false;
        for _ in 0..FALSE_PEERS_MAX {
            match self
                .attempt(coming.clone(), layers.clone(), kept.clone(), forms)
                .await
            {
                // Nobody has what was begun in that form; the registry has the other.
                Err(Error::NoPeer { .. }) if self.origin.is_some() && forms == Forms::Any => {
                    forms = Forms::Blobs;
                }
                // Whoever had it is gone; others may have it in the other form, or may have told another size of it.
                Err(Error::NoPeer { .. })
                    if self.origin.is_none() && (!is_asked_again || self.sizes_believed() > seen) =>
                {
                    is_asked_again = true;
                    seen = self.sizes_believed();
                }
                Err(Error::Store(error))
                    if error.kind() == ErrorKind::Invalid && self.is_of_a_peer(&layers) =>
                {
                    let error = error.full_message();
                    tracing::warn!(
                        error,
                        "a node gave what is no part of the image; it is fetched from elsewhere"
                    );
                }
                outcome => return outcome,
            }
        }
        if self.origin.is_some() {
            forms = Forms::Blobs;
        }
        self.attempt(coming, layers, kept.clone(), forms).await
    }

    fn sizes_believed(&self) -> usize {
        self.believed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether a peer gave what the store refused, which then is not asked again.
    fn is_of_a_peer(&self, layers: &[Layer]) -> bool {
        let layers: Vec<Digest> = layers
            .iter()
            .flat_map(|layer| [layer.blob.digest, layer.content])
            .collect();
        let peers = self.registries.peers();
        peers.is_some_and(|peers| peers.distrust(&layers))
    }

    async fn attempt(
        &self,
        coming: ComingImage,
        layers: Vec<Layer>,
        kept: Arc<Kept>,
        forms: Forms,
    ) -> Result<Digest> {
        let board = Arc::new(Board::default());
        let going = Going(board.clone());
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for layer in layers.iter().filter(|layer| seen.insert(layer.blob.digest)) {
            let digest = layer.blob.digest;
            if let Some(here) = self.here(layer).await? {
                board.stored(digest, here);
                self.report.of(&digest.short(), "Already exists");
            } else {
                self.report.of(&digest.short(), "Pulling fs layer");
                missing.push(*layer);
            }
        }
        for waiting in missing.iter().skip(DOWNLOADS_MAX) {
            self.report.of(&waiting.blob.digest.short(), "Waiting");
        }
        let had: HashSet<Digest> = seen
            .into_iter()
            .filter(|digest| missing.iter().all(|layer| layer.blob.digest != *digest))
            .collect();
        let feed = Layers::new(
            layers.iter().map(|layer| layer.blob).collect(),
            had,
            board.clone(),
            self.store.clone(),
            self.report.clone(),
        );
        let store = self.store.clone();
        let importing = blocking(move || {
            let imported = store.import_coming(&coming, &feed, &LoadLimits::default());
            kept.made.store(imported.is_ok(), Ordering::Relaxed);
            imported
        });
        let downloads = self.fetch_layers(missing, &board, forms);
        let outcome = together(downloads, importing, going).await;
        if outcome.is_err() {
            // Whoever begins anew need not fetch it again; else it is collected.
            let stored = blocking(move || board.store_all()).await;
            if let Err(error) = stored {
                tracing::debug!(error = %error, "what came of an image is not kept");
            }
        }
        outcome
    }

    /// What is here of a layer.
    async fn here(&self, layer: &Layer) -> Result<Option<LayerHere>> {
        let (store, Layer { blob, content }) = (self.store.clone(), *layer);
        blocking(move || store.layer_here(&blob.digest, blob.bytes, Some(&content))).await
    }

    /// What came here whole for another pull, which may not store it.
    fn coming_elsewhere(&self, layer: &Layer) -> Option<ComingBlob> {
        let mut forms = [layer.blob.digest, layer.content].into_iter();
        forms.find_map(|form| self.store.coming_blob(&form).filter(ComingBlob::is_verified))
    }

    /// Downloads layers side by side. When nobody has one of them, those that are on their way come to their end: whoever
    /// begins anew need not fetch them again.
    async fn fetch_layers(&self, layers: Vec<Layer>, board: &Board, forms: Forms) -> Result<()> {
        let missed = AtomicBool::new(false);
        let fetch = |layer| {
            let missed = &missed;
            async move {
                match missed.load(Ordering::Relaxed) {
                    true => Ok(()),
                    false => self.fetch_layer(layer, board, forms).await,
                }
            }
        };
        let mut fetched = stream::iter(layers)
            .map(fetch)
            .buffer_unordered(DOWNLOADS_MAX.min(LAYERS_MAX));
        let mut outcome = Ok(());
        while let Some(layer) = fetched.next().await {
            match layer {
                Ok(()) => {}
                Err(error @ Error::NoPeer { .. }) => {
                    missed.store(true, Ordering::Relaxed);
                    outcome = Err(error);
                }
                error => return error,
            }
        }
        outcome
    }

    async fn fetch_layer(&self, layer: Layer, board: &Board, forms: Forms) -> Result<()> {
        let id = layer.blob.digest.short();
        let turn = self.registries.download_turn(&layer.blob.digest);
        let _downloading = turn.lock().await;
        let digest = layer.blob.digest;
        // Another pull may have brought it, or have it and not store it.
        if let Some(here) = self.here(&layer).await? {
            board.stored(digest, here);
        } else if let Some(coming) = self.coming_elsewhere(&layer) {
            board.verified(digest, coming, None);
        } else {
            let content = match forms {
                Forms::Any => self.content_elsewhere(&layer).await,
                Forms::Blobs => None,
            };
            let (blob, origin) = match content {
                Some(content) => (content, None),
                None => (layer.blob, self.origin),
            };
            self.fetch_blob(&layer, blob, origin, board).await?;
        }
        self.report.of(&id, "Download complete");
        Ok(())
    }

    /// The uncompressed content of a layer, where only that is with peers.
    async fn content_elsewhere(&self, layer: &Layer) -> Option<BlobDescriptor> {
        let peers = self.registries.peers()?;
        if layer.content == layer.blob.digest {
            return None;
        }
        let registry = self.registry();
        let found = peers.content(&layer.blob, &layer.content, registry.as_deref());
        let mut sizes = found.await;
        sizes.retain(|bytes| *bytes <= LoadLimits::default().unpacked_bytes_max);
        let digest = layer.content;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        // One that did not come true before is tried again only where no other is told.
        let is_new = |bytes: &&u64| !believed.contains(&(digest, **bytes));
        let bytes = *sizes.iter().find(is_new).or(sizes.first())?;
        believed.insert((digest, bytes));
        Some(BlobDescriptor { digest, bytes })
    }

    fn registry(&self) -> Option<String> {
        self.origin
            .map(|origin| origin.session.endpoint.address.to_string())
    }

    async fn fetch_blob(
        &self,
        layer: &Layer,
        blob: BlobDescriptor,
        origin: Option<&Repository<'_>>,
        board: &Board,
    ) -> Result<()> {
        let store = self.store.clone();
        let (writer, coming) = blocking(move || store.begin_blob(&blob.digest, blob.bytes)).await?;
        board.coming(layer.blob.digest, coming.clone());
        let registry = self.registry().filter(|_| origin.is_some());
        let peers = self.registries.peers();
        let mut sources = Sources {
            origin,
            peers: peers.map(|peers| peers.begin(&blob, registry.as_deref())),
            traffic: self.registries.traffic(),
        };
        let id = layer.blob.digest.short();
        let verified = download(&mut sources, blob, writer, self.report, &id).await?;
        board.verified(layer.blob.digest, coming, Some(verified));
        Ok(())
    }
}

/// Both, or the error that explains: when a layer could not be read to its end, the download says why. By then nothing
/// of the pull is left.
async fn together(
    downloads: impl Future<Output = Result<()>>,
    importing: impl Future<Output = Result<Digest>>,
    going: Going,
) -> Result<Digest> {
    tokio::pin!(downloads, importing);
    tokio::select! {
        biased;
        downloaded = &mut downloads => match downloaded {
            Ok(()) => importing.await,
            Err(error) => {
                drop(going);
                // It fails, because the pull was given up.
                let _ = importing.await;
                Err(error)
            }
        },
        imported = &mut importing => match imported {
            Err(error) if is_cut(&error) => {
                downloads.await?;
                Err(error)
            }
            Err(error) => Err(error),
            // It waits for every blob, so that the downloads are at their end.
            Ok(id) => downloads.await.map(|()| id),
        }
    }
}

/// Whether reading a layer failed, rather than what was read.
fn is_cut(error: &Error) -> bool {
    let mut error = match error {
        Error::Store(muster_images::Error::Archive(error)) => error,
        _ => return false,
    };
    while let ArchiveError::Layer { source, .. } = error {
        error = source;
    }
    matches!(error, ArchiveError::Stream(_) | ArchiveError::Truncated)
}
