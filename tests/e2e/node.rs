//! Containers on a single node.

use crate::support::{IMAGE, LONG, Lab, SERVER, WAITER, eventually};
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn a_node_tells_its_version_and_images() {
    let lab = Lab::with_image("e2ever", 1, 1);
    let docker = lab.docker("node-1");
    assert!(docker.run(&["version"]).contains("Server: Muster"));
    assert_eq!(
        docker.run(&["version", "--format", "{{.Server.MinAPIVersion}}"]),
        "1.40"
    );
    assert_eq!(
        docker.run(&[
            "info",
            "--format",
            "{{.Name}} {{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"
        ]),
        "node-1 active true"
    );
    assert_eq!(
        docker.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"]),
        IMAGE
    );
    let unknown = docker.refuse(&["plugin", "install", "nosuch"]);
    assert!(unknown.contains("not implemented"), "{unknown}");
}

#[test]
fn run_answers_with_the_exit_status_and_leaves_nothing() {
    let lab = Lab::with_image("e2erun", 1, 1);
    let docker = lab.docker("node-1");
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "hello"]), "hello");
    let failed = docker.try_run(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (failed.code, failed.stdout.as_str(), failed.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    let forbidden = docker.try_run(&["run", "--rm", IMAGE, "/bin"]);
    assert_eq!(forbidden.code, 126, "{forbidden:?}");
    assert!(forbidden.stderr.contains("permission denied"), "{forbidden:?}");
    let missing = docker.try_run(&["run", "--rm", IMAGE, "nosuch"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(
        missing.stderr.contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    let killed = docker.try_run(&["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137, "{killed:?}");
    let unknown = docker.try_run(&["run", "--rm", "--pull", "never", "nosuch:1", "true"]);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.stderr.contains("No such image: nosuch:1"), "{unknown:?}");
    eventually("no container", LONG, || {
        let left = docker.run(&["ps", "-aq"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_detached_container_is_seen_stopped_and_removed() {
    let lab = Lab::with_image("e2edet", 1, 1);
    let docker = lab.docker("node-1");
    let script = format!("echo out; echo err >&2; {WAITER}");
    let id = docker.run(&[
        "run", "-d", "--name", "web", "--env", "A=b", IMAGE, "sh", "-c", &script,
    ]);
    eventually("both lines", LONG, || {
        let logs = docker.try_run(&["logs", "web"]);
        if (logs.stdout.as_str(), logs.stderr.as_str()) == ("out\n", "err\n") {
            Ok(())
        } else {
            Err(logs)
        }
    });
    assert_eq!(
        docker.run(&[
            "ps",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Names}} {{.Image}} {{.State}}"
        ]),
        format!("{id} web {IMAGE} running")
    );
    assert_eq!(docker.run(&["exec", "web", "sh", "-c", "echo $A"]), "b");
    assert_eq!(docker.try_run(&["exec", "web", "sh", "-c", "exit 5"]).code, 5);
    let conflict = docker.refuse(&["create", "--name", "web", IMAGE]);
    assert!(
        conflict.contains("Conflict. The container name \"/web\" is already in use"),
        "{conflict}"
    );
    let running = docker.refuse(&["rm", "web"]);
    assert!(running.contains("container is running"), "{running}");

    docker.run(&["stop", "web"]);
    let state = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(docker.run(&["inspect", "--format", state, "web"]), "exited 0");
    docker.run(&["start", "web"]);
    docker.run(&["kill", "web"]);
    assert_eq!(docker.run(&["wait", "web"]), "137");
    assert_eq!(docker.run(&["inspect", "--format", state, "web"]), "exited 137");
    docker.run(&["rm", "web"]);
    let gone = docker.refuse(&["inspect", "web"]);
    assert!(gone.to_lowercase().contains("no such object: web"), "{gone}");

    let filter = format!("container={id}");
    // The CLI sends whole seconds, so that only the next one is after everything that happened.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let until = (now + 1).to_string();
    let bounds = ["events", "--since", "10m", "--until", &until];
    let events = docker.lines(&[&bounds[..], &["--filter", &filter, "--format", "{{.Action}}"]].concat());
    let mut rest = events.iter();
    for expected in [
        "create", "start", "kill", "die", "stop", "start", "kill", "die", "destroy",
    ] {
        assert!(
            rest.any(|event| event == expected),
            "no {expected} in its place: {events:?}"
        );
    }
}

#[test]
fn an_interactive_container_has_a_terminal() {
    let lab = Lab::with_image("e2etty", 1, 1);
    let docker = lab.docker("node-1");
    let shown = docker.on_terminal(&format!(
        "docker run --rm -it {IMAGE} sh -c 'tty; stty size; exit 4'"
    ));
    assert_eq!(shown.code, 4, "{shown:?}");
    assert!(shown.stdout.contains("/dev/pts/0"), "{shown:?}");

    docker.run(&["run", "-d", "--name", "web", IMAGE]);
    let shown = docker.on_terminal("docker exec -it web sh -c 'tty; exit 6'");
    assert_eq!(shown.code, 6, "{shown:?}");
    assert!(shown.stdout.contains("/dev/"), "{shown:?}");
    let typed = docker.on_terminal(&format!(
        "echo 'echo typed $((20 + 3))' | docker run --rm -i {IMAGE} sh"
    ));
    assert!(typed.stdout.contains("typed 23"), "{typed:?}");
}

#[test]
fn a_published_port_is_reached_from_another_machine() {
    let lab = Lab::with_image("e2eport", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&[
        "run", "-d", "--name", "web", "-h", "server", "-p", "8080:80", IMAGE, "sh", "-c", SERVER,
    ]);
    let page = eventually("the page", LONG, || lab.fetch("node-1", 8080, "name"));
    assert_eq!(page, "server");
    assert_eq!(
        docker.run(&["port", "web", "80/tcp"]).lines().next(),
        Some("0.0.0.0:8080")
    );
    let taken = docker.refuse(&["run", "-d", "-p", "8080:80", IMAGE]);
    assert!(taken.contains("8080"), "{taken}");
    docker.run(&["rm", "-f", "web"]);
    eventually("the port to close", LONG, || {
        match lab.fetch("node-1", 8080, "name") {
            Ok(page) => Err(page),
            Err(_) => Ok(()),
        }
    });
}

#[test]
fn a_terminal_is_left_by_the_detach_keys_and_its_program_goes_on() {
    let lab = Lab::with_image("e2edtch", 1, 1);
    let docker = lab.docker("node-1");
    // Who attaches sees a tick once the terminal is in raw mode; what is typed before that may be lost.
    let echo =
        "while :; do echo tick; sleep 0.1; done & while read line; do echo \"got $line\"; done; kill $!";
    let run = format!("docker run -it --name web {IMAGE} sh -c '{echo}'");
    let detach = "\u{10}\u{11}";
    let shown = docker.typing(&run, &[("tick", "one\r"), ("got one", detach)]);
    assert_eq!(shown.code, 0, "{shown:?}");
    // The CLI itself finds the keys, and ends so with every engine.
    let shown = docker.typing("docker attach web", &[("tick", "two\r"), ("got two", detach)]);
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.stdout.contains("read escape sequence"), "{shown:?}");
    let line = "docker attach --detach-keys ctrl-x,x web";
    let shown = docker.typing(line, &[("tick", "three\r"), ("got three", "\u{18}x")]);
    assert!(shown.stdout.contains("read escape sequence"), "{shown:?}");
    assert_eq!(
        docker.run(&["ps", "--format", "{{.Names}} {{.State}}"]),
        "web running"
    );
    // Its input is still open; what ends it is the end of input.
    let shown = docker.typing("docker attach web", &[("tick", "four\r"), ("got four", "\u{4}")]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert_eq!(docker.run(&["ps", "-q"]), "");
}

#[test]
fn a_privileged_container_sees_the_host_and_another_does_not() {
    let lab = Lab::with_image("e2epriv", 1, 1);
    let docker = lab.docker("node-1");
    let look = "test -c /dev/kmsg && echo kmsg; grep -q . /proc/interrupts && echo interrupts; \
                grep -q ' /proc/sys ' /proc/mounts && echo protected";
    let run = |options: &[&str]| {
        let image = [IMAGE, "sh", "-c", look];
        let output = docker.try_run(&[&["run", "--rm"], options, &image[..]].concat());
        output.stdout.trim().replace('\n', " ")
    };
    assert_eq!(run(&[]), "protected");
    assert_eq!(run(&["--security-opt", "systempaths=unconfined"]), "interrupts");
    assert_eq!(run(&["--privileged"]), "kmsg interrupts");
}

#[test]
fn options_of_a_run_are_obeyed_or_refused_by_name() {
    let lab = Lab::with_image("e2eopts", 1, 1);
    let docker = lab.docker("node-1");
    let mounted = |options: &[&str]| {
        let image = [IMAGE, "grep", " /mine ", "/proc/mounts"];
        docker.run(&[&["run", "--rm"], options, &image[..]].concat())
    };
    let hardened = mounted(&["--tmpfs", "/mine"]);
    assert!(hardened.contains("nosuid,nodev,noexec"), "{hardened}");
    let open = mounted(&["--tmpfs", "/mine:exec,suid,size=1m,uid=7,mode=700"]);
    assert!(
        open.contains(" rw,nodev,relatime,size=1024k,mode=700,uid=7"),
        "{open}"
    );
    let bad = docker.refuse(&["run", "--rm", "--tmpfs", "/mine:nosuchoption", IMAGE]);
    assert!(
        bad.contains("invalid tmpfs option \"nosuchoption\" for /mine"),
        "{bad}"
    );
    let unknown = docker.try_run(&["run", "--rm", "nosuch", "true"]);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(
        unknown
            .stderr
            .contains("Unable to find image 'nosuch:latest' locally")
            && unknown.stderr.contains("cannot reach the registry")
            && unknown
                .stderr
                .contains("no node of the cluster has nosuch:latest"),
        "{unknown:?}"
    );
    eventually("no container", LONG, || match docker.run(&["ps", "-aq"]) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn what_nothing_uses_is_pruned() {
    let lab = Lab::with_image("e2eprun", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&["run", "-d", "--name", "busy", IMAGE]);
    docker.run(&["run", "--name", "old", IMAGE, "sh", "-c", "echo x > /file"]);
    docker.run(&["container", "prune", "-f", "--filter", "until=1h"]);
    assert_eq!(docker.lines(&["ps", "-aq"]).len(), 2);
    let pruned = docker.run(&["container", "prune", "-f"]);
    assert!(pruned.contains("Total reclaimed space:"), "{pruned}");
    assert_eq!(docker.run(&["ps", "-a", "--format", "{{.Names}}"]), "busy");
    docker.run(&["image", "prune", "-af"]);
    assert_eq!(docker.lines(&["images", "-q"]).len(), 1);
    docker.run(&["rm", "-f", "busy"]);
    let pruned = docker.run(&["system", "prune", "-af"]);
    assert!(pruned.contains(&format!("untagged: {IMAGE}")), "{pruned}");
    assert_eq!(docker.run(&["images", "-q"]), "");
}
