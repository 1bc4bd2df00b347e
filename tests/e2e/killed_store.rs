//! The daemon is killed at many points of what changes its image store; the next one repairs what it leaves.
//!
//! A point is a system call of the daemon that changes something, as in the same tests of the engine alone. The gate tries
//! some; `MUSTER_INTERRUPTION_POINTS` says how many of each operation.

#[path = "../../agent/engine/tests/engine/interruption/trace.rs"]
mod trace;

use crate::support::{Docker, IMAGE, LONG, Lab, Output, Registry, Setup, busybox, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use trace::Fate;

/// Points of one operation that the gate tries: together they take about a minute.
const POINTS_DEFAULT: usize = 5;
/// The image that comes and goes.
const VICTIM: &str = "victim:1";

/// What is cut short.
struct Operation<'a> {
    name: &'a str,
    /// Makes what it works on, in an empty store.
    before: &'a dyn Fn(),
    command: &'a [&'a str],
    /// The image that is there when it came to its end.
    makes: Option<&'a str>,
}

struct Place {
    lab: Lab,
    docker: Docker,
    data: PathBuf,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

fn points() -> usize {
    let asked = std::env::var("MUSTER_INTERRUPTION_POINTS").ok();
    asked.map_or(POINTS_DEFAULT, |asked| asked.parse().expect("a number"))
}

#[test]
fn pulls_loads_builds_and_prunes_that_are_cut_short_are_repaired() {
    let lab = Lab::up("e2estkil", 1, 1);
    let docker = lab.docker("node-1");
    let setup = Setup {
        port: 5000,
        ..Setup::default()
    };
    let registry = Registry::start(&lab, "node-1", &setup);
    let base = busybox(lab.directory());
    let base = base.to_str().unwrap();
    let archive = lab.directory().join("victim.tar");
    let archive = archive.to_str().unwrap();
    let project = project(lab.directory());
    let project = project.to_str().unwrap();
    let pulled = format!("{}/victim:1", registry.name);
    docker.run(&["load", "-i", base]);
    docker.run(&["build", "-t", VICTIM, project]);
    docker.run(&["save", "-o", archive, VICTIM]);
    docker.run(&["tag", VICTIM, &pulled]);
    docker.run(&["push", &pulled]);
    let place = Place::of(lab);
    let docker = &place.docker;
    place.empty();
    let build = ["build", "-t", VICTIM, project];
    let load_base = || drop(docker.run(&["load", "-i", base]));
    let fill = || {
        docker.run(&["load", "-i", base]);
        docker.run(&build);
        docker.run(&["pull", &pulled]);
    };
    for operation in [
        Operation {
            name: "pull",
            before: &|| {},
            command: &["pull", &pulled],
            makes: Some(&pulled),
        },
        Operation {
            name: "load",
            before: &|| {},
            command: &["load", "-i", archive],
            makes: Some(VICTIM),
        },
        Operation {
            name: "build",
            before: &load_base,
            command: &build,
            makes: Some(VICTIM),
        },
        Operation {
            name: "prune",
            before: &fill,
            command: &["system", "prune", "-af"],
            makes: None,
        },
    ] {
        place.sweep(&operation);
    }
    drop(registry);
}

/// A build with files and a step that runs something.
fn project(directory: &Path) -> PathBuf {
    let project = directory.join("project");
    fs::create_dir(&project).unwrap();
    let numbers: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    fs::write(project.join("numbers"), numbers).unwrap();
    fs::write(
        project.join("Dockerfile"),
        format!("FROM {IMAGE}\nCOPY numbers /\nRUN grep -c 9 /numbers > /count\nCMD [\"cat\", \"/count\"]\n"),
    )
    .unwrap();
    project
}

impl Place {
    fn of(lab: Lab) -> Place {
        let docker = lab.docker("node-1");
        let data = lab.node_directory("node-1").join("data");
        let mut place = Place {
            lab,
            docker,
            data,
            mounts: BTreeSet::new(),
            cgroups: BTreeSet::new(),
        };
        place.mounts = place.mounts_now();
        place.cgroups = place.cgroups_now();
        place
    }

    fn sweep(&self, operation: &Operation<'_>) {
        let total = self
            .interrupted(operation, usize::MAX)
            .expect_err("it is not killed");
        self.check(operation, "it was not cut short");
        let tried = points().min(total);
        for number in 0..tried {
            let point = number * total / tried;
            // Other threads of the daemon change something, too, so that the number differs from time to time.
            let _ = self.interrupted(operation, point);
            let story = format!(
                "{} was cut short before change {point} of {total}",
                operation.name
            );
            self.check(operation, &story);
        }
        eprintln!("{}: {tried} of {total} points", operation.name);
    }

