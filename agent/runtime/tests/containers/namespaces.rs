//! Namespaces of a container's own, of another one, and of the host.

use crate::support::{MAPPED_FIRST, Node, give, map_users, namespaces, process, set_namespace, within};
use muster_runtime::{Beside, ExecRequest, RuntimeError};
use serde_json::json;
use std::os::unix::fs::MetadataExt;

fn namespace_of(process: &str, kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("the process runs");
    link.display().to_string()
}

#[tokio::test]
async fn user_namespace_makes_root_a_common_user_of_the_host() {
    let node = Node::new();
    let script = "id -u; id -g; cat /proc/self/uid_map; echo mine > /tmp/file; stat -c %u /tmp/file; \
                  (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo refused; \
                  dd if=/dev/zero of=/dev/null bs=1 count=1 2>/dev/null && echo devices; hostname; \
                  cat /proc/self/oom_score_adj; echo ready; sleep 1000";
    let mut container = node.shell(script);
    map_users(&node, &mut container);
    container.process()["oomScoreAdj"] = json!(500);
    container.process()["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 2048, "hard": 4096 }]);
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    let out = container.logged("stdout");
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    let map = lines[2].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(map, format!("0 {MAPPED_FIRST} 65536"));
    assert_eq!(
        [&lines[..2], &lines[3..]].concat(),
        ["0", "0", "0", "refused", "devices", "inside", "500", "ready"],
        "{}",
        container.logged("stderr")
    );
    let file = std::fs::metadata(node.rootfs().join("tmp/file")).expect("it was written");
    assert_eq!(file.uid(), MAPPED_FIRST);
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).expect("it runs");
    assert!(status.contains(&format!("Uid:\t{MAPPED_FIRST}")), "{status}");
    // Another process gets there too, as another user of the namespace.
    let mut other = process(&["/bin/sh", "-c", "id -u; cat /proc/self/uid_map"]);
    let mut user = other.user().clone();
    user.set_uid(7);
    other.set_user(user);
    let request = ExecRequest {
        process: other,
        terminal: false,
        console_size: None,
        stdin_open: false,
        output: true,
    };
    let mut session = within(started.monitor.exec(request)).await.expect("it starts");
    let (out, err) = crate::support::collect(&mut session.stream.output).await;
    assert!(out.starts_with("7\n"), "{out}{err}");
    assert!(out.contains(&MAPPED_FIRST.to_string()), "{out}");
    within(started.monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
}

#[tokio::test]
async fn containers_share_what_they_name() {
    let node = Node::new();
    let first = node.shell("echo ready; sleep 1000");
    let started = node.start(&first).await.expect("it starts");
    first.until_logged("ready").await;
    let mut second = node.shell(
        "ls /proc | grep -c '^1$'; readlink /proc/self/ns/uts; readlink /proc/self/ns/ipc; ps | grep -c '[s]leep 1000'",
    );
    for kind in ["pid", "ipc", "uts", "network"] {
        let name = if kind == "network" { "net" } else { kind };
        set_namespace(
            &mut second,
            kind,
            Some(format!("/proc/{}/ns/{name}", started.pid)),
        );
    }
    second
        .config
        .as_object_mut()
        .expect("an object")
        .remove("hostname");
    let (status, out) = node.run(&second).await;
    assert_eq!(status.code, 0, "{}", second.logged("stderr"));
    let pid = started.pid.to_string();
    let expected = format!(
        "1\n{}\n{}\n1\n",
        namespace_of(&pid, "uts"),
        namespace_of(&pid, "ipc")
    );
    assert_eq!(out, expected);
    within(started.monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
}

#[tokio::test]
async fn user_namespace_of_another_container_can_be_joined() {
    let node = Node::new();
    let mut first = node.shell("echo ready; sleep 1000");
    map_users(&node, &mut first);
    let started = node.start(&first).await.expect("it starts");
    first.until_logged("ready").await;
    let mut second = node.shell("cat /proc/self/uid_map; id -u; hostname; ps | grep -c '[s]leep 1000'");
    for kind in ["user", "pid", "network"] {
        let name = if kind == "network" { "net" } else { kind };
        set_namespace(
            &mut second,
            kind,
            Some(format!("/proc/{}/ns/{name}", started.pid)),
        );
    }
    let (status, out) = node.run(&second).await;
    assert_eq!(status.code, 0, "{}", second.logged("stderr"));
    assert!(out.contains(&MAPPED_FIRST.to_string()), "{out}");
    assert!(out.ends_with("0\ninside\n1\n"), "{out}");
    within(started.monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
}

/// The launcher makes namespaces for the daemon, also one that takes the place of another.
#[tokio::test]
async fn namespaces_that_the_launcher_makes_can_be_lived_in() {
    use std::os::fd::{AsFd, AsRawFd};
    let node = Node::new();
    let ids = [(0, MAPPED_FIRST, 65536)];
    let make = || node.launcher.user_namespace(&ids, &ids, Beside::Network);
    let first = make().expect("it is made");
    let launcher = nix::unistd::Pid::from_raw(node.launcher.pid().expect("it runs"));
    nix::sys::signal::kill(launcher, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    crate::support::until("the launcher's end", || node.launcher.pid().is_none()).await;
    let second = make().expect("it is made");
    let beside = node
        .launcher
        .network_of(second.users.as_fd())
        .expect("it is made");
    let networks = [first.network, second.network, Some(beside)].map(|network| {
        let file = std::fs::File::from(network.expect("it was asked for"));
        file.metadata().expect("it is open").ino()
    });
    assert!(
        networks[0] != networks[1] && networks[1] != networks[2],
        "{networks:?}"
    );

    let mut container = node.shell("cat /proc/self/uid_map; id -u; echo $$");
    give(&node.rootfs());
    let own = std::process::id();
    let path = format!("/proc/{own}/fd/{}", second.users.as_raw_fd());
    set_namespace(&mut container, "user", Some(path));
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0, "{}", container.logged("stderr"));
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", &MAPPED_FIRST.to_string(), "65536", "0", "1"]);

    for (users, groups, what) in [
        (&[(0, 0, 0)][..], &ids[..], "users"),
        (&ids[..], &[(0, 0, 0)][..], "groups"),
    ] {
        let error = node
            .launcher
            .user_namespace(users, groups, Beside::Nothing)
            .expect_err("it is empty");
        let message = muster_runtime::describe(&error);
        assert!(
            message.contains(&format!("give the user namespace its {what}: Invalid argument")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn time_namespace_has_clocks_of_its_own() {
    let node = Node::new();
    let mut container = node.shell("cut -d. -f1 /proc/uptime");
    namespaces(&mut container).push(json!({ "type": "time" }));
    container.config["linux"]["timeOffsets"] =
        json!({ "boottime": { "secs": 1_000_000 }, "monotonic": { "secs": 5 } });
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0, "{}", container.logged("stderr"));
    let uptime: u64 = out.trim().parse().expect("a number");
    assert!(uptime >= 1_000_000, "{uptime}");
}

#[tokio::test]
async fn without_a_group_namespace_only_the_own_groups_are_seen() {
    let node = Node::new();
    let mut container = node.shell("readlink /proc/self/ns/cgroup; ls /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -1; cat /sys/fs/cgroup/pids/cgroup.procs | wc -l");
    set_namespace(&mut container, "cgroup", None);
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0, "{}", container.logged("stderr"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        namespace_of("self", "cgroup"),
        "the namespace is the host's"
    );
    assert!(lines[1].ends_with("cgroup.procs"), "{out}");
    let seen: u32 = lines[2].parse().expect("a number");
    if node.root.version() == muster_runtime::cgroup::CgroupVersion::V1 {
        assert!((1..=3).contains(&seen), "only the container's processes: {out}");
    }
}

#[tokio::test]
async fn impossible_namespaces_are_refused() {
    let node = Node::new();
    let cases = [
        (
            "uidMappings",
            json!([{ "containerID": 0, "hostID": 1, "size": 1 }]),
            "user namespace",
        ),
        (
            "timeOffsets",
            json!({ "boottime": { "secs": 1 } }),
            "time namespace",
        ),
    ];
    for (field, value, wanted) in cases {
        let mut container = node.shell("true");
        container.config["linux"][field] = value;
        match node.start(&container).await {
            Err(RuntimeError::Spec { problem }) => assert!(problem.contains(wanted), "{problem}"),
            other => panic!("{field} is refused, not {other:?}"),
        }
    }
    let mut container = node.shell("true");
    set_namespace(&mut container, "ipc", Some("/proc/self/ns/uts".to_owned()));
    let error = node.start(&container).await.expect_err("another kind is refused");
    assert!(error.to_string().contains("another kind"), "{error}");
}
