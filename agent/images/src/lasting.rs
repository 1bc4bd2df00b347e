//! A database that goes on after errors of the disk.
//!
//! After an error of input or output, that of a full disk too, redb refuses all changes until it is opened again, for it
//! cannot know what the file holds. Then it is opened again here, with the next change that is asked of it: it holds what
//! was synced, and what was committed without a sync since is lost, as after a loss of power. Until that change, reads
//! find what is in memory, and fail where they need the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, Error, ReadTransaction, ReadableDatabase, TransactionError, WriteTransaction};

type Opener = Box<dyn Fn() -> Result<Database, Error> + Send + Sync>;

/// A database, and how it is opened.
pub struct LastingDatabase {
    opener: Opener,
    state: Mutex<State>,
}

struct State {
    /// `None` where the last opening failed.
    database: Option<Arc<Database>>,
    openings: u64,
}

impl std::fmt::Debug for LastingDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LastingDatabase").finish_non_exhaustive()
    }
}

impl LastingDatabase {
    /// Opens it. Blocks.
    pub fn open(opener: impl Fn() -> Result<Database, Error> + Send + Sync + 'static) -> Result<Self, Error> {
        let opener: Opener = Box::new(opener);
        let database = Some(Arc::new(whole(&opener)?));
        Ok(Self {
            opener,
            state: Mutex::new(State {
                database,
                openings: 1,
            }),
        })
    }

    /// The database itself, where nobody reads or writes.
    pub fn get_mut(&mut self) -> Option<&mut Database> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.database.as_mut().and_then(Arc::get_mut)
    }

    /// How often it was opened. While somebody writes, it is not opened again.
    pub fn openings(&self) -> u64 {
        self.state().openings
    }

    /// A consistent view; after an error of the disk, of what is in memory. Blocks.
    pub fn begin_read(&self) -> Result<ReadTransaction, Error> {
        self.begin(ReadableDatabase::begin_read)
    }

    /// A change; waits for the one before it. Blocks.
    pub fn begin_write(&self) -> Result<WriteTransaction, Error> {
        self.begin(Database::begin_write)
    }

    fn begin<T>(&self, begin: impl Fn(&Database) -> Result<T, TransactionError>) -> Result<T, Error> {
        let tried = self.state().database.clone();
        let spent = match &tried {
            Some(database) => match begin(database).map_err(Error::from) {
                Err(spent @ Error::PreviousIo) => spent,
                begun => return begun,
            },
            None => Error::PreviousIo,
        };
        let mut state = self.state();
        let is_same = match (&tried, &state.database) {
            (Some(tried), Some(now)) => Arc::ptr_eq(tried, now),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            // Closed before it is opened again: one process has it open once.
            drop(tried);
            state.database = None;
            match whole(&self.opener) {
                // Somebody still writes to the old one; the next to ask opens it.
                Err(Error::DatabaseAlreadyOpen) => return Err(spent),
                opened => state.database = Some(Arc::new(opened?)),
            }
            state.openings += 1;
        }
        let database = state.database.clone().ok_or(spent)?;
        drop(state);
        begin(&database).map_err(Error::from)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The library meets much of what can be damaged with a panic; nothing of it is used then.
fn whole(opener: &Opener) -> Result<Database, Error> {
    catch_unwind(AssertUnwindSafe(opener))
        .unwrap_or_else(|_| Err(Error::Corrupted("reading it ended in a panic".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::{Durability, ReadableTable, TableDefinition};
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    use std::fs;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    use std::path::PathBuf;

    const ROWS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("rows");

    /// A small disk that is nowhere mounted.
    fn disk(bytes: u64) -> (OwnedFd, PathBuf) {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("this is root");
        fsconfig_set_string(context.as_fd(), "size", bytes.to_string()).unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let disk = fsmount(context.as_fd(), flags, MountAttrFlags::empty()).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
        (disk, path)
    }

    fn put(database: &LastingDatabase, key: u64, bytes: usize, durability: Durability) -> Result<(), Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(durability).unwrap();
        let mut rows = transaction.open_table(ROWS)?;
        rows.insert(key, vec![7; bytes].as_slice())?;
        drop(rows);
        Ok(transaction.commit()?)
    }

    fn keys(database: &LastingDatabase) -> Vec<u64> {
        let rows = database.begin_read().unwrap().open_table(ROWS).unwrap();
        rows.iter().unwrap().map(|row| row.unwrap().0.value()).collect()
    }

    #[test]
    fn it_goes_on_with_what_was_synced_once_the_disk_has_room_again() {
        let (_disk, path) = disk(16 << 20);
        let file = path.join("rows.redb");
        let database = LastingDatabase::open(move || Ok(Database::create(&file)?)).unwrap();
        put(&database, 1, 10, Durability::Immediate).unwrap();
        put(&database, 2, 10, Durability::None).unwrap();
        let filling = path.join("filling");
        let room = rustix::fs::statvfs(&path).unwrap();
        fs::write(&filling, vec![0; (room.f_bavail * room.f_frsize) as usize]).unwrap();

        let large = 8 << 20;
        assert!(put(&database, 3, large, Durability::Immediate).is_err());
        assert!(put(&database, 3, large, Durability::Immediate).is_err());
        fs::remove_file(&filling).unwrap();
        put(&database, 4, 10, Durability::Immediate).unwrap();
        assert_eq!(keys(&database), [1, 4]);
        assert!(database.openings() > 1);
    }
}
