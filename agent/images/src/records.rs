//! The records of the store in redb: what exists, what it is called, and who needs it.

use std::ops::Range;
use std::path::Path;

use redb::{Database, Durability, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::lasting::LastingDatabase;
use crate::repository::Entry;

pub(crate) use crate::record::{ImageRecord, LayerRecord, ManifestRecord, SnapshotRecord, StepRecord};

pub(crate) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const IMAGES: Table = Table::new("images");
const REFERENCES: Table = Table::new("references");
const LAYERS: Table = Table::new("layers");
const SNAPSHOTS: Table = Table::new("snapshots");
const STEPS: Table = Table::new("steps");
pub(crate) const STORE: Table = Table::new("store");
/// What repositories hold, by repository and name within it.
pub(crate) const REPOSITORY_ENTRIES: Table = Table::new("repository-entries");
/// The keys of those entries in the order in which they changed here.
pub(crate) const REPOSITORY_CHANGES: Table = Table::new("repository-changes");
/// The blobs that this node keeps for repositories.
pub(crate) const REPOSITORY_HELD: Table = Table::new("repository-held");
const FORMAT_KEY: &str = "format";
/// There while some container's record is lost and its owner may yet give it back.
const LOST_CONTAINERS_KEY: &str = "lost-containers";
/// Raised when records change in a way that older versions must not touch. 2: layers stand without their blobs.
const FORMAT: u64 = 2;
/// Records of hundreds of images fit; the default of 1 GiB would let the cache outgrow the daemon.
const CACHE_BYTES: usize = 2 << 20;

/// The database.
pub(crate) struct Records {
    database: LastingDatabase,
}

/// Whether a change must survive a power loss that follows it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persist {
    Now,
    /// With the next change that is persisted; opening the store repairs what its loss leaves.
    Later,
}

impl Records {
    pub(crate) fn open(path: &Path) -> Result<Records> {
        let file = path.to_owned();
        let opener = move || {
            let mut builder = Database::builder();
            Ok(builder.set_cache_size(CACHE_BYTES).create(&file)?)
        };
        let database = LastingDatabase::open(opener).map_err(|error| match error {
            redb::Error::DatabaseAlreadyOpen => Error::StoreInUse {
                path: path.to_path_buf(),
            },
            error => Error::database("open the database", error),
        })?;
        let records = Records { database };
        records.change(Persist::Now, |changes| {
            for table in [
                IMAGES,
                REFERENCES,
                LAYERS,
                SNAPSHOTS,
                STEPS,
                REPOSITORY_ENTRIES,
                REPOSITORY_CHANGES,
                REPOSITORY_HELD,
            ] {
                changes
                    .0
                    .open_table(table)
                    .map_err(|error| Error::database("make a table", error))?;
            }
            match changes.get::<u64>(STORE, FORMAT_KEY)? {
                Some(found) if found > FORMAT => Err(Error::NewerFormat { found, known: FORMAT }),
                Some(FORMAT) => Ok(()),
                // Of an earlier version: all that it wrote is understood.
                Some(_) | None => changes.put(STORE, FORMAT_KEY, &FORMAT),
            }
        })?;
        Ok(records)
    }

    /// Compares everything with its checksums; an error when that cannot be put right.
    pub(crate) fn check(&mut self) -> Result<()> {
        let database = self
            .database
            .get_mut()
            .ok_or_else(|| Error::database("check the database", redb::Error::PreviousIo))?;
        match database.check_integrity() {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::warn!("the database of the image store was repaired");
                Ok(())
            }
            Err(error) => Err(Error::database("check the database", error)),
        }
    }

    /// A consistent view for reading.
    pub(crate) fn view(&self) -> Result<View> {
        self.database
            .begin_read()
            .map(View)
            .map_err(|error| Error::database("begin reading", error))
    }

    /// Runs `change` and commits; an error takes everything back.
    pub(crate) fn change<T>(
        &self,
        persist: Persist,
        change: impl FnOnce(&Changes) -> Result<T>,
    ) -> Result<T> {
        let begin = |error| Error::database("begin a change", error);
        let mut transaction = self.database.begin_write().map_err(begin)?;
        if persist == Persist::Later {
            transaction
                .set_durability(Durability::None)
                .map_err(|error| Error::database("begin a change", error))?;
        }
        let changes = Changes(transaction);
        let result = change(&changes)?;
        changes
            .0
            .commit()
            .map_err(|error| Error::database("commit a change", error))?;
        Ok(result)
    }
}

