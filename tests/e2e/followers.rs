//! The cluster's commands, given to a controller that does not lead.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually, json_request};

/// What a template makes of one object.
#[track_caller]
fn look(docker: &Docker, kind: &str, object: &str, format: &str) -> String {
    docker.run(&[kind, "inspect", "--format", format, object])
}

#[test]
fn services_are_commanded_through_a_follower() {
    let lab = Lab::with_image("e2efsvc", 4, 3);
    assert_eq!(lab.leader("node-2"), "node-1");
    let (docker, leader) = (lab.docker("node-2"), lab.docker("node-1"));
    let script = "echo started; trap 'exit 0' TERM; sleep 100000 & wait";
    docker.run(&[
        "service",
        "create",
        "-d",
        "-q",
        "--name",
        "web",
        "--replicas",
        "2",
        "--update-monitor",
        "1s",
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    let before = lab.await_running("node-2", "web", 2, |_| true);
    let listed = "{{.Name}} {{.Replicas}}";
    assert_eq!(docker.run(&["service", "ls", "--format", listed]), "web 2/2");
    assert_eq!(
        look(&docker, "service", "web", "{{.Spec.Mode.Replicated.Replicas}}"),
        "2"
    );
    eventually("a line of each replica", LONG, || {
        let logs = docker.try_run(&["service", "logs", "web"]);
        if logs.stdout.matches("started").count() == 2 {
            Ok(())
        } else {
            Err(logs)
        }
    });
    docker.run(&["service", "scale", "-d", "web=4"]);
    lab.await_running("node-2", "web", 4, |_| true);
    docker.run(&["service", "scale", "-d", "web=2"]);
    lab.await_running("node-2", "web", 2, |_| true);
    docker.run(&["service", "update", "-d", "--env-add", "A=b", "web"]);
    let environment = "{{.Spec.TaskTemplate.ContainerSpec.Env}}";
    assert_eq!(look(&leader, "service", "web", environment), "[A=b]");
    lab.await_running("node-2", "web", 2, |now| {
        now.keys().all(|task| !before.contains_key(task))
    });
    docker.run(&["service", "rm", "web"]);
    assert_eq!(leader.run(&["service", "ls", "-q"]), "");
    let gone = docker.refuse(&["service", "inspect", "web"]);
    assert!(gone.contains("no such service: web"), "{gone}");
}

#[test]
fn nodes_and_the_cluster_are_commanded_through_a_follower() {
    let lab = Lab::up("e2efnod", 4, 3);
    assert_eq!(lab.leader("node-2"), "node-1");
    let (docker, leader) = (lab.docker("node-2"), lab.docker("node-1"));
    docker.run(&[
        "node",
        "update",
        "--label-add",
        "zone=a",
        "--availability",
        "pause",
        "node-4",
    ]);
    let format = "{{.Spec.Labels.zone}} {{.Spec.Availability}}";
    assert_eq!(look(&leader, "node", "node-4", format), "a pause");
    docker.run(&["node", "update", "--availability", "active", "node-4"]);
    assert_eq!(docker.run(&["node", "ps", "-q", "node-4"]), "");
    assert_eq!(
        look(
            &docker,
            "node",
            "self",
            "{{.Description.Hostname}} {{.ManagerStatus.Leader}}"
        ),
        "node-2 false"
    );

    docker.run(&["node", "promote", "node-4"]);
    lab.await_listed("node-2", "node-4", "Ready Active Reachable");
    docker.run(&["node", "demote", "node-4"]);
    lab.await_listed("node-2", "node-4", "Ready Active");

    docker.run(&["swarm", "update", "--task-history-limit", "3"]);
    assert!(leader.run(&["info"]).contains("Task History Retention Limit: 3"));
    let worker = docker.run(&["swarm", "join-token", "-q", "worker"]);
    assert_eq!(leader.run(&["swarm", "join-token", "-q", "worker"]), worker);
    let rotated = docker.run(&["swarm", "join-token", "-q", "--rotate", "worker"]);
    assert_ne!(rotated, worker);
    let told = docker.run(&["swarm", "join-token", "manager"]);
    assert!(told.contains("docker swarm join --token SWMTKN-1-"), "{told}");

    // A worker leaves and is removed, and joins again through the follower, with the new token only.
    let worker_docker = lab.docker("node-4");
    worker_docker.run(&["swarm", "leave"]);
    lab.await_listed("node-2", "node-4", "Down Active");
    docker.run(&["node", "rm", "node-4"]);
    assert_eq!(lab.nodes("node-1").unwrap().len(), 3);
    let follower = format!("{}:2377", lab.address("node-2"));
    let stale = worker_docker.refuse(&["swarm", "join", "--token", &worker, &follower]);
    assert!(stale.contains("token"), "{stale}");
    worker_docker.run(&["swarm", "join", "--token", &rotated, &follower]);
    lab.await_listed("node-2", "node-4", "Ready Active");
}

#[test]
fn a_stale_update_of_any_object_gets_dockers_answer() {
    let lab = Lab::with_image("e2efold", 3, 2);
    let docker = lab.docker("node-2");
    docker.run(&["service", "create", "-d", "-q", "--name", "web", IMAGE]);
    docker.run(&["service", "update", "-d", "--label-add", "a=b", "web"]);
    docker.run(&["node", "update", "--label-add", "a=b", "node-3"]);
    docker.run(&["swarm", "update", "--task-history-limit", "3"]);
    let service = format!(r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"{IMAGE}"}}}}}}"#);
    for (path, body) in [
        ("/services/web/update", service.as_str()),
        (
            "/nodes/node-3/update",
            r#"{"Role":"worker","Availability":"active"}"#,
        ),
        ("/swarm/update", r#"{"Name":"default"}"#),
    ] {
        let line = format!("POST /v1.41{path}?version=1");
        let (status, answer) = json_request(docker.socket(), &line, body);
        assert!(status.starts_with("HTTP/1.1 500"), "{path}: {status} {answer}");
        assert_eq!(
            answer.trim(),
            r#"{"message":"rpc error: code = Unknown desc = update out of sequence"}"#,
            "{path}"
        );
    }
    assert_eq!(look(&docker, "service", "web", "{{.Spec.Labels.a}}"), "b");
    assert_eq!(look(&docker, "node", "node-3", "{{.Spec.Labels.a}}"), "b");
}
