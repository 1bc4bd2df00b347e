//! What a specification holds, option by option.

use super::*;
use muster_runtime::label::selinux::Level;
use muster_types::block_io::DeviceRate;
use muster_types::container::NetworkMode;
use muster_types::container::{MountKind, MountSpec};
use muster_types::namespace::{IpcMode, NamespaceMode};
use oci_spec::runtime::{Capability, LinuxNamespaceType};
use std::collections::BTreeMap;
use std::path::Path;

fn host() -> HostFacts {
    HostFacts {
        abilities: HostAbilities {
            cpus: 2,
            cpu_list: CpuList::parse("0-1").unwrap(),
            memory_nodes: CpuList::parse("0").unwrap(),
            memory: true,
            swap: true,
            swappiness: true,
            oom_kill_disable: true,
            memory_reservation: true,
            pids: true,
            cpu_shares: true,
            cpu_quota: true,
            cpu_realtime: true,
            cpuset: true,
            block_weight: true,
            block_throttle: true,
        },
        capabilities: u64::MAX,
        machine: Machine::current(),
        kernel: KernelVersion { major: 6, minor: 1 },
        apparmor_profile: None,
        selinux: None,
        warnings: Vec::new(),
        limits: Vec::new(),
    }
}

#[test]
fn containers_get_the_hosts_apparmor_profile_unless_they_ask_for_another() {
    let read = |option: &str| {
        let options: Vec<_> = Some(option.to_owned())
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect();
        SecurityOptions::parse(&options).unwrap()
    };
    for (option, host, privileged, profile) in [
        ("", Some("muster-default"), false, Some("muster-default")),
        ("", Some("muster-default"), true, Some("unconfined")),
        (
            "apparmor=unconfined",
            Some("muster-default"),
            false,
            Some("unconfined"),
        ),
        ("apparmor=own", Some("muster-default"), false, Some("own")),
        ("", None, false, None),
    ] {
        let effective = read(option).apparmor_in_effect(host, privileged);
        assert_eq!(effective.as_deref(), profile, "{option:?} {host:?} {privileged}");
    }
}

fn try_build(config: &ContainerConfig, mounts: &[MountPoint], uid: u32) -> Result<Spec> {
    try_build_joined(config, mounts, uid, &JoinedNamespaces::default())
}

fn try_build_joined(
    config: &ContainerConfig,
    mounts: &[MountPoint],
    uid: u32,
    joined: &JoinedNamespaces,
) -> Result<Spec> {
    let labels = config.labels.get("selinux").map(|label| ContainerLabels {
        process: Some(format!("process-{label}")),
        mount: format!("mount-{label}"),
    });
    let user = ProcessUser {
        uid,
        gid: uid,
        groups: vec![10],
        home: "/root".to_owned(),
    };
    build(&SpecInput {
        given: &[],
        config,
        command: &["/bin/true".to_owned()],
        env: &merged_environment(&["A=1".to_owned()], &config.env),
        working_dir: "/srv",
        host_name: "box",
        user: &user,
        mounts,
        translations: &BTreeMap::new(),
        files: Path::new("/data/c1"),
        joined,
        labels: labels.as_ref(),
        host: &host(),
    })
}

#[test]
fn labels_go_to_the_process_and_to_the_mounts() {
    let labels = |spec: &Spec| {
        let process = spec.process().as_ref().unwrap().selinux_label().clone();
        (process, spec.linux().as_ref().unwrap().mount_label().clone())
    };
    assert_eq!(labels(&built(|_| {})), (None, None));
    let labelled = built(|config| {
        config.labels.insert("selinux".to_owned(), "a".to_owned());
    });
    assert_eq!(
        labels(&labelled),
        (Some("process-a".to_owned()), Some("mount-a".to_owned()))
    );
}