/// Reading of records, the same inside and outside a change.
pub(crate) trait Lookup {
    fn value(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>>;
    fn values(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>>;
    /// At most so many rows with keys of this range, in order.
    fn rows(&self, table: Table, keys: Range<&str>, rows_max: usize) -> Result<Vec<(String, Vec<u8>)>>;

    fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        self.value(table, key)?
            .map(|bytes| parse(key, &bytes))
            .transpose()
    }

    fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        let parsed = |(key, bytes): (String, Vec<u8>)| parse(&key, &bytes).map(|value| (key, value));
        self.values(table)?.into_iter().map(parsed).collect()
    }

    fn image(&self, id: &ImageId) -> Result<Option<ImageRecord>> {
        let image = self.image_or_rest(id)?;
        Ok(image.filter(|image| image.damaged_since_unix_s.is_none()))
    }

    /// The image, also one that is damaged.
    fn image_or_rest(&self, id: &ImageId) -> Result<Option<ImageRecord>> {
        self.get(IMAGES, &id.to_string())
    }

    fn images(&self) -> Result<Vec<ImageRecord>> {
        let mut images = self.images_and_rests()?;
        images.retain(|image| image.damaged_since_unix_s.is_none());
        Ok(images)
    }

    /// All images, also those that are damaged.
    fn images_and_rests(&self) -> Result<Vec<ImageRecord>> {
        Ok(self.all(IMAGES)?.into_iter().map(|(_, image)| image).collect())
    }

    /// The image that a full reference names.
    fn reference(&self, reference: &str) -> Result<Option<ImageId>> {
        self.get(REFERENCES, reference)
    }

    /// All full references with their images, in order of the reference.
    fn references(&self) -> Result<Vec<(String, ImageId)>> {
        self.all(REFERENCES)
    }

    /// Whether some container's record is lost, and what it wrote is kept for it.
    fn lost_containers(&self) -> Result<bool> {
        Ok(self.get(STORE, LOST_CONTAINERS_KEY)?.unwrap_or(false))
    }

    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRecord>> {
        self.get(LAYERS, &chain_id.to_string())
    }

    fn layers(&self) -> Result<Vec<(String, LayerRecord)>> {
        self.all(LAYERS)
    }

    /// What a step made, by the digest of what it was made of.
    fn step(&self, key: &Digest) -> Result<Option<StepRecord>> {
        self.get(STEPS, &key.to_string())
    }

    fn steps(&self) -> Result<Vec<(String, StepRecord)>> {
        self.all(STEPS)
    }

    fn snapshot(&self, container_id: &str) -> Result<Option<SnapshotRecord>> {
        self.get(SNAPSHOTS, container_id)
    }

    fn snapshots(&self) -> Result<Vec<(String, SnapshotRecord)>> {
        self.all(SNAPSHOTS)
    }
}

/// A consistent view of the records.
pub(crate) struct View(ReadTransaction);

/// A change that is not committed yet.
pub(crate) struct Changes(WriteTransaction);

