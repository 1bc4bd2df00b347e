//! Start, end, exit codes, failures to start.

use crate::support::{Node, until, within};
use muster_runtime::cgroup::{Cgroup, CgroupRoot};
use muster_runtime::{RuntimeError, read_exit_file};
use serde_json::json;

#[tokio::test]
async fn exit_code_and_output_are_recorded() {
    let node = Node::new();
    let container = node.shell("echo out; echo err >&2; exit 7");
    let (status, out) = node.run(&container).await;
    assert_eq!((status.code, status.signal, status.oom_killed), (7, None, false));
    assert_eq!(status.reason, None);
    assert_eq!(out, "out\n");
    assert_eq!(container.logged("stderr"), "err\n");
    assert_eq!(
        read_exit_file(&container.exit_file()).expect("it is readable"),
        Some(status)
    );
    assert!(
        Cgroup::open(&node.root, container.cgroup_path()).is_err(),
        "its control group is gone"
    );
}

#[tokio::test]
async fn killed_container_reports_the_signal() {
    let node = Node::new();
    let container = node.container(&["sleep", "1000"]);
    let started = node.start(&container).await.expect("it starts");
    within(started.monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
    let status = within(started.monitor.wait()).await.expect("it ends");
    assert_eq!((status.code, status.signal), (137, Some(9)));
}

#[tokio::test]
async fn stop_signal_reaches_a_trap() {
    let node = Node::new();
    let container = node.shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    within(started.monitor.signal(libc::SIGTERM, false))
        .await
        .expect("it runs");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 3);
}

#[tokio::test]
async fn commands_that_cannot_run_have_dockers_codes() {
    let node = Node::new();
    let cases = [
        ("no-such-command", 127, "executable file not found in $PATH"),
        ("/no/such/file", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "permission denied"),
    ];
    for (program, expected, message) in cases {
        let container = node.container(&[program]);
        match node.start(&container).await {
            Err(RuntimeError::Start { message: text, code }) => {
                assert_eq!(code, expected, "{program}");
                assert!(text.contains(message), "{text}");
            }
            other => panic!("{program}: {other:?}"),
        }
        assert!(
            Cgroup::open(&node.root, container.cgroup_path()).is_err(),
            "its control group is gone"
        );
    }
}

#[tokio::test]
async fn container_sees_its_own_world() {
    let node = Node::new();
    let mut container =
        node.shell("hostname; echo $$; id; ls /proc/self/fd; cat /proc/self/cgroup; readlink /dev/ptmx");
    container.process()["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 6] });
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0, "{}", container.logged("stderr"));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["inside", "1", "uid=1000 gid=1001 groups=5,6"]);
    assert_eq!(
        lines[3..7],
        ["0", "1", "2", "3"],
        "3 is what ls itself has open: {out}"
    );
    assert!(
        lines[7..lines.len() - 1].iter().all(|line| line.ends_with(":/")),
        "{out}"
    );
    assert_eq!(lines[lines.len() - 1], "pts/ptmx");
}

#[tokio::test]
async fn held_container_runs_after_its_release() {
    let node = Node::new();
    let mut container = node.shell("echo runs");
    container.hold = true;
    let started = node.start(&container).await.expect("it starts");
    assert_eq!(container.logged("stdout"), "");
    within(started.monitor.release()).await.expect("it runs");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
    assert_eq!(container.logged("stdout"), "runs\n");
}

#[tokio::test]
async fn held_container_that_cannot_run_says_so_at_its_release() {
    let node = Node::new();
    let mut container = node.container(&["no-such-command"]);
    container.hold = true;
    let started = node.start(&container).await.expect("it is held before exec");
    let waiting = tokio::spawn({
        let monitor = started.monitor.clone();
        async move { monitor.wait().await }
    });
    match within(started.monitor.release()).await {
        Err(RuntimeError::Start { code, .. }) => assert_eq!(code, 127),
        other => panic!("{other:?}"),
    }
    let status = within(waiting).await.expect("no panic").expect("it ends");
    assert_eq!(status.code, 127);
    assert!(status.reason.is_some());
}

#[tokio::test]
async fn init_reaps_orphans_and_passes_signals_on() {
    let node = Node::new();
    let mut container = node.shell(
        "trap 'echo got; exit 5' USR1; (sleep 0.01 & ) ; sleep 0.2; cat /proc/[0-9]*/stat | grep -c ') Z'; echo ready; while :; do sleep 0.01; done",
    );
    container.init = true;
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    within(started.monitor.signal(libc::SIGUSR1, false))
        .await
        .expect("it runs");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 5);
    assert_eq!(container.logged("stdout"), "0\nready\ngot\n");
}

#[tokio::test]
async fn memory_limit_is_told_apart() {
    let node = Node::new();
    let mut container = node.container(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    container.config["linux"]["resources"] = json!({ "memory": { "limit": 33554432, "swap": 33554432 } });
    let started = node.start(&container).await.expect("it starts");
    let status = within(started.monitor.wait()).await.expect("it ends");
    assert_eq!(
        (status.code, status.signal, status.oom_killed),
        (137, Some(9), true)
    );
}

#[tokio::test]
async fn exit_is_readable_after_the_monitor_ended() {
    let node = Node::new();
    let container = node.shell("exit 4");
    let started = node.start(&container).await.expect("it starts");
    until("the monitor's end", || {
        !container.state_dir().join("monitor.sock").exists()
    })
    .await;
    assert_eq!(
        within(started.monitor.wait()).await.expect("it is recorded").code,
        4
    );
}

#[tokio::test]
async fn unified_control_groups_are_joined_at_birth() {
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
    let mounted = unified
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists());
    let root = CgroupRoot::unified_at(mounted.expect("cgroup2 is mounted")).expect("it is readable");
    let node = Node::with_groups(root);
    let container =
        node.shell("grep ^0: /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; echo ready; read line");
    let started = node.start(&container).await;
    let started = started.expect("it starts");
    let status = within(started.monitor.wait()).await.expect("it ends");
    assert_eq!(
        status.code,
        1,
        "there is no input: {}",
        container.logged("stderr")
    );
    assert_eq!(
        container.logged("stdout"),
        "0::/\n/sys/fs/cgroup/cgroup.procs\nready\n"
    );
    assert!(
        Cgroup::open(&node.root, container.cgroup_path()).is_err(),
        "its control group is gone"
    );
}
