//! The log driver `journald`: log entries in the journal's native form, with the fields of Docker's driver.
//!
//! The form: systemd's "Native Journal Protocol".

use crate::logs::{LogEntry, LogStreamKind};
use crate::record::Record;
use muster_types::Timestamp;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest name of a field.
const NAME_BYTES_MAX: usize = 64;

/// The fields that every entry of one container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    /// The fields of a container with this tag; labels and variables that were chosen become fields, too.
    pub fn of(record: &Record, tag: &str, attributes: &BTreeMap<String, String>) -> Self {
        let mut fields = Vec::new();
        for (name, value) in [
            ("CONTAINER_ID", record.id.short()),
            ("CONTAINER_ID_FULL", record.id.as_str()),
            ("CONTAINER_NAME", record.name.as_str()),
            ("CONTAINER_TAG", tag),
            ("IMAGE_NAME", record.config.image.as_str()),
            ("SYSLOG_IDENTIFIER", tag),
        ] {
            push(&mut fields, name, value.as_bytes());
        }
        for (name, value) in attributes {
            if let Some(name) = field_name(name) {
                push(&mut fields, &name, value.as_bytes());
            }
        }
        Self(fields)
    }

    /// None but those of the entry.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self(Vec::new())
    }

    /// An entry as the journal takes it.
    pub fn entry(&self, entry: &LogEntry) -> Vec<u8> {
        let mut encoded = self.0.clone();
        let priority = match entry.stream {
            LogStreamKind::Stdout => "6",
            LogStreamKind::Stderr => "3",
        };
        push(&mut encoded, "PRIORITY", priority.as_bytes());
        push(&mut encoded, "SYSLOG_TIMESTAMP", written(entry.at).as_bytes());
        let line = entry.data.strip_suffix(b"\n");
        if line.is_none() {
            push(&mut encoded, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        push(&mut encoded, "MESSAGE", line.unwrap_or(&entry.data));
        encoded
    }
}

fn written(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0));
    at.ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Appends a field: text as `NAME=value`, what has a line end in it with its length.
fn push(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        to.push(b'\n');
        to.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        to.push(b'=');
    }
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// The name of a field for that of a label or variable: capitals, digits and underscores, of which none comes first.
fn field_name(name: &str) -> Option<String> {
    let letter = |letter: char| match letter.to_ascii_uppercase() {
        letter if letter.is_ascii_uppercase() || letter.is_ascii_digit() => letter,
        _ => '_',
    };
    let name: String = name.chars().map(letter).collect();
    let name = name.trim_start_matches(|letter: char| letter == '_' || letter.is_ascii_digit());
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    fits.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_text_or_have_a_length() {
        let entry = |data: &'static [u8]| LogEntry {
            stream: LogStreamKind::Stderr,
            at: Timestamp(1_795_232_121_250_000_000),
            data: data.into(),
            attributes: BTreeMap::new(),
        };
        let mut own = Vec::new();
        push(&mut own, "CONTAINER_NAME", b"web");
        let fields = Fields(own);
        let whole = fields.entry(&entry(b"a line\n"));
        let expected =
            "CONTAINER_NAME=web\nPRIORITY=3\nSYSLOG_TIMESTAMP=2026-11-21T03:35:21.25Z\nMESSAGE=a line\n";
        assert_eq!(String::from_utf8(whole).unwrap(), expected);
        let part = fields.entry(&entry(b"a\nb"));
        let end = b"CONTAINER_PARTIAL_MESSAGE=true\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert!(part.ends_with(end), "{}", part.escape_ascii());
    }

    #[test]
    fn names_of_fields_are_the_journals() {
        for (name, expected) in [
            ("com.example/team", Some("COM_EXAMPLE_TEAM")),
            ("_hidden", Some("HIDDEN")),
            ("9lives", Some("LIVES")),
            ("a=b\nMESSAGE=x", Some("A_B_MESSAGE_X")),
            ("é", None),
            ("", None),
        ] {
            assert_eq!(field_name(name).as_deref(), expected, "{name}");
        }
        assert_eq!(field_name(&"x".repeat(65)), None);
    }
}
