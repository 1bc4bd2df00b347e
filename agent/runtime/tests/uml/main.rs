//! What this machine's kernel may not have, in a kernel of its own: user-mode Linux, started by `run`.
//!
//! The tests in the other modules are ignored on the machine itself and run inside, by the ones here.

mod apparmor;
mod execs;
#[path = "../cgroup/group.rs"]
mod group;
mod groups;
#[path = "../containers/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of containers on the running kernel"
)]
mod support;

use std::process::Command;

/// Runs the tests of these modules in a guest with nothing but control groups v2, and demands that all of them pass.
fn run_in_guest(modules: &[&str], kernel_arguments: &str) {
    let own = std::env::current_exe().unwrap();
    let listed = Command::new(&own)
        .args(modules)
        .args(["--ignored", "--list", "--format=terse"])
        .output()
        .unwrap();
    let count = String::from_utf8_lossy(&listed.stdout).lines().count();
    assert_ne!(count, 0, "there are no tests in {modules:?}");
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/uml/run"))
        .env("UML_KERNEL_ARGUMENTS", kernel_arguments)
        .arg(own)
        .args(modules)
        .args(["--ignored", "--test-threads=1", "--color=never"])
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    let all_passed = console.contains(&format!("test result: ok. {count} passed"));
    assert!(
        output.status.success() && all_passed,
        "{}\n{console}",
        output.status
    );
}

#[test]
fn control_groups_v2_work_in_user_mode_linux() {
    run_in_guest(&["groups::", "execs::"], "");
}

#[test]
fn apparmor_profiles_are_enforced_in_user_mode_linux() {
    run_in_guest(&["apparmor::"], "lsm=capability,apparmor");
}
