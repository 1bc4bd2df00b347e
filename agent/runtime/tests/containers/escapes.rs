//! Known ways out of containers, each closed.

use crate::execs::request;
use crate::support::{Container, Node, collect, within};
use muster_runtime::RuntimeError;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;

/// All capabilities that this node has: a container that is as strong as can be.
fn strengthen(container: &mut Container) {
    let all: Vec<String> = [
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
        "CAP_DAC_OVERRIDE",
    ]
    .map(String::from)
    .into();
    for set in ["bounding", "effective", "permitted"] {
        let set = container.process()["capabilities"][set]
            .as_array_mut()
            .expect("a list");
        set.extend(all.iter().map(|name| json!(name)));
    }
    container.seccomp = false;
}

/// Puts a directory of the test in the place of /dev, as an attacker with a shared volume would.
fn replace_dev(container: &mut Container, dev: &Path) {
    let mounts = container.config["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| !mount["destination"].as_str().expect("a path").starts_with("/dev"));
    mounts.push(json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["rbind", "rw"] }));
    mounts.push(
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"] }),
    );
}

fn start_error(result: Result<muster_runtime::Started, RuntimeError>) -> String {
    match result {
        Err(RuntimeError::Start { message, .. }) => message,
        other => panic!("the start is refused, not {other:?}"),
    }
}

#[tokio::test]
async fn cve_2019_5736_own_binary_cannot_be_written() {
    let node = Node::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_muster-runtime"));
    let before = std::fs::metadata(binary).expect("it exists");
    // With an init of ours as process 1 the binary is in reach for the container's whole life.
    let script = "readlink /proc/1/exe; (echo overwritten > /proc/1/exe) && echo WRITTEN; \
                  exec 3< /proc/1/exe; (echo overwritten > /proc/self/fd/3) && echo WRITTEN; true";
    let mut container = node.shell(script);
    container.init = true;
    strengthen(&mut container);
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0);
    assert!(!out.contains("WRITTEN"), "{out}");
    assert!(
        !out.trim().is_empty(),
        "the test looked at the binary: {}",
        container.logged("stderr")
    );
    let refusals = container.logged("stderr");
    assert_eq!(refusals.matches("Read-only file system").count(), 2, "{refusals}");
    let after = std::fs::metadata(binary).expect("it exists");
    assert_eq!(
        (before.len(), before.modified().ok()),
        (after.len(), after.modified().ok())
    );
}

/// The same for a process that enters a running container, as which the binary is in reach until it becomes the program.
#[tokio::test]
async fn cve_2019_5736_own_binary_cannot_be_written_through_an_exec() {
    let node = Node::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_muster-runtime"));
    let before = std::fs::metadata(binary).expect("it exists");
    // A script whose interpreter is that binary, and somebody inside who waits for it.
    let trap = node.rootfs().join("bin/trap");
    std::fs::write(&trap, "#!/proc/self/exe\n").expect("it is writable");
    std::fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let watch = "echo ready; while :; do for exe in /proc/[0-9]*/exe; do \
                 if (echo overwritten > $exe) 2>/tmp/why; then echo WRITTEN; fi; \
                 case $(cat /tmp/why) in *Read-only*) echo read-only; exit;; esac; done; done";
    let mut container = node.shell(watch);
    for directory in ["/lib", "/lib64"] {
        if Path::new(directory).exists() {
            container.mount(
                json!({ "destination": directory, "type": "bind", "source": directory, "options": ["bind", "ro"] }),
            );
        }
    }
    strengthen(&mut container);
    let monitor = node.start(&container).await.expect("it starts").monitor;
    container.until_logged("ready").await;
    // Whatever it catches on its way in is not writable.
    for _ in 0..1000 {
        match within(monitor.exec(request(&["/bin/trap"]))).await {
            Ok(mut session) => drop(collect(&mut session.stream.output).await),
            Err(_) => break,
        }
    }
    assert_eq!(within(monitor.wait()).await.expect("it ends").code, 0);
    assert_eq!(container.logged("stdout"), "ready\nread-only\n");
    let after = std::fs::metadata(binary).expect("it exists");
    assert_eq!(
        (before.len(), before.modified().ok()),
        (after.len(), after.modified().ok())
    );
}

