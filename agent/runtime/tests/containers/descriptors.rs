//! Root file system and network namespace that come as descriptors: what their paths lead to by now does not matter.

use crate::support::{Node, within};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::OpenTreeFlags;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A network namespace that lives as long as its descriptor.
fn network_namespace() -> File {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
        File::open("/proc/thread-self/ns/net").expect("it is there")
    });
    made.join().expect("the thread ends in order")
}

/// How it shows in `/proc/PID/ns/net` of its processes.
fn shown(namespace: &File) -> String {
    let path = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    std::fs::read_link(path)
        .expect("it is open")
        .display()
        .to_string()
}

/// A path for it that every process of this host can use.
fn path_of(namespace: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()).into()
}

fn swap_link(link: &Path, to: &Path) {
    std::fs::remove_file(link).expect("it is there");
    symlink(to, link).expect("the directory is writable");
}

#[tokio::test]
async fn swapped_path_does_not_redirect_the_network_namespace() {
    let node = Node::new();
    let (given, other) = (network_namespace(), network_namespace());
    assert_ne!(shown(&given), shown(&other));
    let link = node.directory.path().join("netns");
    symlink(path_of(&given), &link).expect("the directory is writable");
    let mut container = node.shell("readlink /proc/self/ns/net");
    let namespaces = container.config["linux"]["namespaces"].as_array_mut();
    let mut namespaces = namespaces.expect("a list").iter_mut();
    let network = namespaces.find(|namespace| namespace["type"] == "network");
    network.expect("there is one")["path"] = serde_json::json!(link);
    let mut request = container.request();
    request.netns = Some(File::open(&link).expect("it leads to a namespace").into());
    swap_link(&link, &path_of(&other));
    let started = within(node.launcher.start(request)).await.expect("it starts");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
    assert_eq!(container.logged("stdout").trim(), shown(&given));
}

#[tokio::test]
async fn swapped_path_does_not_redirect_the_root_file_system() {
    let node = Node::new();
    let other = node.directory.path().join("other");
    std::fs::create_dir_all(other.join("bin")).expect("the directory is writable");
    std::fs::copy(node.rootfs().join("bin/busybox"), other.join("bin/sh")).expect("it is there");
    for (root, name) in [(&node.rootfs(), "given"), (&other, "other")] {
        std::fs::write(root.join("name"), name).expect("the directory is writable");
    }
    let container = node.shell("read name < /name; echo $name; exec true");
    let mut request = container.request();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let detached = rustix::mount::open_tree(rustix::fs::CWD, node.rootfs(), flags);
    request.rootfs = Some(detached.expect("root may copy mounts"));
    std::fs::rename(node.rootfs(), node.directory.path().join("moved")).expect("it is there");
    symlink(&other, node.rootfs()).expect("the directory is writable");
    let started = within(node.launcher.start(request)).await.expect("it starts");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
    assert_eq!(container.logged("stdout").trim(), "given");
}
