use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn root(directory: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty()).unwrap()
}

#[test]
fn sources_are_found_inside_only() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("context/a/b")).unwrap();
    for file in [
        "context/one.txt",
        "context/two.txt",
        "context/a/b/three.txt",
        "outside",
    ] {
        fs::write(at(file), file).unwrap();
    }
    symlink("../outside", at("context/up")).unwrap();
    symlink("/one.txt", at("context/absolute")).unwrap();
    let root = root(&at("context"));
    assert_eq!(select(&root, "*.txt").unwrap(), ["one.txt", "two.txt"]);
    assert_eq!(select(&root, "/a/./*/t*").unwrap(), ["a/b/three.txt"]);
    assert_eq!(select(&root, "a/../one.txt").unwrap(), ["one.txt"]);
    symlink("/a", at("context/link")).unwrap();
    symlink("..", at("context/a/out")).unwrap();
    assert_eq!(select(&root, "link/b/t*").unwrap(), ["link/b/three.txt"]);
    assert_eq!(select(&root, "a/out/o*.txt").unwrap(), ["a/out/one.txt"]);
    for nothing in ["up/*", "one.txt/*", "missing/*", "l*/b/*", "absolute/*"] {
        let error = select(&root, nothing).unwrap_err().to_string();
        assert!(error.contains("no source files"), "{nothing}: {error}");
    }
    assert_eq!(select(&root, "/").unwrap(), [""]);
    for bad in ["../outside", "a/../../x", "*.none", "["] {
        assert!(select(&root, bad).is_err(), "{bad}");
    }
    assert!(open(&root, "up").is_err(), "a link leads to nothing inside");
    assert!(open(&root, "absolute").is_ok());
    assert!(
        open(&root, "missing")
            .unwrap_err()
            .to_string()
            .contains("file does not exist")
    );
}

#[test]
fn digests_tell_content_and_mode_but_no_time() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        fs::create_dir_all(directory.path().join("d")).unwrap();
        fs::write(directory.path().join(name), content).unwrap();
    };
    write("d/file", "content");
    let (root, cancel) = (root(directory.path()), CancellationToken::new());
    let first = digest_at(&root, "d", &cancel).unwrap();
    write("d/file", "content");
    let later = fs::File::options()
        .write(true)
        .open(directory.path().join("d/file"))
        .unwrap();
    later.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(digest_at(&root, "d", &cancel).unwrap(), first);
    write("d/file", "Content");
    assert_ne!(digest_at(&root, "d", &cancel).unwrap(), first);
    write("d/file", "content");
    assert_eq!(digest_at(&root, "d", &cancel).unwrap(), first);
    fs::rename(directory.path().join("d/file"), directory.path().join("d/other")).unwrap();
    assert_ne!(digest_at(&root, "d", &cancel).unwrap(), first);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (renamed, other) = (
        digest_at(&root, "d", &cancel).unwrap(),
        directory.path().join("d/other"),
    );
    rustix::fs::setxattr(
        &other,
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    assert_ne!(digest_at(&root, "d", &cancel).unwrap(), renamed);
}

#[test]
fn endless_files_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = fs::File::create(directory.path().join("file")).unwrap();
    file.set_len(FILE_BYTES_MAX).unwrap();
    let (root, cancel) = (root(directory.path()), CancellationToken::new());
    cancel.cancel();
    assert!(matches!(
        digest_at(&root, "file", &cancel),
        Err(Error::BuildCancelled)
    ));
    file.set_len(FILE_BYTES_MAX + 1).unwrap();
    let error = digest_at(&root, "file", &CancellationToken::new()).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}