#[tokio::test]
async fn cve_2024_21626_working_directory_stays_inside() {
    let node = Node::new();
    for descriptor in 3..24 {
        let mut container = node.shell("pwd; ls");
        container.process()["cwd"] = json!(format!("/proc/self/fd/{descriptor}"));
        let message = start_error(node.start(&container).await);
        assert!(message.contains("working directory"), "{message}");
    }
    let container = node.shell("echo ready; exec sleep 1000");
    let monitor = node.start(&container).await.expect("it starts").monitor;
    container.until_logged("ready").await;
    for descriptor in 3..24 {
        let mut inside = request(&["ls"]);
        inside
            .process
            .set_cwd(format!("/proc/self/fd/{descriptor}").into());
        match within(monitor.exec(inside)).await {
            Err(error) => assert!(error.to_string().contains("working directory"), "{error}"),
            Ok(_) => panic!("descriptor {descriptor} led somewhere"),
        }
    }
    within(monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
    within(monitor.wait()).await.expect("it ends");
}

#[tokio::test]
async fn cve_2025_31133_masks_do_not_use_the_containers_null() {
    let node = Node::new();
    let dev = node.directory.path().join("dev");
    std::fs::create_dir_all(dev.join("pts")).expect("it is writable");
    symlink("/proc/sysrq-trigger", dev.join("null")).expect("it is writable");
    let mut container = node.shell("stat -c '%F %t:%T' /proc/keys /proc/timer_list; cat /proc/keys");
    replace_dev(&mut container, &dev);
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0, "{}", container.logged("stderr"));
    assert_eq!(out, "character special file 1:3\ncharacter special file 1:3\n");
}

#[tokio::test]
async fn cve_2025_52565_console_is_not_attached_through_a_link() {
    let node = Node::new();
    let dev = node.directory.path().join("dev");
    std::fs::create_dir_all(dev.join("pts")).expect("it is writable");
    std::fs::write(node.rootfs().join("victim"), "untouched").expect("it is writable");
    symlink("/victim", dev.join("console")).expect("it is writable");
    let mut container = node.shell("true").terminal();
    replace_dev(&mut container, &dev);
    let message = start_error(node.start(&container).await);
    assert!(message.contains("terminal"), "{message}");
}

#[tokio::test]
async fn cve_2025_52881_sysctls_reach_the_kernel_only() {
    let node = Node::new();
    let mut container = node.shell("cat /proc/sys/net/ipv4/ip_forward 2>/dev/null; echo ready; sleep 1000");
    let fake = node.directory.path().join("fake");
    std::fs::create_dir_all(fake.join("net/ipv4")).expect("it is writable");
    std::fs::write(fake.join("net/ipv4/ip_forward"), "fake").expect("it is writable");
    container.mount(
        json!({ "destination": "/proc/sys", "type": "bind", "source": fake, "options": ["bind", "rw"] }),
    );
    container.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    assert_eq!(
        container.logged("stdout"),
        "fakeready\n",
        "the container sees the mount"
    );
    let fake = std::fs::read_to_string(fake.join("net/ipv4/ip_forward")).expect("it exists");
    assert_eq!(fake, "fake", "nothing was written to the mount");
    let inside = std::process::Command::new("nsenter")
        .args([
            "-t",
            &started.pid.to_string(),
            "-n",
            "cat",
            "/proc/sys/net/ipv4/ip_forward",
        ])
        .output()
        .expect("util-linux is installed");
    assert_eq!(inside.stdout, b"1\n");
    within(started.monitor.signal(libc::SIGKILL, false))
        .await
        .expect("it runs");
    within(started.monitor.wait()).await.expect("it ends");
}

#[tokio::test]
async fn proc_that_is_a_link_is_refused() {
    let node = Node::new();
    std::fs::remove_dir(node.rootfs().join("proc")).expect("it is empty");
    symlink("/tmp", node.rootfs().join("proc")).expect("it is writable");
    let message = start_error(node.start(&node.container(&["true"])).await);
    assert!(message.contains("mount proc at /proc"), "{message}");
}

