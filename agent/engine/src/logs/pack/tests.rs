use super::*;
use crate::logs::{LogQuery, LogReader};
use muster_types::Timestamp;
use std::path::PathBuf;

const FILES: u32 = 5;

/// A log that is rotated as the monitor does.
struct Log {
    directory: tempfile::TempDir,
    written: u32,
}

impl Log {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            written: 0,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn write(&mut self, lines: u32) {
        let log = OpenOptions::new().create(true).append(true).open(self.path());
        let mut log = log.unwrap();
        for _ in 0..lines {
            let (n, time) = (self.written, Timestamp::from_secs(i64::from(self.written)));
            writeln!(log, r#"{{"log":"{n}\n","stream":"stdout","time":"{time}"}}"#).unwrap();
            self.written += 1;
        }
    }

    fn rotate(&self) {
        for number in (0..FILES - 1).rev() {
            let (from, to) = (numbered(&self.path(), number), numbered(&self.path(), number + 1));
            for (from, to) in [(from.clone(), to.clone()), (packed(&from), packed(&to))] {
                let _ = fs::rename(from, to);
            }
        }
    }

    fn pack(&self) -> Packed {
        pack_oldest(&self.path(), FILES, || false).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn reader(&self, tail: Option<u64>) -> LogReader {
        let query = LogQuery {
            tail,
            follow: true,
            ..LogQuery::default()
        };
        LogReader::open(&self.path(), query).unwrap()
    }
}

fn rest(reader: &mut LogReader) -> Vec<u32> {
    let mut read = Vec::new();
    loop {
        let batch = reader.next_batch().unwrap();
        if batch.is_empty() {
            return read;
        }
        for entry in batch {
            read.push(String::from_utf8_lossy(&entry.data).trim().parse().unwrap());
        }
    }
}

fn all(lines: std::ops::Range<u32>) -> Vec<u32> {
    lines.collect()
}

#[test]
fn rotated_files_are_compressed_oldest_first_and_read_as_before() {
    let mut log = Log::new();
    for _ in 0..3 {
        log.write(4);
        log.rotate();
    }
    log.write(2);
    assert_eq!(log.pack(), Packed::One);
    assert_eq!(log.names(), ["log", "log.1", "log.2", "log.3.gz"]);
    for tail in 0..=15 {
        let first = 14_u32.saturating_sub(tail);
        assert_eq!(rest(&mut log.reader(Some(tail.into()))), all(first..14), "{tail}");
    }
    assert_eq!(
        (log.pack(), log.pack(), log.pack()),
        (Packed::One, Packed::One, Packed::All)
    );
    assert_eq!(log.names(), ["log", "log.1.gz", "log.2.gz", "log.3.gz"]);
    assert_eq!(rest(&mut log.reader(None)), all(0..14));
    let inflated = std::process::Command::new("zcat")
        .arg(packed(&numbered(&log.path(), 1)))
        .output();
    let inflated = String::from_utf8(inflated.unwrap().stdout).unwrap();
    assert_eq!(inflated.lines().count(), 4);
}

#[test]
fn a_reader_goes_on_while_what_it_read_is_rotated_and_compressed() {
    let mut log = Log::new();
    log.write(2);
    let mut follower = log.reader(None);
    assert_eq!(rest(&mut follower), [0, 1]);
    log.write(1);
    for _ in 0..2 {
        log.rotate();
        assert_eq!(log.pack(), Packed::One);
        log.write(1);
    }
    // It holds the file that is gone, and goes on behind its compressed form.
    assert_eq!(rest(&mut follower), [2, 3, 4]);
    let mut first = log.reader(None);
    let read = first.next_batch().unwrap();
    let position = first.position().unwrap().unwrap();
    let mut second = LogReader::open_at(&log.path(), LogQuery::default(), Some(&position)).unwrap();
    assert_eq!(rest(&mut second), all(read.len() as u32..5));
}

#[test]
fn what_a_killed_engine_left_counts_once_and_is_done_again() {
    let mut log = Log::new();
    log.write(3);
    log.rotate();
    log.write(3);
    let first = numbered(&log.path(), 1);
    // Killed while it wrote, and then between its two changes of names.
    fs::write(with_suffix(&log.path(), ".packing"), "half").unwrap();
    let kept = log.directory.path().join("kept");
    fs::copy(&first, &kept).unwrap();
    assert_eq!(log.pack(), Packed::One);
    fs::rename(kept, &first).unwrap();
    assert_eq!(rest(&mut log.reader(None)), all(0..6));
    log.rotate();
    log.write(1);
    assert_eq!(rest(&mut log.reader(None)), all(0..7));
    while log.pack() == Packed::One {}
    assert_eq!(log.names(), ["log", "log.1.gz", "log.2.gz"]);
    assert_eq!(rest(&mut log.reader(None)), all(0..7));
}

#[test]
fn names_are_not_changed_while_the_monitor_does_and_nothing_is_left_of_it() {
    let mut log = Log::new();
    log.write(1);
    log.rotate();
    let held = File::open(log.directory.path()).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    assert_eq!(log.pack(), Packed::Later);
    assert_eq!(log.names(), ["log.1"]);
    drop(held);
    let stopped = pack_oldest(&log.path(), FILES, || true).unwrap();
    assert_eq!((stopped, log.names()), (Packed::Later, vec!["log.1".to_owned()]));
}

#[test]
fn a_file_that_moves_meanwhile_is_replaced_where_it_is() {
    let mut log = Log::new();
    log.write(1);
    log.rotate();
    log.write(1);
    let moved = std::cell::Cell::new(false);
    let packed = pack_oldest(&log.path(), FILES, || {
        if !moved.replace(true) {
            log.rotate();
        }
        false
    });
    assert_eq!(packed.unwrap(), Packed::One);
    assert_eq!(log.names(), ["log.1", "log.2.gz"]);
    log.write(1);
    assert_eq!(rest(&mut log.reader(None)), [0, 1, 2]);
}

#[test]
fn a_damaged_file_costs_its_own_lines_only() {
    let mut log = Log::new();
    for _ in 0..2 {
        log.write(500);
        log.rotate();
    }
    log.write(1);
    while log.pack() == Packed::One {}
    let newer = packed(&numbered(&log.path(), 1));
    let content = fs::read(&newer).unwrap();
    fs::write(&newer, &content[..content.len() / 2]).unwrap();
    let read = rest(&mut log.reader(None));
    assert_eq!((read.first(), read.last()), (Some(&0), Some(&1000)));
    assert!(read.len() > 500 && read.len() < 1001, "{}", read.len());
    assert_eq!(rest(&mut log.reader(Some(1))), [1000]);
}
