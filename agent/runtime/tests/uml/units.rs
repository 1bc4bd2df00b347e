//! The units of `deploy/` under systemd. Runs inside user-mode Linux, whose process 1 is systemd there.

use std::path::Path;
use std::process::{Command, Output};

use crate::daemon::{self, Known, MEMORY_MAX};
use crate::support::{is_running, monitor_pid, process, until, within};
use muster_runtime::cgroup::{CgroupRoot, CgroupVersion};
use muster_runtime::{ExecRequest, Monitor};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
const UNIT_GROUP: &str = "/system.slice/muster.service";
const PARENT: &str = "/muster.slice/muster-containers.service/containers";

fn systemctl(arguments: &[&str]) -> Output {
    Command::new("systemctl").args(arguments).output().unwrap()
}

fn done(arguments: &[&str]) -> String {
    let output = systemctl(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "systemctl {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Installs the units as docs/daemon.md says, and this program in the place of `muster`.
fn install() {
    for unit in ["muster.service", "muster-containers.service", "muster.slice"] {
        let to = Path::new("/run/systemd/system").join(unit);
        std::fs::copy(Path::new(UNITS).join(unit), to).unwrap();
    }
    done(&["daemon-reload"]);
    let none = None::<&str>;
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(none, "/usr/local/bin", Some("tmpfs"), flags, none).unwrap();
    let own = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nMUSTER_ARGUMENTS=\"$*\" exec {} daemon::stands_in_for_muster --exact --ignored --nocapture\n",
        own.display()
    );
    std::fs::write("/usr/local/bin/muster", script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions("/usr/local/bin/muster", mode).unwrap();
}

/// The daemon's process, once it is ready.
async fn ready() -> i32 {
    let main = || done(&["show", "--property=MainPID", "--value", "muster"]);
    until("a daemon that is ready", || daemon::ready_file(&main()).exists()).await;
    main().parse().unwrap()
}

/// The groups of a process in every hierarchy that has one of its own.
fn groups(pid: i32, version: CgroupVersion) -> Vec<String> {
    let content = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let fields = content
        .lines()
        .map(|line| line.splitn(3, ':').collect::<Vec<_>>());
    fields
        .filter(|fields| version == CgroupVersion::V2 || !fields[1].is_empty())
        .map(|fields| fields[2].to_owned())
        .collect()
}

/// The daemon is alone in its unit's group; containers and monitors run outside of it, under their limits.
async fn check(daemon: Option<i32>, containers: &[Known]) {
    let version = CgroupRoot::detect().unwrap().version();
    let (units, limits, limit_file) = match version {
        CgroupVersion::V1 => (
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
        ),
        CgroupVersion::V2 => ("/sys/fs/cgroup", "/sys/fs/cgroup", "memory.max"),
    };
    let in_unit = std::fs::read_to_string(format!("{units}{UNIT_GROUP}/cgroup.procs")).unwrap_or_default();
    let in_unit: Vec<i32> = in_unit.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(in_unit, Vec::from_iter(daemon));
    for (number, Known { pid, state_dir }) in containers.iter().enumerate() {
        assert!(is_running(*pid), "container {number} has ended");
        let group = format!("{PARENT}/c{number}");
        let all = groups(*pid, version);
        assert!(all.iter().all(|own| *own == group) && !all.is_empty(), "{all:?}");
        let limit = std::fs::read_to_string(format!("{limits}{group}/{limit_file}")).unwrap();
        assert_eq!(limit.trim(), MEMORY_MAX.to_string());
        let monitor = within(Monitor::connect(state_dir)).await.unwrap();
        let all = groups(monitor_pid(&monitor), version);
        let monitors = format!("{PARENT}/monitors");
        assert!(
            all.iter().all(|own| *own == monitors) && !all.is_empty(),
            "{all:?}"
        );
        let request = ExecRequest {
            process: process(&["true"]),
            terminal: false,
            console_size: None,
            stdin_open: false,
            output: false,
        };
        let session = within(monitor.exec(request)).await.unwrap();
        assert_eq!(within(session.wait()).await.unwrap(), 0);
    }
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn containers_outlive_the_unit_of_their_daemon() {
    install();
    done(&["start", "muster"]);
    let first = ready().await;
    check(Some(first), &daemon::known()).await;

    done(&["restart", "muster"]);
    let second = ready().await;
    assert_ne!(first, second);
    let containers = daemon::known();
    assert_eq!(containers.len(), 2);
    check(Some(second), &containers).await;

    // A crash: systemd starts it again. This kills every process that is left in the unit.
    done(&["kill", "--signal=KILL", "muster"]);
    until("the daemon's end", || !is_running(second)).await;
    let third = ready().await;
    check(Some(third), &daemon::known()).await;

    done(&["stop", "muster"]);
    let containers = daemon::known();
    assert_eq!(containers.len(), 3);
    check(None, &containers).await;
    // systemd writes all settings of its own groups again.
    done(&["daemon-reload"]);
    check(None, &containers).await;
    assert!(!systemctl(&["stop", "muster-containers"]).status.success());

    done(&["start", "muster"]);
    let fourth = ready().await;
    check(Some(fourth), &daemon::known()).await;
}
