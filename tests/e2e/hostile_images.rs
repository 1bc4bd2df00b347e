//! Image archives that are wrong or hostile are refused with a clear error, and nothing of them stays.

use crate::support::{Docker, Ending, IMAGE, LONG, Lab, eventually, raw_request};
use muster_images::Digest;
use std::path::Path;
use std::process::Command;

type Entries = Vec<(String, Vec<u8>)>;

fn hex_digest(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

/// A tar of these files, with their names as they are.
fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        append(&mut builder, header, name, bytes);
    }
    builder.into_inner().unwrap()
}

/// The crate refuses to write `..` and absolute names, so the name goes in as bytes.
fn append(builder: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, name: &str, bytes: &[u8]) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

/// A tar with one link.
fn link(kind: tar::EntryType, name: &str, target: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    append(&mut builder, header, name, &[]);
    builder.into_inner().unwrap()
}

/// An image with this layer, as of `docker save`; the digest is told to be this.
fn image(layer: &[u8], diff_id: &str) -> Entries {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["bad:1"],"Layers":["layer.tar"]}]"#;
    vec![
        ("config.json".to_owned(), config.into_bytes()),
        ("layer.tar".to_owned(), layer.to_vec()),
        ("manifest.json".to_owned(), manifest.as_bytes().to_vec()),
    ]
}

fn gzip(bytes: &[u8], directory: &Path) -> Vec<u8> {
    let path = directory.join("plain");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("gzip").arg("-c").arg(&path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Bytes of files below a directory.
fn disk_usage(directory: &Path) -> u64 {
    let output = Command::new("du").arg("-sb").arg(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[track_caller]
fn refused(docker: &Docker, directory: &Path, what: &str, bytes: &[u8]) -> String {
    let path = directory.join("bad.tar");
    std::fs::write(&path, bytes).unwrap();
    let output = docker.try_run(&["load", "-i", &path.to_string_lossy()]);
    let complaint = format!("{}{}", output.stdout, output.stderr);
    assert_ne!(output.code, 0, "{what} was loaded: {complaint}");
    assert!(
        !complaint.trim().is_empty() && !complaint.contains("Internal"),
        "{what}: {complaint}"
    );
    let images = docker.lines(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(images, [IMAGE], "{what}");
    complaint
}

#[test]
fn archives_that_reach_outside_or_lie_are_refused() {
    let lab = Lab::with_image("e2ehost1", 1, 1);
    let (docker, directory) = (lab.docker("node-1"), lab.directory());
    let data = lab.node_directory("node-1").join("data");
    let before = disk_usage(&data);

    let escape = directory.join("escaped");
    let dots = format!("../../../../../../../../../..{}", escape.display());
    let layers = [
        ("a layer with ..", archive(&[(dots.clone(), b"x".to_vec())])),
        (
            "a hard link to ..",
            link(tar::EntryType::Link, "a", "../../../../etc/passwd"),
        ),
    ];
    for (what, layer) in layers {
        refused(
            &docker,
            directory,
            what,
            &archive(&image(&layer, &hex_digest(&layer))),
        );
    }
    let good = archive(&[("a".to_owned(), b"x".to_vec())]);
    let mut outer = image(&good, &hex_digest(&good));
    outer.push((dots, b"x".to_vec()));
    refused(&docker, directory, "an archive with ..", &archive(&outer));
    let manifest = r#"[{"Config":"/etc/passwd","RepoTags":["bad:1"],"Layers":["../../etc/passwd"]}]"#;
    let absolute = [("manifest.json".to_owned(), manifest.as_bytes().to_vec())];
    refused(
        &docker,
        directory,
        "a manifest that names other files",
        &archive(&absolute),
    );
    let complaint = refused(
        &docker,
        directory,
        "a wrong digest",
        &archive(&image(&good, &hex_digest(b"other"))),
    );
    assert!(
        complaint.contains("digest") || complaint.contains("sha256"),
        "{complaint}"
    );

    let zipped = gzip(&archive(&image(&good, &hex_digest(&good))), directory);
    refused(
        &docker,
        directory,
        "a truncated gzip",
        &zipped[..zipped.len() / 2],
    );
    let zipped = gzip(&good, directory);
    let truncated = image(&zipped[..zipped.len() / 2], &hex_digest(&good));
    refused(&docker, directory, "a truncated layer", &archive(&truncated));
    refused(&docker, directory, "no archive", b"this is not a tar archive");
    refused(&docker, directory, "an empty archive", &archive(&[]));

    assert!(!escape.exists());
    // What the daemon writes of its own accord meanwhile is small.
    let after = disk_usage(&data);
    assert!(after < before + (1 << 20), "{before} bytes became {after}");
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
}

#[test]
fn links_of_a_layer_stay_inside_the_container() {
    let lab = Lab::with_image("e2ehost2", 1, 1);
    let (docker, directory) = (lab.docker("node-1"), lab.directory());
    let outside = directory.join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    builder.append_link(&mut header, "door", &outside).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(1);
    append(&mut builder, header, "door/file", b"x");
    let layer = builder.into_inner().unwrap();
    let path = directory.join("link.tar");
    std::fs::write(&path, archive(&image(&layer, &hex_digest(&layer)))).unwrap();
    // Whether the archive is refused or its link is followed inside the root, nothing comes out.
    let output = docker.try_run(&["load", "-i", &path.to_string_lossy()]);
    assert!(
        std::fs::read_dir(&outside).unwrap().next().is_none(),
        "{output:?}"
    );
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
}

#[test]
fn a_decompression_bomb_is_stopped() {
    let lab = Lab::with_image("e2ehost3", 1, 1);
    let docker = lab.docker("node-1");
    let data = lab.node_directory("node-1").join("data");
    let before = disk_usage(&data);
    // Past a gibibyte a stream may not grow more than a hundredfold; zeros grow a thousandfold.
    let output = Command::new("sh")
        .args(["-c", "head -c 1400M /dev/zero | gzip -1"])
        .output()
        .unwrap();
    let bomb = archive(&image(&output.stdout, &hex_digest(b"whatever")));
    let head = format!(
        "POST /v1.41/images/load HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        bomb.len()
    );
    // The CLI loses the answer to an archive that it is still sending, so it is read from the socket.
    let answer = raw_request(docker.socket(), &[head.as_bytes(), &bomb].concat(), Ending::Wait);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("decompression bomb"), "{answer}");
    assert_eq!(docker.lines(&["images", "-aq"]).len(), 1);
    eventually("the space to be free again", LONG, || {
        let after = disk_usage(&data);
        if after < before + (1 << 20) {
            Ok(())
        } else {
            Err(after)
        }
    });
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
}
