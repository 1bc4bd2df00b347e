//! Control groups v1 on this machine's own hierarchies.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use muster_runtime::cgroup::{Cgroup, CgroupError, CgroupRoot, CgroupVersion};
use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use crate::group::{
    DEADLINE, Place, Process, check_device_access, container_devices, device_rule, eventually, no_limits,
    run_inside,
};

const FS: &str = "/sys/fs/cgroup";

fn place(name: &str) -> Place {
    let root = CgroupRoot::detect().unwrap();
    assert_eq!(
        root.version(),
        CgroupVersion::V1,
        "these tests need a machine with v1 controllers"
    );
    let mounts: Vec<PathBuf> = std::fs::read_dir(FS)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    Place::new(root, name, &mounts)
}

fn limits() -> LinuxResources {
    let cpu = LinuxCpuBuilder::default()
        .shares(512u64)
        .quota(20_000i64)
        .period(50_000u64)
        .cpus("0")
        .mems("0");
    let memory = LinuxMemoryBuilder::default()
        .limit(64 << 20)
        .swap(96 << 20)
        .reservation(32 << 20)
        .swappiness(10u64);
    LinuxResourcesBuilder::default()
        .cpu(cpu.build().unwrap())
        .memory(memory.build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(17i64).build().unwrap())
        .build()
        .unwrap()
}

