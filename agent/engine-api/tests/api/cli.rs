//! The real docker CLI against containers and images.

use crate::client::Running;

#[tokio::test]
async fn version_and_info_are_printed() {
    let server = Running::start().await;
    let version = server.docker(&["version"]).await;
    assert!(
        version.contains("minimum version 1.40") && version.contains("linux/amd64"),
        "{version}"
    );
    assert_eq!(
        server.docker(&["version", "-f", "{{.Server.APIVersion}}"]).await,
        "1.51"
    );
    let info = server.docker(&["info"]).await;
    for part in [
        "Server Version: 0.1.0",
        "Swarm: inactive",
        "Cgroup Version: 2",
        "CPUs: 2",
        "Images: 1",
    ] {
        assert!(info.contains(part), "{part} in {info}");
    }
}

#[tokio::test]
async fn images_are_loaded_listed_tagged_and_removed() {
    let server = Running::start().await;
    let loaded = server.docker_with("a tar", &["load"]).await;
    assert_eq!(
        loaded.stdout.trim(),
        "Loaded image: loaded:1",
        "{}",
        loaded.stderr
    );
    let refused = server.docker_with("", &["load", "-i", "/dev/null"]).await;
    assert!(
        refused.stderr.contains("the archive is empty"),
        "{}",
        refused.stderr
    );
    assert_eq!(server.docker(&["images", "-q", "loaded:1"]).await.len(), 12);
    assert_eq!(
        server
            .docker(&["images", "--format", "{{.Repository}}", "-f", "reference=who*"])
            .await,
        "whoami"
    );
    assert_eq!(
        server
            .docker(&["image", "inspect", "-f", "{{.Architecture}}", "whoami"])
            .await,
        "amd64"
    );
    server
        .docker(&["tag", "whoami", "registry.example:5000/a/b:2"])
        .await;
    assert_eq!(
        server
            .docker(&["image", "inspect", "-f", "{{.Os}}", "registry.example:5000/a/b:2"])
            .await,
        "linux"
    );
    assert!(
        server
            .docker(&["history", "whoami"])
            .await
            .contains("COPY whoami")
    );
    assert!(
        server
            .docker(&["rmi", "registry.example:5000/a/b:2"])
            .await
            .starts_with("Untagged:")
    );
    assert!(
        server
            .docker_fails(&["image", "inspect", "nope"])
            .await
            .contains("No such image: nope")
    );
}

#[tokio::test]
async fn run_attaches_waits_and_removes() {
    let server = Running::start().await;
    let output = server
        .docker_with("", &["run", "--rm", "whoami", "echo", "hello"])
        .await;
    assert_eq!(
        (output.status, output.stdout.as_str(), output.stderr.as_str()),
        (0, "hello\n", "to stderr\n")
    );
    let cat = server
        .docker_with("through\n", &["run", "-i", "--rm", "whoami", "cat"])
        .await;
    assert_eq!(
        (cat.status, cat.stdout.as_str()),
        (0, "through\n"),
        "{}",
        cat.stderr
    );
    assert_eq!(
        server
            .docker_with("", &["run", "whoami", "exit", "42"])
            .await
            .status,
        42
    );
    let missing = server.docker_with("", &["run", "--pull=never", "nope"]).await;
    assert_eq!(missing.status, 125);
    assert!(
        missing.stderr.contains("No such image: nope"),
        "{}",
        missing.stderr
    );
}

#[tokio::test]
async fn run_on_a_terminal_is_raw() {
    let server = Running::start().await;
    let output = server.docker_on_terminal("run -it --rm whoami echo hello").await;
    assert!(output.starts_with("hello\r\n"), "{output:?}");
    let left = server.docker(&["ps", "-aq"]).await;
    assert_eq!(left, "");
}

#[tokio::test]
async fn a_container_is_managed_through_its_life() {
    let server = Running::start().await;
    let id = server
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "8080:80",
            "-l",
            "a=b",
            "-e",
            "K=v",
            "--health-cmd",
            "true",
            "whoami",
            "sleep",
        ])
        .await;
    assert_eq!(id.len(), 64);
    for filter in [
        "name=we",
        "label=a",
        "label=a=b",
        "status=running",
        "ancestor=whoami",
        "publish=8080",
    ] {
        assert_eq!(
            server.docker(&["ps", "--no-trunc", "-qf", filter]).await,
            id,
            "{filter}"
        );
    }
    assert_eq!(server.docker(&["ps", "-qf", "label=a=c"]).await, "");
    assert!(server.docker(&["ps"]).await.contains("0.0.0.0:8080->80/tcp"));
    assert_eq!(
        server
            .docker(&["inspect", "-f", "{{.State.Status}} {{.Config.Env}}", "web"])
            .await,
        "running [K=v]"
    );
    assert_eq!(
        server
            .docker(&["inspect", "-f", "{{.Config.Healthcheck.Test}}", "web"])
            .await,
        "[CMD-SHELL true]"
    );
    let exec = server.docker_with("", &["exec", "web", "ls", "-l"]).await;
    assert_eq!((exec.status, exec.stdout.as_str()), (7, "ls -l"));
    let exec = server.docker_with(" input", &["exec", "-i", "web", "cat"]).await;
    assert_eq!(
        (exec.status, exec.stdout.as_str()),
        (7, "cat input"),
        "{}",
        exec.stderr
    );
    assert!(server.docker(&["top", "web"]).await.contains("sleep"));
    let stats = server
        .docker(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.MemUsage}} {{.PIDs}}",
            "web",
        ])
        .await;
    assert_eq!(stats, "web 1MiB / 4MiB 3");
    server.docker(&["pause", "web"]).await;
    assert!(server.docker(&["ps"]).await.contains("(Paused)"));
    server.docker(&["unpause", "web"]).await;
    server.docker(&["rename", "web", "web2"]).await;
    assert!(
        server
            .docker_fails(&["rm", "web2"])
            .await
            .contains("container is running")
    );
    server.docker(&["stop", "-t", "1", "web2"]).await;
    assert_eq!(server.docker(&["wait", "web2"]).await, "143");
    server.docker(&["stop", "web2"]).await;
    server.docker(&["start", "web2"]).await;
    server.docker(&["restart", "web2"]).await;
    server.docker(&["kill", "web2"]).await;
    assert!(
        server
            .docker_fails(&["kill", "web2"])
            .await
            .contains("is not running")
    );
    server.docker(&["rm", "web2"]).await;
    assert!(
        server
            .docker_fails(&["inspect", "web2"])
            .await
            .to_lowercase()
            .contains("no such object")
    );
    let events = server
        .docker(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "type=container",
            "--format",
            "{{.Action}}",
        ])
        .await;
    assert!(
        events.starts_with("create\nstart\n") && events.ends_with("destroy"),
        "{events}"
    );
}

