//! What this machine's kernel may not have, in a kernel of its own: user-mode Linux, started by `run`.
//!
//! The tests in the other modules are ignored on the machine itself and run inside, by the ones here.

mod apparmor;
mod daemon;
mod execs;
#[path = "../cgroup/group.rs"]
mod group;
mod groups;
mod namespaces;
#[path = "../oci/support.rs"]
mod oci_support;
mod runtime;
mod scopes;
mod selinux;
#[path = "../containers/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of containers on the running kernel"
)]
mod support;
mod units;

use std::process::Command;

/// Runs the tests of these modules in a guest with these settings of `run`, and demands that all of them pass.
fn run_in_guest(modules: &[&str], settings: &[(&str, &str)]) {
    let own = std::env::current_exe().unwrap();
    let listed = Command::new(&own)
        .args(modules)
        .args(["--ignored", "--list", "--format=terse"])
        .output()
        .unwrap();
    let count = String::from_utf8_lossy(&listed.stdout).lines().count();
    assert_ne!(count, 0, "there are no tests in {modules:?}");
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/uml/run"))
        .envs(settings.iter().copied())
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
    run_in_guest(
        &[
            "groups::",
            "execs::",
            "namespaces::",
            "runtime::limits",
            "runtime::disk",
        ],
        &[],
    );
}

#[test]
fn apparmor_profiles_are_enforced_in_user_mode_linux() {
    run_in_guest(
        &["apparmor::", "runtime::profiles"],
        &[("UML_KERNEL_ARGUMENTS", "lsm=capability,apparmor")],
    );
}

#[test]
fn selinux_labels_are_enforced_in_user_mode_linux() {
    run_in_guest(
        &["selinux::"],
        &[("UML_KERNEL_ARGUMENTS", "lsm=capability,selinux")],
    );
}

#[test]
fn systemd_units_keep_containers_with_control_groups_v2() {
    run_in_guest(
        &["units::", "scopes::"],
        &[("UML_SYSTEMD", "systemd.unified_cgroup_hierarchy=1")],
    );
}

#[test]
fn systemd_units_keep_containers_with_control_groups_v1() {
    let legacy = "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1";
    run_in_guest(&["units::", "scopes::"], &[("UML_SYSTEMD", legacy)]);
}