    /// Has the command cut short, or the daemon killed right after it, and starts the next daemon; the number of points
    /// where the command came to its end.
    fn interrupted(&self, operation: &Operation<'_>, point: usize) -> Result<(), usize> {
        (operation.before)();
        let daemon = Pid::from_raw(i32::try_from(self.lab.daemon("node-1")).unwrap());
        let (tell, told) = mpsc::channel();
        let tracing = std::thread::spawn(move || {
            trace::seize(daemon);
            tell.send(()).unwrap();
            trace::follow(daemon, point)
        });
        told.recv().expect("the daemon can be traced");
        let output = self.docker.try_run(operation.command);
        // It is gone already where the command was cut short.
        let _ = kill(daemon, Signal::SIGKILL);
        let fate = tracing.join().expect("the daemon is followed to its end");
        self.lab.start("node-1");
        self.lab.await_daemon("node-1");
        match fate {
            Fate::Killed => Ok(()),
            Fate::KilledByOthers { points } => {
                assert_eq!(output.code, 0, "{}: {output:?}", operation.name);
                Err(points)
            }
            Fate::Ended { points, code } => panic!("the daemon ended after {points} points with {code}"),
        }
    }

    /// Nothing is left of it but what is whole, and it can be done again.
    #[track_caller]
    fn check(&self, operation: &Operation<'_>, story: &str) {
        self.assert_tidy(story);
        self.assert_whole(story);
        let again = self.docker.try_run(operation.command);
        assert_eq!(again.code, 0, "{story}: {again:?}");
        if let Some(name) = operation.makes {
            let counted = self.docker.try_run(&["run", "--rm", name]);
            assert_eq!(counted.stdout, "40951\n", "{story}: {counted:?}");
        }
        self.assert_tidy(story);
        self.empty();
    }

    /// Every image that is shown can be run and saved.
    #[track_caller]
    fn assert_whole(&self, story: &str) {
        let ids = self.docker.lines(&["images", "-aq", "--no-trunc"]);
        let saved = self.lab.directory().join("saved.tar");
        let saved = saved.to_string_lossy();
        for id in ids.iter().collect::<BTreeSet<_>>() {
            for command in [
                &["run", "--rm", id, "/bin/busybox", "true"][..],
                &["save", "-o", &saved, id],
            ] {
                let output: Output = self.docker.try_run(command);
                assert_eq!(output.code, 0, "{story}: {command:?}: {output:?}");
            }
        }
        let info = self.docker.try_run(&["info"]);
        assert!(!info.stderr.contains("damaged"), "{story}: {info:?}");
    }

    /// Nothing of an operation is under way.
    #[track_caller]
    fn assert_tidy(&self, story: &str) {
        assert!(
            self.docker.lines(&["ps", "-aq"]).is_empty(),
            "{story}: a container is left"
        );
        eventually(&format!("{story}: nothing is left"), LONG, || {
            let left: Vec<String> = [
                "images/tmp",
                "images/trash",
                "images/containers",
                "builds",
                "containers",
            ]
            .iter()
            .flat_map(|place| {
                names(&self.data.join(place))
                    .into_iter()
                    .map(move |name| format!("{place}/{name}"))
            })
            .chain(self.mounts_now().difference(&self.mounts).cloned())
            .chain(
                self.cgroups_now()
                    .difference(&self.cgroups)
                    .map(|path| path.display().to_string()),
            )
            .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    /// Removes all images and the build cache: no blob and no layer is kept for nothing.
    #[track_caller]
    fn empty(&self) {
        self.docker.run(&["system", "prune", "-af"]);
        eventually("the store to be empty", LONG, || {
            let left: Vec<String> = ["blobs/sha256", "layers", "splits", "tmp", "trash", "containers"]
                .iter()
                .flat_map(|place| names(&self.data.join("images").join(place)))
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    fn mounts_now(&self) -> BTreeSet<String> {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.lab.init("node-1"))).unwrap();
        mounts.lines().map(str::to_owned).collect()
    }

    fn cgroups_now(&self) -> BTreeSet<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        let mut waiting: Vec<PathBuf> = hierarchies
            .chain([root.to_owned()])
            .map(|hierarchy| hierarchy.join("muster-lab/e2estkil"))
            .collect();
        let mut found = BTreeSet::new();
        while let Some(group) = waiting.pop() {
            let Ok(entries) = fs::read_dir(&group) else {
                continue;
            };
            let below = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(below.map(|entry| entry.path()));
            found.insert(group);
        }
        found
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
