//! Room on the disk of the data directory that is set aside for starts of the daemon.
//!
//! A container can fill the disk that the daemon keeps its records on. A daemon that runs goes on, but one that starts
//! writes before it can answer; so it sets some room aside while there is plenty, and uses it when it starts without any.

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a start writes, several times over: it copies the records of images, and its databases may grow.
const RESERVE_BYTES: u64 = 8 << 20;
/// With so much free, the reserve keeps nobody else from writing.
const PLENTY_BYTES: u64 = 4 * RESERVE_BYTES;
/// Between two looks at whether there is plenty again.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// The file that holds the room.
pub struct Reserve {
    data_dir: PathBuf,
}

impl Reserve {
    /// Gives the room out if the disk has less left. Blocks.
    pub fn give_out_if_needed(data_dir: &Path) -> anyhow::Result<Self> {
        let reserve = Self {
            data_dir: data_dir.to_owned(),
        };
        let path = reserve.path();
        if path.exists() && reserve.free_bytes()? < RESERVE_BYTES {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            // Some file systems give room back only with what they write next.
            File::open(data_dir)
                .and_then(|directory| directory.sync_all())
                .ok();
            tracing::warn!(
                data_dir = %data_dir.display(),
                "the disk is full: the daemon starts with the room it has set aside; free space, or the next start fails"
            );
        }
        Ok(reserve)
    }

    /// Sets the room aside whenever there is plenty.
    pub async fn keep(self) {
        let mut look = tokio::time::interval(LOOK_PERIOD);
        loop {
            look.tick().await;
            if let Err(error) = self.set_aside_if_plenty() {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "no room is set aside for starts of the daemon"
                );
            }
        }
    }

    fn set_aside_if_plenty(&self) -> anyhow::Result<()> {
        let path = self.path();
        if path.exists() || self.free_bytes()? < PLENTY_BYTES {
            return Ok(());
        }
        let context = || format!("cannot make {}", path.display());
        let file = File::create_new(&path).with_context(context)?;
        match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES as i64) {
            // Where room cannot be set aside, an empty file keeps this from being tried again.
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(errno) => {
                fs::remove_file(&path).with_context(context)?;
                Err(errno).with_context(context)
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.data_dir.join("reserve")
    }

    fn free_bytes(&self) -> anyhow::Result<u64> {
        let found = statvfs(&self.data_dir)
            .with_context(|| format!("cannot ask for the free space of {}", self.data_dir.display()))?;
        Ok(found.blocks_available() * found.fragment_size())
    }
}
