//! SELinux labels on a kernel that enforces a policy. Runs inside user-mode Linux.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use crate::support::{Container, Node, collect, process, within};
use muster_runtime::label::HostLabels;
use muster_runtime::label::selinux::{Audience, label_file, relabel};
use muster_runtime::{ExecRequest, StartRequest};
use nix::mount::{MsFlags, mount};
use rustix::mount::OpenTreeFlags;
use serde_json::json;

const POLICY: &str = include_str!("policy.conf");
const NONE: Option<&str> = None;

/// Loads the policy, enforces it, and gets overlayfs into the kernel.
fn enforce() {
    static ENFORCED: Once = Once::new();
    ENFORCED.call_once(|| {
        assert!(!HostLabels::detect().selinux);
        mount(NONE, "/sys/fs/selinux", Some("selinuxfs"), MsFlags::empty(), NONE).unwrap();
        let categories: String = (0..1024).map(|number| format!("category c{number};\n")).collect();
        std::fs::write("/tmp/policy.conf", POLICY.replace("# CATEGORIES\n", &categories)).unwrap();
        let compiled = Command::new("checkpolicy")
            .args([
                "-M",
                "-U",
                "allow",
                "-c",
                "33",
                "-o",
                "/tmp/policy",
                "/tmp/policy.conf",
            ])
            .status();
        assert!(compiled.unwrap().success());
        let policy = std::fs::read("/tmp/policy").unwrap();
        std::fs::write("/sys/fs/selinux/load", policy).unwrap();
        std::fs::write("/sys/fs/selinux/enforce", "1").unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let modules = PathBuf::from("/usr/lib/uml/modules").join(release.trim());
        let overlay = std::fs::File::open(modules.join("kernel/fs/overlayfs/overlay.ko")).unwrap();
        // SAFETY: the parameters are a string, and the descriptor is open for the call.
        let loaded = unsafe { libc::syscall(libc::SYS_finit_module, overlay.as_raw_fd(), c"".as_ptr(), 0) };
        assert_eq!(loaded, 0, "{}", std::io::Error::last_os_error());
    });
    assert!(HostLabels::detect().selinux);
}

fn process_label(level: &str) -> String {
    format!("system_u:system_r:container_t:{level}")
}

fn mount_label(level: &str) -> String {
    format!("system_u:object_r:container_file_t:{level}")
}

/// Labels a layer as the policy of a host does: overlayfs maps programs from the layer itself.
fn label_layer(path: &Path) {
    if path.is_symlink() {
        return;
    }
    label_file(path, &mount_label("s0")).unwrap();
    for entry in std::fs::read_dir(path).into_iter().flatten() {
        label_layer(&entry.unwrap().path());
    }
}

