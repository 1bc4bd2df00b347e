//! The docker CLI of Debian 12 (20.10), which speaks an older version of the API.

use crate::support::{IMAGE, LONG, Lab, SERVER, eventually};

/// `tests/run` puts it there.
const PROGRAM: &str = "docker-20.10";

#[test]
fn an_old_docker_cli_is_understood() {
    let lab = Lab::with_image("e2eold", 2, 1);
    let docker = lab.docker("node-1").by(PROGRAM);
    assert_eq!(
        docker.run(&["version", "--format", "{{.Client.APIVersion}}"]),
        "1.41"
    );
    assert!(docker.run(&["version"]).contains("Server: Muster"));
    assert!(docker.run(&["info"]).contains("Is Manager: true"));
    assert_eq!(
        docker.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"]),
        IMAGE
    );

    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "hello"]), "hello");
    assert_eq!(
        docker.try_run(&["run", "--rm", IMAGE, "sh", "-c", "exit 3"]).code,
        3
    );
    let shown = docker.on_terminal(&format!("{PROGRAM} run --rm -it {IMAGE} sh -c 'tty; exit 4'"));
    assert_eq!(shown.code, 4, "{shown:?}");
    assert!(shown.stdout.contains("/dev/pts/0"), "{shown:?}");
    docker.run(&[
        "run", "-d", "--name", "web", "-p", "8080:80", "-h", "server", IMAGE, "sh", "-c", SERVER,
    ]);
    assert_eq!(
        eventually("the page", LONG, || lab.fetch("node-1", 8080, "name")),
        "server"
    );
    assert_eq!(docker.run(&["exec", "web", "hostname"]), "server");
    assert!(docker.run(&["ps"]).contains("0.0.0.0:8080->80/tcp"));
    assert_eq!(
        docker.run(&["inspect", "--format", "{{.State.Status}}", "web"]),
        "running"
    );
    docker.run(&["stop", "web"]);
    docker.run(&["logs", "web"]);
    docker.run(&["rm", "web"]);
    let unknown = docker.refuse(&["run", "nosuch"]);
    assert!(unknown.contains("cannot reach the registry"), "{unknown}");

    let created = docker.run(&[
        "service",
        "create",
        "-q",
        "--name",
        "web",
        "--replicas",
        "2",
        IMAGE,
    ]);
    assert!(!created.is_empty());
    lab.await_running("node-1", "web", 2, |_| true);
    let listed = "{{.Name}} {{.Replicas}}";
    assert_eq!(docker.run(&["service", "ls", "--format", listed]), "web 2/2");
    docker.run(&["service", "scale", "-d", "web=3"]);
    lab.await_running("node-1", "web", 3, |_| true);
    docker.run(&["service", "update", "-d", "--label-add", "a=b", "web"]);
    assert_eq!(
        docker.run(&["service", "inspect", "--format", "{{.Spec.Labels.a}}", "web"]),
        "b"
    );
    docker.run(&["service", "logs", "web"]);
    docker.run(&["service", "rm", "web"]);
    docker.run(&["node", "update", "--availability", "drain", "node-2"]);
    assert_eq!(docker.lines(&["node", "ls", "-q"]).len(), 2);
    let token = docker.run(&["swarm", "join-token", "-q", "worker"]);
    assert!(token.starts_with("SWMTKN-1-"), "{token}");
}
