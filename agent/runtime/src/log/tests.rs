use super::rotation::numbered;
use super::*;
use rustix::fs::{FlockOperation, flock};
use std::os::fd::AsRawFd;

fn writer(directory: &Path, max_bytes: Option<u64>, max_files: u32) -> LogWriter {
    let config = LogConfig {
        path: directory.join("json.log"),
        max_bytes,
        max_files,
        attributes: Default::default(),
    };
    LogWriter::open(config).expect("the directory is writable")
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let content = std::fs::read_to_string(path).expect("the log exists");
    content
        .lines()
        .map(|line| serde_json::from_str(line).expect("every line is JSON"))
        .collect()
}

#[test]
fn lines_keep_their_stream_and_content() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = writer(directory.path(), None, 1);
    log.append(LogStream::Stdout, b"a \"quoted\" \\ <line>\t\x01\nhalf");
    log.append(LogStream::Stderr, b"bad \xff byte\n");
    log.append(LogStream::Stdout, b" a line\n");
    log.append(LogStream::Stdout, b"no end");
    log.finish();
    let lines = lines(&directory.path().join("json.log"));
    let texts: Vec<_> = lines
        .iter()
        .map(|line| (line["stream"].as_str(), line["log"].as_str()))
        .collect();
    let expected = [
        (Some("stdout"), Some("a \"quoted\" \\ <line>\t\u{1}\n")),
        (Some("stderr"), Some("bad \u{fffd} byte\n")),
        (Some("stdout"), Some("half a line\n")),
        (Some("stdout"), Some("no end")),
    ];
    assert_eq!(texts, expected);
}

#[test]
fn attributes_are_written_with_every_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = LogWriter::open(LogConfig {
        path: directory.path().join("json.log"),
        max_bytes: None,
        max_files: 1,
        attributes: [("a \"b\"".to_owned(), "c".to_owned())].into(),
    })
    .expect("the directory is writable");
    log.append(LogStream::Stdout, b"one\ntwo\n");
    for line in lines(&directory.path().join("json.log")) {
        assert_eq!(line["attrs"], serde_json::json!({"a \"b\"": "c"}), "{line}");
    }
}

#[test]
fn long_lines_are_split_at_16_kib() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = writer(directory.path(), None, 1);
    let mut line = vec![b'x'; 2 * PART_BYTES_MAX + 5];
    line.push(b'\n');
    for chunk in line.chunks(1000) {
        log.append(LogStream::Stdout, chunk);
    }
    log.append(
        LogStream::Stdout,
        &[vec![b'y'; PART_BYTES_MAX], b"\n".to_vec()].concat(),
    );
    let lengths: Vec<_> = lines(&directory.path().join("json.log"))
        .iter()
        .map(|line| line["log"].as_str().expect("log is a string").len())
        .collect();
    assert_eq!(lengths, [PART_BYTES_MAX, PART_BYTES_MAX, 6, PART_BYTES_MAX + 1]);
}

#[test]
fn rotation_keeps_the_newest_files_and_whole_lines() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = writer(directory.path(), Some(500), 3);
    for number in 0..100 {
        log.append(LogStream::Stdout, format!("line {number}\n").as_bytes());
    }
    let path = directory.path().join("json.log");
    assert!(!numbered(&path, 3).exists(), "max_files counts the current file");
    let mut seen = Vec::new();
    for file in [numbered(&path, 2), numbered(&path, 1), path.clone()] {
        assert!(std::fs::metadata(&file).expect("it exists").len() <= 500);
        seen.extend(
            lines(&file)
                .iter()
                .map(|line| line["log"].as_str().expect("a string").to_owned()),
        );
    }
    let first = 100 - seen.len();
    let expected: Vec<_> = (first..100).map(|number| format!("line {number}\n")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn reopened_log_continues() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    writer(directory.path(), None, 1).append(LogStream::Stdout, b"one\n");
    writer(directory.path(), None, 1).append(LogStream::Stdout, b"two\n");
    assert_eq!(lines(&directory.path().join("json.log")).len(), 2);
}

