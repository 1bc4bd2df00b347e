//! A disk in memory that loses power at a chosen operation, keeps what it likes of unsynced writes, fills up, fails
//! and is slow: all from one seed.

use super::file_state::FileState;
use crate::disk::{Disk, DiskFile};
use crate::seeded::SeededSource;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;

/// A disk that survives its node. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    source: SeededSource,
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of the directory since its last sync, in order.
    changes: Vec<Change>,
    next_file: u64,
    /// Handles of an earlier power-on are dead.
    power_on: u64,
    powered: bool,
    crash_after: Option<u64>,
    capacity_bytes: Option<u64>,
    fail_writes: bool,
    fail_syncs: bool,
    skip_syncs: bool,
    sync_delay_us: (u64, u64),
    delay_us: u64,
    syncs: u64,
}

#[derive(Clone)]
enum Change {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl SimDisk {
    /// An empty disk, powered on.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            source: SeededSource::new(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            next_file: 1,
            power_on: 0,
            powered: true,
            crash_after: None,
            capacity_bytes: None,
            fail_writes: false,
            fail_syncs: false,
            skip_syncs: false,
            sync_delay_us: (0, 0),
            delay_us: 0,
            syncs: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power now. Every operation fails until `power_on`.
    pub fn crash(&self) {
        self.state().powered = false;
    }

    /// Cuts the power at the `operations`-th changing operation from now: that one has taken effect in the cache and
    /// fails.
    pub fn crash_after(&self, operations: u64) {
        self.state().crash_after = Some(operations);
    }

    /// True while operations are served.
    pub fn is_powered(&self) -> bool {
        self.state().powered
    }

    /// Power is back. Of what was not synced, the seed decides what is still there; after an orderly stop everything
    /// still is.
    pub fn power_on(&self) {
        let state = &mut *self.state();
        if !state.powered {
            state.lose_power();
        }
        state.powered = true;
        state.crash_after = None;
        state.power_on += 1;
    }

    /// Limits the bytes of all files; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Makes every write fail, with some of its sectors written: none of them in part, as disks and page caches do it.
    pub fn fail_writes(&self, fail: bool) {
        self.state().fail_writes = fail;
    }

    /// Makes every sync fail.
    pub fn fail_syncs(&self, fail: bool) {
        self.state().fail_syncs = fail;
    }

    /// Plants the bug that syncs return without having written.
    pub fn skip_syncs(&self, skip: bool) {
        self.state().skip_syncs = skip;
    }

    /// Every sync takes so long, drawn between the two.
    pub fn set_sync_delay_us(&self, shortest: u64, longest: u64) {
        self.state().sync_delay_us = (shortest, longest);
    }

    /// Virtual time that syncs took since the last call; the simulator lets it pass before it goes on with the node.
    pub fn take_delay_us(&self) -> u64 {
        std::mem::take(&mut self.state().delay_us)
    }

    /// Syncs of data since the disk was made.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Flips bits of a byte, as a failing disk does.
    pub fn damage(&self, name: &str, offset: u64, mask: u8) {
        let state = &mut *self.state();
        if let Some(file) = state.names.get(name).and_then(|file| state.files.get_mut(file)) {
            file.damage(offset as usize, mask);
        }
    }

    /// Cuts the end of a file off, as a careless copy does.
    pub fn cut(&self, name: &str, bytes: u64) {
        let state = &mut *self.state();
        if let Some(file) = state.names.get(name).and_then(|file| state.files.get_mut(file)) {
            file.cut(bytes as usize);
        }
    }
}

impl State {
    fn lose_power(&mut self) {
        let survive = self.source.below(self.changes.len() as u64 + 1) as usize;
        for change in std::mem::take(&mut self.changes).into_iter().take(survive) {
            apply(&mut self.durable_names, change);
        }
        self.names = self.durable_names.clone();
        let named: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        for file in self.files.values_mut() {
            file.crash(&mut self.source);
        }
    }

    /// Counts a changing operation that has just taken effect.
    fn operated(&mut self) -> io::Result<()> {
        match &mut self.crash_after {
            Some(0 | 1) => {
                self.powered = false;
                Err(power_lost())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check_power(&self, power_on: Option<u64>) -> io::Result<()> {
        let stale = power_on.is_some_and(|power_on| power_on != self.power_on);
        if stale || !self.powered {
            Err(power_lost())
        } else {
            Ok(())
        }
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.seen.len() as u64).sum()
    }

    fn check_space(&self, added: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if self.used_bytes() + added > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        apply(&mut self.names, change.clone());
        self.changes.push(change);
        self.operated()
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name, file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        Change::Remove(name) => {
            names.remove(&name);
        }
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the simulated machine has lost power")
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check_power(None)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.check_power(None)?;
        let file = state.find(name)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            power_on: state.power_on,
        }))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let state = &mut *self.state();
        state.check_power(None)?;
        state.check_space(bytes)?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, FileState::reserved(bytes as usize));
        state.change(Change::Create(name.to_owned(), file))?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            power_on: state.power_on,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let state = &mut *self.state();
        state.check_power(None)?;
        state.find(from)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let state = &mut *self.state();
        state.check_power(None)?;
        state.find(name)?;
        state.change(Change::Remove(name.to_owned()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let state = &mut *self.state();
        state.check_power(None)?;
        if state.fail_syncs {
            return Err(io::Error::other("the simulated disk failed to sync"));
        }
        if !state.skip_syncs {
            for change in std::mem::take(&mut state.changes) {
                apply(&mut state.durable_names, change);
            }
        }
        state.operated()
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
    power_on: u64,
}

impl SimFile {
    fn with<T>(&self, call: impl FnOnce(&mut State, &mut FileState) -> io::Result<T>) -> io::Result<T> {
        let state = &mut *self.disk.state();
        state.check_power(Some(self.power_on))?;
        let mut file = state.files.remove(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let result = call(state, &mut file);
        state.files.insert(self.file, file);
        result
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|_, file| Ok(file.seen.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with(|_, file| {
            let offset = offset as usize;
            let bytes = file
                .seen
                .get(offset..offset + buffer.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|state, file| {
            let grown = (offset as usize + bytes.len()).saturating_sub(file.seen.len());
            state.check_space(file.seen.len() as u64 + grown as u64)?;
            if state.fail_writes {
                let reached = offset + state.source.below(bytes.len() as u64 + 1);
                let whole = (reached - reached % SECTOR_BYTES).max(offset);
                file.write(offset as usize, &bytes[..(whole - offset) as usize]);
                return Err(io::Error::other("the simulated disk failed to write"));
            }
            file.write(offset as usize, bytes);
            state.operated()
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.check_space(bytes)?;
            file.seen.resize(bytes as usize, 0);
            state.operated()
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, file| {
            if state.fail_syncs {
                return Err(io::Error::other("the simulated disk failed to sync"));
            }
            let (shortest, longest) = state.sync_delay_us;
            state.delay_us += shortest + state.source.below(longest.saturating_sub(shortest) + 1);
            state.syncs += 1;
            state.operated()?;
            if !state.skip_syncs {
                file.sync();
            }
            Ok(())
        })
    }
}
