//! The power fails right after an image was loaded: what was announced is on the disk. Needs root and ext4.

mod support;

use muster_images::{ImageStore, LoadLimits};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::*;

/// `FS_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: what was not synced is lost, as when the power fails.
const LOSE_POWER: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))
";

/// A file system in a file, mounted until dropped.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = Self { directory };
        std::fs::create_dir(disk.place()).unwrap();
        File::create(disk.file()).unwrap().set_len(64 << 20).unwrap();
        must(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(disk.file()));
        disk.mount();
        disk
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn place(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn mount(&self) {
        must(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(self.file())
                .arg(self.place()),
        );
    }

    fn lose_power(&self) {
        must(Command::new("python3").args(["-c", LOSE_POWER]).arg(self.place()));
    }

    fn mount_again(&self) {
        must(Command::new("umount").arg(self.place()));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failed test may have left nothing mounted.
        let _ = Command::new("umount").arg(self.place()).output();
    }
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn loaded(place: &Path, archive: &[u8]) -> ImageStore {
    let store = ImageStore::open(place).unwrap();
    store.load(archive, &LoadLimits::default()).unwrap();
    store
}

#[test]
fn a_layer_is_on_the_disk_before_its_image_counts() {
    let content = "content ".repeat(20_000);
    let layers = [
        Layer::new()
            .directory("d", 0o755)
            .file("d/low", &content)
            .finish(),
        Layer::new().file("d/high", "high").finish(),
    ];
    let borrowed: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let archive = docker_archive("app:1", &borrowed, &borrowed);
    let disk = Disk::new();
    let store = loaded(&disk.place(), &archive);
    let id = store.resolve("app:1").unwrap().id;
    disk.lose_power();
    drop(store);
    disk.mount_again();

    let store = ImageStore::open(&disk.place()).unwrap();
    store.await_checked();
    assert_eq!(store.damaged().unwrap(), []);
    assert_eq!(store.resolve("app:1").unwrap().id, id);
    store.prepare("c", "app:1").unwrap();
    let rootfs = Rootfs::of(store.mount("c").unwrap());
    assert_eq!(rootfs.read("d/low"), content);
    assert_eq!(rootfs.read("d/high"), "high");
    let mut saved = Vec::new();
    store
        .save(&store.find_saved(&["app:1".to_owned()]).unwrap(), &mut saved)
        .unwrap();
    Fixture::new().load(&saved);
}
