//! Jobs: services whose slots complete once, driven by the real docker CLI.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually, stack_deploy};
use serde_json::Value;

/// Ends well, soon.
const QUICK: &str = "exit 0";

/// Creates a job whose tasks run a script.
fn create(docker: &Docker, options: &str, script: &str) -> String {
    let options: Vec<&str> = options.split_whitespace().collect();
    let command = [IMAGE, "/bin/busybox", "sh", "-c", script];
    docker.run(&[&["service", "create", "-q"], &options[..], &command].concat())
}

/// What `service ls` says of replicas.
fn replicas(docker: &Docker, service: &str) -> String {
    let filter = format!("name={service}");
    docker.run(&["service", "ls", "--filter", &filter, "--format", "{{.Replicas}}"])
}

fn await_replicas(docker: &Docker, service: &str, expected: &str) {
    eventually(&format!("{expected} of {service}"), LONG, || {
        let shown = replicas(docker, service);
        if shown == expected { Ok(()) } else { Err(shown) }
    });
}

/// A service's tasks as the API tells them.
fn tasks(docker: &Docker, service: &str) -> Vec<Value> {
    let ids = docker.lines(&["service", "ps", "-q", "--no-trunc", service]);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let text = docker.run(&[&["inspect", "--type", "task"], &ids[..]].concat());
    serde_json::from_str(&text).expect("inspect prints JSON")
}

fn inspect(docker: &Docker, service: &str) -> Value {
    let text = docker.run(&["service", "inspect", service]);
    let shown: Value = serde_json::from_str(&text).expect("inspect prints JSON");
    shown[0].clone()
}

/// The slots of a run that completed, in order, one entry for each task that did.
fn completed_slots(docker: &Docker, service: &str, iteration: u64) -> Vec<u64> {
    let all = tasks(docker, service);
    let completed = all
        .iter()
        .filter(|task| task["JobIteration"]["Index"] == iteration && task["Status"]["State"] == "complete");
    let mut slots: Vec<u64> = completed
        .map(|task| task["Slot"].as_u64().unwrap_or_default())
        .collect();
    slots.sort_unstable();
    slots
}