impl Lookup for View {
    fn value(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>> {
        one(&self.0.open_table(table).map_err(opening)?, key)
    }

    fn values(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>> {
        every(&self.0.open_table(table).map_err(opening)?)
    }

    fn rows(&self, table: Table, keys: Range<&str>, rows_max: usize) -> Result<Vec<(String, Vec<u8>)>> {
        within(&self.0.open_table(table).map_err(opening)?, keys, rows_max)
    }
}

impl Lookup for Changes {
    fn value(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>> {
        one(&self.0.open_table(table).map_err(opening)?, key)
    }

    fn values(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>> {
        every(&self.0.open_table(table).map_err(opening)?)
    }

    fn rows(&self, table: Table, keys: Range<&str>, rows_max: usize) -> Result<Vec<(String, Vec<u8>)>> {
        within(&self.0.open_table(table).map_err(opening)?, keys, rows_max)
    }
}

impl Changes {
    /// Removes records that do not parse; returns whether there were any.
    pub(crate) fn remove_unreadable(&self) -> Result<bool> {
        let mut removed = self.remove_unless::<ImageRecord>(IMAGES)?;
        removed |= self.remove_unless::<ImageId>(REFERENCES)?;
        removed |= self.remove_unless::<LayerRecord>(LAYERS)?;
        removed |= self.remove_unless::<StepRecord>(STEPS)?;
        removed |= self.remove_unless::<Entry>(REPOSITORY_ENTRIES)?;
        removed |= self.remove_unless::<String>(REPOSITORY_CHANGES)?;
        if self.remove_unless::<SnapshotRecord>(SNAPSHOTS)? {
            self.lose_containers()?;
            removed = true;
        }
        Ok(removed)
    }

    /// Notes that records of containers are lost.
    pub(crate) fn lose_containers(&self) -> Result<()> {
        self.put(STORE, LOST_CONTAINERS_KEY, &true)
    }

    /// Notes that every container that is known has its record.
    pub(crate) fn have_containers(&self) -> Result<()> {
        self.remove(STORE, LOST_CONTAINERS_KEY)
    }

    fn remove_unless<T: DeserializeOwned>(&self, table: Table) -> Result<bool> {
        let mut removed = false;
        for (key, bytes) in self.values(table)? {
            if let Err(error) = parse::<T>(&key, &bytes) {
                tracing::error!(error = %error.full_message(), "a record of the image store is removed");
                self.remove(table, &key)?;
                removed = true;
            }
        }
        Ok(removed)
    }

    pub(crate) fn put_image(&self, image: &ImageRecord) -> Result<()> {
        self.put(IMAGES, &image.id.to_string(), image)
    }

    pub(crate) fn remove_image(&self, id: &ImageId) -> Result<()> {
        self.remove(IMAGES, &id.to_string())
    }

    pub(crate) fn put_reference(&self, reference: &str, id: &ImageId) -> Result<()> {
        self.put(REFERENCES, reference, id)
    }

    pub(crate) fn remove_reference(&self, reference: &str) -> Result<()> {
        self.remove(REFERENCES, reference)
    }

    pub(crate) fn put_layer(&self, chain_id: &Digest, layer: &LayerRecord) -> Result<()> {
        self.put(LAYERS, &chain_id.to_string(), layer)
    }

    pub(crate) fn remove_layer(&self, chain_id: &str) -> Result<()> {
        self.remove(LAYERS, chain_id)
    }

    pub(crate) fn put_step(&self, key: &Digest, step: &StepRecord) -> Result<()> {
        self.put(STEPS, &key.to_string(), step)
    }

    pub(crate) fn remove_step(&self, key: &str) -> Result<()> {
        self.remove(STEPS, key)
    }

    pub(crate) fn put_snapshot(&self, container_id: &str, snapshot: &SnapshotRecord) -> Result<()> {
        self.put(SNAPSHOTS, container_id, snapshot)
    }

    pub(crate) fn remove_snapshot(&self, container_id: &str) -> Result<()> {
        self.remove(SNAPSHOTS, container_id)
    }

    pub(crate) fn put<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|source| Error::Damaged {
            what: key.to_string(),
            source,
        })?;
        let mut table = self.0.open_table(table).map_err(opening)?;
        table
            .insert(key, bytes.as_slice())
            .map_err(|error| Error::database("write a record", error))?;
        Ok(())
    }

    pub(crate) fn remove(&self, table: Table, key: &str) -> Result<()> {
        let mut table = self.0.open_table(table).map_err(opening)?;
        table
            .remove(key)
            .map_err(|error| Error::database("remove a record", error))?;
        Ok(())
    }
}

fn opening(error: redb::TableError) -> Error {
    Error::database("open a table", error)
}

fn reading(error: redb::StorageError) -> Error {
    Error::database("read a record", error)
}

pub(crate) fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Damaged {
        what: format!("the record of {key}"),
        source,
    })
}

fn one(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Option<Vec<u8>>> {
    Ok(table
        .get(key)
        .map_err(reading)?
        .map(|guard| guard.value().to_vec()))
}

fn every(table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Vec<(String, Vec<u8>)>> {
    table.iter().map_err(reading)?.map(pair).collect()
}

fn within(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    keys: Range<&str>,
    rows_max: usize,
) -> Result<Vec<(String, Vec<u8>)>> {
    let rows = table.range::<&str>(keys).map_err(reading)?;
    rows.take(rows_max).map(pair).collect()
}

type Row<'a> = (
    redb::AccessGuard<'a, &'static str>,
    redb::AccessGuard<'a, &'static [u8]>,
);

fn pair(row: std::result::Result<Row<'_>, redb::StorageError>) -> Result<(String, Vec<u8>)> {
    let (key, value) = row.map_err(reading)?;
    Ok((key.value().to_string(), value.value().to_vec()))
}
