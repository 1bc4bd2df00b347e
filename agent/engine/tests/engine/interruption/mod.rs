//! The engine is killed at every point of every operation; what it leaves, the next one repairs.
//!
//! A point is a system call that changes something: files, mounts, namespaces, messages to the kernel, the launcher and
//! the monitors. [`trace`] counts them from outside. In the gate, some of them are tried; `MUSTER_INTERRUPTION_POINTS`
//! says how many of each operation.

mod leftovers;
mod process;
mod trace;

use crate::node::Node;
use leftovers::Leftovers;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use process::Subject;
use std::path::Path;
use trace::Fate;

/// Points of one operation that the gate tries: together they take about a minute.
const POINTS_DEFAULT: usize = 12;

/// An operation and what stands before it.
struct Operation {
    /// Commands that make what it works on.
    before: &'static [&'static str],
    /// The command that is cut short.
    command: &'static str,
    /// States in which the container may be afterwards; `None` is its absence.
    after: &'static [Option<&'static str>],
    /// Commands that have to work afterwards where the container is there.
    then: &'static [&'static str],
}

fn points() -> usize {
    let asked = std::env::var("MUSTER_INTERRUPTION_POINTS").ok();
    asked.map_or(POINTS_DEFAULT, |asked| asked.parse().expect("a number"))
}

/// Tries an operation on a node of its own, with a container beside it that must never notice.
fn sweep(operation: &Operation) {
    let node = Node::new();
    node.write_images(&["box", "other"]);
    let mut subject = Subject::start(&node);
    subject.tell("open");
    subject.tell("load box");
    subject.tell("run keeper");
    let keeper = subject.container("keeper").expect("it runs");
    let total = interrupted(&node, &mut subject, operation, usize::MAX).expect_err("it is not killed");
    check(&node, &mut subject, operation, &keeper, "it was not cut short");
    let tried = points().min(total);
    for number in 0..tried {
        let point = number * total / tried;
        let story = format!(
            "\"{}\" was cut short before change {point} of {total}",
            operation.command
        );
        // Threads take turns, so that the number of changes differs a little from time to time.
        let _ = interrupted(&node, &mut subject, operation, point);
        check(&node, &mut subject, operation, &keeper, &story);
    }
    subject.tell("remove-forced keeper");
    Leftovers::of(&node).assert_none(&mut subject, "at the end");
    subject.close();
    eprintln!("{}: {tried} of {total} points", operation.command);
}

/// Has a command cut short and opens the engine again; the number of points where it came to its end.
fn interrupted(node: &Node, subject: &mut Subject, operation: &Operation, point: usize) -> Result<(), usize> {
    operation
        .before
        .iter()
        .for_each(|command| drop(subject.tell(command)));
    let fate = if operation.command == "open" {
        let pid = subject.container("it").expect("it is there").pid;
        subject.kill();
        end_container(pid);
        *subject = Subject::start(node);
        subject.traced("last open", point)
    } else {
        subject.traced(&format!("last {}", operation.command), point)
    };
    *subject = Subject::start(node);
    subject.tell("open");
    match fate {
        Fate::Killed => Ok(()),
        Fate::KilledByOthers { points } => panic!("it was killed after {points} points"),
        Fate::Ended { points, code } => {
            assert_eq!(code, 0, "{} failed", operation.command);
            Err(points)
        }
    }
}

/// Ends a container while there is no engine.
fn end_container(pid: i32) {
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    process::until("its end", || !Path::new(&format!("/proc/{pid}")).exists());
}

fn check(node: &Node, subject: &mut Subject, operation: &Operation, keeper: &process::Listed, story: &str) {
    assert_eq!(subject.container("keeper").as_ref(), Some(keeper), "{story}");
    let left = subject.container("it");
    let state = left.as_ref().map(|it| it.state.as_str());
    assert!(operation.after.contains(&state), "{story}: it is {state:?}");
    Leftovers::of(node).assert_none(subject, story);
    let is_about_it = operation.after != [None];
    if left.is_some() || !is_about_it {
        for command in operation.then {
            subject.tell(command);
        }
        Leftovers::of(node).assert_none(subject, story);
    }
    if left.is_some() {
        subject.tell("remove-forced it");
    }
    for volume in subject.names("volumes").iter().filter(|name| name.len() < 64) {
        subject.tell(&format!("volume-remove {volume}"));
    }
    for image in subject
        .names("images")
        .iter()
        .filter(|name| *name != "box:latest")
    {
        subject.tell(&format!("remove-image {image}"));
    }
    Leftovers::of(node).assert_none(subject, story);
}

#[test]
fn create() {
    sweep(&Operation {
        before: &[],
        command: "create it",
        after: &[None, Some("created")],
        then: &["start it"],
    });
}

#[test]
fn start() {
    sweep(&Operation {
        before: &["create it"],
        command: "start it",
        after: &[Some("created"), Some("running"), Some("exited")],
        then: &["restart it"],
    });
}

#[test]
fn stop() {
    sweep(&Operation {
        before: &["run it"],
        command: "stop it",
        after: &[Some("running"), Some("exited")],
        then: &["restart it"],
    });
}

#[test]
fn remove() {
    sweep(&Operation {
        before: &["create it"],
        command: "remove it",
        after: &[None, Some("created")],
        then: &["start it"],
    });
}

#[test]
fn remove_a_running_one() {
    sweep(&Operation {
        before: &["run it"],
        command: "remove-forced it",
        after: &[None, Some("running"), Some("exited")],
        then: &["restart it"],
    });
}

#[test]
fn exec() {
    sweep(&Operation {
        before: &["run it"],
        command: "exec it",
        after: &[Some("running")],
        then: &["exec it", "restart it"],
    });
}

#[test]
fn volumes() {
    for (before, command) in [
        (&[][..], "volume-create data"),
        (&["volume-create data"], "volume-remove data"),
    ] {
        sweep(&Operation {
            before,
            command,
            after: &[None],
            then: &["volume-create data", "volume-remove data"],
        });
    }
}

#[test]
fn images() {
    for (before, command) in [
        (&[][..], "load other"),
        (&["load other"], "remove-image other:latest"),
    ] {
        sweep(&Operation {
            before,
            command,
            after: &[None],
            then: &["load other", "remove-image other:latest"],
        });
    }
}

/// The engine that opens after a kill is killed itself, while it settles a container that ended meanwhile.
#[test]
fn opening() {
    sweep(&Operation {
        before: &["run it"],
        command: "open",
        after: &[Some("exited")],
        then: &["start it"],
    });
}
