//! What a reboot, a crash or lost metadata leave behind, and what the next engine makes of it.

use crate::node::{Node, info, on_node, output, shell, until};
use muster_engine::{Engine, LogQuery, WaitCondition};
use muster_types::container::{ContainerState, EngineRestart};
use std::path::Path;

/// A container that runs until it is told to end, once it has said so.
async fn running(engine: &Engine, name: &str, restart: EngineRestart) -> i32 {
    let mut config = shell("echo before; exec sleep 600");
    config.host.restart = restart;
    engine.create(Some(name), config).await.unwrap();
    engine.start(name).await.unwrap();
    let log = async || output(engine, name, LogQuery::default()).await;
    while log().await != "before\n" {
        tokio::task::yield_now().await;
    }
    info(engine, name).await.pid
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The parent of a container's process: its monitor.
fn monitor_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What a reboot does to a node: every process ends without a word, and the kernel has a new boot id. What it keeps of
/// the run directory and the control groups is more than a reboot does.
async fn reboot(node: &Node, pids: &[i32]) {
    for monitor in pids.iter().map(|pid| monitor_of(*pid)) {
        let monitor = nix::unistd::Pid::from_raw(monitor);
        nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    until("all containers' end", || !pids.iter().any(|pid| is_there(*pid))).await;
    let now = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for facts in node.run_facts() {
        let content = std::fs::read_to_string(&facts).unwrap();
        let earlier = content.replace(now.trim(), "00000000-0000-0000-0000-000000000000");
        assert_ne!(content, earlier, "{} does not say which boot", facts.display());
        std::fs::write(&facts, earlier).unwrap();
    }
}

#[test]
fn containers_of_an_earlier_boot_have_exited() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let pids = [
            running(&engine, "plain", EngineRestart::No).await,
            running(&engine, "always", EngineRestart::Always).await,
        ];
        engine.shutdown().await;
        drop(engine);
        reboot(&node, &pids).await;

        let engine = node.open().await;
        let plain = info(&engine, "plain").await;
        assert_eq!(plain.state, ContainerState::Exited);
        assert_ne!(plain.exit_code, 0);
        assert!(plain.error.contains("booted"), "{:?}", plain.error);
        assert_eq!(output(&engine, "plain", LogQuery::default()).await, "before\n");
        until("it is started again", || {
            let all = engine.list();
            all.iter()
                .any(|info| info.name == "always" && info.state == ContainerState::Running)
        })
        .await;
        // Nothing of its earlier run is in the way of another one.
        engine.start("plain").await.unwrap();
        engine.kill("plain", "KILL").await.unwrap();
        let end = engine.wait("plain", WaitCondition::NotRunning).unwrap();
        assert_eq!(end.await.unwrap().exit_code, 137);
        node.close(engine).await;
    });
}

#[test]
fn a_start_whose_row_a_crash_lost_counts() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("exec sleep 600");
        config.host.restart = EngineRestart::Always;
        engine.create(Some("again"), config).await.unwrap();
        engine.shutdown().await;
        drop(engine);
        let created = node.metadata();

        let engine = node.open().await;
        engine.start("again").await.unwrap();
        let pid = info(&engine, "again").await.pid;
        engine.shutdown().await;
        drop(engine);
        node.set_metadata(&created);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
        until("its end", || !is_there(pid)).await;

        let engine = node.open().await;
        until("it is started again", || {
            let all = engine.list();
            all.iter().any(|info| info.state == ContainerState::Running)
        })
        .await;
        node.close(engine).await;
    });
}

#[test]
fn containers_without_metadata_are_killed_and_removed() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let pid = running(&engine, "unknown", EngineRestart::No).await;
        engine.shutdown().await;
        drop(engine);
        node.lose_metadata();

        let engine = node.open().await;
        assert!(engine.list().is_empty());
        until("the unknown container's end", || !is_there(pid)).await;
        // This checks that its directories, its network and its file system are gone.
        node.close(engine).await;
    });
}

#[test]
fn leftovers_of_starts_that_a_crash_cut_short_are_removed() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let pid = running(&engine, "kept", EngineRestart::No).await;
        engine.shutdown().await;
        drop(engine);
        let leftovers = node.make_leftovers(&"ab".repeat(32));
        assert!(leftovers.iter().all(|path| path.exists()));

        let engine = node.open().await;
        for path in leftovers {
            assert!(!path.exists(), "{} is left over", path.display());
        }
        let kept = info(&engine, "kept").await;
        assert_eq!((kept.state, kept.pid), (ContainerState::Running, pid));
        node.close(engine).await;
    });
}
