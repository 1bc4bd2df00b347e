//! Image stores that a lost power supply damaged.

use crate::support::{IMAGE, LONG, Lab, Registry, Setup, eventually};
use std::fs;
use std::path::{Path, PathBuf};

fn store(lab: &Lab, node: &str) -> PathBuf {
    lab.node_directory(node).join("data/images")
}

/// Kills the node and has its store look as though the machine had stopped without warning.
fn lose_power(lab: &Lab, node: &str) {
    lab.kill(node);
    fs::write(store(lab, node).join("session"), "an-earlier-boot open\n").unwrap();
}

fn return_to_life(lab: &Lab, node: &str) {
    lab.start(node);
    lab.await_daemon(node);
}

fn blob(store: &Path, digest: &str) -> PathBuf {
    store
        .join("blobs/sha256")
        .join(digest.trim_start_matches("sha256:"))
}

/// The registry with what was pushed before: it goes with the network of a node that is killed.
fn registry(lab: &Lab) -> Registry {
    let setup = Setup {
        port: 5000,
        ..Setup::default()
    };
    Registry::start(lab, "node-1", &setup)
}

fn zero(path: &Path) {
    let bytes = fs::metadata(path).unwrap().len();
    fs::write(path, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
}

#[test]
fn an_image_that_lost_power_damaged_is_repaired_by_pulling_it_again() {
    let lab = Lab::with_image("e2edmg", 1, 1);
    let docker = lab.docker("node-1");
    let store = store(&lab, "node-1");
    let first = registry(&lab);
    let name = format!("{}/app:1", first.name);
    docker.run(&["tag", IMAGE, &name]);
    docker.run(&["push", &name]);
    let id = docker.run(&["inspect", "--format", "{{.Id}}", &name]);
    docker.run(&["rmi", "-f", &id]);
    docker.run(&["pull", &name]);
    docker.run(&["run", "--name", "own", &name, "sh", "-c", "echo written > /kept"]);
    drop(first);

    // The layer, which is here once: the image is gone until it is pulled, and is said to be.
    lose_power(&lab, "node-1");
    let mut layers = fs::read_dir(store.join("layers")).unwrap();
    let busybox = layers.next().unwrap().unwrap().path().join("bin/busybox");
    zero(&busybox);
    return_to_life(&lab, "node-1");
    eventually("the warning", LONG, || {
        let info = docker.try_run(&["info"]);
        let warning = format!("WARNING: image {name} is damaged and hidden: pull or load it again");
        if info.stderr.contains(&warning) {
            Ok(())
        } else {
            Err(info)
        }
    });
    assert_eq!(docker.run(&["images", "-q"]), "");
    let second = registry(&lab);
    // The CLI pulls what is not there.
    assert_eq!(docker.run(&["run", "--rm", &name, "echo", "again"]), "again");
    assert_eq!(docker.run(&["inspect", "--format", "{{.Id}}", &name]), id);
    docker.run(&["start", "-a", "own"]);
    assert_eq!(docker.run(&["diff", "own"]), "A /kept");
    assert!(!docker.try_run(&["info"]).stderr.contains("damaged"));
    let manifest = docker.run(&["inspect", "--format", "{{index .RepoDigests 0}}", &name]);
    let manifest = blob(&store, manifest.split_once('@').unwrap().1);
    drop(second);

    // The manifest alone, the store known not to have lost more: the image runs, and a pull of what is there brings it.
    lab.kill("node-1");
    let content = fs::read(&manifest).unwrap();
    fs::write(&manifest, &content[..content.len() / 2]).unwrap();
    return_to_life(&lab, "node-1");
    assert_eq!(docker.run(&["run", "--rm", &name, "echo", "runs"]), "runs");
    let archive = lab.directory().join("saved.tar");
    let archive = archive.to_string_lossy();
    let refused = docker.refuse(&["save", "-o", &archive, &name]);
    assert!(refused.contains("pull or load its image again"), "{refused}");
    let _third = registry(&lab);
    docker.run(&["pull", &name]);
    docker.run(&["save", "-o", &archive, &name]);
    assert_eq!(fs::read(&manifest).unwrap(), content);
}
