//! Reads a log forwards, across rotations.

use super::file::LogFile;
use super::{LogEntry, LogQuery, files, tail};
use crate::log_forward::Position;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest line: the monitor splits at 16 KiB, which JSON escapes may make six times as long. Longer ones are skipped.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A position in a container's log. Blocking; each call does a bounded amount of work.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    query: LogQuery,
    waiting: VecDeque<LogFile>,
    current: Option<LogFile>,
    unread: Vec<u8>,
    finished: bool,
}

impl LogReader {
    /// Opens the log at `path` where the query wants it to begin. A log that does not exist yet is empty.
    pub fn open(path: &Path, query: LogQuery) -> io::Result<Self> {
        let mut files = files::open_all(path)?;
        if let Some(newest) = files.last_mut().filter(|_| !query.follow) {
            newest.end_here()?;
        }
        if let Some(lines) = query.tail
            && !files.is_empty()
        {
            let (position, offset) = tail::start_of_last(&files, lines)?;
            files.drain(..position);
            files[0].go_to(offset)?;
        }
        Ok(Self {
            path: path.to_owned(),
            query,
            waiting: files.into(),
            current: None,
            unread: Vec::new(),
            finished: false,
        })
    }

    /// As [`open`](Self::open), behind what an earlier reader read.
    pub(crate) fn open_at(path: &Path, query: LogQuery, position: Option<&Position>) -> io::Result<Self> {
        let mut reader = Self::open(path, query)?;
        let Some(position) = position else {
            return Ok(reader);
        };
        let found = reader.waiting.iter().position(|file| position.is_in(file));
        if let Some(found) = found {
            reader.waiting.drain(..found);
            reader.waiting[0].go_to(position.offset)?;
        }
        Ok(reader)
    }

    /// Where this reader is: behind the last entry that it gave out; `None` before the first file.
    pub(crate) fn position(&self) -> io::Result<Option<Position>> {
        let Some(current) = &self.current else {
            return Ok(None);
        };
        Ok(Some(Position {
            inode: current.inode(),
            head: current.head()?,
            offset: current.at().saturating_sub(self.unread.len() as u64),
        }))
    }

    /// Whether everything up to the query's `until` was read: nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The next wanted entries; empty when everything written so far was read.
    pub fn next_batch(&mut self) -> io::Result<Vec<LogEntry>> {
        let mut wanted = Vec::new();
        while wanted.is_empty() && !self.finished {
            if self.fill()? == 0 && !self.advance()? {
                break;
            }
            self.take_lines(&mut wanted);
        }
        Ok(wanted)
    }

