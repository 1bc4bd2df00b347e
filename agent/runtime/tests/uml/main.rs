//! Control groups v2 with all their controllers, in a kernel of their own: user-mode Linux, started by `run`.
//!
//! The tests in `guest` are ignored on the machine itself and run inside by the one test that is not.

#[path = "../cgroup/group.rs"]
mod group;
mod guest;

use std::process::Command;

#[test]
fn control_groups_v2_work_in_user_mode_linux() {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/uml/run");
    let own = std::env::current_exe().unwrap();
    let output = Command::new(run)
        .arg(own)
        .args(["guest::", "--ignored", "--test-threads=1", "--color=never"])
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    let all_passed = console.contains(&format!("test result: ok. {} passed", guest::COUNT));
    assert!(
        output.status.success() && all_passed,
        "{}\n{console}",
        output.status
    );
}
