//! A data directory on a file system that fills up.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually};
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

    /// Bytes that can be written.
    fn free(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.place).unwrap();
        found.blocks_available() * found.fragment_size()
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> PathBuf {
        self.fill_with("filling")
    }

    fn fill_with(&self, name: &str) -> PathBuf {
        let path = self.place.join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x5a; size];
            while file.write_all(&block).is_ok() {}
        }
        // Some of it may not fit after all.
        let _ = file.sync_all();
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

/// Moves the Raft log of a node without a daemon to this disk.
fn move_raft_log(lab: &Lab, node: &str, disk: &Disk) {
    let own = lab.node_directory(node).join("data/cluster/raft");
    let mut copy = Command::new("cp");
    must(copy.args(["-a", "--sparse=always"]).arg(&own).arg(&disk.place));
    std::fs::remove_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(disk.place.join("raft"), &own).unwrap();
}

/// Takes the room from the log that it has set aside, all but the first mebibyte of its newest segment.
fn take_room(disk: &Disk) {
    let files = std::fs::read_dir(disk.place.join("raft")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let segments = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-"));
    let newest = segments.max().unwrap();
    let mut punch = Command::new("fallocate");
    must(
        punch
            .args(["--punch-hole", "--offset", "1MiB", "--length", "63MiB"])
            .arg(newest),
    );
}

#[test]
fn a_controller_whose_disk_is_full_says_so_and_comes_back_with_space() {
    let disk = Disk::mount(112);
    let lab = Lab::with_image("e2efullc", 3, 3);
    lab.create_web(3);
    let tasks = lab.await_running("node-1", "web", 3, |_| true);
    let before = lab.containers("node-1");
    lab.kill_daemon("node-1");
    move_raft_log(&lab, "node-1", &disk);
    lab.start("node-1");
    lab.await_daemon("node-1");
    lab.await_listed("node-2", "node-1", "Ready Active Reachable");

    take_room(&disk);
    let filling = disk.fill();
    let full = lab.docker("node-1");
    let write = |docker: &Docker, label: &str| {
        docker.try_run(&["service", "update", "-d", "--label-add", label, "web"])
    };
    eventually("a write that node-1 does not get onto its disk", LONG, || {
        let large = format!("large={}", "x".repeat(100_000));
        let write = write(&lab.docker("node-2"), &large);
        assert_eq!(write.code, 0, "{write:?}");
        let said = full.try_run(&["node", "ls"]).stderr;
        let expected = "the disk is full; free space, then restart the controller";
        if said.contains("the controller of this node has ended") && said.contains(expected) {
            Ok(())
        } else {
            Err(said)
        }
    });
    // The others go on, and so do its containers.
    assert_eq!(write(&lab.docker("node-3"), "a=b").code, 0);
    assert_eq!(lab.containers("node-1"), before);
    assert_eq!(full.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
    let leave = full.refuse(&["swarm", "leave"]);
    assert!(leave.contains("participating as a manager"), "{leave}");

    std::fs::remove_file(filling).unwrap();
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    lab.await_listed("node-2", "node-1", "Ready Active Reachable");
    let label = "{{.Spec.Labels.a}}";
    assert_eq!(full.run(&["service", "inspect", "--format", label, "web"]), "b");
    lab.await_running("node-1", "web", 3, |now| *now == tasks);
    assert_eq!(lab.containers("node-1"), before);
    // It is a whole voter again.
    lab.kill_daemon("node-2");
    eventually("a write without node-2", LONG, || {
        let write = write(&full, "e=f");
        if write.code == 0 { Ok(()) } else { Err(write) }
    });
    drop(lab);
    drop(disk);
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

/// One fills its writable layer, the other its log, until neither can write any more.
#[test]
fn containers_that_fill_the_disk_leave_the_node_usable() {
    let disk = Disk::mount(192);
    let aside = disk.place.join("aside");
    std::fs::write(&aside, vec![0x5a; 8 << 20]).unwrap();
    let lab = Lab::with_image_in("e2efullh", &disk.place);
    let docker = lab.docker("node-1");
    docker.run(&["run", "-d", "--name", "quiet", IMAGE, "sleep", "1000"]);
    docker.run(&["create", "--name", "late", IMAGE, "sleep", "1000"]);
    let writes = "dd if=/dev/zero of=/filling bs=64k; exec sleep 1000";
    docker.run(&[
        "run", "-d", "--init", "--name", "greedy", IMAGE, "sh", "-c", writes,
    ]);
    let logs = "n=0; while :; do n=$((n+1)); echo $n; done";
    docker.run(&["run", "-d", "--init", "--name", "chatty", IMAGE, "sh", "-c", logs]);
    eventually("a full disk", LONG, || {
        let top = docker.run(&["top", "greedy"]);
        let free = disk.free();
        if !top.contains(" dd ") && free < 64 << 10 {
            return Ok(());
        }
        Err(format!("{free} bytes are free:\n{top}"))
    });

    // What needs no space works, for others and for those two.
    let running = || docker.lines(&["ps", "--format", "{{.Names}}"]);
    assert_eq!(running(), ["chatty", "greedy", "quiet"]);
    assert_eq!(docker.run(&["exec", "quiet", "echo", "alive"]), "alive");
    assert_eq!(docker.run(&["exec", "chatty", "echo", "alive"]), "alive");
    assert_eq!(docker.lines(&["logs", "--tail", "3", "chatty"]).len(), 3);
    assert!(docker.run(&["stats", "--no-stream", "greedy"]).contains("greedy"));
    docker.run(&["pause", "chatty"]);
    docker.run(&["unpause", "chatty"]);
    // What needs some says so, and leaves nothing.
    for refused in [
        &["run", "-d", "--name", "more", IMAGE][..],
        &["start", "late"],
        &["exec", "quiet", "sh", "-c", "echo x > /more"],
    ] {
        let complaint = docker.refuse(refused).to_lowercase();
        assert!(
            complaint.contains("no space left on device"),
            "{refused:?}: {complaint}"
        );
    }
    assert_eq!(running(), ["chatty", "greedy", "quiet"]);
    assert_eq!(
        docker.run(&["inspect", "--format", "{{.State.Status}}", "late"]),
        "created"
    );
    docker.run(&["kill", "quiet"]);
    docker.run(&["rm", "quiet"]);

    // A daemon that ends meanwhile can start again once somebody makes some room, and takes over what runs.
    docker.run(&["pause", "chatty"]);
    lab.kill_daemon("node-1");
    std::fs::remove_file(aside).unwrap();
    lab.start("node-1");
    lab.await_daemon("node-1");
    assert_eq!(running(), ["chatty", "greedy"]);
    docker.run(&["unpause", "chatty"]);
    eventually("a disk that is full again", LONG, || match disk.free() {
        free if free < 64 << 10 => Ok(()),
        free => Err(free),
    });
    let last = || docker.run(&["logs", "--tail", "1", "chatty"]).parse::<u64>();
    let mut before = 0;
    eventually("the end of its log", LONG, || {
        before = last().map_err(|error| error.to_string())?;
        Ok::<_, String>(())
    });
    // Whoever filled the disk can be removed, and the others go on.
    docker.run(&["rm", "-f", "greedy"]);
    eventually("its log to go on", LONG, || match last() {
        Ok(now) if now > before => Ok(()),
        other => Err(format!("{before}, {other:?}")),
    });
    // It would fill the disk again.
    docker.run(&["rm", "-f", "chatty"]);
    docker.run(&["start", "late"]);
    docker.run(&["rm", "-f", "late"]);
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
    drop(lab);
    drop(disk);
}

#[test]
fn a_daemon_starts_on_a_disk_without_any_room() {
    let disk = Disk::mount(128);
    let lab = Lab::with_image_in("e2efulls", &disk.place);
    let docker = lab.docker("node-1");
    docker.run(&["run", "-d", "--name", "quiet", IMAGE, "sleep", "1000"]);
    docker.run(&["create", "--name", "late", IMAGE, "sleep", "1000"]);
    let before = lab.containers("node-1");
    let set_aside = lab.node_directory("node-1").join("data/reserve");
    for _ in 0..2 {
        eventually("room for the next start", LONG, || match set_aside.exists() {
            true => Ok(()),
            false => Err(disk.free()),
        });
        let filling = disk.fill();
        lab.kill_daemon("node-1");
        // What the daemon leaves is filled too.
        let rest = disk.fill_with("rest");
        lab.start("node-1");
        lab.await_daemon("node-1");
        let reserve = disk.fill_with("reserve");
        assert_eq!(lab.containers("node-1"), before);
        assert_eq!(docker.run(&["exec", "quiet", "echo", "alive"]), "alive");
        assert_eq!(
            docker.run(&["inspect", "--format", "{{.State.Status}}", "late"]),
            "created"
        );
        for refused in [&["run", "-d", "--name", "more", IMAGE][..], &["start", "late"]] {
            let complaint = docker.refuse(refused).to_lowercase();
            assert!(
                complaint.contains("no space left on device"),
                "{refused:?}: {complaint}"
            );
        }
        for file in [filling, rest, reserve] {
            std::fs::remove_file(file).unwrap();
        }
        assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
    }
    docker.run(&["start", "late"]);
    docker.run(&["rm", "-f", "late", "quiet"]);
    drop(lab);
    drop(disk);
}
