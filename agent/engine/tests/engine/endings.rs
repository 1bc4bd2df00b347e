//! What is asked of a container that has ended, while its engine does not know yet.

use crate::node::{Node, info, names, on_node, shell, state, until};
use muster_engine::{CommitOptions, Engine, ErrorKind, WaitCondition};
use muster_types::container::ContainerState;
use muster_types::container_update::ContainerUpdate;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

/// A container whose process is gone and whose monitor is held before it says so, for as long as the test likes.
struct HeldEnd {
    id: String,
    monitor: Pid,
    groups: Vec<PathBuf>,
}

impl HeldEnd {
    async fn of(node: &Node, engine: &Engine, name: &str) -> Self {
        let id = engine.create(Some(name), shell("sleep 600")).await.unwrap().id;
        engine.start(name).await.unwrap();
        let process = info(engine, name).await.pid;
        let monitor = Pid::from_raw(field(process, "PPid:").unwrap());
        kill(monitor, Signal::SIGSTOP).unwrap();
        kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        // Its parent is held, so that it stays what it is.
        until("its process is a zombie", || is_zombie(process)).await;
        let groups = node.groups().into_iter().map(|group| group.join(id.as_str()));
        Self {
            groups: groups.filter(|group| group.is_dir()).collect(),
            id: id.to_string(),
            monitor,
        }
    }

    /// Removes the control groups that `chosen` wants removed, as the monitor does one by one.
    async fn remove_groups(&self, chosen: impl Fn(&str) -> bool) {
        for group in &self.groups {
            if chosen(&group.to_string_lossy()) {
                until("the group is empty", || {
                    std::fs::remove_dir(group).is_ok() || !group.exists()
                })
                .await;
            }
        }
    }

    /// Lets its monitor end it.
    async fn let_end(self, engine: &Engine) {
        assert_eq!(state(engine, &self.id).await, ContainerState::Running);
        kill(self.monitor, Signal::SIGCONT).unwrap();
        let end = engine.wait(&self.id, WaitCondition::NotRunning).unwrap();
        assert_eq!(end.await.unwrap().exit_code, 137);
    }
}

fn field(process: i32, name: &str) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

fn is_zombie(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.contains(") Z ")
}

async fn answers_as_for_an_ended_one(engine: &Engine, id: &str) {
    let paused = CommitOptions {
        pause: true,
        ..CommitOptions::default()
    };
    engine
        .commit(id, paused)
        .await
        .expect("what has ended needs no pause");
    let refused = engine.pause(id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(refused.to_string(), format!("Container {id} is not running"));
    engine.stats(id).await.unwrap();
    engine.update(id, ContainerUpdate::default()).await.unwrap();
}

#[test]
fn a_container_can_be_committed_at_any_moment_of_its_end() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let whole = HeldEnd::of(&node, &engine, "whole").await;
        let options = CommitOptions {
            pause: true,
            ..CommitOptions::default()
        };
        engine.commit("whole", options).await.unwrap();
        whole.let_end(&engine).await;

        let half = HeldEnd::of(&node, &engine, "half").await;
        half.remove_groups(|group| group.contains("freezer") || group.contains("unified"))
            .await;
        answers_as_for_an_ended_one(&engine, &half.id).await;
        half.let_end(&engine).await;

        let gone = HeldEnd::of(&node, &engine, "gone").await;
        gone.remove_groups(|_| true).await;
        answers_as_for_an_ended_one(&engine, &gone.id).await;
        let refused = engine.top(&gone.id, "").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        gone.let_end(&engine).await;

        let frozen = HeldEnd::of(&node, &engine, "frozen").await;
        engine.pause("frozen").await.unwrap();
        frozen.remove_groups(|_| true).await;
        let refused = engine.unpause("frozen").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        kill(frozen.monitor, Signal::SIGCONT).unwrap();
        until(
            "it is known to have ended, and nothing of its run is left",
            || {
                let mut all = engine.list().into_iter();
                all.all(|info| info.state == ContainerState::Exited)
                    && names(&node.path("run/containers")).is_empty()
            },
        )
        .await;
        node.close(engine).await;
    });
}
