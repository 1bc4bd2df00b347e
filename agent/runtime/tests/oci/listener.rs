//! Somebody else decides about system calls of a container.

use crate::support::Runtime;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)` (linux/seccomp.h).
const NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;

/// The error that the agent answers with; none that the kernel would give.
const ANSWER: i32 = libc::EDQUOT;

/// What an agent got: the container process state, and the calls that it decided about.
struct Seen {
    state: Value,
    calls: Vec<i32>,
}

/// Takes one listener, and refuses `count` calls.
fn agent(socket: UnixListener, count: usize) -> std::thread::JoinHandle<Seen> {
    std::thread::spawn(move || {
        let (mut peer, _) = socket.accept().expect("the runtime connects");
        let mut bytes = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        bytes.truncate(received.expect("a message").bytes);
        let listener = ancillary.drain().find_map(|item| match item {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let listener = listener.expect("a descriptor");
        peer.read_to_end(&mut bytes).expect("the rest");
        let calls = (0..count).map(|_| refuse_one(&listener)).collect();
        let state = serde_json::from_slice(&bytes).expect("it is JSON");
        Seen { state, calls }
    })
}

/// Refuses the next call; its number.
fn refuse_one(listener: &OwnedFd) -> i32 {
    // SAFETY: all zero is what the kernel wants to find.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request fills one such structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut asked) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let answer = libc::seccomp_notif_resp {
        id: asked.id,
        val: 0,
        error: -ANSWER,
        flags: 0,
    };
    // SAFETY: the request reads one such structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw const answer) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    asked.data.nr
}

fn listen(path: &Path) -> UnixListener {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).expect("the directory is writable")
}

fn notifying(runtime: &Runtime, script: &str, path: &Path) -> Value {
    let mut config = runtime.config("one", script);
    config["annotations"] = json!({ "a": "b" });
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "meta",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    config
}

fn check(seen: &Seen, pid: &Value, status: &str) {
    let state = &seen.state;
    assert_eq!(
        (&state["pid"], &state["metadata"], &state["fds"]),
        (pid, &json!("meta"), &json!(["seccompFd"]))
    );
    assert!(state["ociVersion"].is_string(), "{state}");
    let container = &state["state"];
    assert_eq!(
        (&container["id"], &container["status"]),
        (&json!("one"), &json!(status))
    );
    assert_eq!(container["annotations"], json!({ "a": "b" }));
    assert!(
        seen.calls
            .iter()
            .all(|call| [libc::SYS_mkdir as i32, libc::SYS_mkdirat as i32].contains(call))
    );
}

#[test]
fn an_agent_decides_about_calls_of_the_program_and_of_others() {
    let runtime = Runtime::new();
    let path = runtime.path("agent");
    let told = agent(listen(&path), 1);
    let config = notifying(&runtime, "mkdir /made 2>/said; exec sleep 1000", &path);
    runtime.create("one", &config);
    let pid = runtime.state("one")["pid"].clone();
    runtime.ok(&["start", "one"]);
    check(&told.join().expect("the agent is fine"), &pid, "created");
    let said = runtime.rootfs().join("said");
    crate::support::until("the refusal", || {
        std::fs::read_to_string(&said)
            .unwrap_or_default()
            .to_lowercase()
            .contains("quota exceeded")
    });
    assert!(!runtime.rootfs().join("made").exists());

    let told = agent(listen(&path), 1);
    let called = runtime.call(&["exec", "one", "sh", "-c", "mkdir /more"]);
    assert_eq!(called.code, 1, "{}", called.err);
    assert!(
        called.err.to_lowercase().contains("quota exceeded"),
        "{}",
        called.err
    );
    let seen = told.join().expect("the agent is fine");
    assert_ne!(seen.state["pid"], pid);
    check(&seen, &seen.state["pid"], "running");
    runtime.ok(&["delete", "-f", "one"]);
}

#[test]
fn a_container_that_is_run_at_once_has_its_agent_too() {
    let runtime = Runtime::new();
    let path = runtime.path("agent");
    let told = agent(listen(&path), 2);
    let mut config = notifying(&runtime, "mkdir /a; mkdir /b; echo done", &path);
    config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let called = runtime.run("one", &config);
    assert_eq!(called.out(), "done\n", "{}", called.err);
    let seen = told.join().expect("the agent is fine");
    check(&seen, &seen.state["state"]["pid"], "creating");
}

#[test]
fn nobody_at_the_socket_fails_the_start_and_leaves_nothing() {
    let runtime = Runtime::new();
    let path = runtime.path("nobody");
    let config = notifying(&runtime, "true", &path);
    runtime.create("one", &config);
    let called = runtime.call(&["start", "one"]);
    assert_ne!(called.code, 0);
    assert!(
        called.err.contains("send the listener of the system call filter"),
        "{}",
        called.err
    );
    runtime.until_status("one", "stopped");
    runtime.ok(&["delete", "one"]);
    let called = runtime.run("one", &config);
    assert!(
        called.err.contains("send the listener of the system call filter"),
        "{}",
        called.err
    );
    assert_ne!(runtime.call(&["state", "one"]).code, 0);
}
