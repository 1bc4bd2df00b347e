use super::rotation::numbered;
use super::*;
use rustix::fs::{FlockOperation, flock};

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
