//! One file of the simulated disk: what programs see, and what would survive a crash now.

use crate::seeded::SeededSource;

/// What a disk writes atomically.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct FileState {
    pub(super) seen: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync, in order.
    unsynced: Vec<usize>,
}

impl FileState {
    pub(super) fn reserved(bytes: usize) -> FileState {
        FileState {
            seen: vec![0; bytes],
            ..FileState::default()
        }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.unsynced
                .extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.seen.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            self.persist(sector);
        }
    }

    /// Decides what of the unsynced writes survives: nothing, all, those up to some write, or any.
    pub(super) fn crash(&mut self, source: &mut SeededSource) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if source.below(2) == 0 {
            self.durable.resize(self.seen.len(), 0);
        }
        let kind = source.below(4);
        let cut = source.below(unsynced.len() as u64 + 1) as usize;
        for (position, sector) in unsynced.into_iter().enumerate() {
            let survives = match kind {
                0 => false,
                1 => true,
                2 => position < cut,
                _ => source.below(2) == 0,
            };
            if survives {
                self.persist(sector);
            }
        }
        self.seen = self.durable.clone();
    }

    fn persist(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.seen.len());
        if start >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.seen[start..end]);
    }

    /// Changes bytes as a failing disk does: seen and durable alike.
    pub(super) fn damage(&mut self, offset: usize, mask: u8) {
        for bytes in [&mut self.seen, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }

    pub(super) fn cut(&mut self, bytes: usize) {
        self.seen.resize(bytes, 0);
        self.durable.truncate(bytes);
        self.unsynced.retain(|sector| sector * SECTOR_BYTES < bytes);
    }
}