#[test]
fn label_options_need_a_policy_and_privileged_containers_have_no_label() {
    let directory = tempfile::tempdir().unwrap();
    let contexts = directory.path().join("targeted/contexts");
    std::fs::create_dir_all(&contexts).unwrap();
    std::fs::write(directory.path().join("config"), "SELINUXTYPE=targeted\n").unwrap();
    let text = "process = \"u:r:container_t:s0\"\nfile = \"u:o:container_file_t:s0\"\n";
    std::fs::write(contexts.join("lxc_contexts"), text).unwrap();
    let policy = ContainerContexts::read(directory.path());
    let process = |policy: Option<&ContainerContexts>, option: &str, privileged: bool| {
        let mut host = ContainerConfig::default().host;
        host.security_opt = Some(option.to_owned())
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect();
        host.privileged = privileged;
        selinux_labels(policy, Level::of("c1"), &host).map(|labels| labels.map(|labels| labels.process))
    };
    assert_eq!(process(None, "label=disable", false).unwrap(), None);
    let refused = process(None, "label=type:t", false).unwrap_err().to_string();
    assert!(refused.contains("no SELinux policy"), "{refused}");
    let chosen = process(policy.as_ref(), "label:type:t", false).unwrap();
    assert!(chosen.unwrap().unwrap().starts_with("u:r:t:s0:c"));
    assert_eq!(process(policy.as_ref(), "", true).unwrap(), Some(None));
    assert!(process(policy.as_ref(), "label=other:t", false).is_err());
}

fn built(change: impl FnOnce(&mut ContainerConfig)) -> Spec {
    let mut config = ContainerConfig::default();
    change(&mut config);
    try_build(&config, &[], 0).unwrap()
}

fn refused(change: impl FnOnce(&mut ContainerConfig)) -> String {
    let mut config = ContainerConfig::default();
    change(&mut config);
    try_build(&config, &[], 0).unwrap_err().to_string()
}

fn kinds(spec: &Spec) -> Vec<LinuxNamespaceType> {
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    namespaces.iter().map(|namespace| namespace.typ()).collect()
}

fn options_of(spec: &Spec, target: &str) -> Vec<String> {
    let mounts = spec.mounts().clone().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new(target));
    mount.unwrap().options().clone().unwrap()
}

#[test]
fn defaults_confine_as_docker_does() {
    let spec = built(|_| {});
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    assert!(
        linux
            .masked_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/kcore".to_owned())
    );
    assert!(
        linux
            .readonly_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/sys".to_owned())
    );
    assert_eq!(kinds(&spec).len(), 6);
    let process = spec.process().as_ref().unwrap();
    let sets = process.capabilities().as_ref().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 14);
    assert_eq!(sets.effective(), sets.bounding());
    assert!(sets.inheritable().as_ref().unwrap().is_empty());
    assert_eq!(process.no_new_privileges(), Some(false));
    assert_eq!(process.rlimits().as_ref().unwrap().len(), 0);
    assert_eq!(spec.hostname().as_deref(), Some("box"));
    assert!(options_of(&spec, "/sys").contains(&"ro".to_owned()));
    assert!(options_of(&spec, "/dev/shm").contains(&"size=67108864".to_owned()));
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert!(!rules[0].allow());
    assert!(linux.resources().as_ref().unwrap().memory().is_none());
}

#[test]
fn users_other_than_root_have_no_capability_in_effect() {
    let spec = try_build(&ContainerConfig::default(), &[], 1000).unwrap();
    let process = spec.process().as_ref().unwrap();
    let sets = process.capabilities().as_ref().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 14);
    assert!(sets.effective().as_ref().unwrap().is_empty());
    assert_eq!(process.user().uid(), 1000);
    assert_eq!(process.user().additional_gids().as_deref(), Some(&[10][..]));
}

#[test]
fn privileged_lifts_every_confinement() {
    let spec = built(|config| config.host.privileged = true);
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert!(linux.masked_paths().is_none() && linux.readonly_paths().is_none());
    assert!(linux.resources().as_ref().unwrap().devices().clone().unwrap()[0].allow());
    assert!(options_of(&spec, "/sys").contains(&"rw".to_owned()));
    assert!(!kinds(&spec).contains(&LinuxNamespaceType::Cgroup));
}

#[test]
fn namespaces_of_the_host_are_shared_on_request() {
    let spec = built(|config| {
        config.host.network = NetworkMode::Host;
        config.host.pid = NamespaceMode::Host;
        config.host.ipc = IpcMode::Host;
        config.host.uts_host = true;
    });
    assert_eq!(
        kinds(&spec),
        [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup]
    );
    assert!(spec.hostname().is_none());
    assert!(options_of(&spec, "/dev/shm").contains(&"rbind".to_owned()));
}