#[tokio::test]
async fn logs_are_demultiplexed() {
    let server = Running::start().await;
    server
        .docker(&["run", "--name", "say", "whoami", "echo", "hello"])
        .await;
    let logs = server.docker_with("", &["logs", "say"]).await;
    assert_eq!(
        (logs.stdout.as_str(), logs.stderr.as_str()),
        ("hello\n", "to stderr\n")
    );
    let stamped = server.docker(&["logs", "-t", "say"]).await;
    assert!(
        stamped.starts_with("20") && stamped.ends_with("Z hello"),
        "{stamped}"
    );
}

#[tokio::test]
async fn networks_and_volumes_are_listed() {
    let server = Running::start().await;
    assert_eq!(
        server.docker(&["network", "ls", "--format", "{{.Name}}"]).await,
        "bridge\nhost\nnone"
    );
    server
        .docker(&["run", "-d", "--name", "web", "whoami", "sleep"])
        .await;
    let inside = server
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}",
            "bridge",
        ])
        .await;
    assert_eq!(inside, "web 172.17.0.2/16");
    let refused = server.docker_fails(&["network", "create", "x"]).await;
    assert!(refused.contains("this engine makes no networks"), "{refused}");
    assert_eq!(server.docker(&["volume", "ls", "-q"]).await, "");
    server.docker(&["system", "df"]).await;
    server.docker(&["plugin", "ls"]).await;
}

#[tokio::test]
async fn pulls_show_what_the_registry_says() {
    let server = Running::start().await;
    let pulled = server.docker(&["pull", "there:1"]).await;
    assert!(
        pulled.contains("0123456789ab: Pull complete") && pulled.contains("Status: done"),
        "{pulled}"
    );
    for arguments in [&["run", "nope"][..], &["pull", "nope"]] {
        let complaint = server.docker_fails(arguments).await;
        let expected =
            "pull access denied for nope:latest, repository does not exist or may require 'docker login'";
        assert!(complaint.contains(expected), "{arguments:?}: {complaint}");
    }
    let digest = format!("nope@sha256:{}", "ab".repeat(32));
    let complaint = server.docker_fails(&["pull", &digest]).await;
    assert!(
        complaint.contains(&format!("pull access denied for {digest},")),
        "{complaint}"
    );
    let broken = server.docker_fails(&["pull", "broken:1"]).await;
    assert!(broken.contains("it broke off"), "{broken}");
    let away = server.docker_fails(&["pull", "away:1"]).await;
    assert!(away.contains("cannot reach the registry: away"), "{away}");
    assert_eq!(
        server
            .failure("POST", "/images/create?fromSrc=http://x", None)
            .await
            .0,
        501
    );
}

#[tokio::test]
async fn what_nothing_uses_is_pruned() {
    let server = Running::start().await;
    server
        .docker(&["create", "--name", "old", "-l", "a=b", "whoami"])
        .await;
    server
        .docker(&["run", "-d", "--name", "busy", "whoami", "sleep"])
        .await;
    for filter in ["label=a=c", "label!=a", "until=24h"] {
        server
            .docker(&["container", "prune", "-f", "--filter", filter])
            .await;
        assert_eq!(server.docker(&["ps", "-aq"]).await.lines().count(), 2, "{filter}");
    }
    server
        .docker(&["container", "prune", "-f", "--filter", "label=a"])
        .await;
    assert_eq!(
        server.docker(&["ps", "-a", "--format", "{{.Names}}"]).await,
        "busy"
    );

    server.docker_with("a tar", &["load"]).await;
    let images = || server.docker(&["images", "--format", "{{.Repository}}"]);
    server.docker(&["image", "prune", "-f"]).await;
    assert_eq!(images().await.lines().count(), 2);
    let pruned = server.docker(&["image", "prune", "-af"]).await;
    assert!(
        pruned.contains("untagged: loaded:1") && pruned.contains("Total reclaimed space: 1.234kB"),
        "{pruned}"
    );
    assert_eq!(images().await, "whoami");
    let pruned = server.docker(&["system", "prune", "-af"]).await;
    assert!(pruned.contains("Total reclaimed space: 0B"), "{pruned}");
    let pruned = server.docker(&["volume", "prune", "-f"]).await;
    assert!(pruned.contains("Total reclaimed space: 0B"), "{pruned}");
    let (status, message) = server
        .failure("POST", "/images/prune?filters={\"dangling\":[\"x\"]}", None)
        .await;
    assert_eq!(status, 400, "{message}");
}
