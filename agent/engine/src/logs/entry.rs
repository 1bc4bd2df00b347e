//! One line of a log file.

use bytes::Bytes;
use muster_types::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Which of a container's streams a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStreamKind {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One logged line, or part of one where the line was longer than the log's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Which stream.
    pub stream: LogStreamKind,
    /// When it was read.
    pub at: Timestamp,
    /// The bytes, with the line's end where it had one.
    pub data: Bytes,
    /// What the log driver's options add to every line.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

impl LogEntry {
    /// Reads one line of a json-file log; `None` for one that is damaged, as after a crash of the host.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let line: Line = serde_json::from_slice(line).ok()?;
        let stream = match line.stream.as_str() {
            "stdout" => LogStreamKind::Stdout,
            "stderr" => LogStreamKind::Stderr,
            _ => return None,
        };
        let at = OffsetDateTime::parse(&line.time, &Rfc3339).ok()?;
        Some(Self {
            stream,
            at: Timestamp(i64::try_from(at.unix_timestamp_nanos()).ok()?),
            data: line.log.into_bytes().into(),
            attributes: line.attrs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_damaged_ones_are_not() {
        let good =
            br#"{"log":"a \"b\"\n","stream":"stderr","attrs":{"k":"v"},"time":"2026-11-21T03:35:21.5Z"}"#;
        let entry = LogEntry::parse(good).unwrap();
        assert_eq!(entry.stream, LogStreamKind::Stderr);
        assert_eq!(&entry.data[..], b"a \"b\"\n");
        assert_eq!(entry.attributes, [("k".to_owned(), "v".to_owned())].into());
        assert_eq!(entry.at, Timestamp(1_795_232_121_500_000_000));
        for bad in [&b"{"[..], b"", br#"{"log":"x","stream":"stdout","time":"soon"}"#] {
            assert!(LogEntry::parse(bad).is_none());
        }
    }
}
