//! The engine's durable metadata, in redb.
//!
//! One thread owns all writes and commits everything that waits in one transaction, so that a burst of starts costs a
//! few syncs, not one each. Only what must not be lost is waited for (a created container, a volume, a name, an end that
//! somebody is told of): the rest is known from monitors and exit files too, so those rows are written behind and cost a
//! sync only when nothing else has caused one within [`SYNC_AFTER`].

use crate::error::{Error, Result};
use muster_images::lasting::LastingDatabase;
use redb::{Database, Durability, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Changes that may wait for a commit: more than a burst of 100 starts makes.
const WAITING_MAX: usize = 1024;
/// Changes in one transaction.
const BATCH_MAX: usize = 256;
/// How long changes that nobody waits for may stay without a sync: a burst of container lives makes one sync for each
/// that begins, and not one more for each start, end and removal.
const SYNC_AFTER: Duration = Duration::from_millis(50);
/// Wait before a sync that failed is tried again.
const SYNC_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Cache of the database: rows are a few KiB, and all live rows are in memory anyway.
const CACHE_BYTES: usize = 1 << 20;

/// A kind of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Containers by id.
    Containers,
    /// Volumes by name.
    Volumes,
    /// Facts about the engine itself.
    Engine,
    /// Networks by id.
    Networks,
}

impl Table {
    const ALL: [Self; 4] = [Self::Containers, Self::Volumes, Self::Engine, Self::Networks];

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Containers => "containers",
            Self::Volumes => "volumes",
            Self::Engine => "engine",
            Self::Networks => "networks",
        })
    }
}

/// Which row.
type Place = (Table, String);

struct Change {
    place: Place,
    /// `None` removes the row.
    value: Option<Vec<u8>>,
    done: Option<oneshot::Sender<Result<()>>>,
    /// Its place among those that wait.
    _place: OwnedSemaphorePermit,
}

/// A handle to the metadata.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Arc<LastingDatabase>,
    writer: Mutex<Option<Writer>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Writer {
    changes: mpsc::Sender<Change>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

fn failed<E: Into<redb::Error>>(operation: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Store {
        operation,
        source: Box::new(source.into()),
    }
}

fn make(path: &Path) -> std::result::Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
    }
    transaction.commit()?;
    Ok(database)
}

impl Store {
    /// Opens or makes the metadata at `path`. Blocks.
    pub fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let database = LastingDatabase::open(move || make(&path)).map_err(failed("open"))?;
        let database = Arc::new(database);
        let (changes, waiting) = mpsc::channel();
        let owned = Arc::clone(&database);
        let thread = std::thread::Builder::new()
            .name("engine-store".to_owned())
            .spawn(move || write_behind(&mut Writing::new(owned), &waiting))
            .map_err(|source| Error::io("start the metadata writer", source))?;
        let inner = Inner {
            database,
            writer: Mutex::new(Some(Writer { changes, thread })),
            places: Arc::new(Semaphore::new(WAITING_MAX)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Every row of a table. Blocks.
    pub fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>> {
        let transaction = self.inner.database.begin_read().map_err(failed("read"))?;
        let rows = transaction
            .open_table(table.definition())
            .map_err(failed("read"))?;
        let mut all = Vec::new();
        for row in rows.iter().map_err(failed("read"))? {
            let (key, value) = row.map_err(failed("read"))?;
            let decoded = serde_json::from_slice(value.value());
            all.push(decoded.map_err(|source| Error::DamagedRow {
                key: key.value().to_owned(),
                source,
            })?);
        }
        Ok(all)
    }

    /// One row. Blocks.
    pub fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        let transaction = self.inner.database.begin_read().map_err(failed("read"))?;
        let rows = transaction
            .open_table(table.definition())
            .map_err(failed("read"))?;
        let Some(row) = rows.get(key).map_err(failed("read"))? else {
            return Ok(None);
        };
        let decoded = serde_json::from_slice(row.value());
        decoded.map(Some).map_err(|source| Error::DamagedRow {
            key: key.to_owned(),
            source,
        })
    }

    /// Writes a row and returns once it is durable.
    pub async fn put<T: Serialize>(&self, table: Table, key: &str, row: &T) -> Result<()> {
        self.durably(table, key, Some(encode(key, row)?)).await
    }

    /// Removes a row and returns once that is durable.
    pub async fn remove(&self, table: Table, key: &str) -> Result<()> {
        self.durably(table, key, None).await
    }

    /// Writes a row behind: it is durable a little later, in order with all other changes. A failure is logged.
    pub async fn put_behind<T: Serialize>(&self, table: Table, key: &str, row: &T) -> Result<()> {
        self.enqueue(table, key, Some(encode(key, row)?), None).await
    }

    /// Removes a row behind.
    pub async fn remove_behind(&self, table: Table, key: &str) -> Result<()> {
        self.enqueue(table, key, None, None).await
    }

    /// Commits what waits and ends the writer. Later changes are refused. Blocks.
    pub fn close(&self) {
        let writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Writer { changes, thread }) = writer {
            drop(changes);
            if thread.join().is_err() {
                tracing::error!("the metadata writer panicked");
            }
        }
    }