#[test]
fn namespaces_of_others_are_joined_by_path() {
    let mut config = ContainerConfig::default();
    config.host.pid = NamespaceMode::Container("a".into());
    config.host.ipc = IpcMode::Container("a".into());
    config.host.network = NetworkMode::Container("a".into());
    let joined = JoinedNamespaces {
        network: Some("/n".into()),
        pid: Some("/p".into()),
        ipc: Some("/i".into()),
        users: Some("/u".into()),
        shm: Some("/shared".into()),
        host: None,
    };
    let spec = try_build_joined(&config, &[], 0, &joined).unwrap();
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let path = |kind: LinuxNamespaceType| {
        let found = namespaces.iter().find(|namespace| namespace.typ() == kind);
        found.and_then(|namespace| namespace.path().clone())
    };
    assert_eq!(path(LinuxNamespaceType::Network), Some("/n".into()));
    assert_eq!(path(LinuxNamespaceType::Pid), Some("/p".into()));
    assert_eq!(path(LinuxNamespaceType::Ipc), Some("/i".into()));
    assert_eq!(path(LinuxNamespaceType::User), Some("/u".into()));
    assert_eq!(path(LinuxNamespaceType::Uts), None);
    assert!(options_of(&spec, "/dev/shm").contains(&"rbind".to_owned()));
    let none = built(|config| config.host.ipc = IpcMode::None);
    let mounts = none.mounts().clone().unwrap();
    assert!(
        mounts
            .iter()
            .all(|mount| mount.destination() != Path::new("/dev/shm"))
    );
    assert!(kinds(&none).contains(&LinuxNamespaceType::Ipc));
}

#[test]
fn the_environment_is_merged_and_completed() {
    let spec = built(|config| {
        config.env = vec!["B=2".into(), "A".into(), "PATH=/x".into()];
        config.tty = true;
    });
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(
        env,
        ["PATH=/x", "B=2", "HOSTNAME=box", "TERM=xterm", "HOME=/root"]
    );
}

#[test]
fn limits_are_converted() {
    let spec = built(|config| {
        let limits = &mut config.host.resources;
        limits.memory_bytes = 64 << 20;
        limits.nano_cpus = 1_500_000_000;
        limits.cpu_shares = 512;
        limits.pids = 100;
        limits.blkio_weight = 300;
        limits.devices.reads = vec![DeviceRate {
            path: "/dev/null".into(),
            rate: 9,
        }];
    });
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let memory = resources.memory().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
    let cpu = resources.cpu().clone().unwrap();
    assert_eq!(
        (cpu.quota(), cpu.period(), cpu.shares()),
        (Some(150_000), Some(100_000), Some(512))
    );
    assert_eq!(resources.pids().unwrap().limit(), 100);
    let block = resources.block_io().clone().unwrap();
    assert_eq!(block.weight(), Some(300));
    let reads = block.throttle_read_iops_device().clone().unwrap();
    assert_eq!((reads[0].major(), reads[0].minor(), reads[0].rate()), (1, 3, 9));
    let absent = refused(|config| {
        config.host.resources.devices.writes = vec![DeviceRate {
            path: "/dev/absent".into(),
            rate: 9,
        }];
    });
    assert!(absent.contains("stat /dev/absent: No such file"), "{absent}");
}

#[test]
fn sysctls_stay_in_the_containers_namespaces() {
    let spec = built(|config| {
        config.host.sysctls.insert("kernel.shmmax".into(), "1".into());
        config
            .host
            .sysctls
            .insert("net.ipv4.ip_forward".into(), "1".into());
    });
    let sysctls = spec.linux().as_ref().unwrap().sysctl().clone().unwrap();
    assert_eq!(sysctls.len(), 1, "net.* is set in the sandbox");
    assert!(
        refused(|config| {
            config.host.sysctls.insert("kernel.panic".into(), "1".into());
        })
        .contains("would change the host")
    );
    assert!(
        refused(|config| {
            config.host.network = NetworkMode::Host;
            config
                .host
                .sysctls
                .insert("net.ipv4.ip_forward".into(), "1".into());
        })
        .contains("host network namespace")
    );
}

#[test]
fn security_options_are_read() {
    let spec = built(|config| {
        config.host.security_opt = vec!["no-new-privileges".into(), "seccomp=unconfined".into()];
    });
    assert_eq!(spec.process().as_ref().unwrap().no_new_privileges(), Some(true));
    assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
    let own = built(|config| {
        config.host.security_opt = vec![r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}"#.into()];
    });
    assert!(own.linux().as_ref().unwrap().seccomp().is_some());
    for bad in ["seccomp={", "nonsense", "nonsense=1", "no-new-privileges=perhaps"] {
        assert!(
            !refused(|config| config.host.security_opt = vec![bad.into()]).is_empty(),
            "{bad}"
        );
    }
}

