//! A data directory on a file system that fills up.

use crate::support::{IMAGE, LONG, Lab, eventually};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small ext4 file system in a file, mounted until dropped.
struct Disk {
    place: PathBuf,
    _directory: tempfile::TempDir,
}

impl Disk {
    fn mount(megabytes: u64) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("muster-disk-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let (file, place) = (directory.path().join("disk"), directory.path().join("mounted"));
        std::fs::create_dir(&place).unwrap();
        std::fs::File::create(&file)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        must(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&file));
        must(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&place));
        Self {
            place,
            _directory: directory,
        }
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> PathBuf {
        let path = self.place.join("filling");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x5a; size];
            while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.place).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.place.display());
            assert!(std::thread::panicking(), "the disk is still in use");
        }
    }
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// An archive of an image that needs this much space.
fn large_archive(directory: &Path, megabytes: usize) -> PathBuf {
    use muster_images::{ImageRecipe, RecipeSource};
    let path = directory.join("large.tar");
    let recipe = ImageRecipe {
        reference: "large:1".to_owned(),
        ..ImageRecipe::default()
    };
    let recipe = recipe.with("content", 0o644, RecipeSource::Bytes(vec![0x5a; megabytes << 20]));
    recipe.write(std::fs::File::create(&path).unwrap()).unwrap();
    path
}

#[test]
fn a_full_disk_is_said_and_does_no_harm() {
    let disk = Disk::mount(128);
    let lab = Lab::with_image_in("e2efull", &disk.place);
    let docker = lab.docker("node-1");
    docker.run(&["service", "create", "-d", "-q", "--name", "web", IMAGE]);
    let tasks = lab.await_running("node-1", "web", 1, |_| true);
    let before = lab.containers("node-1");

    let archive = large_archive(lab.directory(), 200);
    let complaint = docker.try_run(&["load", "-i", &archive.to_string_lossy()]);
    let said = format!("{}{}", complaint.stdout, complaint.stderr).to_lowercase();
    assert!(
        complaint.code != 0 && said.contains("no space left on device"),
        "{complaint:?}"
    );
    assert_eq!(docker.lines(&["images", "-aq"]).len(), 1);

    let filling = disk.fill();
    let complaint = docker.refuse(&["run", "-d", "--name", "more", IMAGE]);
    assert!(
        complaint.to_lowercase().contains("no space left on device"),
        "{complaint}"
    );
    assert_eq!(lab.containers("node-1"), before);
    std::fs::remove_file(filling).unwrap();

    // A controller that could not write has ended; a start of the daemon brings it back with all it acknowledged.
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    eventually("the cluster to answer", LONG, || {
        let output = docker.try_run(&["service", "ls", "--format", "{{.Name}}"]);
        if (output.code, output.stdout.trim()) == (0, "web") {
            Ok(())
        } else {
            Err(output)
        }
    });
    lab.await_running("node-1", "web", 1, |now| *now == tasks);
    assert_eq!(lab.containers("node-1"), before);
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
    docker.run(&["service", "scale", "-d", "web=2"]);
    lab.await_running("node-1", "web", 2, |_| true);
    drop(lab);
    drop(disk);
}
