//! What lives on when the daemon, the launcher or a monitor dies.

use crate::support::{Node, is_running, kill, monitor_pid, until, within};
use muster_runtime::cgroup::Cgroup;
use muster_runtime::{MONITOR_LOST, Monitor, RuntimeError, read_exit_file, recover_lost};

#[tokio::test]
async fn new_daemon_finds_running_and_ended_containers() {
    let node = Node::new();
    let running = node.shell("echo before; trap 'exit 3' TERM; while :; do sleep 0.01; done");
    let started = node.start(&running).await.expect("it starts");
    running.until_logged("before").await;
    let ended = node.shell("exit 8");
    node.run(&ended).await;
    let launcher = node.launcher.pid().expect("it runs");
    // A daemon that is killed leaves its launcher with a closed socket, as one that is dropped does.
    let (state, exit_file, ended_state) = (
        running.state_dir().to_owned(),
        running.exit_file(),
        ended.state_dir().to_owned(),
    );
    let Node {
        launcher: handle,
        directory,
        ..
    } = &node;
    let _ = (handle, directory);
    kill(launcher);
    until("the launcher's end", || node.launcher.pid().is_none()).await;
    drop(started);
    assert!(matches!(
        within(Monitor::connect(&ended_state)).await,
        Err(RuntimeError::Gone)
    ));
    let status = recover_lost(&ended_state)
        .expect("it is recorded")
        .expect("it has ended");
    assert_eq!(status.code, 8);
    let monitor = within(Monitor::connect(&state))
        .await
        .expect("the monitor lives on");
    assert!(is_running(monitor.pid()));
    within(monitor.signal(libc::SIGTERM, false))
        .await
        .expect("it runs");
    let status = within(monitor.wait()).await.expect("it ends");
    assert_eq!(status.code, 3);
    assert_eq!(read_exit_file(&exit_file).expect("it is readable"), Some(status));
}

#[tokio::test]
async fn killed_launcher_is_replaced_at_the_next_start() {
    let node = Node::new();
    let first = node.container(&["sleep", "1000"]);
    let started = node.start(&first).await.expect("it starts");
    let launcher = node.launcher.pid().expect("it runs");
    kill(launcher);
    until("the launcher's end", || node.launcher.pid().is_none()).await;
    assert!(is_running(started.pid), "containers do not need the launcher");
    let (status, _) = node.run(&node.shell("exit 9")).await;
    assert_eq!(status.code, 9);
    assert_ne!(node.launcher.pid().expect("a new one runs"), launcher);
    within(started.monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
    within(started.monitor.wait()).await.expect("it ends");
}

#[tokio::test]
async fn killed_monitor_takes_its_container_along() {
    let node = Node::new();
    let container = node.shell("echo ready; sleep 1000 & sleep 1000");
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    let waiting = tokio::spawn({
        let monitor = started.monitor.clone();
        async move { monitor.wait().await }
    });
    kill(monitor_pid(&started.monitor));
    let status = within(waiting).await.expect("no panic").expect("it is settled");
    assert_eq!((status.code, status.reason.as_deref()), (137, Some(MONITOR_LOST)));
    until("the container's end", || !is_running(started.pid)).await;
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
async fn killed_monitor_is_noticed_without_a_daemon() {
    let node = Node::new();
    let container = node.shell("echo ready; sleep 1000");
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    assert!(
        matches!(
            recover_lost(container.state_dir()),
            Err(RuntimeError::Refused { .. })
        ),
        "it is served"
    );
    kill(monitor_pid(&started.monitor));
    until("the container's end", || !is_running(started.pid)).await;
    let status = recover_lost(container.state_dir())
        .expect("it is settled")
        .expect("it ran");
    assert_eq!((status.code, status.reason.as_deref()), (137, Some(MONITOR_LOST)));
    assert_eq!(
        recover_lost(container.state_dir()).expect("idempotent"),
        Some(status)
    );
}

#[tokio::test]
async fn dropped_launcher_ends_and_containers_stay() {
    let node = Node::new();
    let container = node.container(&["sleep", "1000"]);
    let mut config =
        muster_runtime::LauncherConfig::new(node.directory.path().join("other"), node.root.clone());
    config.executable = env!("CARGO_BIN_EXE_muster-runtime").into();
    let launcher = muster_runtime::Launcher::spawn(&config).expect("it starts");
    let started = within(launcher.start(container.request()))
        .await
        .expect("it starts");
    let pid = launcher.pid().expect("it runs");
    drop(launcher);
    assert!(!is_running(pid));
    assert!(is_running(started.pid));
    let monitor = within(Monitor::connect(container.state_dir()))
        .await
        .expect("it is served");
    within(monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
    assert_eq!(within(monitor.wait()).await.expect("it ends").code, 137);
}

#[tokio::test]
async fn monitors_cost_little_memory() {
    const CONTAINERS: usize = 12;
    // What each monitor has for itself alone, and its part of the memory that it shares with the launcher and the others.
    // Code is left out: its part depends on the build and on who else runs the program; the benchmark measures it in the
    // release build.
    const PRIVATE_DIRTY_KIB_MAX: u64 = 200;
    const PROPORTIONAL_KIB_MAX: u64 = 220;
    let node = Node::new();
    let mut running = Vec::new();
    for _ in 0..CONTAINERS {
        let container = node.shell("echo ready; sleep 1000");
        let started = node.start(&container).await.expect("it starts");
        container.until_logged("ready").await;
        running.push((container, started));
    }
    let mut total = (0, 0);
    for (_, started) in &running {
        let rollup = format!("/proc/{}/smaps_rollup", monitor_pid(&started.monitor));
        let rollup = std::fs::read_to_string(rollup).expect("it runs");
        total.0 += kib(&rollup, "Private_Dirty:");
        total.1 += kib(&rollup, "Pss_Anon:") + kib(&rollup, "Pss_Shmem:");
    }
    let count = CONTAINERS as u64;
    let (private, proportional) = (total.0 / count, total.1 / count);
    println!(
        "each of {count} monitors: {private} KiB private dirty, {proportional} KiB proportional without code"
    );
    for (_, started) in &running {
        within(started.monitor.signal(libc::SIGKILL, false))
            .await
            .expect("it runs");
        within(started.monitor.wait()).await.expect("it ends");
    }
    assert!(private <= PRIVATE_DIRTY_KIB_MAX, "{private} KiB private dirty");
    assert!(
        proportional <= PROPORTIONAL_KIB_MAX,
        "{proportional} KiB proportional"
    );
}

fn kib(rollup: &str, field: &str) -> u64 {
    let value = rollup
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .expect("the kernel counts it");
    value.trim().trim_end_matches(" kB").parse().expect("a number")
}
