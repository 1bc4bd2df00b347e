//! Services on a single node.

use crate::support::{Docker, Ending, IMAGE, LONG, Lab, SERVER, WAITER, eventually, raw_request};

fn environment(docker: &Docker) -> String {
    docker.run(&[
        "service",
        "inspect",
        "--format",
        "{{.Spec.TaskTemplate.ContainerSpec.Env}}",
        "web",
    ])
}

/// The state of the newest update, once it ended.
fn await_update(docker: &Docker, expected: &str) {
    eventually(expected, LONG, || {
        let state = docker.run(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"]);
        if state == expected { Ok(()) } else { Err(state) }
    });
}

#[test]
fn a_service_is_created_scaled_and_removed() {
    let lab = Lab::with_image("e2esvc", 1, 1);
    let docker = lab.docker("node-1");
    let script = format!("echo started; {WAITER}");
    docker.run(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "2",
        IMAGE,
        "sh",
        "-c",
        &script,
    ]);
    let first = lab.await_running("node-1", "web", 2, |_| true);
    assert_eq!(
        docker.run(&[
            "service",
            "ls",
            "--format",
            "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}"
        ]),
        format!("web replicated 2/2 {IMAGE}")
    );
    eventually("both lines", LONG, || {
        let logs = docker.try_run(&["service", "logs", "web"]);
        if logs.stdout.matches("started").count() == 2 {
            Ok(())
        } else {
            Err(logs)
        }
    });
    docker.run(&["service", "scale", "-d", "web=4"]);
    let more = lab.await_running("node-1", "web", 4, |_| true);
    assert!(
        first.keys().all(|task| more.contains_key(task)),
        "{first:?} {more:?}"
    );
    docker.run(&["service", "scale", "-d", "web=1"]);
    lab.await_running("node-1", "web", 1, |_| true);

    let same = docker.refuse(&["service", "create", "-d", "--name", "web", IMAGE]);
    assert!(
        same.contains("name conflicts with an existing object: service web already exists"),
        "{same}"
    );
    docker.run(&["service", "rm", "web"]);
    assert_eq!(docker.run(&["service", "ls", "-q"]), "");
    let gone = docker.refuse(&["service", "inspect", "web"]);
    assert!(gone.contains("no such service: web"), "{gone}");
    eventually("no container", LONG, || {
        let left = docker.run(&["ps", "-q"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn an_update_replaces_tasks_and_a_rollback_takes_it_back() {
    let lab = Lab::with_image("e2eupd", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "2",
        "--update-monitor",
        "1s",
        "--rollback-monitor",
        "1s",
        IMAGE,
    ]);
    let before = lab.await_running("node-1", "web", 2, |_| true);
    docker.run(&["service", "update", "-d", "--env-add", "A=b", "web"]);
    assert_eq!(environment(&docker), "[A=b]");
    await_update(&docker, "completed");
    let after = lab.await_running("node-1", "web", 2, |_| true);
    assert!(
        before.keys().all(|task| !after.contains_key(task)),
        "{before:?} {after:?}"
    );
    for container in docker.lines(&["ps", "-q"]) {
        assert_eq!(docker.run(&["exec", &container, "sh", "-c", "echo $A"]), "b");
    }
    docker.run(&["service", "rollback", "-d", "web"]);
    assert_eq!(environment(&docker), "[]");
    await_update(&docker, "rollback_completed");
    lab.await_running("node-1", "web", 2, |tasks| {
        after.keys().all(|task| !tasks.contains_key(task))
    });
}

#[test]
fn a_stale_update_is_refused_and_status_does_not_change_the_version() {
    let lab = Lab::with_image("e2estal", 1, 1);
    let docker = lab.docker("node-1");
    let id = docker.run(&["service", "create", "-d", "-q", "--name", "web", IMAGE]);
    let version = || docker.run(&["service", "inspect", "--format", "{{.Version.Index}}", "web"]);
    let created = version();
    lab.await_running("node-1", "web", 1, |_| true);
    assert_eq!(version(), created);
    docker.run(&["service", "update", "-d", "--label-add", "a=b", "web"]);
    assert_ne!(version(), created);

    let body = format!(r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"{IMAGE}"}}}}}}"#);
    let request = format!(
        "POST /v1.41/services/{id}/update?version={created} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw_request(docker.socket(), request.as_bytes(), Ending::Wait);
    assert!(answer.contains("update out of sequence"), "{answer}");
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
}

#[test]
fn a_replica_publishes_its_port_on_its_node() {
    let lab = Lab::with_image("e2ehost", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--hostname",
        "server",
        "--publish",
        "mode=host,published=8080,target=80",
        IMAGE,
        "sh",
        "-c",
        SERVER,
    ]);
    let page = eventually("the page", LONG, || lab.fetch("node-1", 8080, "name"));
    assert_eq!(page, "server");
}

#[test]
fn a_task_that_fits_nowhere_says_why_and_a_failed_one_is_tried_again() {
    let lab = Lab::with_image("e2ewhy", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--constraint",
        "node.labels.zone==a",
        IMAGE,
    ]);
    eventually("a reason", LONG, || {
        let row = docker.task_states("web");
        if row.starts_with("Pending") && row.contains("no suitable node") {
            Ok(())
        } else {
            Err(row)
        }
    });
    docker.run(&["node", "update", "--label-add", "zone=a", "node-1"]);
    lab.await_running("node-1", "web", 1, |_| true);

    docker.run(&[
        "service",
        "create",
        "-d",
        "--name",
        "bad",
        "--restart-delay",
        "100ms",
        IMAGE,
        "sh",
        "-c",
        "exit 9",
    ]);
    eventually("several attempts", LONG, || {
        let rows = docker.task_states("bad");
        let failed = rows
            .lines()
            .filter(|row| row.contains("non-zero exit (9)"))
            .count();
        if failed >= 2 { Ok(()) } else { Err(rows) }
    });
}
