//! The store: opening it, finding images, naming them.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::blobs;
use crate::collect::Unrecorded;
use crate::coming::ComingBlobs;
use crate::coming_place::InMemory;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::image::{Image, unix_seconds};
use crate::layout::Layout;
use crate::lease::{Lease, Pins};
use crate::limits::DOCUMENT_BYTES_MAX;
use crate::manifest::parse_config;
use crate::rebuild::Found;
use crate::records::{ImageRecord, Lookup, Persist, Records};
use crate::reference::Reference;
use crate::session::Session;
use crate::turns::Turns;
use crate::unfinished::Unfinished;

/// The images, layers and container root filesystems of one node. Clones share one store; methods block.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) records: Records,
    pub(crate) pins: Arc<Pins>,
    pub(crate) layer_turns: Turns,
    pub(crate) session: Session,
    /// Looks at what the power may have taken.
    pub(crate) checking: Mutex<Option<JoinHandle<()>>>,
    /// Some image may be hidden.
    pub(crate) hides: AtomicBool,
    pub(crate) coming: ComingBlobs,
    pub(crate) unfinished: Unfinished,
    pub(crate) in_memory: InMemory,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.session.close();
    }
}

impl ImageStore {
    /// Opens or makes the store in `root`, checks that its file system carries overlay mounts, and removes what an
    /// interrupted process left. One process at a time. Starts a thread, which ends with the last clone.
    pub fn open(root: &Path) -> Result<ImageStore> {
        // Mount options name these directories, and the daemon may change its working directory.
        let root = std::path::absolute(root).map_err(|error| Error::io("resolve", root, error))?;
        Layout::make(&root)?;
        let (session, earlier) = Session::begin(&root)?;
        let (records, found) = crate::rebuild::open_records(&root, earlier)?;
        let layout = Layout::open(&root)?;
        crate::snapshot::probe_filesystem(&layout)?;
        if !earlier.is_of_this_boot {
            layout.discard_retired()?;
        }
        let pins = Arc::new(Pins::default());
        let store = ImageStore {
            inner: Arc::new(Inner {
                layout,
                records,
                pins,
                layer_turns: Turns::default(),
                session,
                checking: Mutex::new(None),
                hides: AtomicBool::new(false),
                coming: ComingBlobs::default(),
                unfinished: Unfinished::default(),
                in_memory: InMemory::default(),
            }),
        };
        if earlier.lost_power {
            store.doubt_all()?;
        }
        if found == Found::Lost {
            store.rebuild_images()?;
        }
        let lost = store.remove_unreadable()? || found == Found::Lost;
        store.readopt_layers()?;
        store.remove_unrecorded(match lost && earlier.is_of_this_boot {
            true => Unrecorded::Retire,
            false => Unrecorded::Discard,
        })?;
        store.look_over()?;
        store.collect_garbage()?;
        if earlier.lost_power {
            store.check_in_background()?;
        }
        Ok(store)
    }

    /// Notes that all is on the disk, for a process that ends and may not drop every clone.
    pub fn close(&self) {
        self.inner.session.close();
    }

    /// All images, the newest first, without what builds made on their way.
    pub fn list(&self) -> Result<Vec<Image>> {
        let steps = self.step_images()?;
        let mut images = self.list_all()?;
        images.retain(|image| !steps.contains(&image.id));
        Ok(images)
    }