    /// Reads on; the bytes that are worth a look.
    fn fill(&mut self) -> io::Result<usize> {
        let Some(current) = &mut self.current else {
            return Ok(0);
        };
        let filled = self.unread.len();
        self.unread.resize(filled + CHUNK_BYTES, 0);
        let read = loop {
            match current.read(&mut self.unread[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let read = read.inspect_err(|_| self.unread.truncate(filled))?;
        self.unread.truncate(filled + read);
        match current.is_packed() || read == CHUNK_BYTES {
            true => Ok(read),
            false => self.leave_unfinished_line(),
        }
    }

    /// Goes back to the beginning of a line that has no end yet: the monitor takes it back when the disk is full, and writes
    /// another one in its place. What is left is worth a look.
    fn leave_unfinished_line(&mut self) -> io::Result<usize> {
        let newline = self.unread.iter().rposition(|byte| *byte == b'\n');
        let whole = newline.map_or(0, |end| end + 1);
        let unfinished = (self.unread.len() - whole) as u64;
        if let Some(current) = &mut self.current
            && unfinished > 0
        {
            current.go_to(current.at().saturating_sub(unfinished))?;
        }
        self.unread.truncate(whole);
        Ok(whole)
    }

    /// Goes to the next file; false when there is none.
    fn advance(&mut self) -> io::Result<bool> {
        if self.waiting.is_empty() {
            if !self.query.follow || !self.is_rotated() {
                return Ok(false);
            }
            // What was written between the last read and the rotation is still to be read.
            if self.fill()? > 0 {
                return Ok(true);
            }
            let files = files::open_after(&self.path, self.current.as_ref())?;
            self.waiting = files.into();
        }
        let Some(next) = self.waiting.pop_front() else {
            return Ok(false);
        };
        self.current = Some(next);
        self.unread.clear();
        Ok(true)
    }

    /// Whether the monitor writes to another file than the one that is read.
    fn is_rotated(&self) -> bool {
        let current = self.current.as_ref();
        files::current_inode(&self.path)
            .is_some_and(|inode| current.is_none_or(|file| file.is_packed() || file.inode() != inode))
    }

    fn take_lines(&mut self, wanted: &mut Vec<LogEntry>) {
        let mut start = 0;
        while let Some(length) = self.unread[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.unread[start..start + length];
            start += length + 1;
            let Some(entry) = LogEntry::parse(line) else {
                continue;
            };
            if self.query.is_past(&entry) {
                self.finished = true;
                return;
            }
            if self.query.accepts(&entry) {
                wanted.push(entry);
            }
        }
        self.unread.drain(..start);
        if self.unread.len() > LINE_BYTES_MAX {
            self.unread.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::Timestamp;
    use std::fs;
    use std::io::Write;

    struct Log {
        directory: tempfile::TempDir,
        written: u32,
    }

    impl Log {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self {
                directory,
                written: 0,
            }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("log")
        }

        fn write(&mut self, lines: u32) {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path())
                .unwrap();
            for _ in 0..lines {
                let n = self.written;
                let stream = if n.is_multiple_of(2) { "stdout" } else { "stderr" };
                let time = Timestamp::from_secs(i64::from(n));
                writeln!(file, r#"{{"log":"{n}\n","stream":"{stream}","time":"{time}"}}"#).unwrap();
                self.written += 1;
            }
        }

        fn rotate(&self, keep: u32) {
            for number in (1..keep).rev() {
                let from = files_path(&self.path(), number - 1);
                if from.exists() {
                    fs::rename(from, files_path(&self.path(), number)).unwrap();
                }
            }
        }

        fn reader(&self, query: LogQuery) -> LogReader {
            LogReader::open(&self.path(), query).unwrap()
        }
    }

    fn files_path(path: &Path, number: u32) -> PathBuf {
        match number {
            0 => path.to_owned(),
            number => PathBuf::from(format!("{}.{number}", path.display())),
        }
    }

    fn following() -> LogQuery {
        LogQuery {
            follow: true,
            ..LogQuery::default()
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

    #[test]
    fn rotated_files_are_read_oldest_first() {
        let mut log = Log::new();
        for _ in 0..3 {
            log.rotate(5);
            log.write(4);
        }
        assert_eq!(
            rest(&mut log.reader(LogQuery::default())),
            (0..12).collect::<Vec<_>>()
        );
    }

    #[test]
    fn tail_counts_lines_across_files() {
        let mut log = Log::new();
        log.write(5);
        log.rotate(3);
        log.write(3);
        for lines in 0..=9 {
            let query = LogQuery {
                tail: Some(lines),
                ..LogQuery::default()
            };
            let first = 8_u32.saturating_sub(lines as u32);
            assert_eq!(
                rest(&mut log.reader(query)),
                (first..8).collect::<Vec<_>>(),
                "{lines}"
            );
        }
    }

    #[test]
    fn streams_and_times_filter() {
        let mut log = Log::new();
        log.write(10);
        let errors = LogQuery {
            stdout: false,
            ..LogQuery::default()
        };
        assert_eq!(rest(&mut log.reader(errors)), [1, 3, 5, 7, 9]);
        let between = LogQuery {
            since: Some(Timestamp::from_secs(3)),
            until: Some(Timestamp::from_secs(5)),
            ..LogQuery::default()
        };
        let mut reader = log.reader(between);
        assert_eq!(rest(&mut reader), [3, 4, 5]);
        assert!(reader.is_finished());
    }

    #[test]
    fn following_survives_rotations() {
        let mut log = Log::new();
        let mut reader = log.reader(following());
        assert_eq!(rest(&mut reader), [] as [u32; 0]);
        log.write(2);
        assert_eq!(rest(&mut reader), [0, 1]);
        log.write(1);
        log.rotate(4);
        log.write(1);
        log.rotate(4);
        log.write(1);
        assert_eq!(rest(&mut reader), [2, 3, 4]);
        assert_eq!(rest(&mut reader), [] as [u32; 0]);
        log.write(1);
        assert_eq!(rest(&mut reader), [5]);
    }

    #[test]
    fn another_reader_goes_on_where_the_last_one_was() {
        let mut log = Log::new();
        log.write(2);
        let mut first = log.reader(following());
        assert_eq!(first.position().unwrap(), None);
        assert_eq!(rest(&mut first), [0, 1]);
        let position = first.position().unwrap().unwrap();
        log.write(1);
        log.rotate(3);
        log.write(1);
        let at = |position: &Position| LogReader::open_at(&log.path(), following(), Some(position)).unwrap();
        assert_eq!(rest(&mut at(&position)), [2, 3]);
        // The file is gone, and its number was given out again.
        let other = Position {
            head: b"{\"log\":\"another".to_vec(),
            ..position
        };
        assert_eq!(rest(&mut at(&other)), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_written_after_the_question_is_no_part_of_the_answer() {
        let mut log = Log::new();
        log.write(5);
        let last_two = LogQuery {
            tail: Some(2),
            ..LogQuery::default()
        };
        let mut readers = [log.reader(LogQuery::default()), log.reader(last_two)];
        log.write(3);
        log.rotate(2);
        log.write(1);
        assert_eq!(readers.each_mut().map(rest), [vec![0, 1, 2, 3, 4], vec![3, 4]]);
    }

    #[test]
    fn a_line_that_is_taken_back_is_not_read() {
        let mut log = Log::new();
        log.write(2);
        let mut reader = log.reader(following());
        assert_eq!(rest(&mut reader), [0, 1]);
        let file = fs::OpenOptions::new().append(true).open(log.path()).unwrap();
        let length = file.metadata().unwrap().len();
        (&file).write_all(b"{\"log\":\"7\\n\",").unwrap();
        assert_eq!(rest(&mut reader), [] as [u32; 0]);
        file.set_len(length).unwrap();
        log.write(1);
        assert_eq!(rest(&mut reader), [2]);
    }

    #[test]
    fn lines_longer_than_what_is_read_at_once_are_read() {
        let log = Log::new();
        let long = |number: u32| {
            let zeros = "0".repeat(CHUNK_BYTES * 3 / 2);
            format!(
                "{{\"log\":\"{zeros}{number}\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}\n"
            )
        };
        let expected = Vec::from_iter(0..5);
        fs::write(log.path(), expected.iter().copied().map(long).collect::<String>()).unwrap();
        assert_eq!(rest(&mut log.reader(LogQuery::default())), expected);
    }

    #[test]
    fn an_unfinished_line_waits_and_a_damaged_one_is_skipped() {
        let mut log = Log::new();
        log.write(1);
        let mut file = fs::OpenOptions::new().append(true).open(log.path()).unwrap();
        file.write_all(b"garbage\n{\"log\":\"7\\n\",").unwrap();
        let mut reader = log.reader(following());
        assert_eq!(rest(&mut reader), [0]);
        file.write_all(b"\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n")
            .unwrap();
        assert_eq!(rest(&mut reader), [7]);
    }
}
