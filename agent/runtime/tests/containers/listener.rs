//! Somebody else decides about system calls of a container, and of what is started in it.

use crate::agent::{Seen, agent, listen};
use crate::support::{Container, Node, collect, process, within};
use muster_runtime::{ExecRequest, RuntimeError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn notifying(node: &Node, script: &str, calls: &[&str]) -> (Container, PathBuf) {
    let mut container = node.shell(script);
    let path = container.state_dir().join("agent");
    container.config["linux"]["seccomp"] = filter(&path, calls);
    container.seccomp = false;
    (container, path)
}

fn filter(path: &Path, calls: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "meta",
        "syscalls": [{ "names": calls, "action": "SCMP_ACT_NOTIFY" }],
    })
}

fn request(script: &str) -> ExecRequest {
    ExecRequest {
        process: process(&["/bin/sh", "-c", script]),
        terminal: false,
        console_size: None,
        stdin_open: false,
        output: true,
    }
}

async fn told(agent: std::thread::JoinHandle<Seen>) -> Seen {
    let joined = tokio::task::spawn_blocking(move || agent.join().expect("the agent is fine"));
    within(joined).await.expect("it ends")
}

#[tokio::test]
async fn an_agent_decides_about_calls_of_the_container_and_of_what_is_started_in_it() {
    for hold in [false, true] {
        let node = Node::new();
        let script = "mkdir /made 2>&1; trap 'exit 0' TERM; while :; do sleep 0.01; done";
        let (mut container, path) = notifying(&node, script, &["mkdir", "mkdirat"]);
        container.hold = hold;
        let first = agent(listen(&path), 1);
        let started = node.start(&container).await.expect("it starts");
        if hold {
            within(started.monitor.release()).await.expect("it goes");
        }
        let seen = told(first).await;
        let status = if hold { "created" } else { "creating" };
        assert_eq!(
            (
                &seen.state["pid"],
                &seen.state["metadata"],
                &seen.state["state"]["status"]
            ),
            (&json!(started.pid), &json!("meta"), &json!(status))
        );
        assert_eq!(seen.state["state"]["id"], json!(container.id));
        assert_eq!(seen.calls.len(), 1);
        container.until_logged("uota exceeded").await;

        let second = agent(listen(&path), 1);
        let mut session = within(started.monitor.exec(request("mkdir /more")))
            .await
            .expect("it starts");
        let (_, said) = collect(&mut session.stream.output).await;
        assert!(said.to_lowercase().contains("quota exceeded"), "{said}");
        let seen = told(second).await;
        assert_eq!(seen.state["state"]["pid"], json!(started.pid));
        assert_ne!(seen.state["pid"], json!(started.pid));

        std::fs::remove_file(&path).expect("it is there");
        let refused = within(started.monitor.exec(request("true"))).await.map(drop);
        let message = refused.expect_err("nobody listens").to_string();
        assert!(
            message.contains("send the listener of the system call filter"),
            "{message}"
        );
        within(started.monitor.signal(libc::SIGTERM, false))
            .await
            .expect("it runs");
        assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_fails_the_start() {
    for hold in [false, true] {
        let node = Node::new();
        let (mut container, path) = notifying(&node, "true", &["execve"]);
        container.hold = hold;
        let silent = agent(listen(&path), 0);
        let error = match (node.start(&container).await, hold) {
            (Ok(started), true) => {
                let error = within(started.monitor.release())
                    .await
                    .map(drop)
                    .expect_err("it cannot go");
                assert_ne!(within(started.monitor.wait()).await.expect("it ends").code, 0);
                error
            }
            (started, _) => started.map(drop).expect_err("it cannot start"),
        };
        assert!(
            matches!(&error, RuntimeError::Start { message, .. } | RuntimeError::Refused { message }
                if message.contains("did not let the process start within 10 s")),
            "{error:?}"
        );
        drop(told(silent).await.listener);
    }
}
