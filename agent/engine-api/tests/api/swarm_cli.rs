//! The real docker CLI against the cluster.

use crate::client::Running;

#[tokio::test]
async fn a_cluster_is_made_changed_and_left() {
    let server = Running::start().await;
    assert!(
        server
            .docker_fails(&["node", "ls"])
            .await
            .contains("This node is not a swarm manager. Use")
    );
    let init = server
        .docker(&["swarm", "init", "--advertise-addr", "10.0.0.1"])
        .await;
    assert!(init.contains("docker swarm join --token SWMTKN-1-"), "{init}");
    let token = server.docker(&["swarm", "join-token", "-q", "worker"]).await;
    let rotated = server
        .docker(&["swarm", "join-token", "-q", "--rotate", "worker"])
        .await;
    assert!(token.starts_with("SWMTKN-1-") && rotated.starts_with("SWMTKN-1-") && token != rotated);
    assert_ne!(
        server.docker(&["swarm", "join-token", "-q", "manager"]).await,
        rotated
    );
    server
        .docker(&["swarm", "update", "--task-history-limit", "2"])
        .await;
    let info = server.docker(&["info"]).await;
    for part in [
        "Swarm: active",
        "Is Manager: true",
        "Task History Retention Limit: 2",
        "Managers: 1",
        "10.0.0.1:2377",
    ] {
        assert!(info.contains(part), "{part} in {info}");
    }
    let join = server
        .docker_fails(&["swarm", "join", "--token", &rotated, "10.0.0.9:2377"])
        .await;
    assert!(join.contains("already part of a swarm"), "{join}");
    assert!(
        server
            .docker_fails(&["swarm", "leave"])
            .await
            .contains("participating as a manager")
    );
    server.docker(&["swarm", "leave", "--force"]).await;
    assert!(server.docker(&["info"]).await.contains("Swarm: inactive"));
}

#[tokio::test]
async fn nodes_are_listed_and_updated() {
    let server = Running::start().await;
    server.docker(&["swarm", "init"]).await;
    let listed = server
        .docker(&[
            "node",
            "ls",
            "--format",
            "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}",
        ])
        .await;
    assert_eq!(listed, "node-1 Ready Active Leader");
    server
        .docker(&[
            "node",
            "update",
            "--label-add",
            "zone=a",
            "--availability",
            "drain",
            "node-1",
        ])
        .await;
    assert_eq!(
        server
            .docker(&[
                "node",
                "inspect",
                "-f",
                "{{.Spec.Labels.zone}} {{.Spec.Availability}}",
                "self"
            ])
            .await,
        "a drain"
    );
    assert_eq!(
        server.docker(&["node", "ls", "-qf", "node.label=zone=b"]).await,
        ""
    );
    assert!(
        server
            .docker(&["node", "inspect", "--pretty", "self"])
            .await
            .contains("Leader:")
    );
    assert!(
        server
            .docker(&["node", "promote", "node-1"])
            .await
            .contains("already a manager")
    );
    assert!(
        server
            .docker_fails(&["node", "demote", "node-1"])
            .await
            .contains("last manager")
    );
    assert!(
        server
            .docker_fails(&["node", "rm", "node-1"])
            .await
            .contains("is not down")
    );
    assert!(
        server
            .docker_fails(&["node", "inspect", "nope"])
            .await
            .contains("nope")
    );
}

#[tokio::test]
async fn a_service_converges_scales_updates_and_rolls_back() {
    let server = Running::start().await;
    server.docker(&["swarm", "init"]).await;
    let created = server
        .docker(&[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "2",
            "--update-monitor",
            "50ms",
            "--update-order",
            "start-first",
            "--env",
            "A=1",
            "--limit-memory",
            "64M",
            "--constraint",
            "node.role==manager",
            "--restart-condition",
            "on-failure",
            "--publish",
            "mode=host,target=80,published=8080",
            "--mount",
            "type=tmpfs,target=/t",
            "--health-cmd",
            "true",
            "--label",
            "l=1",
            "whoami",
        ])
        .await;
    assert!(created.contains("converged"), "{created}");
    let ls = |server| async move {
        Running::docker(
            server,
            &[
                "service",
                "ls",
                "--format",
                "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}",
            ],
        )
        .await
    };
    assert!(ls(&server).await.starts_with("web replicated 2/2 whoami"));
    let before = server.docker(&["service", "inspect", "web"]).await;
    for part in [
        "\"Memory",
        "67108864",
        "start-first",
        "node.role==manager",
        "on-failure",
        "8080",
        "tmpfs",
        "\"Healthcheck\"",
    ] {
        assert!(before.contains(part), "{part} in {before}");
    }
    assert!(
        server
            .docker(&["service", "inspect", "--pretty", "web"])
            .await
            .contains("Max failure ratio: 0")
    );
    let ps = server
        .docker(&[
            "service",
            "ps",
            "--format",
            "{{.Name}} {{.Node}} {{.DesiredState}}",
            "web",
        ])
        .await;
    assert_eq!(ps, "web.1 node-1 Running\nweb.2 node-1 Running");
    server.docker(&["service", "scale", "web=3"]).await;
    assert!(ls(&server).await.contains("3/3"));
    server
        .docker(&["service", "update", "--env-add", "B=2", "web"])
        .await;
    let env = [
        "service",
        "inspect",
        "-f",
        "{{.Spec.TaskTemplate.ContainerSpec.Env}}",
        "web",
    ];
    // The CLI keeps variables in a map while it changes them, so their order is not its own.
    let changed = server.docker(&env).await;
    assert!(
        ["[A=1 B=2]", "[B=2 A=1]"].contains(&changed.as_str()),
        "{changed}"
    );
    server.docker(&["service", "rollback", "web"]).await;
    assert_eq!(server.docker(&env).await, "[A=1]");
    let logs = server.docker(&["service", "logs", "--raw", "web"]).await;
    assert!(logs.contains("hello from 1"), "{logs}");
    let logs = server.docker(&["service", "logs", "web"]).await;
    assert!(
        logs.contains("@node-1") && logs.contains("| hello from 2"),
        "{logs}"
    );
    assert!(
        server
            .docker_fails(&["service", "create", "-d", "--name", "web", "whoami"])
            .await
            .contains("name conflicts")
    );
    assert!(server.docker(&["node", "ps", "self"]).await.contains("web.1"));
    server.docker(&["service", "rm", "web"]).await;
    assert_eq!(ls(&server).await, "");
}

#[tokio::test]
async fn what_is_not_built_is_refused() {
    let server = Running::start().await;
    server.docker(&["swarm", "init"]).await;
    let bad = server
        .docker_fails(&["service", "create", "-d", "--name", "a.b", "whoami"])
        .await;
    assert!(
        bad.contains("name must be valid as a DNS name component"),
        "{bad}"
    );
    let locked = server.docker_fails(&["swarm", "update", "--autolock"]).await;
    assert!(
        locked.contains("autolock of managers is not implemented yet"),
        "{locked}"
    );
    let (status, message) = server
        .failure(
            "POST",
            "/nodes/node-1/update?version=1",
            Some(r#"{"Role":"manager"}"#),
        )
        .await;
    assert_eq!((status, message.as_str()), (200, ""));
    let (status, message) = server
        .failure(
            "POST",
            "/nodes/node-1/update?version=1",
            Some(r#"{"Role":"manager"}"#),
        )
        .await;
    assert_eq!(
        (status, message.as_str()),
        (500, "rpc error: code = Unknown desc = update out of sequence")
    );
}