/// A container with labels of this level, whose root file system is an overlay that has its label.
fn labelled(node: &Node, script: &str, level: &str) -> (Container, StartRequest) {
    let mut container = node.shell(script);
    container.process()["selinuxLabel"] = json!(process_label(level));
    container.config["linux"]["mountLabel"] = json!(mount_label(level));
    label_layer(&node.rootfs());
    let directory = |name: &str| {
        let path = container.state_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        path.display().to_string()
    };
    let place = directory("root");
    let options = format!(
        "lowerdir={},upperdir={},workdir={},context=\"{}\"",
        node.rootfs().display(),
        directory("upper"),
        directory("work"),
        mount_label(level)
    );
    mount(
        NONE,
        place.as_str(),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .unwrap();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = rustix::mount::open_tree(rustix::fs::CWD, &place, flags).unwrap();
    nix::mount::umount(place.as_str()).unwrap();
    let mut request = container.request();
    request.rootfs = Some(root);
    (container, request)
}

fn bind(request: &mut StartRequest, source: &Path, destination: &str) {
    let bind = json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind"] });
    let mut mounts = request.spec.mounts().clone().unwrap();
    mounts.push(serde_json::from_value(bind).unwrap());
    request.spec.set_mounts(Some(mounts));
}

async fn ended(node: &Node, request: StartRequest) {
    let started = within(node.launcher.start(request)).await.unwrap();
    within(started.monitor.wait()).await.unwrap();
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn process_and_file_systems_have_their_labels() {
    enforce();
    let node = Node::new();
    // A missing label would be the host's, and be refused.
    let script = "cat /proc/self/attr/current; echo; \
                  for place in /tmp /dev /dev/shm; do \
                    echo x > $place/made && cat $place/made > /dev/null && echo $place; done; \
                  for place in /dev/pts /dev/mqueue; do ls $place > /dev/null && echo $place; done; \
                  ls /host";
    let host = node.directory.path().join("host");
    std::fs::create_dir(&host).unwrap();
    let (container, mut request) = labelled(&node, script, "s0:c1,c2");
    bind(&mut request, &host, "/host");
    Box::pin(ended(&node, request)).await;
    let (out, err) = (container.logged("stdout"), container.logged("stderr"));
    let label = out.split('\n').next().unwrap().trim_end_matches('\0');
    assert_eq!(label, process_label("s0:c1,c2"));
    assert_eq!(err, "ls: can't open '/host': Permission denied\n");
    let places = "/tmp\n/dev\n/dev/shm\n/dev/pts\n/dev/mqueue\n";
    assert!(out.ends_with(places), "{out}{err}");
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn categories_keep_containers_apart() {
    enforce();
    let node = Node::new();
    let shared = node.directory.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let own = shared.join("own");
    std::fs::write(&own, "secret\n").unwrap();
    label_file(&shared, &mount_label("s0")).unwrap();
    label_file(&own, &mount_label("s0:c1,c2")).unwrap();
    for (level, expected) in [
        ("s0:c1,c2", "secret\n"),
        ("s0:c1,c3", "cat: can't open '/shared/own': Permission denied\n"),
    ] {
        let (container, mut request) = labelled(&node, "cat /shared/own 2>&1", level);
        bind(&mut request, &shared, "/shared");
        Box::pin(ended(&node, request)).await;
        assert_eq!(container.logged("stdout"), expected, "{level}");
    }
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn relabelled_files_are_for_whom_they_were_labelled() {
    enforce();
    let node = Node::new();
    let bound = node.directory.path().join("bound");
    std::fs::create_dir_all(bound.join("below")).unwrap();
    std::fs::write(bound.join("below/file"), "content\n").unwrap();
    let denied = "cat: can't open '/bound/below/file': Permission denied\n";
    for (audience, expected) in [
        (None, [denied, denied]),
        (Some(Audience::Own), ["content\n", denied]),
        (Some(Audience::Containers), ["content\n", "content\n"]),
    ] {
        if let Some(audience) = audience {
            relabel(&bound, &mount_label("s0:c1,c2"), audience).unwrap();
        }
        for (level, expected) in ["s0:c1,c2", "s0:c1,c3"].into_iter().zip(expected) {
            let (container, mut request) = labelled(&node, "cat /bound/below/file 2>&1", level);
            bind(&mut request, &bound, "/bound");
            Box::pin(ended(&node, request)).await;
            assert_eq!(container.logged("stdout"), expected, "{audience:?} {level}");
        }
    }
    let refused = relabel(Path::new("/usr"), &mount_label("s0"), Audience::Containers).unwrap_err();
    assert_eq!(refused.to_string(), "SELinux relabeling of /usr is not allowed");
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn exec_has_the_label_from_the_start() {
    enforce();
    let node = Node::new();
    let wait = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let (container, request) = labelled(&node, wait, "s0:c1,c2");
    let monitor = within(node.launcher.start(request)).await.unwrap().monitor;
    container.until_logged("ready").await;
    let mut process = process(&["cat", "/proc/self/attr/current"]);
    process.set_selinux_label(Some(process_label("s0:c1,c2")));
    let request = ExecRequest {
        process,
        terminal: false,
        console_size: None,
        stdin_open: false,
        output: true,
    };
    let mut session = within(monitor.exec(request)).await.unwrap();
    let (out, err) = collect(&mut session.stream.output).await;
    assert_eq!(out.trim_end_matches('\0'), process_label("s0:c1,c2"), "{err}");
    assert_eq!(within(session.wait()).await.unwrap(), 0);
    within(monitor.signal(libc::SIGTERM, false)).await.unwrap();
    assert_eq!(within(monitor.wait()).await.unwrap().code, 0);
}
