//! Settings about containers' logs.

use super::pairs;
use muster_types::Problems;
use muster_types::service::LogDriver;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Options of the log driver, as a table of the file or as flags.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum LogOptions {
    /// Of the file.
    Table(BTreeMap<String, String>),
    /// `key=value`, each.
    Flags(Vec<String>),
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::Table(BTreeMap::new())
    }
}

/// Reads the driver of containers that name none, and its options.
pub(super) fn read(driver: Option<&str>, options: &LogOptions, problems: &mut Problems) -> LogDriver {
    let driver = LogDriver {
        name: driver.unwrap_or("json-file").to_owned(),
        options: match options {
            LogOptions::Table(table) => table.clone(),
            LogOptions::Flags(flags) => pairs("log-opt", flags, problems),
        },
    };
    if let Err(error) = muster_engine::check_log_driver(&driver) {
        problems.add("log-driver", error.to_string());
    }
    driver
}
