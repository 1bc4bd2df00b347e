//! Options that say when a container ends, is healthy and is started again.

use super::{detached, inspect, output};
use crate::support::{Docker, IMAGE, LONG, Lab, eventually};

pub(super) fn restarts(lab: &Lab, docker: &Docker) {
    docker.run(&[
        "run",
        "-d",
        "--name",
        "failing",
        "--restart=on-failure:2",
        IMAGE,
        "sh",
        "-c",
        "exit 3",
    ]);
    let state = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}";
    eventually("two restarts", LONG, || match inspect(docker, state, "failing") {
        ended if ended == "exited 3 2" => Ok(()),
        other => Err(other),
    });
    docker.run(&["run", "-d", "--name", "again", "--restart=always", IMAGE, "false"]);
    eventually("back-off", LONG, || {
        match inspect(docker, "{{.State.Restarting}} {{.State.Running}}", "again") {
            waits if waits == "true true" => Ok(()),
            other => Err(other),
        }
    });
    docker.run(&["stop", "again"]);
    assert_eq!(inspect(docker, "{{.State.Status}}", "again"), "exited");
    detached(docker, "kept", &["--restart=unless-stopped"]);
    detached(docker, "stopped", &["--restart=unless-stopped"]);
    docker.run(&["stop", "-t", "0", "stopped"]);
    docker.run(&["update", "--restart=no", "failing"]);
    lab.kill_daemon("node-1");
    lab.start("node-1");
    eventually("the daemon", LONG, || {
        let answer = docker.try_run(&["info"]);
        if answer.code == 0 { Ok(()) } else { Err(answer) }
    });
    assert_eq!(inspect(docker, "{{.State.Status}}", "kept"), "running");
    assert_eq!(inspect(docker, "{{.State.Status}}", "stopped"), "exited");
    assert_eq!(inspect(docker, "{{.State.Status}}", "failing"), "exited");
    docker.run(&["rm", "-f", "failing", "again", "kept", "stopped"]);
}

pub(super) fn health(docker: &Docker) {
    let options = [
        "--health-cmd=test -e /well",
        "--health-interval=100ms",
        "--health-retries=2",
        "--health-timeout=5s",
    ];
    detached(docker, "patient", &options);
    let becomes = |status: &str| {
        eventually(status, LONG, || {
            match inspect(docker, "{{.State.Health.Status}}", "patient") {
                health if health == status => Ok(()),
                other => Err(other),
            }
        });
    };
    becomes("unhealthy");
    docker.run(&["exec", "patient", "touch", "/well"]);
    becomes("healthy");
    assert!(
        docker
            .run(&["ps", "--format", "{{.Status}}"])
            .contains("(healthy)")
    );
    let events = [
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "container=patient",
    ];
    // The CLI sends whole seconds, so that what has just happened is told a moment later.
    eventually("the events", LONG, || {
        let told = docker.lines(&[&events[..], &["--format", "{{.Action}}"]].concat());
        let health = told.iter().filter(|event| event.starts_with("health_status"));
        match health.collect::<Vec<_>>()[..] {
            [first, second] if first == "health_status: unhealthy" && second == "health_status: healthy" => {
                Ok(())
            }
            _ => Err(told),
        }
    });
    docker.run(&["rm", "-f", "patient"]);
    detached(
        docker,
        "slow",
        &[
            "--health-cmd=echo begun; sleep 1000",
            "--health-interval=50ms",
            "--health-timeout=200ms",
        ],
    );
    let told = eventually("a time-out", LONG, || {
        let log = inspect(docker, "{{json .State.Health.Log}}", "slow");
        if log.contains("exceeded") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    assert!(
        told.contains("Health check exceeded timeout (200ms): begun"),
        "{told}"
    );
    docker.run(&["rm", "-f", "slow"]);
    detached(docker, "unchecked", &["--no-healthcheck"]);
    assert_eq!(inspect(docker, "{{.State.Health}}", "unchecked"), "<nil>");
    docker.run(&["rm", "-f", "unchecked"]);
}

pub(super) fn settings(lab: &Lab, docker: &Docker) {
    let init = output(docker, &["--init"], "cat /proc/1/cmdline; echo");
    assert!(!init.starts_with("sh"), "{init}");
    assert_eq!(
        output(
            docker,
            &["-h", "box", "--domainname", "lan"],
            "hostname; cat /proc/sys/kernel/domainname"
        ),
        "box\nlan"
    );
    let file = lab.directory().join("env");
    std::fs::write(&file, "FROM_FILE=yes\n").unwrap();
    assert_eq!(
        output(
            docker,
            &["--env-file", &file.to_string_lossy()],
            "echo $FROM_FILE"
        ),
        "yes"
    );
    let id_file = lab.directory().join("cid");
    let id = docker.run(&[
        "run",
        "-d",
        "--cidfile",
        &id_file.to_string_lossy(),
        "--name",
        "signalled",
        "--stop-signal",
        "SIGUSR1",
        "--stop-timeout",
        "30",
        IMAGE,
        "sh",
        "-c",
        "trap 'exit 9' USR1; while :; do sleep 0.05; done",
    ]);
    assert_eq!(std::fs::read_to_string(&id_file).unwrap(), id);
    eventually("the trap", LONG, || {
        let status = docker.run(&["exec", "signalled", "grep", "SigCgt", "/proc/1/status"]);
        let caught = status.trim_start_matches("SigCgt:").trim();
        match u64::from_str_radix(caught, 16).unwrap() >> 9 & 1 {
            1 => Ok(()),
            _ => Err(caught.to_owned()),
        }
    });
    docker.run(&["stop", "signalled"]);
    assert_eq!(inspect(docker, "{{.State.ExitCode}}", "signalled"), "9");
    docker.run(&["rm", "signalled"]);
    let platform = docker.refuse(&["create", "--pull=never", "--platform=linux/s390x", IMAGE]);
    assert!(
        platform.contains("does not match the specified platform (linux/s390x)"),
        "{platform}"
    );
    docker.run(&["rm", &docker.run(&["create", "--platform=linux", IMAGE])]);
}