#[test]
fn mounts_cover_defaults_and_parents_come_first() {
    let mut config = ContainerConfig::default();
    config.host.mounts = vec![MountSpec {
        kind: MountKind::Tmpfs,
        target: "/dev/shm".into(),
        tmpfs_bytes: 4096,
        tmpfs_mode: 0o700,
        tmpfs_options: vec!["exec".into(), "uid=7".into()],
        ..MountSpec::default()
    }];
    let point = |kind, source: &str, target: &str, writable| MountPoint {
        kind,
        name: String::new(),
        source: source.into(),
        target: target.into(),
        writable,
        propagation: String::new(),
        subpath: String::new(),
    };
    let mounts = [
        point(MountKind::Tmpfs, "", "/dev/shm", true),
        point(MountKind::Bind, "/host/deep", "/a/b/c", false),
        point(MountKind::Volume, "/host/shallow", "/a", true),
        point(MountKind::Bind, "/host/hosts", "/etc/hosts", false),
    ];
    let spec = try_build(&config, &mounts, 0).unwrap();
    assert_eq!(
        options_of(&spec, "/dev/shm"),
        ["rw", "mode=700", "nosuid", "nodev", "exec", "uid=7", "size=4096"]
    );
    assert_eq!(options_of(&spec, "/a/b/c"), ["rbind", "rro", "rprivate"]);
    let all = spec.mounts().clone().unwrap();
    let targets: Vec<_> = all
        .iter()
        .map(|mount| mount.destination().to_string_lossy().into_owned())
        .collect();
    let at = |target: &str| targets.iter().position(|known| known == target).unwrap();
    assert!(at("/a") < at("/a/b/c") && at("/dev") < at("/dev/shm"));
    assert_eq!(targets.iter().filter(|target| *target == "/etc/hosts").count(), 1);
    assert_eq!(targets.iter().filter(|target| *target == "/dev/shm").count(), 1);
}

#[test]
fn exec_inherits_and_overrides() {
    let container = built(|_| {});
    let process = container.process().as_ref().unwrap();
    let user = ProcessUser {
        uid: 7,
        gid: 8,
        groups: vec![],
        home: "/home/seven".into(),
    };
    let exec = exec_process(
        process,
        &["sh".into()],
        &["B=3".into()],
        "/tmp",
        true,
        Some(&user),
        None,
    )
    .unwrap();
    assert_eq!(exec.cwd(), Path::new("/tmp"));
    assert_eq!(exec.user().uid(), 7);
    let env = exec.env().clone().unwrap();
    assert!(env.contains(&"B=3".to_owned()) && env.contains(&"HOME=/home/seven".to_owned()));
    assert!(
        exec.capabilities()
            .as_ref()
            .unwrap()
            .effective()
            .as_ref()
            .unwrap()
            .is_empty()
    );
    let all = exec_process(
        process,
        &["sh".into()],
        &[],
        "",
        false,
        None,
        Some(bounding_of(u64::MAX)),
    )
    .unwrap();
    let effective = all.capabilities().as_ref().unwrap().effective().clone().unwrap();
    assert!(effective.contains(&Capability::SysAdmin));
    assert_eq!(all.cwd(), Path::new("/srv"));
    assert!(exec_process(process, &[], &[], "", false, None, None).is_err());
}

#[test]
fn binds_say_how_far_they_reach() {
    let mut config = ContainerConfig::default();
    config.host.mounts = vec![MountSpec {
        kind: MountKind::Bind,
        source: "/host".into(),
        target: "/b/".into(),
        non_recursive: true,
        read_only_non_recursive: true,
        ..MountSpec::default()
    }];
    let point = |kind, target: &str, subpath: &str| MountPoint {
        kind,
        name: String::new(),
        source: "/host".into(),
        target: target.into(),
        writable: false,
        propagation: String::new(),
        subpath: subpath.into(),
    };
    let mounts = [
        point(MountKind::Bind, "/b", ""),
        point(MountKind::Volume, "/v", "a/b"),
        point(MountKind::Image, "/i", ""),
    ];
    let spec = try_build(&config, &mounts, 0).unwrap();
    assert_eq!(options_of(&spec, "/b"), ["bind", "ro", "rprivate"]);
    assert_eq!(
        options_of(&spec, "/v"),
        ["rbind", "ro", "rprivate", "muster.subpath=a/b"]
    );
    assert_eq!(options_of(&spec, "/i"), ["rbind", "ro", "rprivate"]);
}