    /// All images, the newest first.
    pub fn list_all(&self) -> Result<Vec<Image>> {
        let view = self.inner.records.view()?;
        let references = view.references()?;
        let images = view.images()?;
        // One damaged image does not hide the others.
        let described = |record: &ImageRecord| match self.describe(record, &references) {
            Ok(image) => Some(image),
            Err(error) => {
                tracing::error!(image = %record.id, error = %error.full_message(), "image cannot be described");
                None
            }
        };
        let mut images: Vec<Image> = images.iter().filter_map(described).collect();
        images.sort_by(|a, b| b.created_unix_s.cmp(&a.created_unix_s).then(a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The image that a name, an id or the beginning of an id means, in Docker's order: full id, name, id prefix.
    pub fn resolve(&self, reference_or_id: &str) -> Result<Image> {
        let view = self.inner.records.view()?;
        let record = find(&view, reference_or_id)?;
        self.describe(&record, &view.references()?)
    }

    /// Gives the image one more name; a name that another image had moves to this one.
    pub fn tag(&self, reference_or_id: &str, reference: &str) -> Result<()> {
        let reference = Reference::parse(reference)?.with_default_tag();
        if reference.digest().is_some() {
            return Err(Error::TagWithDigest {
                reference: reference.familiar(),
            });
        }
        if reference.familiar_name() == "sha256" {
            return Err(Error::TagLooksLikeDigest {
                reference: reference.familiar(),
            });
        }
        self.inner.records.change(Persist::Now, |changes| {
            let image = find(changes, reference_or_id)?;
            changes.put_reference(&reference.to_string(), &image.id)
        })
    }

    /// The image's configuration as it came, with Docker's additions (health check, shell, …).
    pub fn config_bytes(&self, id: &ImageId) -> Result<Vec<u8>> {
        let file = blobs::open(&self.inner.layout, id)?;
        blobs::read_document(
            file,
            &self.inner.layout.blob(id),
            "the size of a configuration",
            DOCUMENT_BYTES_MAX,
        )
    }

    /// Keeps blobs (and layers, by chain id) from being collected until the lease is dropped.
    pub fn lease(&self, digests: impl IntoIterator<Item = Digest>) -> Lease {
        self.inner.pins.lease(digests)
    }

    /// Waits until everything that was removed before is also deleted from the disk.
    pub fn wait_until_deleted(&self) {
        self.inner.layout.wait_until_deleted();
    }

    fn describe(&self, record: &ImageRecord, references: &[(String, ImageId)]) -> Result<Image> {
        let bytes = self.config_bytes(&record.id)?;
        let (config, _) = parse_config(&record.id, &bytes)?;
        let manifest_digest = record.manifests[0].digest;
        let named: Vec<Reference> = references
            .iter()
            .filter(|(_, id)| *id == record.id)
            .filter_map(|(reference, _)| Reference::parse(reference).ok())
            .collect();
        let tagged = |reference: &&Reference| reference.digest().is_none();
        // A repository that the image was fetched from has the digest that it was fetched by.
        let fetched = |name: &Reference| {
            named
                .iter()
                .any(|other| other.digest().is_some() && other.name() == name.name())
        };
        let by_digest = |reference: &Reference| match reference.digest() {
            Some(_) => Some(reference.familiar()),
            None if fetched(reference) => None,
            None => Some(reference.at_digest(manifest_digest).familiar()),
        };
        let mut repo_tags: Vec<String> = named.iter().filter(tagged).map(Reference::familiar).collect();
        repo_tags.sort();
        let mut repo_digests: Vec<String> = named.iter().filter_map(by_digest).collect();
        repo_digests.sort();
        repo_digests.dedup();
        Ok(Image {
            id: record.id,
            repo_tags,
            repo_digests,
            created_unix_s: unix_seconds(config.created().as_deref()),
            size_bytes: record.content_bytes,
            architecture: config.architecture().to_string(),
            os: config.os().to_string(),
            labels: config.labels_of_config().cloned().unwrap_or_default(),
            config,
            diff_ids: record.diff_ids.clone(),
            manifest_digest,
        })
    }
}

/// Finds an image by full id, name, name with manifest digest, or beginning of an id.
pub(crate) fn find(records: &impl Lookup, text: &str) -> Result<ImageRecord> {
    if let Ok(id) = text.parse::<Digest>().or_else(|_| Digest::from_hex(text)) {
        return records.image(&id)?.ok_or_else(|| Error::NoSuchImage {
            reference: text.to_string(),
        });
    }
    let parsed = Reference::parse(text).map(Reference::with_default_tag);
    if let Ok(reference) = &parsed
        && let Some(image) = find_named(records, reference)?
    {
        return Ok(image);
    }
    if let Some(image) = find_by_prefix(records, text)? {
        return Ok(image);
    }
    match parsed {
        Ok(reference) => Err(Error::NoSuchImage {
            reference: reference.familiar(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Whether `text` names the image by its id rather than by a reference.
pub(crate) fn is_id_of(id: &ImageId, text: &str) -> bool {
    id.hex().starts_with(text) || id.to_string().starts_with(text)
}

/// A digest decides alone: a tag beside it is only for the reader, as in Docker.
fn find_named(records: &impl Lookup, reference: &Reference) -> Result<Option<ImageRecord>> {
    let recorded = match reference.digest() {
        None => records.reference(&reference.to_string())?,
        Some(digest) => records.reference(&reference.at_digest(digest).to_string())?,
    };
    match (recorded, reference.digest()) {
        (Some(id), _) => records.image(&id),
        (None, None) => Ok(None),
        (None, Some(digest)) => {
            // The same content under the name of another repository, as a mirror has it.
            let images = records.images()?;
            let has_manifest =
                |image: &&ImageRecord| image.manifests.iter().any(|manifest| manifest.digest == digest);
            Ok(images.iter().find(has_manifest).cloned())
        }
    }
}

fn find_by_prefix(records: &impl Lookup, text: &str) -> Result<Option<ImageRecord>> {
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = !prefix.is_empty()
        && prefix
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_hex {
        return Ok(None);
    }
    let mut fitting: Vec<ImageRecord> = records
        .images()?
        .into_iter()
        .filter(|image| image.id.hex().starts_with(prefix))
        .collect();
    match fitting.len() {
        0 | 1 => Ok(fitting.pop()),
        count => Err(Error::AmbiguousId {
            prefix: text.to_string(),
            count,
        }),
    }
}