#[test]
fn a_job_completes_each_slot_once_so_many_at_a_time() {
    let lab = Lab::with_image("e2ejob", 2, 1);
    let docker = lab.docker("node-1");
    // The client waits, and shows how far the job is.
    let shown = docker.on_terminal(&format!(
        "docker service create --name sum --mode replicated-job --replicas 5 --max-concurrent 2 {IMAGE} \
         /bin/busybox sh -c 'echo summed'"
    ));
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(
        shown.stdout.contains("5 out of 5 complete") && shown.stdout.contains("job complete"),
        "{shown:?}"
    );
    assert_eq!(replicas(&docker, "sum"), "0/2 (5/5 completed)");
    assert_eq!(completed_slots(&docker, "sum", 0), [0, 1, 2, 3, 4]);
    let mode = docker.run(&["service", "ls", "--format", "{{.Mode}}"]);
    assert_eq!(mode, "replicated job");
    let listed = docker.run(&["service", "ls", "-q", "--filter", "mode=replicated-job"]);
    assert!(!listed.is_empty());
    eventually("the logs of all tasks", LONG, || {
        let lines = docker.lines(&["service", "logs", "--raw", "sum"]);
        if lines == ["summed"; 5] {
            Ok(())
        } else {
            Err(lines)
        }
    });
    let shown = inspect(&docker, "sum");
    assert_eq!(
        shown["JobStatus"]["JobIteration"]["Index"].as_u64().unwrap_or(0),
        0
    );
    assert!(shown["JobStatus"]["LastExecution"].is_string(), "{shown}");
    assert!(shown["Spec"].get("UpdateConfig").is_none(), "{shown}");
    for task in tasks(&docker, "sum") {
        assert_eq!(task["DesiredState"], "complete", "{task}");
    }

    // An update runs it again, a rollback too.
    docker.run(&["service", "update", "-q", "--force", "sum"]);
    assert_eq!(replicas(&docker, "sum"), "0/2 (5/5 completed)");
    assert_eq!(completed_slots(&docker, "sum", 1), [0, 1, 2, 3, 4]);
    docker.run(&["service", "scale", "sum=3"]);
    assert_eq!(completed_slots(&docker, "sum", 2), [0, 1, 2]);
    docker.run(&["service", "rollback", "-q", "sum"]);
    assert_eq!(completed_slots(&docker, "sum", 3), [0, 1, 2, 3, 4]);
    assert_eq!(inspect(&docker, "sum")["JobStatus"]["JobIteration"]["Index"], 3);

    let refused = docker.refuse(&["service", "update", "--update-parallelism", "2", "sum"]);
    assert!(
        refused.contains("rpc error: code = InvalidArgument desc = Jobs may not have an update config"),
        "{refused}"
    );
    docker.run(&["service", "rm", "sum"]);
    eventually("no container is left", LONG, || {
        let left = docker.lines(&["ps", "-aq"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_global_job_completes_once_on_every_node_that_fits() {
    let lab = Lab::with_image("e2ejobg", 3, 1);
    let docker = lab.docker("node-1");
    docker.run(&["node", "update", "--availability", "drain", "node-3"]);
    create(&docker, "--name visit --mode global-job", QUICK);
    assert_eq!(replicas(&docker, "visit"), "0/0 (2/2 completed)");
    // A node that comes later has its visit too, and the others no second one.
    docker.run(&["node", "update", "--availability", "active", "node-3"]);
    await_replicas(&docker, "visit", "0/0 (3/3 completed)");
    let nodes = docker.lines(&["service", "ps", "--format", "{{.Node}}", "visit"]);
    let mut nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-1", "node-2", "node-3"]);
    let refused = docker.refuse(&["service", "scale", "visit=2"]);
    assert!(
        refused.contains("scale can only be used with replicated"),
        "{refused}"
    );
}

#[test]
fn failing_tasks_of_jobs_are_retried_as_their_policy_says() {
    let lab = Lab::with_image("e2ejobf", 1, 1);
    let docker = lab.docker("node-1");
    // Each slot fails until its third try, which a volume counts.
    let third = "echo >> /tries/$SLOT; test $(busybox wc -l < /tries/$SLOT) -ge 3";
    create(
        &docker,
        "--name stubborn --mode replicated-job --replicas 2 --restart-delay 0s --restart-condition any \
         --env SLOT={{.Task.Slot}} --mount type=volume,source=tries,target=/tries",
        third,
    );
    assert_eq!(replicas(&docker, "stubborn"), "0/2 (2/2 completed)");
    let states: Vec<String> = tasks(&docker, "stubborn")
        .iter()
        .map(|task| task["Status"]["State"].as_str().unwrap_or_default().to_owned())
        .collect();
    let count = |state: &str| states.iter().filter(|found| *found == state).count();
    assert_eq!((count("failed"), count("complete")), (4, 2), "{states:?}");

    // Without a policy that tries again a slot is given up, and the job goes on with the others.
    let first_fails = "test $SLOT != 0";
    create(
        &docker,
        "-d --name weak --mode replicated-job --replicas 3 --max-concurrent 1 --restart-condition none \
         --env SLOT={{.Task.Slot}}",
        first_fails,
    );
    await_replicas(&docker, "weak", "0/1 (2/3 completed)");
    assert_eq!(completed_slots(&docker, "weak", 0), [1, 2]);
    assert_eq!(tasks(&docker, "weak").len(), 3);

    create(
        &docker,
        "-d --name thrice --mode replicated-job --replicas 1 --restart-delay 0s --restart-max-attempts 2",
        "exit 3",
    );
    eventually("three tries", LONG, || {
        let states = docker.task_states("thrice");
        let failed = states.matches("non-zero exit (3)").count();
        if failed == 3 { Ok(()) } else { Err(states) }
    });
}

#[test]
fn a_job_goes_on_without_a_node_that_is_lost() {
    let lab = Lab::with_image("e2ejobn", 2, 1);
    let docker = lab.docker("node-1");
    // Tasks on the second node never end.
    let script = "test $NODE != node-2 || exec /bin/busybox sleep 100000";
    create(
        &docker,
        "-d --name hard --mode replicated-job --replicas 6 --max-concurrent 2 --replicas-max-per-node 1 \
         --env NODE={{.Node.Hostname}}",
        script,
    );
    await_replicas(&docker, "hard", "1/2 (5/6 completed)");
    lab.kill("node-2");
    await_replicas(&docker, "hard", "0/2 (6/6 completed)");
    assert_eq!(completed_slots(&docker, "hard", 0), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn jobs_of_stacks_run_at_each_deployment() {
    let lab = Lab::with_image("e2ejobs", 1, 1);
    let docker = lab.docker("node-1");
    let file = lab.directory().join("stack.yml");
    let text = format!(
        "version: \"3.13\"\nservices:\n  migrate:\n    image: {IMAGE}\n    command: [/bin/busybox, sh, -c, \"{QUICK}\"]\n    \
         deploy:\n      mode: replicated-job\n      replicas: 2\n  sweep:\n    image: {IMAGE}\n    command: [/bin/busybox, \
         sh, -c, \"{QUICK}\"]\n    deploy:\n      mode: global-job\n"
    );
    std::fs::write(&file, text).expect("the test's directory can be written");
    for iteration in 0..2 {
        docker.run(&stack_deploy(&file, &[]));
        await_replicas(&docker, "shop_migrate", "0/2 (2/2 completed)");
        await_replicas(&docker, "shop_sweep", "0/0 (1/1 completed)");
        eventually("both slots of the run", LONG, || {
            let slots = completed_slots(&docker, "shop_migrate", iteration);
            if slots == [0, 1] { Ok(()) } else { Err(slots) }
        });
    }
    let shown = docker.lines(&["stack", "services", "--format", "{{.Name}} {{.Mode}}", "shop"]);
    assert_eq!(shown, ["shop_migrate replicated job", "shop_sweep global job"]);
}
