//! What stands in for `muster daemon` under systemd: Debian's user-mode Linux has no nf_tables for IPv4, without which
//! the daemon does not open its network. It makes its control groups and its launcher as the daemon does.

use std::path::{Path, PathBuf};

use crate::support::{Node, within};
use muster_runtime::Monitor;
use muster_runtime::cgroup::CgroupRoot;
use serde_json::json;

/// Where it says what it did.
pub const DIRECTORY: &str = "/run/muster-test";

/// The memory limit of its containers.
pub const MEMORY_MAX: u64 = 64 << 20;

/// A container that it started.
pub struct Known {
    pub pid: i32,
    pub state_dir: PathBuf,
}

/// The containers that it has started so far, in order.
pub fn known() -> Vec<Known> {
    let content = std::fs::read_to_string(format!("{DIRECTORY}/containers")).unwrap_or_default();
    let lines = content.lines().map(|line| {
        let (pid, state_dir) = line.split_once(' ').unwrap();
        Known {
            pid: pid.parse().unwrap(),
            state_dir: state_dir.into(),
        }
    });
    lines.collect()
}

/// The file that a daemon makes when it is ready.
pub fn ready_file(pid: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("ready-{pid}"))
}

/// Finds the containers of its predecessors, starts one more, and runs until it is killed.
#[tokio::test]
#[ignore = "runs in user-mode Linux, started by the unit"]
async fn stands_in_for_muster() {
    let arguments = std::env::var("MUSTER_ARGUMENTS").unwrap();
    let parent = arguments.strip_prefix("daemon --cgroup-parent ").unwrap();
    let node = Node::at(CgroupRoot::at_parent(parent).unwrap());
    let mut content = String::new();
    for Known { pid, state_dir } in known() {
        assert_eq!(within(Monitor::connect(&state_dir)).await.unwrap().pid(), pid);
        // Names count up in each node.
        node.container(&[]);
        content += &format!("{pid} {}\n", state_dir.display());
    }
    let mut container = node.shell("echo ready; while :; do sleep 1; done");
    container.config["linux"]["resources"] = json!({ "memory": { "limit": MEMORY_MAX } });
    let started = node.start(&container).await.unwrap();
    container.until_logged("ready").await;
    content += &format!("{} {}\n", started.pid, container.state_dir().display());
    std::fs::create_dir_all(DIRECTORY).unwrap();
    std::fs::write(format!("{DIRECTORY}/containers"), content).unwrap();
    std::fs::write(ready_file(&std::process::id().to_string()), "").unwrap();
    loop {
        std::thread::park();
    }
}