    async fn durably(&self, table: Table, key: &str, value: Option<Vec<u8>>) -> Result<()> {
        let (done, committed) = oneshot::channel();
        self.enqueue(table, key, value, Some(done)).await?;
        committed.await.unwrap_or(Err(Error::ShuttingDown))
    }

    async fn enqueue(
        &self,
        table: Table,
        key: &str,
        value: Option<Vec<u8>>,
        done: Option<oneshot::Sender<Result<()>>>,
    ) -> Result<()> {
        let places = Arc::clone(&self.inner.places);
        let place = places.acquire_owned().await.map_err(|_| Error::ShuttingDown)?;
        let change = Change {
            place: (table, key.to_owned()),
            value,
            done,
            _place: place,
        };
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.as_ref() else {
            return Err(Error::ShuttingDown);
        };
        writer.changes.send(change).map_err(|_| Error::ShuttingDown)
    }
}

fn encode<T: Serialize>(key: &str, row: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(row).map_err(|source| Error::DamagedRow {
        key: key.to_owned(),
        source,
    })
}

/// What the writer keeps between two transactions.
struct Writing {
    database: Arc<LastingDatabase>,
    /// When what was written without a sync gets one.
    sync_at: Option<Instant>,
    /// What was written without a sync: a database that was opened again has lost it. One value for each row, so that it
    /// does not grow for as long as the disk takes no sync.
    unsynced: BTreeMap<Place, Option<Vec<u8>>>,
    /// Which opening of the database has `unsynced`.
    opening: u64,
}

fn write_behind(writing: &mut Writing, waiting: &mpsc::Receiver<Change>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let next = match writing.sync_at {
            Some(at) => waiting.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => waiting.recv().map_err(RecvTimeoutError::from),
        };
        match next {
            Ok(first) => batch.push(first),
            Err(RecvTimeoutError::Disconnected) if writing.sync_at.is_none() => return,
            Err(_) => {
                if let Err(error) = writing.write(&[]) {
                    tracing::error!(error = error.chain(), "engine metadata was not synced");
                }
                match next {
                    Err(RecvTimeoutError::Disconnected) => return,
                    _ => continue,
                }
            }
        }
        batch.extend(waiting.try_iter().take(BATCH_MAX - batch.len()));
        match writing.write(&batch) {
            Ok(()) => answer(&mut batch, || Ok(())),
            Err(_) if batch.len() > 1 => {
                // One bad change must not take the others with it.
                for change in batch.drain(..) {
                    let outcome = writing.write(std::slice::from_ref(&change));
                    answer(&mut vec![change], || outcome);
                }
            }
            Err(error) => answer(&mut batch, || Err(error)),
        }
    }
}

impl Writing {
    fn new(database: Arc<LastingDatabase>) -> Self {
        Self {
            opening: database.openings(),
            database,
            sync_at: None,
            unsynced: BTreeMap::new(),
        }
    }

    /// Commits changes, with a sync of all that was committed before when somebody waits, `sync_at` has come or there
    /// are none.
    fn write(&mut self, batch: &[Change]) -> Result<()> {
        let now = Instant::now();
        let somebody_waits = batch.iter().any(|change| change.done.is_some());
        let synced = batch.is_empty() || somebody_waits || self.sync_at.is_some_and(|at| at <= now);
        let outcome = self.commit(batch, synced);
        match &outcome {
            Ok(()) if synced => {
                self.sync_at = None;
                self.unsynced.clear();
            }
            Ok(()) => {
                self.sync_at = self.sync_at.or(Some(now + SYNC_AFTER));
                let written = batch.iter();
                self.unsynced
                    .extend(written.map(|change| (change.place.clone(), change.value.clone())));
            }
            Err(_) if batch.is_empty() => self.sync_at = Some(now + SYNC_AGAIN_AFTER),
            Err(_) => {}
        }
        outcome
    }

    fn commit(&mut self, batch: &[Change], synced: bool) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(failed("write"))?;
        // It is not opened again while this transaction lives.
        let opening = self.database.openings();
        if !synced {
            let unsynced = transaction.set_durability(Durability::None);
            unsynced.map_err(failed("write"))?;
        }
        let lost = self.unsynced.iter().filter(|_| opening != self.opening);
        let changes = batch.iter().map(|change| (&change.place, &change.value));
        for ((table, key), value) in lost.chain(changes) {
            let mut rows = transaction
                .open_table(table.definition())
                .map_err(failed("write"))?;
            match value {
                Some(value) => drop(
                    rows.insert(key.as_str(), value.as_slice())
                        .map_err(failed("write"))?,
                ),
                None => drop(rows.remove(key.as_str()).map_err(failed("write"))?),
            }
        }
        transaction.commit().map_err(failed("commit"))?;
        self.opening = opening;
        Ok(())
    }
}

fn answer(batch: &mut Vec<Change>, outcome: impl FnOnce() -> Result<()>) {
    let mut outcome = Some(outcome());
    for change in batch.drain(..) {
        let result = outcome.take().unwrap_or(Ok(()));
        match (change.done, result) {
            // Nobody waits any more when the receiver is gone; the change is made all the same.
            (Some(done), result) => drop(done.send(result)),
            (None, Err(error)) => {
                tracing::error!(
                    key = change.place.1,
                    error = error.chain(),
                    "engine metadata was not written"
                );
            }
            (None, Ok(())) => {}
        }
    }
}

#[cfg(test)]
mod tests;
