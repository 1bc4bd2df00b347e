//! Requests and streams that are cut at any byte: nothing of them stays, neither in the daemon nor in the container.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually, json_request};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Cuts of one conversation, spread over its bytes.
const CUTS: usize = 12;
/// How long an answer that may never come is waited for before the client leaves.
const FIRST_BYTES_WITHIN: Duration = Duration::from_millis(300);

/// Open descriptors of the lab's own processes: daemon, launcher, monitors.
fn descriptors(directory: &Path) -> usize {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let own = processes.filter(|entry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        entry.path() != Path::new(&format!("/proc/{}", std::process::id()))
            && command.contains(&*directory.to_string_lossy())
    });
    own.filter_map(|entry| Some(fs::read_dir(entry.path().join("fd")).ok()?.count()))
        .sum()
}

fn upgraded(line: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // What the client types once the stream is its own.
    [head.as_bytes(), b"typed\n"].concat()
}

fn plain(line: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends the first bytes of a conversation, perhaps listens for the first of the answer, and leaves.
fn cut(socket: &Path, conversation: &[u8], at: usize) {
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    // The daemon may have closed it by then.
    let _ = stream.write_all(&conversation[..at]);
    if at == conversation.len() {
        stream
            .set_read_timeout(Some(FIRST_BYTES_WITHIN))
            .expect("a time-out can be set");
        let _ = stream.read(&mut [0; 64]);
    }
}

fn exec(docker: &Docker) -> Vec<u8> {
    let wanted = r#"{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true}"#;
    let (status, answer) = json_request(docker.socket(), "POST /v1.41/containers/box/exec", wanted);
    assert!(status.contains(" 201"), "{status} {answer}");
    let id = answer.split('"').nth(3).expect("the answer has an id");
    upgraded(&format!("POST /v1.41/exec/{id}/start"), r#"{"Detach":false}"#)
}

/// Cuts each kind of conversation at many of its bytes.
fn cut_everything(docker: &Docker, archive: &[u8]) {
    let everything = "stream=1&stdin=1&stdout=1&stderr=1&logs=1";
    let fixed = [
        upgraded(&format!("POST /v1.41/containers/box/attach?{everything}"), ""),
        plain("GET /v1.41/containers/box/logs?follow=1&stdout=1", b""),
        plain("GET /v1.41/events", b""),
        plain("GET /v1.41/containers/box/stats", b""),
        plain("POST /v1.41/containers/box/wait", b""),
        plain("GET /v1.41/containers/box/export", b""),
        plain("PUT /v1.41/containers/box/archive?path=/tmp", archive),
        plain("POST /v1.41/images/load", archive),
    ];
    for conversation in &fixed {
        for number in 1..=CUTS {
            cut(docker.socket(), conversation, conversation.len() * number / CUTS);
        }
    }
    for number in 1..=CUTS {
        let conversation = exec(docker);
        cut(docker.socket(), &conversation, conversation.len() * number / CUTS);
    }
}

#[test]
fn conversations_that_are_cut_anywhere_leave_nothing() {
    let lab = Lab::with_image("e2ecut", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&[
        "run",
        "-d",
        "-i",
        "--name",
        "box",
        IMAGE,
        "sh",
        "-c",
        "echo ready; exec cat",
    ]);
    let saved = lab.directory().join("saved.tar");
    docker.run(&["save", "-o", &saved.to_string_lossy(), IMAGE]);
    let archive = fs::read(&saved).expect("docker wrote it");
    let settled = |most: usize| {
        eventually("as many descriptors as before", LONG, || {
            let processes = docker.lines(&["top", "box"]).len() - 1;
            let open = descriptors(lab.directory());
            match (processes, open) {
                (1, open) if open <= most => Ok(open),
                left => Err(left),
            }
        })
    };
    // What is opened once and kept is open afterwards.
    cut_everything(&docker, &archive);
    let before = settled(usize::MAX);
    for _ in 0..2 {
        cut_everything(&docker, &archive);
        settled(before);
    }
    assert_eq!(docker.run(&["exec", "box", "echo", "alive"]), "alive");
    assert_eq!(docker.lines(&["images", "-q"]).len(), 1);
    docker.run(&["rm", "-f", "box"]);
}

/// A tree that no path reaches to its end is removed with its container.
#[test]
fn a_very_deep_tree_goes_with_its_container() {
    let lab = Lab::with_image("e2edeep", 1, 1);
    let docker = lab.docker("node-1");
    let name = "d".repeat(200);
    let script = format!(
        "n=0; while [ $n -lt 60 ]; do mkdir {name} && cd -P {name} || exit 1; n=$((n+1)); done; echo made"
    );
    let made = docker.run(&["run", "--name", "deep", "-w", "/tmp", IMAGE, "sh", "-c", &script]);
    assert_eq!(made, "made");
    let id = docker.run(&["inspect", "--format", "{{.Id}}", "deep"]);
    docker.run(&["rm", "deep"]);
    let images = lab.node_directory("node-1").join("data/images");
    let left = |name: &str| fs::read_dir(images.join(name)).map_or(0, |entries| entries.count());
    assert!(!images.join("containers").join(&id).exists());
    eventually("its files to be deleted", LONG, || match left("trash") {
        0 => Ok(()),
        left => Err(left),
    });
}