#[test]
fn limits_reach_the_kernel() {
    let place = place("limits");
    let group = Cgroup::create(&place.root, &place.path("one"), &limits()).unwrap();
    let read = |controller: &str, file: &str| place.file(&format!("{FS}/{controller}"), "one", file);
    assert_eq!(read("cpu", "cpu.shares"), "512");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(read("cpu", "cpu.cfs_period_us"), "50000");
    assert_eq!(read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(read("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(
        read("memory", "memory.memsw.limit_in_bytes"),
        (96 << 20).to_string()
    );
    assert_eq!(
        read("memory", "memory.soft_limit_in_bytes"),
        (32 << 20).to_string()
    );
    assert_eq!(read("memory", "memory.swappiness"), "10");
    assert_eq!(read("pids", "pids.max"), "17");

    // Lower and higher than before: the order in which the kernel takes memory and swap differs.
    for (memory, swap) in [
        (16 << 20, 20 << 20),
        (128 << 20, 256 << 20),
        (128 << 20, -1),
        (-1, -1),
    ] {
        let limits = LinuxMemoryBuilder::default()
            .limit(memory)
            .swap(swap)
            .build()
            .unwrap();
        group
            .update(&LinuxResourcesBuilder::default().memory(limits).build().unwrap())
            .unwrap();
        let got = group.stats().unwrap().memory.limit_bytes;
        assert_eq!(got, u64::try_from(memory).ok());
    }
    assert_eq!(read("pids", "pids.max"), "17", "a limit that is not given stays");
    group.destroy(DEADLINE).unwrap();
    assert!(!place.exists("one"));
}

#[test]
fn a_group_without_limits_can_be_joined_and_nested_parents_are_made() {
    let place = place("plain");
    let group = Cgroup::create(&place.root, &place.path("deep/er/one"), &no_limits()).unwrap();
    let process = Process::sleeping();
    group.add_process(process.id()).unwrap();
    assert_eq!(group.pids().unwrap(), [process.id()]);
    let reopened = Cgroup::open(&place.root, &place.path("deep/er/one")).unwrap();
    assert_eq!(reopened.pids().unwrap(), [process.id()]);
    reopened.kill_all().unwrap();
    group.destroy(DEADLINE).unwrap();
    assert!(!place.exists("deep/er/one"));
    let gone = Cgroup::open(&place.root, &place.path("deep/er/one")).unwrap_err();
    assert_eq!(gone.errno(), Some(libc::ENOENT));
}

#[test]
fn parents_that_another_process_has_just_made_can_be_joined_below() {
    let place = place("half-made");
    let mount = format!("{FS}/cpuset");
    for parents in ["", "outer"] {
        let group = place.directory(&mount).join(parents);
        std::fs::create_dir(&group).unwrap();
        std::fs::write(group.join("cgroup.clone_children"), "1").unwrap();
    }
    let group = Cgroup::create(&place.root, &place.path("outer/one"), &no_limits()).unwrap();
    let process = Process::sleeping();
    group.add_process(process.id()).unwrap();
    group.kill_all().unwrap();
    group.destroy(DEADLINE).unwrap();
    assert_eq!(place.file(&mount, "outer", "cpuset.mems"), "0");
}

#[test]
fn a_process_joins_by_writing_zero_to_the_task_files() {
    use std::os::unix::process::CommandExt;
    let place = place("tasks");
    let group = Cgroup::create(&place.root, &place.path("one"), &no_limits()).unwrap();
    let files = group.task_fds().unwrap();
    assert!(group.dir_fd().is_none());
    let mut command = Command::new("cat");
    command.arg("/proc/self/cgroup");
    let join = move || {
        files.iter().try_for_each(|file| {
            rustix::io::write(file.as_fd(), b"0")
                .map(|_| ())
                .map_err(Into::into)
        })
    };
    // SAFETY: the closure only writes to descriptors, which is allowed between fork and exec.
    unsafe { command.pre_exec(join) };
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let joined = text
        .lines()
        .filter(|line| line.ends_with(&format!("/{}", place.path("one"))))
        .count();
    assert_eq!(
        joined,
        text.lines().filter(|line| !line.starts_with("0::")).count(),
        "{text}"
    );
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn devices_are_restricted() {
    let place = place("devices");
    let resources = LinuxResourcesBuilder::default()
        .devices(container_devices())
        .build()
        .unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    let directory = tempfile::tempdir().unwrap();
    check_device_access(&group, directory.path());

    let mut more = container_devices();
    more.push(device_rule(true, LinuxDeviceType::B, Some((8, 0)), "m"));
    group
        .update(&LinuxResourcesBuilder::default().devices(more).build().unwrap())
        .unwrap();
    let made = directory.path().join("allowed");
    let output = run_inside(&group, &format!("mknod {} b 8 0", made.display()));
    assert!(output.status.success(), "the added rule allows the node");
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    let place = place("freeze");
    let group = Cgroup::create(&place.root, &place.path("one"), &no_limits()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("read go; while :; do echo x >> {}; done", file.path().display());
    let mut process = Process(
        Command::new("sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    group.add_process(process.id()).unwrap();
    process.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let length = || file.path().metadata().unwrap().len();
    eventually("writing", || length() > 0);

    group.freeze().unwrap();
    group.freeze().unwrap();
    assert!(group.is_frozen().unwrap());
    let still = length();
    // Time for a running process to write a thousand times; other processes get the CPU meanwhile.
    for _ in 0..1000 {
        std::thread::yield_now();
    }
    assert_eq!(length(), still);
    group.thaw().unwrap();
    eventually("writing again", || length() > still);

    group.freeze().unwrap();
    group.kill_all().unwrap();
    assert!(!process.0.wait().unwrap().success());
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn a_fork_storm_is_killed_with_everything_below() {
    let place = place("storm");
    let pids = LinuxPidsBuilder::default().limit(200i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    // A container that manages groups of its own.
    let nested = Cgroup::create(&place.root, &place.path("one/inner/most"), &no_limits()).unwrap();
    let inner = Process::sleeping();
    nested.add_process(inner.id()).unwrap();
    let mut process = Process(
        Command::new("sh")
            .args([
                "-c",
                "read go; while :; do sh -c 'sleep 0.001 & sleep 0.001' & done",
            ])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    group.add_process(process.id()).unwrap();
    process.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    eventually("forking", || group.pids().unwrap().len() > 20);
    group.kill_all().unwrap();
    eventually("the end of all", || group.pids().unwrap().is_empty());
    group.destroy(DEADLINE).unwrap();
    assert!(!place.exists("one"));
}

#[test]
fn oom_kills_are_counted() {
    let place = place("oom");
    let memory = LinuxMemoryBuilder::default()
        .limit(16 << 20)
        .swap(16 << 20)
        .build()
        .unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    assert_eq!(group.oom_kills().unwrap(), 0);
    let output = run_inside(&group, "exec python3 -c 'b = b\"x\" * (64 << 20)'");
    assert!(!output.status.success());
    assert_eq!(group.oom_kills().unwrap(), 1);
    let stats = group.stats().unwrap();
    assert!(stats.memory.usage_bytes_max > 8 << 20, "{stats:?}");
    assert!(
        stats.cpu.usage_ns > 0 && !stats.memory.detail.is_empty(),
        "{stats:?}"
    );
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn refused_limits_leave_nothing_behind() {
    let place = place("refused");
    let path = place.path("one");
    let create = |resources: LinuxResources| {
        Cgroup::create(&place.root, &path, &resources)
            .unwrap_err()
            .to_string()
    };

    let cpu = LinuxCpuBuilder::default().cpus("4000").build().unwrap();
    let message = create(LinuxResourcesBuilder::default().cpu(cpu).build().unwrap());
    assert!(
        message.contains("cpuset.cpus") && message.contains("that this node has"),
        "{message}"
    );

    let cpu = LinuxCpuBuilder::default()
        .realtime_runtime(1000i64)
        .build()
        .unwrap();
    let message = create(LinuxResourcesBuilder::default().cpu(cpu).build().unwrap());
    assert!(message.contains("too little real-time budget"), "{message}");

    let block = LinuxBlockIoBuilder::default().weight(5u16).build().unwrap();
    let message = create(LinuxResourcesBuilder::default().block_io(block).build().unwrap());
    assert!(message.contains("between 10 and 1000"), "{message}");

    let page = LinuxHugepageLimitBuilder::default()
        .page_size("2MB")
        .limit(4i64 << 20)
        .build()
        .unwrap();
    let message = create(
        LinuxResourcesBuilder::default()
            .hugepage_limits(vec![page])
            .build()
            .unwrap(),
    );
    assert!(message.contains("needs the hugetlb controller"), "{message}");

    assert!(!place.exists("one"), "a refused group was left behind");
}

#[test]
fn a_leftover_group_is_replaced_unless_it_is_in_use() {
    let place = place("leftover");
    let path = place.path("one");
    let old = Cgroup::create(&place.root, &path, &limits()).unwrap();
    let new = Cgroup::create(&place.root, &path, &no_limits()).unwrap();
    assert_eq!(
        place.file(&format!("{FS}/pids"), "one", "pids.max"),
        "max",
        "the old limit is gone"
    );
    drop(old);
    let process = Process::sleeping();
    new.add_process(process.id()).unwrap();
    match Cgroup::create(&place.root, &path, &no_limits()) {
        Err(CgroupError::InUse { processes: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        new.pids().unwrap(),
        [process.id()],
        "the refused creation left the running group alone"
    );
    let busy = Cgroup::open(&place.root, &path)
        .unwrap()
        .destroy(std::time::Duration::ZERO)
        .unwrap_err();
    assert!(matches!(busy, CgroupError::TimedOut { .. }), "{busy}");
    drop(process);
    new.destroy(DEADLINE).unwrap();
}

#[test]
fn features_name_what_this_machine_has() {
    let features = CgroupRoot::detect().unwrap().features();
    assert!(
        features.memory && features.cpu_quota && features.pids && features.cpuset,
        "{features:?}"
    );
}
