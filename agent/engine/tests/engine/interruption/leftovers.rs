//! What lies on the disk and in the kernel although no container, volume or image needs it.

use super::process::{Listed, Subject};
use crate::node::{Node, names};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long what is removed in the background may take to go.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node that is looked at from outside.
pub struct Leftovers<'a> {
    node: &'a Node,
}

impl<'a> Leftovers<'a> {
    pub fn of(node: &'a Node) -> Self {
        Self { node }
    }

    /// Waits until everything on the node belongs to something that the engine knows, and everything that it knows is
    /// there.
    pub fn assert_none(&self, subject: &mut Subject, story: &str) {
        subject.tell("settle");
        let began = Instant::now();
        loop {
            let containers = subject.containers();
            let volumes = subject.names("volumes").into_iter().collect();
            let images = subject.names("images").len();
            match self.difference(&containers, volumes, images) {
                None => return,
                Some(difference) => {
                    assert!(began.elapsed() < DEADLINE, "{story}: {difference}");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn difference(&self, containers: &[Listed], volumes: BTreeSet<String>, images: usize) -> Option<String> {
        let all: BTreeSet<String> = containers.iter().map(|listed| listed.id.clone()).collect();
        let running = containers.iter().filter(|listed| listed.state == "running");
        let running: BTreeSet<String> = running.map(|listed| listed.id.clone()).collect();
        let none = BTreeSet::new();
        let directories = [
            ("data/containers", &all),
            ("data/images/containers", &all),
            ("data/volumes", &volumes),
            ("data/discarded", &none),
            ("data/images/tmp", &none),
            ("data/images/trash", &none),
            ("run/containers", &running),
            ("run/netns", &running),
        ];
        directories
            .into_iter()
            .find_map(|(directory, wanted)| compared(directory, self.names(directory), wanted))
            .or_else(|| self.groups(&running))
            .or_else(|| compared("mounts", self.mounts(), &self.mounts_of(&running)))
            .or_else(|| {
                compared(
                    "interfaces",
                    BTreeSet::from([interfaces()]),
                    &BTreeSet::from([running.len()]),
                )
            })
            .or_else(|| {
                compared(
                    "ports",
                    BTreeSet::from([ports()]),
                    &BTreeSet::from([running.len()]),
                )
            })
            .or_else(|| self.image_files(images))
    }

    fn names(&self, directory: &str) -> BTreeSet<String> {
        names(&self.node.path(directory)).into_iter().collect()
    }

    /// Control groups, and the processes of monitors beside the launcher's.
    fn groups(&self, running: &BTreeSet<String>) -> Option<String> {
        self.node.groups().into_iter().find_map(|group| {
            let below = names(&group).into_iter().filter(|name| group.join(name).is_dir());
            let mut below: BTreeSet<String> = below.collect();
            let monitors = std::fs::read_to_string(group.join("monitors/cgroup.procs"));
            if below.remove("monitors")
                && let Some(difference) = compared(
                    "monitors and the launcher",
                    BTreeSet::from([monitors.unwrap_or_default().lines().count()]),
                    &BTreeSet::from([running.len() + 1]),
                )
            {
                return Some(difference);
            }
            // A hierarchy in which the engine makes no groups has none.
            (!below.is_empty())
                .then(|| compared("control groups", below, running))
                .flatten()
        })
    }

    fn mounts(&self) -> BTreeSet<String> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let place = self.node.path("");
        let place = place.to_string_lossy();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points
            .filter(|point| point.starts_with(&*place))
            .map(str::to_owned)
            .collect()
    }

    fn mounts_of(&self, running: &BTreeSet<String>) -> BTreeSet<String> {
        let pins = self.node.path("run/netns");
        let pinned = running.iter().map(|id| pins.join(id));
        pinned
            .chain([pins.clone()])
            .map(|path| path.to_string_lossy().into_owned())
            .collect()
    }

    /// Each image has one layer of its own, which is unpacked and is no blob any more, and two documents.
    fn image_files(&self, images: usize) -> Option<String> {
        let counts = [
            ("data/images/layers", images),
            ("data/images/splits", images),
            ("data/images/blobs/sha256", 2 * images),
        ];
        counts.into_iter().find_map(|(directory, wanted)| {
            let found = self.names(directory).len();
            compared(directory, BTreeSet::from([found]), &BTreeSet::from([wanted]))
        })
    }
}

/// Host sides of containers' interfaces in this network namespace.
fn interfaces() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    table
        .lines()
        .filter(|line| line.trim_start().starts_with("mv"))
        .count()
}

/// Published ports in the packet filter of this network namespace.
fn ports() -> usize {
    let output = Command::new("nft")
        .args(["-n", "list", "ruleset"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rules = String::from_utf8(output.stdout).unwrap();
    let mapped = |line: &&str| line.contains(" . 80") && line.contains(" : ");
    rules
        .lines()
        .filter(mapped)
        .map(|line| line.matches(" . 80").count())
        .sum()
}

fn compared<T: Ord + Debug>(what: &str, found: BTreeSet<T>, wanted: &BTreeSet<T>) -> Option<String> {
    (found != *wanted).then(|| format!("{what}: found {found:?}, not {wanted:?}"))
}