#[tokio::test]
async fn mount_targets_stay_inside_the_root() {
    let node = Node::new();
    let outside = node.directory.path().join("outside");
    std::fs::create_dir(&outside).expect("it is writable");
    symlink(&outside, node.rootfs().join("absolute")).expect("it is writable");
    symlink("../../../../../../../../tmp", node.rootfs().join("upward")).expect("it is writable");
    let source = node.directory.path().join("source");
    std::fs::create_dir(&source).expect("it is writable");
    std::fs::write(source.join("file"), "content").expect("it is writable");
    let mut container = node.shell("cat /upward/made/here/file; mount | grep -c /tmp/made/here");
    container.mount(
        json!({ "destination": "/upward/made/here", "type": "bind", "source": source, "options": ["rbind"] }),
    );
    let (status, out) = node.run(&container).await;
    assert_eq!(
        (status.code, out.as_str()),
        (0, "content1\n"),
        "{}",
        container.logged("stderr")
    );
    assert!(node.rootfs().join("tmp/made/here").is_dir());
    let mut container = node.container(&["true"]);
    container.mount(
        json!({ "destination": "/absolute/made", "type": "bind", "source": source, "options": ["rbind"] }),
    );
    // In the root the link's target does not exist, so that there is nothing to mount on.
    start_error(node.start(&container).await);
    assert_eq!(
        std::fs::read_dir(&outside).expect("it exists").count(),
        0,
        "nothing was made outside"
    );
}

#[tokio::test]
async fn kernel_files_are_masked_and_read_only() {
    let node = Node::new();
    let script = "cat /proc/keys /proc/timer_list; ls -A /proc/acpi /sys/firmware; \
                  (echo 1 > /proc/sys/kernel/core_pattern) 2>/dev/null && echo WRITTEN; \
                  (echo h > /proc/sysrq-trigger) 2>/dev/null && echo WRITTEN; \
                  (echo 1 > /sys/kernel/profiling) 2>/dev/null && echo WRITTEN; \
                  mkdir /sys/fs/cgroup/memory/x 2>/dev/null && echo WRITTEN; true";
    let container = node.shell(script);
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0);
    let said: Vec<_> = out
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(':'))
        .collect();
    assert_eq!(said, Vec::<&str>::new());
}

#[tokio::test]
async fn disk_nodes_are_useless_in_a_container() {
    let node = Node::new();
    let script = "mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null count=1 2>&1; \
                  dd if=/dev/zero of=/dev/null count=1 2>/dev/null && echo zero works";
    let mut container = node.shell(script);
    container.config["linux"]["resources"] = json!({ "devices": [
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "b", "access": "m" },
        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
    ] });
    let (_, out) = node.run(&container).await;
    assert!(
        out.contains("Operation not permitted"),
        "{out}{}",
        container.logged("stderr")
    );
    assert!(out.ends_with("zero works\n"), "{out}");
}

#[tokio::test]
async fn restricted_containers_can_use_the_default_devices_only() {
    let node = Node::new();
    let script = "cat /dev/null && echo > /dev/null && dd if=/dev/zero of=/dev/full count=0 2>&1 && \
                  dd if=/dev/urandom bs=1 count=1 2>/dev/null | wc -c && mknod /tmp/random c 1 8 && echo usable; \
                  mknod /tmp/disk b 254 0 2>&1; mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>&1";
    let mut container = node.shell(script);
    container.config["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    let (_, out) = node.run(&container).await;
    let lines: Vec<_> = out.lines().filter(|line| !line.contains("records")).collect();
    assert_eq!(lines[..2], ["1", "usable"], "{out}{}", container.logged("stderr"));
    assert!(
        lines[2].contains("mknod") && lines[2].contains("Operation not permitted"),
        "{out}"
    );
    assert!(
        lines[3].contains("kmsg") && lines[3].contains("Operation not permitted"),
        "{out}"
    );
}

#[tokio::test]
async fn filter_refuses_what_docker_refuses() {
    let node = Node::new();
    let container =
        node.shell("mount -t tmpfs none /tmp 2>&1; hostname other 2>&1; grep Seccomp: /proc/self/status");
    let (_, out) = node.run(&container).await;
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].contains("ermi") || lines[0].contains("denied"), "{out}");
    assert_eq!(lines[lines.len() - 1], "Seccomp:\t2");
}
