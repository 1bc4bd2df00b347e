//! What needs no controller in control groups v2, on the v2 tree that this machine mounts beside v1.

use std::os::fd::AsFd;
use std::path::PathBuf;

use muster_runtime::cgroup::{Cgroup, CgroupError, CgroupRoot, CgroupVersion};
use muster_runtime::seccomp::{DockerProfile, HostSupport, KernelVersion, Machine, compile};
use oci_spec::runtime::{LinuxDeviceType, LinuxMemoryBuilder, LinuxResourcesBuilder};

use crate::group::{
    DEADLINE, Place, Process, check_device_access, container_devices, device_rule, eventually, no_limits,
    run_inside,
};

fn place(name: &str) -> Place {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let directory = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(directory))
    });
    let mount = mount.expect("these tests need a cgroup2 mount");
    let root = CgroupRoot::unified_at(&mount).unwrap();
    assert_eq!(root.version(), CgroupVersion::V2);
    Place::new(root, name, &[mount])
}

#[test]
fn device_program_restricts_and_is_replaced() {
    let place = place("bpf");
    let resources = LinuxResourcesBuilder::default()
        .devices(container_devices())
        .build()
        .unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    let directory = tempfile::tempdir().unwrap();
    check_device_access(&group, directory.path());

    let node = directory.path().join("allowed");
    let make_node = || {
        run_inside(&group, &format!("mknod {} b 8 0", node.display()))
            .status
            .success()
    };
    let mut more = container_devices();
    more.push(device_rule(true, LinuxDeviceType::B, Some((8, 0)), "m"));
    for (rules, allowed) in [(more.clone(), true), (container_devices(), false), (more, true)] {
        group
            .update(&LinuxResourcesBuilder::default().devices(rules).build().unwrap())
            .unwrap();
        assert_eq!(make_node(), allowed, "the newest rules count alone");
        let _ = std::fs::remove_file(&node);
    }
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn taking_back_a_part_of_a_rule_works_with_a_program() {
    let place = place("part");
    let mut rules = container_devices();
    rules.push(device_rule(true, LinuxDeviceType::C, Some((1, -1)), "rwm"));
    rules.push(device_rule(false, LinuxDeviceType::C, Some((1, 5)), "r"));
    let resources = LinuxResourcesBuilder::default().devices(rules).build().unwrap();
    let group = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap();
    let reads = |device: &str| {
        run_inside(&group, &format!("head -c1 {device} > /dev/null 2>&1"))
            .status
            .success()
    };
    assert!(reads("/dev/urandom") && !reads("/dev/zero"));
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn frozen_group_is_killed_and_removed_with_those_below() {
    let place = place("freeze");
    let group = Cgroup::create(&place.root, &place.path("a/b"), &no_limits()).unwrap();
    let nested = Cgroup::create(&place.root, &place.path("a/b/c"), &no_limits()).unwrap();
    let mut inner = Process::sleeping();
    nested.add_process(inner.id()).unwrap();
    assert_eq!(group.pids().unwrap(), [inner.id()]);

    group.freeze().unwrap();
    assert!(group.is_frozen().unwrap() && nested.is_frozen().unwrap());
    group.thaw().unwrap();
    eventually("thawing", || !group.is_frozen().unwrap());
    group.freeze().unwrap();
    group.kill_all().unwrap();
    assert!(!inner.0.wait().unwrap().success());
    group.destroy(DEADLINE).unwrap();
    assert!(!place.exists("a/b"));
}

#[test]
fn further_processes_follow_the_first_into_its_own_group() {
    let place = place("exec");
    let group = Cgroup::create(&place.root, &place.path("one"), &no_limits()).unwrap();
    assert!(group.task_fds().unwrap().is_empty());
    let identity = |fd: std::os::fd::BorrowedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    let joined = |init: &Process| identity(group.exec_dir_fd(init.id()).unwrap().unwrap().as_fd());
    let process = Process::sleeping();
    group.add_process(process.id()).unwrap();
    assert_eq!(joined(&process), identity(group.dir_fd().unwrap()));
    drop(process);

    // The container hands controllers to a group of its own, as systemd inside would.
    eventually("an empty group", || group.pids().unwrap().is_empty());
    let own = Cgroup::create(&place.root, &place.path("one/init.scope"), &no_limits()).unwrap();
    let process = Process::sleeping();
    own.add_process(process.id()).unwrap();
    assert_eq!(joined(&process), identity(own.dir_fd().unwrap()));
    group.kill_all().unwrap();
    group.destroy(DEADLINE).unwrap();
}

#[test]
fn a_limit_without_its_controller_is_refused() {
    let place = place("missing");
    let memory = LinuxMemoryBuilder::default().limit(1i64 << 30).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    let message = Cgroup::create(&place.root, &place.path("one"), &resources)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("memory limit needs the memory controller"),
        "{message}"
    );
    assert!(!place.exists("one"));
}

#[test]
fn without_device_programs_nothing_is_started() {
    let place = place("refused");
    let resources = LinuxResourcesBuilder::default()
        .devices(container_devices())
        .build()
        .unwrap();
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"name": "bpf", "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
    let kernel = KernelVersion::current().unwrap();
    let profile = DockerProfile::parse(json)
        .unwrap()
        .resolve(&[], Machine::current(), kernel);
    let no_bpf = compile(&profile, &HostSupport::detect().unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As on a kernel without CONFIG_CGROUP_BPF: the filter is for this thread alone.
            no_bpf.install().unwrap();
            let error = Cgroup::create(&place.root, &place.path("one"), &resources).unwrap_err();
            assert!(
                matches!(error, CgroupError::DevicesUnrestricted { .. }),
                "{error:?}"
            );
            assert_eq!(error.errno(), Some(libc::ENOSYS));
            assert!(
                error.to_string().contains("not started without its device rules"),
                "{error}"
            );
            assert!(!place.exists("one"), "a refused group was left behind");
            // A container that may use every device needs no program.
            let all = [device_rule(true, LinuxDeviceType::A, None, "rwm")].to_vec();
            let resources = LinuxResourcesBuilder::default().devices(all).build().unwrap();
            Cgroup::create(&place.root, &place.path("one"), &resources)
                .unwrap()
                .destroy(DEADLINE)
                .unwrap();
        });
    });
}