#[test]
fn a_line_that_a_crash_cut_short_harms_no_other() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("json.log");
    std::fs::write(&path, "{\"log\":\"cut").expect("it is writable");
    writer(directory.path(), None, 1).append(LogStream::Stdout, b"one\n");
    writer(directory.path(), None, 1).append(LogStream::Stdout, b"two\n");
    let content = std::fs::read_to_string(&path).expect("the log exists");
    let (cut, rest) = content.split_once('\n').expect("the line has an end");
    assert_eq!(cut, "{\"log\":\"cut");
    assert_eq!(rest.lines().count(), 2);
}

/// A file system of its own that is mounted nowhere.
fn small_disk(bytes: &str) -> std::os::fd::OwnedFd {
    use rustix::mount::*;
    let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("this is root");
    fsconfig_set_string(&filesystem, "size", bytes).expect("tmpfs has a size");
    fsconfig_create(&filesystem).expect("tmpfs can be made");
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    fsmount(&filesystem, flags, attributes).expect("tmpfs can be mounted")
}

/// What was written to the log of a disk without room, then with: numbers of lines, in order.
fn on_full_disk(line: impl Fn(u32) -> String) -> Vec<String> {
    let disk = small_disk("64k");
    let directory = std::path::PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    let mut log = writer(&directory, None, 1);
    let filling = directory.join("filling");
    std::fs::write(&filling, vec![0; 40 << 10]).expect("there is room");
    for number in 0..2000 {
        log.append(LogStream::Stdout, line(number).as_bytes());
    }
    assert!(log.size < 64 << 10);
    std::fs::remove_file(filling).expect("it exists");
    for number in 2000..2010 {
        log.append(LogStream::Stdout, line(number).as_bytes());
    }
    let length = directory
        .join("json.log")
        .metadata()
        .expect("the log exists")
        .len();
    assert_eq!(log.size, length);
    lines(&directory.join("json.log"))
        .iter()
        .map(|line| line["log"].as_str().expect("a string").to_owned())
        .collect()
}

#[test]
fn a_full_disk_loses_whole_lines_and_no_others() {
    let lines = on_full_disk(|number| format!("line {number}\n"));
    let first = lines
        .iter()
        .position(|line| line == "line 2000\n")
        .expect("there was room again");
    assert!(first > 100 && first < 2000, "{first}");
    let expected: Vec<_> = (0..first)
        .chain(2000..2010)
        .map(|number| format!("line {number}\n"))
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn of_one_write_the_lines_stay_that_had_room() {
    let three = |number| format!("{number} {0}\n{number} {0}\n{number} {0}\n", "x".repeat(1000));
    let lines = on_full_disk(three);
    let mut numbers: Vec<u32> = lines
        .iter()
        .map(|line| {
            line.split(' ')
                .next()
                .expect("a number")
                .parse()
                .expect("a number")
        })
        .collect();
    assert_ne!(
        lines.len() % 3,
        0,
        "the disk was full within a write: {numbers:?}"
    );
    assert!(numbers.is_sorted());
    numbers.dedup();
    assert_eq!(numbers[numbers.len() - 10..], (2000..2010).collect::<Vec<_>>());
}

#[test]
fn times_are_civil_dates() {
    let text = |ns: u64| String::from_utf8(Timestamp::at(ns).text.to_vec()).expect("ASCII");
    assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(text(951_827_696_000_000_789), "2000-02-29T12:34:56.000000789Z");
    assert_eq!(text(1_735_689_599_999_999_999), "2024-12-31T23:59:59.999999999Z");
}

#[test]
fn rotation_waits_for_whoever_changes_names_and_the_writer_does_not() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut log = writer(directory.path(), Some(100), 3);
    let held = File::open(directory.path()).expect("it is readable");
    flock(&held, FlockOperation::LockExclusive).expect("nobody else has it");
    for number in 0..3 {
        log.append(LogStream::Stdout, format!("line {number}\n").as_bytes());
    }
    let path = directory.path().join("json.log");
    assert_eq!(lines(&path).len(), 3);
    drop(held);
    log.append(LogStream::Stdout, b"line 3\n");
    assert_eq!((lines(&path).len(), lines(&numbered(&path, 1)).len()), (1, 3));
}
