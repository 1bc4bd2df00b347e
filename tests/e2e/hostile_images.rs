//! Image archives that are wrong or hostile are refused with a clear error, and nothing of them stays.

use crate::support::{IMAGE, LONG, Lab, eventually};
use muster_images::Digest;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
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

/// All that the node keeps of images, by path.
fn kept(lab: &Lab) -> BTreeSet<PathBuf> {
    let mut kept = BTreeSet::new();
    let mut directories = vec![lab.node_directory("node-1").join("data/images")];
    while let Some(directory) = directories.pop() {
        // What was there a moment ago may be deleted by now.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
            kept.insert(entry.path());
        }
    }
    kept
}

/// Loads an archive that must be refused with these words, without leaving anything behind.
#[track_caller]
fn refused(lab: &Lab, what: &str, bytes: &[u8], words: &str) {
    let docker = lab.docker("node-1");
    let before = kept(lab);
    let path = lab.directory().join("bad.tar");
    std::fs::write(&path, bytes).unwrap();
    let output = docker.try_run(&["load", "-i", &path.to_string_lossy()]);
    let complaint = format!("{}{}", output.stdout, output.stderr);
    assert_ne!(output.code, 0, "{what} was loaded: {complaint}");
    assert!(complaint.contains(words), "{what}: {complaint}");
    let images = docker.lines(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(images, [IMAGE], "{what}");
    eventually(&format!("{what} to be gone"), LONG, || {
        let after = kept(lab);
        if after == before {
            Ok(())
        } else {
            Err(after.symmetric_difference(&before).cloned().collect::<Vec<_>>())
        }
    });
}

#[test]
fn layers_that_reach_outside_are_refused() {
    let lab = Lab::with_image("e2ehost1", 1, 1);
    let escape = lab.directory().join("escaped");
    let dots = format!("../../../../../../../../../..{}", escape.display());
    let file = |name: &str| archive(&[(name.to_owned(), b"x".to_vec())]);
    let absolute = escape.to_string_lossy().into_owned();
    let target = "../../../../etc/passwd";
    use tar::EntryType::{Link, Symlink};
    for (what, layer, words) in [
        ("a file at ..", file(&dots), "\"..\" leads out of the image"),
        (
            "a file at an absolute path",
            file(&absolute),
            "an absolute path leads out of the image",
        ),
        (
            "a hard link to ..",
            link(Link, "a", target),
            "leads out of the image",
        ),
        (
            "an absolute hard link",
            link(Link, "a", "/etc/passwd"),
            "leads out of the image",
        ),
        (
            "a symbolic link to ..",
            link(Symlink, "a", target),
            "the symbolic link leads out of the image",
        ),
    ] {
        let image = image(&layer, &hex_digest(&layer));
        refused(&lab, what, &archive(&image), words);
    }
    assert!(!escape.exists());
    let docker = lab.docker("node-1");
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
}

#[test]
fn archives_that_reach_outside_or_lie_are_refused() {
    let lab = Lab::with_image("e2ehost4", 1, 1);
    let escape = lab.directory().join("escaped");
    let dots = format!("../../../../../../../../../..{}", escape.display());
    let good = archive(&[("a".to_owned(), b"x".to_vec())]);
    let whole = image(&good, &hex_digest(&good));
    let with = |name: &str, bytes: &[u8]| {
        let mut entries = whole.clone();
        entries.retain(|(own, _)| own != name);
        entries.push((name.to_owned(), bytes.to_vec()));
        archive(&entries)
    };
    let zipped = |bytes: &[u8]| gzip(bytes, lab.directory());
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let foreign = br#"[{"Config":"/etc/passwd","RepoTags":["bad:1"],"Layers":["../../etc/passwd"]}]"#;
    let unnameable = br#"[{"Config":"config.json","RepoTags":["../Bad:1"],"Layers":["layer.tar"]}]"#;
    let mut linked = archive(&whole[1..]);
    linked.truncate(linked.len() - 1024);
    linked.extend(link(tar::EntryType::Symlink, "config.json", "/etc/passwd"));
    for (what, bytes, words) in [
        (
            "an archive with ..",
            with(&dots, b"x"),
            "\"..\" leads out of the image",
        ),
        (
            "an archive with an absolute path",
            with("/etc/bad", b"x"),
            "an absolute path leads out of the image",
        ),
        (
            "an archive with a link outside",
            linked,
            "an absolute symbolic link leads out of the archive",
        ),
        (
            "a manifest that names other files",
            with("manifest.json", foreign),
            "leads out of the image",
        ),
        (
            "a manifest with a bad name",
            with("manifest.json", unnameable),
            "invalid reference format",
        ),
        (
            "a manifest that is none",
            with("manifest.json", b"{"),
            "manifest.json is not valid",
        ),
        (
            "a missing layer",
            archive(&[whole[0].clone(), whole[2].clone()]),
            "\"layer.tar\" is missing from the archive",
        ),
        (
            "a wrong digest",
            archive(&image(&good, &hex_digest(b"other"))),
            "has digest",
        ),
        (
            "a truncated gzip",
            cut(zipped(&archive(&whole))),
            "the archive is truncated",
        ),
        (
            "a truncated tar",
            cut(archive(&whole)),
            "the archive is truncated",
        ),
        (
            "a truncated layer",
            archive(&image(&cut(zipped(&good)), &hex_digest(&good))),
            "truncated",
        ),
        ("no archive", b"this is not a tar archive".to_vec(), "truncated"),
        ("an empty archive", archive(&[]), "neither"),
    ] {
        refused(&lab, what, &bytes, words);
    }
    assert!(!escape.exists());
    let docker = lab.docker("node-1");
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
    // Past a gibibyte a stream may not grow more than a hundredfold; zeros grow a thousandfold.
    let output = Command::new("sh")
        .args(["-c", "head -c 1400M /dev/zero | gzip -1"])
        .output()
        .unwrap();
    let bomb = archive(&image(&output.stdout, &hex_digest(b"whatever")));
    refused(&lab, "a bomb", &bomb, "decompression bomb");
    let docker = lab.docker("node-1");
    assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "alive"]), "alive");
}
