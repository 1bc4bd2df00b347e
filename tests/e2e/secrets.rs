//! Secrets and configs, from the client to the files of a container and no further.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually, json_request};
use std::path::Path;
use std::process::Command;

/// Bytes that occur nowhere by themselves.
const CONTENT: &str = "swordfish-4c1f07d2";

fn make(docker: &Docker, kind: &str, name: &str, content: &str) -> String {
    let output = docker.piped(content.as_bytes(), &[kind, "create", name, "-"]);
    assert_eq!(output.code, 0, "{output:?}");
    output.stdout.trim().to_owned()
}

fn create(docker: &Docker, options: &str) {
    let options: Vec<&str> = options.split_whitespace().collect();
    docker.run(&[&["service", "create", "-d", "-q"], &options[..], &[IMAGE]].concat());
}

/// What a script says in the only container of a node.
#[track_caller]
fn in_container(docker: &Docker, script: &str) -> String {
    let container = docker.run(&["ps", "-q"]);
    docker.run(&["exec", &container, "sh", "-c", script])
}

/// Files below a directory that hold the bytes; file systems mounted below count as what is below.
fn files_with(directory: &Path, bytes: &str) -> Vec<String> {
    let found = Command::new("grep")
        .args([
            "--recursive",
            "--binary-files=text",
            "--files-with-matches",
            "--devices=skip",
            bytes,
        ])
        .arg(directory)
        .output()
        .expect("grep is in the path");
    // 1 says that there is none, 2 that something could not be read: temporary files of the daemons may be gone by then.
    let complaints = String::from_utf8_lossy(&found.stderr).into_owned();
    let vanished = |line: &str| line.ends_with("No such file or directory");
    assert!(
        matches!(found.status.code(), Some(0 | 1)) || complaints.lines().all(vanished),
        "{found:?}"
    );
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn secrets_and_configs_are_files_of_containers_and_of_nothing_else() {
    let lab = Lab::with_image("e2esecr", 2, 1);
    let docker = lab.docker("node-1");
    make(&docker, "secret", "key", CONTENT);
    make(&docker, "config", "page", "<p>hello");
    create(
        &docker,
        "--name web --constraint node.hostname==node-2 --secret key \
         --secret source=key,target=/etc/keys/mine,uid=7,gid=8,mode=0400 --config page \
         --config source=page,target=/etc/page,mode=0440 --user 7",
    );
    lab.await_running("node-1", "web", 1, |tasks| {
        tasks.values().all(|node| node == "node-2")
    });
    let worker = lab.docker("node-2");
    let script = "cat /run/secrets/key; echo; cat /etc/keys/mine; echo; cat /page; echo; \
                  busybox stat -c '%a %u %g' /run/secrets/key /etc/keys/mine /page /etc/page; \
                  grep -c ' /run/secrets/key tmpfs ro,nosuid,nodev,noexec' /proc/mounts; \
                  touch /run/secrets/key 2>/dev/null || echo read-only";
    assert_eq!(
        in_container(&worker, script).lines().collect::<Vec<_>>(),
        [
            CONTENT,
            CONTENT,
            "<p>hello",
            "444 0 0",
            "400 7 8",
            "444 0 0",
            "440 0 0",
            "1",
            "read-only"
        ]
    );
    let shown = worker.run(&["inspect", &worker.run(&["ps", "-q"])]);
    assert!(
        !shown.contains(CONTENT) && !shown.contains("/run/secrets/key"),
        "{shown}"
    );
    for node in ["node-1", "node-2"] {
        assert_eq!(
            files_with(&lab.node_directory(node), CONTENT),
            [""; 0],
            "on the disk of {node}"
        );
    }
    let refused = docker.refuse(&["secret", "rm", "key"]);
    assert!(
        refused.contains("secret 'key' is in use by the following service: web"),
        "{refused}"
    );
    let shown = docker.run(&["service", "inspect", "--pretty", "web"]);
    assert!(
        shown.contains("Target:\t/etc/keys/mine") && shown.contains("Source:\tkey"),
        "{shown}"
    );

    // The daemon's end and return change nothing of what runs.
    lab.kill_daemon("node-2");
    lab.start("node-2");
    lab.await_daemon("node-2");
    assert_eq!(in_container(&worker, "cat /run/secrets/key"), CONTENT);

    // Another version takes its place, and the old one can go.
    make(&docker, "secret", "key2", "second");
    docker.run(&[
        "service",
        "update",
        "-d",
        "-q",
        "--secret-rm",
        "key",
        "--secret-add",
        "source=key2,target=key",
        "--config-rm",
        "page",
        "web",
    ]);
    eventually("the new secret", LONG, || {
        let container = worker.try_run(&["ps", "-q"]).stdout;
        let seen = worker.try_run(&["exec", container.trim(), "cat", "/run/secrets/key"]);
        if seen.stdout == "second" {
            Ok(())
        } else {
            Err(seen)
        }
    });
    assert_eq!(
        in_container(&worker, "ls /page /etc/keys/mine 2>/dev/null | busybox wc -l"),
        "0"
    );
    docker.run(&["secret", "rm", "key"]);
    docker.run(&["config", "rm", "page"]);
    let in_memory = || {
        let path = format!("/proc/{}/mounts", lab.daemon("node-2"));
        let mounts = std::fs::read_to_string(path).expect("the daemon runs");
        let given = mounts.lines().filter(|line| line.contains("/given/"));
        given.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_ne!(in_memory(), [""; 0], "the running task has its files");
    docker.run(&["service", "rm", "web"]);
    eventually("no file is left in memory", LONG, || match in_memory() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn templates_are_expanded_where_their_task_runs() {
    let lab = Lab::with_image("e2etmpl", 1, 1);
    let docker = lab.docker("node-1");
    make(&docker, "secret", "key", CONTENT);
    let template =
        "{{.Service.Name}}.{{.Task.Slot}}@{{.Node.Hostname}} {{ env \"WHO\" }} {{ secret \"key\" }}";
    let made = docker.piped(
        template.as_bytes(),
        &["config", "create", "--template-driver", "golang", "page", "-"],
    );
    assert_eq!(made.code, 0, "{made:?}");
    create(&docker, "--name web --env WHO=me --secret key --config page");
    lab.await_running("node-1", "web", 1, |_| true);
    assert_eq!(
        in_container(&docker, "cat /page"),
        format!("web.1@node-1 me {CONTENT}")
    );
    docker.piped(
        b"{{ if true }}",
        &["config", "create", "--template-driver", "golang", "bad", "-"],
    );
    create(&docker, "--name bad --config bad --restart-condition none");
    eventually("the reason", LONG, || {
        let row = docker.task_states("bad");
        if row.contains("Failed") && row.contains("config bad: template placeholder") {
            Ok(())
        } else {
            Err(row)
        }
    });
}

#[test]
fn labels_change_and_wrong_requests_are_told_what_is_wrong() {
    let lab = Lab::with_image("e2elabl", 1, 1);
    let docker = lab.docker("node-1");
    let id = make(&docker, "secret", "key", CONTENT);
    let version = docker.run(&["secret", "inspect", "--format", "{{.Version.Index}}", "key"]);
    let update = |version: &str, body: &str| {
        let path = format!("/secrets/{id}/update?version={version}");
        json_request(docker.socket(), &format!("POST {path}"), body)
    };
    let (status, answer) = update(&version, r#"{"Name":"key","Labels":{"tier":"front"}}"#);
    assert!(status.contains(" 200 "), "{status} {answer}");
    let (status, answer) = update(&version, r#"{"Name":"key"}"#);
    assert!(
        status.contains(" 500 ") && answer.contains("update out of sequence"),
        "{status} {answer}"
    );
    let (status, answer) = update(&version, r#"{"Name":"lock"}"#);
    assert!(
        status.contains(" 400 ") && answer.contains("only updates to Labels are allowed"),
        "{status} {answer}"
    );
    assert_eq!(
        docker.run(&["secret", "ls", "-q", "--filter", "label=tier=front"]),
        id
    );
    let again = docker.piped(b"x", &["secret", "create", "key", "-"]);
    assert!(again.stderr.contains("secret key already exists"), "{again:?}");
    let large = docker.piped(&vec![b'x'; 512_000], &["secret", "create", "large", "-"]);
    assert!(
        large.stderr.contains("larger than 0 and less than 512000 bytes"),
        "{large:?}"
    );
    let large = docker.piped(&vec![b'x'; 1_023_999], &["config", "create", "large", "-"]);
    assert_eq!(large.code, 0, "{large:?}");
    let missing = docker.refuse(&["service", "create", "-d", "--secret", "none", IMAGE]);
    assert!(missing.contains("secret not found: none"), "{missing}");
    docker.run(&["secret", "rm", "key"]);
}
