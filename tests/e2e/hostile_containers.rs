//! Containers that do their worst within their limits: the daemon answers, they can be stopped and removed, and nothing
//! of them stays.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the daemon may take to answer while a container does its worst, on a busy machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Processes of a container that makes as many as it can.
const PROCESSES_MAX: usize = 64;
/// Size of a container's log; two files of it.
const LOG_BYTES_MAX: u64 = 256 << 10;

#[track_caller]
fn answers(docker: &Docker, during: &str) {
    let began = Instant::now();
    docker.run(&["ps", "-a"]);
    docker.run(&["exec", "bystander", "true"]);
    let took = began.elapsed();
    assert!(took < ANSWERS_WITHIN, "{during}: it took {took:?}");
}

/// Runs a script in a container that may use half a processor and little memory.
#[track_caller]
fn run(docker: &Docker, name: &str, options: &[&str], script: &str) {
    let limits = [
        "run", "-d", "-i", "--cpus", "0.5", "--memory", "64m", "--name", name,
    ];
    docker.run(&[&limits[..], options, &[IMAGE, "sh", "-c", script]].concat());
}

/// Waits until a container's output has this line.
#[track_caller]
fn await_line(docker: &Docker, name: &str, line: &str) {
    eventually(&format!("{name} to say {line}"), LONG, || {
        let output = docker.try_run(&["logs", name]);
        match output.stdout.lines().any(|own| own == line) {
            true => Ok(()),
            false => Err(output),
        }
    });
}

#[test]
fn containers_that_do_their_worst_harm_nobody() {
    let lab = Lab::with_image("e2eworst", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&["run", "-d", "--name", "bystander", IMAGE]);
    as_many_processes_as_it_can(&docker);
    as_much_output_as_it_can(&lab, &docker);
    signals_ignored(&docker);
    as_many_descriptors_as_it_can(&docker);
    output_that_nobody_reads(&docker);
    answers(&docker, "at the end");
    assert_eq!(docker.lines(&["ps", "-aq"]).len(), 1);
}

fn as_many_processes_as_it_can(docker: &Docker) {
    let limit = PROCESSES_MAX.to_string();
    let script = "(while :; do sleep 1000 & done) 2> /dev/null & read go";
    run(docker, "bomb", &["--pids-limit", &limit], script);
    eventually("all processes that it may have", LONG, || {
        let processes = docker.lines(&["top", "bomb"]).len() - 1;
        assert!(processes <= PROCESSES_MAX, "{processes} processes");
        // The shell that makes them ends when it cannot make more.
        if processes >= PROCESSES_MAX - 2 {
            Ok(())
        } else {
            Err(processes)
        }
    });
    answers(docker, "a fork bomb");
    docker.run(&["rm", "-f", "bomb"]);
}

fn as_much_output_as_it_can(lab: &Lab, docker: &Docker) {
    let size = LOG_BYTES_MAX.to_string();
    let options = [
        "--log-opt",
        &format!("max-size={size}"),
        "--log-opt",
        "max-file=2",
    ];
    run(
        docker,
        "flood",
        &options,
        "exec busybox yes 0123456789012345678901234567890123456789",
    );
    let id = docker.run(&["inspect", "--format", "{{.Id}}", "flood"]);
    let directory = lab.node_directory("node-1").join("data/containers").join(&id);
    let rotated = directory.join(format!("{id}-json.log.1"));
    eventually("the log to be full", LONG, || {
        std::fs::metadata(&rotated).map(drop)
    });
    answers(docker, "a flood of output");
    assert!(
        docker
            .run(&["logs", "--tail", "1", "flood"])
            .starts_with("0123456789")
    );
    let bytes = bytes_of(&directory);
    // A line may begin just before the limit.
    assert!(
        bytes < 2 * LOG_BYTES_MAX + (64 << 10),
        "the log takes {bytes} bytes"
    );
    docker.run(&["rm", "-f", "flood"]);
}

fn bytes_of(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|file| file.len())
        .sum()
}

fn signals_ignored(docker: &Docker) {
    let script = "trap '' TERM INT HUP QUIT; echo deaf; while :; do sleep 1; done";
    run(docker, "deaf", &[], script);
    await_line(docker, "deaf", "deaf");
    docker.run(&["stop", "-t", "1", "deaf"]);
    let code = docker.run(&[
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}}",
        "deaf",
    ]);
    assert_eq!(code, "exited 137");
    docker.run(&["rm", "deaf"]);
}

fn as_many_descriptors_as_it_can(docker: &Docker) {
    let script = "echo go; exec busybox tail -f $(for i in $(seq 1100); do echo /dev/null; done) > /dev/null";
    run(docker, "files", &["--ulimit", "nofile=1024:1024"], script);
    await_line(docker, "files", "go");
    answers(docker, "a container without descriptors");
    docker.run(&["exec", "files", "true"]);
    docker.run(&["rm", "-f", "files"]);
}

/// Without a log, nobody reads what it writes; it ends all the same.
fn output_that_nobody_reads(docker: &Docker) {
    let script = "busybox yes | busybox head -c 4194304; exit 5";
    run(docker, "unread", &["--log-driver", "none"], script);
    assert_eq!(docker.run(&["wait", "unread"]), "5");
    docker.run(&["rm", "unread"]);
}
