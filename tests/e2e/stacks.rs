//! Stacks: compose files of version 3, deployed, changed, pruned and removed by the real docker CLI.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually, stack_deploy};
use std::path::{Path, PathBuf};

/// A stack with everything that lies beside services; `extra` is one more service, or nothing.
fn compose(directory: &Path, extra: &str) -> PathBuf {
    let path = directory.join("stack.yml");
    let text = format!(
        r#"version: "3.8"
services:
  web:
    image: {IMAGE}
    networks: [front]
    environment:
      WHO: world
    secrets:
      - key
      - source: other
        target: mine
        uid: "7"
        mode: 0400
    configs:
      - source: page
        target: /www/page
    deploy:
      replicas: 2
      labels:
        tier: front
      placement:
        max_replicas_per_node: 1
      update_config:
        parallelism: 1
        order: start-first
{extra}networks:
  front:
    labels:
      zone: north
secrets:
  key:
    file: ./key
  other:
    file: ./other
configs:
  page:
    file: ./page
"#
    );
    std::fs::write(&path, text).expect("the test's directory can be written");
    path
}

const WORKER: &str = "  worker:\n    image: IMAGE\n    networks: [front]\n";

fn write(directory: &Path, name: &str, content: &str) {
    std::fs::write(directory.join(name), content).expect("the test's directory can be written");
}

fn await_lines(docker: &Docker, args: &[&str], expected: &[&str]) {
    eventually(&args.join(" "), LONG, || {
        let mut lines = docker.lines(args);
        lines.sort();
        if lines == expected { Ok(()) } else { Err(lines) }
    });
}

#[test]
fn a_stack_is_deployed_changed_pruned_and_removed() {
    let lab = Lab::with_image("e2estack", 2, 1);
    let (docker, directory) = (lab.docker("node-1"), lab.directory().to_owned());
    write(&directory, "key", "swordfish");
    write(&directory, "other", "halibut");
    write(&directory, "page", "<p>hello");
    let file = compose(&directory, &WORKER.replace("IMAGE", IMAGE));
    docker.run(&stack_deploy(&file, &[]));
    let services = [
        "stack",
        "services",
        "--format",
        "{{.Name}} {{.Mode}} {{.Replicas}}",
        "shop",
    ];
    await_lines(
        &docker,
        &services,
        &[
            "shop_web replicated 2/2 (max 1 per node)",
            "shop_worker replicated 1/1",
        ],
    );
    assert_eq!(
        docker.run(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"]),
        "shop 2"
    );
    let tasks = ["stack", "ps", "--format", "{{.Name}} {{.DesiredState}}", "shop"];
    await_lines(
        &docker,
        &tasks,
        &[
            "shop_web.1 Running",
            "shop_web.2 Running",
            "shop_worker.1 Running",
        ],
    );
    for (kind, name) in [
        ("network", "shop_front"),
        ("secret", "shop_key\nshop_other"),
        ("config", "shop_page"),
    ] {
        let label = "label=com.docker.stack.namespace=shop";
        let found = docker.run(&[kind, "ls", "--filter", label, "--format", "{{.Name}}"]);
        assert_eq!(found, name, "{kind}");
    }
    let seen = |node: &str| {
        let docker = lab.docker(node);
        let container = docker.run(&["ps", "-q", "--filter", "name=shop_web"]);
        let script = "cat /run/secrets/key /run/secrets/mine /www/page; echo; busybox stat -c '%a %u' /run/secrets/mine; \
                      nslookup -type=a web | grep -q Name: && echo $WHO";
        docker.lines(&["exec", &container, "sh", "-c", script])
    };
    for node in ["node-1", "node-2"] {
        assert_eq!(
            seen(node),
            ["swordfishhalibut<p>hello", "400 7", "world"],
            "{node}"
        );
    }

    // The same again changes nothing that runs.
    let ids = docker.run(&["stack", "ps", "-q", "shop"]);
    docker.run(&stack_deploy(&file, &[]));
    assert_eq!(docker.run(&["stack", "ps", "-q", "shop"]), ids);

    // Content never changes under one name.
    write(&directory, "key", "another");
    let refused = docker.refuse(&stack_deploy(&file, &[]));
    assert!(
        refused.contains("only updates to Labels are allowed"),
        "{refused}"
    );
    write(&directory, "key", "swordfish");
    assert_eq!(docker.run(&["stack", "ps", "-q", "shop"]), ids);

    let file = compose(&directory, "");
    docker.run(&stack_deploy(&file, &["--prune"]));
    await_lines(&docker, &services, &["shop_web replicated 2/2 (max 1 per node)"]);

    docker.run(&["stack", "rm", "shop"]);
    assert_eq!(docker.run(&["stack", "ls", "--format", "{{.Name}}"]), "");
    for kind in ["service", "secret", "config"] {
        assert_eq!(docker.run(&[kind, "ls", "-q"]), "", "{kind}");
    }
    let networks = ["network", "ls", "--filter", "name=shop", "--format", "{{.Name}}"];
    await_lines(&docker, &networks, &[]);
    for node in ["node-1", "node-2"] {
        await_lines(&lab.docker(node), &["ps", "-aq"], &[]);
    }
}
