//! Processes that are started in a running container.

use crate::support::{Container, Node, collect, process, until, within};
use muster_runtime::{ExecRequest, Monitor, RuntimeError};
use serde_json::json;

pub fn request(arguments: &[&str]) -> ExecRequest {
    ExecRequest {
        process: process(arguments),
        terminal: false,
        console_size: None,
        stdin_open: false,
        output: true,
    }
}

async fn running(node: &Node) -> (Container, Monitor) {
    let mut container = node.shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    container.config["linux"]["resources"] = json!({ "memory": { "limit": 67108864 } });
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    (container, started.monitor)
}

async fn stop(monitor: &Monitor) {
    within(monitor.signal(libc::SIGTERM, false))
        .await
        .expect("it runs");
    assert_eq!(within(monitor.wait()).await.expect("it ends").code, 0);
}

#[tokio::test]
async fn exec_runs_with_the_containers_protection() {
    let node = Node::new();
    let (container, monitor) = running(&node).await;
    let script = "for file in /proc/1/status /proc/self/status; do grep -E '^(Seccomp|CapEff|CapBnd):' $file; done; \
                  for kind in mnt pid net ipc uts cgroup; do \
                    [ $(readlink /proc/1/ns/$kind) = $(readlink /proc/self/ns/$kind) ] || echo $kind differs; done; \
                  cat /proc/self/cgroup | grep -v ':/$'; ls /proc/self/fd | wc -l; exit 6";
    let mut session = within(monitor.exec(request(&["/bin/sh", "-c", script])))
        .await
        .expect("it starts");
    let (out, err) = collect(&mut session.stream.output).await;
    assert_eq!(within(session.wait()).await.expect("it ends"), 6, "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 7, "{out}{err}");
    assert_eq!(
        lines[..3],
        lines[3..6],
        "the same capabilities and filter as the container's init"
    );
    assert!(lines[..3].contains(&"Seccomp:\t2"), "{out}");
    assert_eq!(lines[6].trim(), "4", "standard streams and what ls has open");
    assert_eq!(container.logged("stderr"), "");
    stop(&monitor).await;
}

#[tokio::test]
async fn exec_passes_input_and_reports_codes() {
    let node = Node::new();
    let (_container, monitor) = running(&node).await;
    let mut cat = request(&["cat"]);
    cat.stdin_open = true;
    let mut session = within(monitor.exec(cat)).await.expect("it starts");
    within(session.stream.input.write_all(b"in and out"))
        .await
        .expect("it reads");
    within(session.stream.input.close()).await.expect("it reads");
    assert_eq!(collect(&mut session.stream.output).await.0, "in and out");
    assert_eq!(within(session.wait()).await.expect("it ends"), 0);
    let killed = within(monitor.exec(request(&["sleep", "1000"])))
        .await
        .expect("it starts");
    within(killed.control.signal(libc::SIGKILL))
        .await
        .expect("it runs");
    assert_eq!(within(killed.wait()).await.expect("it ends"), 137);
    for (program, expected) in [("no-such-command", 127), ("/etc/passwd", 126)] {
        match within(monitor.exec(request(&[program]))).await {
            Err(RuntimeError::Start { code, .. }) => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }
    stop(&monitor).await;
}

#[tokio::test]
async fn exec_gets_a_terminal_of_its_own() {
    let node = Node::new();
    let (_container, monitor) = running(&node).await;
    let script = "tty; stty size; trap 'stty size; exit 2' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut shell = request(&["/bin/sh", "-c", script]);
    (shell.terminal, shell.console_size) = (true, Some((20, 70)));
    let mut session = within(monitor.exec(shell)).await.expect("it starts");
    let mut seen = String::new();
    while !seen.contains("ready") {
        match within(session.stream.output.next())
            .await
            .expect("the stream is intact")
        {
            Some(muster_runtime::Output::Console(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, "/dev/pts/0\r\n20 70\r\nready\r\n");
    within(session.resize(21, 71)).await.expect("it has a terminal");
    assert_eq!(collect(&mut session.stream.output).await.0, "21 71\r\n");
    assert_eq!(within(session.wait()).await.expect("it ends"), 2);
    stop(&monitor).await;
}

#[tokio::test]
async fn execs_end_with_their_container() {
    let node = Node::new();
    let (_container, monitor) = running(&node).await;
    let mut session = within(monitor.exec(request(&["sleep", "1000"])))
        .await
        .expect("it starts");
    let pid = session.pid;
    stop(&monitor).await;
    collect(&mut session.stream.output).await;
    until("the exec'ed process's end", || !crate::support::is_running(pid)).await;
}

#[tokio::test]
async fn exec_in_an_ended_container_is_refused() {
    let node = Node::new();
    let (_container, monitor) = running(&node).await;
    stop(&monitor).await;
    assert!(matches!(
        within(monitor.exec(request(&["true"]))).await,
        Err(RuntimeError::Gone)
    ));
}
