//! Messages of the OCI runtime, in runc's two forms. containerd reads the JSON one back to tell its users what failed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::arguments::Flags;
use super::error::{OciError, Result};
use crate::log::Timestamp;

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Debug,
    Warning,
    Error,
}

/// Where messages go.
#[derive(Debug, Default)]
pub(super) struct Journal {
    file: Option<PathBuf>,
    json: bool,
    debug: bool,
}

impl Journal {
    /// As the global options say.
    pub(super) fn new(global: &Flags) -> Result<Journal> {
        let json = match global.value("log-format") {
            None | Some("text" | "") => false,
            Some("json") => true,
            Some(other) => {
                return Err(OciError::usage(format!(
                    "unknown log format {other:?}: it is text or json"
                )));
            }
        };
        Ok(Journal {
            file: global
                .value("log")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            json,
            debug: global.is_set("debug"),
        })
    }

    /// Writes a message. One that cannot be written is written to standard error, as errors always are.
    pub(super) fn write(&self, level: Level, message: &str) {
        if level == Level::Debug && !self.debug {
            return;
        }
        let line = self.line(level, message);
        let written = match &self.file {
            Some(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .and_then(|mut file| file.write_all(line.as_bytes())),
            None if level == Level::Error => Ok(()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
        if written.is_err() || level == Level::Error {
            // There is nobody left to tell when that fails.
            let _ = writeln!(std::io::stderr(), "muster oci: {message}");
        }
    }

    fn line(&self, level: Level, message: &str) -> String {
        let level = match level {
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let time = Timestamp::now();
        let time = time.text();
        let quoted = serde_json::Value::from(message);
        if self.json {
            format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{time}\"}}\n")
        } else {
            format!("time=\"{time}\" level={level} msg={quoted}\n")
        }
    }
}

/// The time now as RFC 3339.
pub(super) fn timestamp_now() -> String {
    Timestamp::now().text().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_json() {
        let journal = Journal {
            json: true,
            ..Journal::default()
        };
        let line = journal.line(Level::Error, "a \"b\"\nc");
        let value: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(value["msg"], "a \"b\"\nc");
        assert_eq!(value["level"], "error");
        assert_eq!(line.lines().count(), 1);
    }
}
