//! An image of layers that are missing: downloaded side by side, from peers or the registry, and unpacked while they
//! come.

use crate::download::{Sources, download};
use crate::error::{Error, Result};
use crate::layers::{Board, Going, Layers};
use crate::progress::Report;
use crate::pull::blocking;
use crate::registries::Registries;
use crate::repository::Repository;
use futures::{StreamExt, TryStreamExt, stream};
use muster_images::limits::LAYERS_MAX;
use muster_images::{
    ArchiveError, BlobDescriptor, ComingImage, Digest, ErrorKind, ImageStore, Lease, LoadLimits, RemoteImage,
};
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Layers that are downloaded at once, as Docker's.
const DOWNLOADS_MAX: usize = 3;
/// How often an image is begun anew because peers gave what is false. Each time they are fewer.
const FALSE_PEERS_MAX: usize = 8;

/// What makes an image of its documents.
pub(crate) struct Assembly<'a> {
    pub registries: &'a Registries,
    pub store: &'a ImageStore,
    pub report: &'a Report,
    /// Where the layers are, besides with peers.
    pub origin: Option<&'a Repository<'a>>,
}

/// What was brought of an image: whoever lets go of it last, the pull or an import that a dropped pull left running,
/// removes what no image came of.
struct Kept {
    lease: Option<Lease>,
    store: ImageStore,
    /// The image stands.
    made: AtomicBool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.lease.take());
        if !*self.made.get_mut() {
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
        let assembly = Assembly {
            registries: self,
            store,
            report: &report,
            origin: None,
        };
        assembly.image(coming, image, lease).await
    }
}

impl Assembly<'_> {
    /// Downloads and unpacks what is missing of an image, and makes it one.
    pub async fn image(&self, coming: ComingImage, image: RemoteImage, lease: Lease) -> Result<Digest> {
        let kept = Arc::new(Kept {
            lease: Some(lease),
            store: self.store.clone(),
            made: AtomicBool::new(false),
        });
        let outcome = self.attempts(coming, image, &kept).await;
        // What holds the rest lets go here, if the import has not.
        blocking(move || {
            drop(kept);
            Ok(())
        })
        .await?;
        outcome
    }

    async fn attempts(&self, coming: ComingImage, image: RemoteImage, kept: &Arc<Kept>) -> Result<Digest> {
        for _ in 0..FALSE_PEERS_MAX {
            match self.attempt(coming.clone(), image.clone(), kept.clone()).await {
                Err(Error::Store(error))
                    if error.kind() == ErrorKind::Invalid && self.is_of_a_peer(&image) =>
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
        self.attempt(coming, image, kept.clone()).await
    }

    /// Whether a peer gave what the store refused, which then is not asked again.
    fn is_of_a_peer(&self, image: &RemoteImage) -> bool {
        let layers: Vec<Digest> = image.layers.iter().map(|layer| layer.digest).collect();
        let peers = self.registries.peers();
        peers.is_some_and(|peers| peers.distrust(&layers))
    }

    async fn attempt(&self, coming: ComingImage, image: RemoteImage, kept: Arc<Kept>) -> Result<Digest> {
        let board = Arc::new(Board::default());
        let going = Going(board.clone());
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for layer in image.layers.iter().filter(|layer| seen.insert(layer.digest)) {
            let (store, digest, bytes) = (self.store.clone(), layer.digest, layer.bytes);
            if blocking(move || store.has_whole_blob(&digest, bytes)).await? {
                board.stored(digest);
                self.report.of(&digest.short(), "Already exists");
            } else {
                self.report.of(&digest.short(), "Pulling fs layer");
                missing.push(*layer);
            }
        }
        for waiting in missing.iter().skip(DOWNLOADS_MAX) {
            self.report.of(&waiting.digest.short(), "Waiting");
        }
        let had: HashSet<Digest> = seen
            .into_iter()
            .filter(|digest| missing.iter().all(|blob| blob.digest != *digest))
            .collect();
        let feed = Layers::new(
            image.layers,
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
        let downloads = stream::iter(missing)
            .map(|blob| self.fetch_layer(blob, &board))
            .buffer_unordered(DOWNLOADS_MAX.min(LAYERS_MAX))
            .try_for_each(|()| async { Ok(()) });
        together(downloads, importing, going).await
    }

    async fn fetch_layer(&self, blob: BlobDescriptor, board: &Board) -> Result<()> {
        let id = blob.digest.short();
        let turn = self.registries.download_turn(&blob.digest);
        let _downloading = turn.lock().await;
        let store = self.store.clone();
        // Another pull may have brought it.
        if !blocking(move || store.has_whole_blob(&blob.digest, blob.bytes)).await? {
            let store = self.store.clone();
            let (writer, coming) = blocking(move || store.begin_blob(&blob.digest, blob.bytes)).await?;
            board.coming(blob.digest, coming);
            let registry = self
                .origin
                .map(|origin| origin.session.endpoint.address.to_string());
            let peers = self.registries.peers();
            let mut sources = Sources {
                origin: self.origin,
                peers: peers.map(|peers| peers.begin(&blob, registry.as_deref())),
                traffic: self.registries.traffic(),
            };
            download(&mut sources, blob, writer, self.report, &id).await?;
        }
        self.report.of(&id, "Download complete");
        board.stored(blob.digest);
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
