//! Runs inside user-mode Linux, as root, with /tmp of its own and control groups v2 alone.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use muster_runtime::cgroup::{Cgroup, CgroupError, CgroupRoot, CgroupVersion};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use crate::group::{
    DEADLINE, Place, Process, check_device_access, container_devices, eventually, no_limits, run_inside,
};

const FS: &str = "/sys/fs/cgroup";

fn place(name: &str) -> Place {
    let root = CgroupRoot::detect().unwrap();
    assert_eq!(root.version(), CgroupVersion::V2);
    Place::new(root, name, &[PathBuf::from(FS)])
}

fn with_memory(limit: i64, swap: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default()
        .limit(limit)
        .swap(swap)
        .build()
        .unwrap();
    LinuxResourcesBuilder::default().memory(memory).build().unwrap()
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn unified_hierarchy_is_detected() {
    let root = CgroupRoot::detect().unwrap();
    assert_eq!(root.version(), CgroupVersion::V2);
    assert!(!root.is_delegated());
    let features = root.features();
    assert!(
        features.memory && features.cpu_quota && features.pids && !features.cpuset,
        "{features:?}"
    );
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn limits_reach_the_kernel() {
    let place = place("limits");
    let cpu = LinuxCpuBuilder::default()
        .shares(1024u64)
        .quota(20_000i64)
        .period(50_000u64)
        .build()
        .unwrap();
    let memory = LinuxMemoryBuilder::default()
        .limit(64 << 20)
        .swap(96 << 20)
        .reservation(32 << 20)
        .build()
        .unwrap();
    let resources = LinuxResourcesBuilder::default()
        .cpu(cpu)
        .memory(memory)
        .pids(LinuxPidsBuilder::default().limit(17i64).build().unwrap())
        .unified(std::collections::HashMap::from([(
            "memory.high".to_owned(),
            "50331648".to_owned(),
        )]))
        .build()
        .unwrap();
    let group = Cgroup::create(&place.root, &place.path("deep/one"), &resources).unwrap();
    let read = |file: &str| place.file(FS, "deep/one", file);
    assert_eq!(read("cpu.weight"), "100");
    assert_eq!(read("cpu.max"), "20000 50000");
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.low"), (32 << 20).to_string());
    assert_eq!(read("memory.high"), (48 << 20).to_string());
    assert_eq!(read("memory.swap.max"), (32 << 20).to_string());
    assert_eq!(read("pids.max"), "17");
    for (memory, swap) in [
        (16 << 20, 20 << 20),
        (128 << 20, 256 << 20),
        (128 << 20, -1),
        (-1, -1),
    ] {
        group.update(&with_memory(memory, swap)).unwrap();
        assert_eq!(
            group.stats().unwrap().memory.limit_bytes,
            u64::try_from(memory).ok()
        );
    }
    assert_eq!(read("pids.max"), "17", "a limit that is not given stays");
    group.destroy(DEADLINE).unwrap();
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn what_v2_cannot_limit_is_refused() {
    let place = place("refused");
    let message = |resources: LinuxResources| {
        Cgroup::create(&place.root, &place.path("one"), &resources)
            .unwrap_err()
            .to_string()
    };
    let cpu = LinuxCpuBuilder::default().cpus("0").build().unwrap();
    let text = message(LinuxResourcesBuilder::default().cpu(cpu).build().unwrap());
    assert!(text.contains("CPU set needs the cpuset controller"), "{text}");
    let cpu = LinuxCpuBuilder::default()
        .realtime_runtime(1000i64)
        .build()
        .unwrap();
    let text = message(LinuxResourcesBuilder::default().cpu(cpu).build().unwrap());
    assert!(text.contains("real-time"), "{text}");
    let memory = LinuxMemoryBuilder::default()
        .disable_oom_killer(true)
        .build()
        .unwrap();
    let text = message(LinuxResourcesBuilder::default().memory(memory).build().unwrap());
    assert!(text.contains("OOM killer"), "{text}");
    assert!(!place.exists("one"));
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn devices_are_restricted() {
    let place = place("devices");
    let resources = LinuxResourcesBuilder::default()
        .devices(container_devices())
        .build()
        .unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    let directory = tempfile::tempdir().unwrap();
    check_device_access(&group, directory.path());
    group.destroy(DEADLINE).unwrap();
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn oom_kills_and_usage_are_counted() {
    let place = place("oom");
    let group = Cgroup::create(&place.root, &place.path("one"), &with_memory(16 << 20, 16 << 20)).unwrap();
    assert_eq!(group.oom_kills().unwrap(), 0);
    let output = run_inside(&group, "exec python3 -c 'b = b\"x\" * (64 << 20)'");
    assert!(!output.status.success());
    assert_eq!(group.oom_kills().unwrap(), 1);
    let stats = group.stats().unwrap();
    assert!(
        stats.memory.limit_hits > 0 && stats.cpu.usage_ns > 0 && !stats.memory.detail.is_empty(),
        "{stats:?}"
    );
    group.destroy(DEADLINE).unwrap();
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn memory_limit_below_usage_is_refused_when_asked() {
    let place = place("check");
    let group = Cgroup::create(&place.root, &place.path("one"), &no_limits()).unwrap();
    let process = Process::sleeping();
    group.add_process(process.id()).unwrap();
    let output = run_inside(&group, "head -c 8388608 /dev/zero > /tmp/kept");
    assert!(output.status.success());
    let memory = LinuxMemoryBuilder::default()
        .limit(1 << 20)
        .check_before_update(true)
        .build()
        .unwrap();
    let lower = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    let text = group.update(&lower).unwrap_err().to_string();
    assert!(text.contains("bytes are in use"), "{text}");
    std::fs::remove_file("/tmp/kept").unwrap();
    group.kill_all().unwrap();
    group.destroy(DEADLINE).unwrap();
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn process_limit_holds_and_frozen_group_is_killed() {
    let place = place("freeze");
    let pids = LinuxPidsBuilder::default().limit(3i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    // The shell itself is the first of the three; it gives up when it cannot fork.
    let output = run_inside(
        &group,
        "for i in 1 2 3 4 5; do sleep 1000 > /dev/null 2>&1 & done",
    );
    assert!(!output.status.success(), "the process limit did not hold");
    assert_eq!(group.pids().unwrap().len(), 2);
    let mut process = Process::sleeping();
    group.kill_all().unwrap();
    // Ended processes count until their parent has waited for them.
    eventually("the end of all", || group.stats().unwrap().pids.current == 0);
    group.add_process(process.id()).unwrap();
    assert_eq!(group.stats().unwrap().pids.current, 1);
    group.freeze().unwrap();
    assert!(group.is_frozen().unwrap());
    group.kill_all().unwrap();
    assert!(!process.0.wait().unwrap().success());
    group.destroy(DEADLINE).unwrap();
}

/// The arguments of clone3 up to the control group, as in linux/sched.h.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn a_child_is_cloned_into_the_group() {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let place = place("clone");
    let group = Cgroup::create(&place.root, &place.path("one"), &no_limits()).unwrap();
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: group.dir_fd().unwrap().as_raw_fd().try_into().unwrap(),
        ..CloneArguments::default()
    };
    let size = std::mem::size_of::<CloneArguments>();
    // SAFETY: the arguments are whole and ask for a plain copy of this process, whose child only waits to be killed.
    let child = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size) };
    if child == 0 {
        loop {
            // SAFETY: pause only waits for a signal.
            unsafe { libc::pause() };
        }
    }
    let child = i32::try_from(child).unwrap();
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    assert_eq!(group.pids().unwrap(), [child]);
    group.kill_all().unwrap();
    // SAFETY: the child is ours and its status is not wanted.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    group.destroy(Duration::from_secs(5)).unwrap();
}

/// Moves this process back to the root when a test ends, so that the group it was in can be removed.
struct BackToRoot;

impl Drop for BackToRoot {
    fn drop(&mut self) {
        std::fs::write(format!("{FS}/cgroup.procs"), "0").unwrap();
    }
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn a_delegated_group_is_used_and_vacated() {
    // As systemd does it for a service with Delegate=yes.
    let service = PathBuf::from(FS).join("muster-test.service");
    std::fs::create_dir(&service).unwrap();
    rustix::fs::setxattr(
        &service,
        "trusted.delegate",
        b"1",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    std::fs::write(format!("{FS}/cgroup.subtree_control"), "+memory +pids").unwrap();
    let back = BackToRoot;
    std::fs::write(service.join("cgroup.procs"), "0").unwrap();

    let root = CgroupRoot::detect().unwrap();
    assert!(root.is_delegated());
    // With this process in the delegated group nothing can be handed over yet.
    let early = Cgroup::create(&root, &root.path_of("one"), &with_memory(32 << 20, 32 << 20)).unwrap_err();
    assert!(matches!(early, CgroupError::HoldsProcesses { .. }), "{early}");

    root.prepare().unwrap();
    root.prepare().unwrap();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_eq!(own.trim(), "0::/muster-test.service/daemon");
    let group = Cgroup::create(&root, &root.path_of("one"), &with_memory(32 << 20, 32 << 20)).unwrap();
    let limit = std::fs::read_to_string(service.join("muster/one/memory.max")).unwrap();
    assert_eq!(limit.trim(), (32 << 20).to_string());

    // A restarted daemon, started in the leaf, finds the same place.
    assert_eq!(CgroupRoot::detect().unwrap(), root);
    Cgroup::open(&root, &root.path_of("one")).unwrap();
    group.destroy(DEADLINE).unwrap();
    drop(back);
    for directory in ["muster", "daemon", ""] {
        std::fs::remove_dir(service.join(directory)).unwrap();
    }
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn a_threaded_parent_is_refused() {
    let place = place("threaded");
    let parent = PathBuf::from(FS).join(place.path("parent"));
    std::fs::create_dir_all(&parent).unwrap();
    std::fs::write(parent.join("cgroup.type"), "threaded").unwrap();
    let error = Cgroup::create(&place.root, &place.path("parent/one"), &no_limits()).unwrap_err();
    assert!(error.to_string().contains("threaded"), "{error}");
    assert!(!place.exists("parent/one"));
}
