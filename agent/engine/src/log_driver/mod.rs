//! Log drivers: what their options mean.

mod attributes;
pub(crate) mod journald;
pub(crate) mod syslog;
mod tag;

use crate::error::{Error, Result};
use crate::logs;
use crate::record::Record;
use attributes::Selection;
use muster_types::service::LogDriver;
use std::collections::BTreeMap;
use syslog::Syslog;
use tag::Tag;

/// The cache of a log that is sent, and the files of the driver `local`; Docker's.
const CACHE_BYTES: u64 = 20 << 20;
const CACHE_FILES: u32 = 5;

/// Where a log goes besides the files of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The host's journal.
    Journald,
    /// A syslog server.
    Syslog(Syslog),
}

/// What a log driver is asked for.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Size at which a file is rotated.
    pub max_bytes: Option<u64>,
    /// Files kept.
    pub max_files: u32,
    labels: Selection,
    env: Selection,
    tag: Option<Tag>,
    /// Where the log is sent; the files are a cache of it then.
    pub destination: Option<Destination>,
    /// Whether users may read the files.
    pub readable: bool,
    /// Whether rotated files are compressed.
    pub compress: bool,
}

impl Settings {
    /// What is written with every line of a container's log.
    pub fn attributes(&self, record: &Record, node: &str) -> BTreeMap<String, String> {
        let labels = record.config.labels.iter();
        let env = record.env.iter().filter_map(|entry| entry.split_once('='));
        let chosen = labels
            .filter(|(name, _)| self.labels.has(name))
            .map(|(name, value)| (name.clone(), value.clone()));
        let set = env
            .filter(|(name, _)| self.env.has(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let tag = self
            .tag
            .as_ref()
            .map(|tag| ("tag".to_owned(), tag.of(record, node)));
        chosen.chain(set).chain(tag).collect()
    }
}

impl Settings {
    /// The tag of a container whose log is sent.
    pub fn tag_of(&self, record: &Record, node: &str) -> String {
        match &self.tag {
            Some(tag) => tag.of(record, node),
            None => record.id.short().to_owned(),
        }
    }
}

/// What a container gets that asks for this: the node's driver where it names none, and of the options those that it does
/// not set itself, where they are of the same driver or of the cache that each has whose logs are sent.
pub(crate) fn completed(asked: Option<LogDriver>, node: &LogDriver) -> LogDriver {
    let mut asked = asked.unwrap_or_default();
    if asked.name.is_empty() {
        asked.name.clone_from(&node.name);
    }
    let has_cache = matches!(asked.name.as_str(), "journald" | "syslog");
    for (key, value) in &node.options {
        if asked.name == node.name || has_cache && key.starts_with("cache-") {
            let value = || value.clone();
            asked.options.entry(key.clone()).or_insert_with(value);
        }
    }
    asked
}

/// Refuses a driver or options that no container could have.
pub fn check_log_driver(driver: &LogDriver) -> Result<()> {
    settings(driver).map(drop)
}

/// Reads a driver's options; `None` for no log.
pub(crate) fn settings(driver: &LogDriver) -> Result<Option<Settings>> {
    let name = match driver.name.as_str() {
        "none" if driver.options.is_empty() => return Ok(None),
        "none" => "none",
        "" | "json-file" => "json-file",
        "local" => "local",
        "journald" => "journald",
        "syslog" => "syslog",
        other => {
            return Err(Error::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let destination = match name {
        "journald" => Some(Destination::Journald),
        "syslog" => Some(Destination::Syslog(Syslog::read(&driver.options)?)),
        _ => None,
    };
    let is_cache = destination.is_some() || name == "local";
    let mut settings = Settings {
        max_bytes: is_cache.then_some(CACHE_BYTES),
        max_files: if is_cache { CACHE_FILES } else { 1 },
        destination,
        readable: true,
        labels: Selection::default(),
        env: Selection::default(),
        tag: None,
        compress: name == "local",
    };
    for (key, value) in &driver.options {
        let taken = match (name, key.split_once('-')) {
            ("none", _) => false,
            // Read above.
            ("syslog", Some(("syslog", rest))) => SYSLOG_OPTIONS.contains(&rest),
            ("syslog" | "journald", Some(("cache", rest))) => settings.set_cache(rest, value)?,
            ("syslog" | "journald", _) if FILE_OPTIONS.contains(&key.as_str()) => false,
            _ => settings.set(key, value)?,
        };
        if !taken {
            return Err(Error::invalid(format!(
                "unknown log opt '{key}' for {name} log driver"
            )));
        }
    }
    settings.check(driver)?;
    Ok(Some(settings))
}

/// Options that begin with `syslog-`.
const SYSLOG_OPTIONS: [&str; 7] = [
    "address",
    "facility",
    "format",
    "tls-ca-cert",
    "tls-cert",
    "tls-key",
    "tls-skip-verify",
];
/// Options of drivers whose files are the log itself.
const FILE_OPTIONS: [&str; 3] = ["max-size", "max-file", "compress"];

impl Settings {
    /// Takes an option of the cache, without `cache-`; false for one that there is not.
    fn set_cache(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "disabled" => {
                let disabled = value
                    .parse::<bool>()
                    .map_err(|_| Error::invalid(format!("invalid log option cache-disabled={value}")))?;
                self.readable = !disabled;
                Ok(true)
            }
            "max-size" => self.set("max-size", value),
            "max-file" => self.set("max-file", value),
            "compress" => self.set("compress", value),
            _ => Ok(false),
        }
    }

    /// Takes an option; false for one that no driver has.
    fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        let refused = || Error::invalid(format!("invalid log option {key}={value}"));
        match key {
            "max-size" if value == "-1" => self.max_bytes = None,
            "max-size" => {
                let size = parse_size(value).filter(|size| *size > 0);
                self.max_bytes = Some(size.ok_or_else(refused)?);
            }
            "max-file" => {
                let number = value.parse().ok();
                self.max_files = number
                    .filter(|number| (1..=logs::FILES_MAX).contains(number))
                    .ok_or_else(refused)?;
            }
            "labels" => self.labels.names(value),
            "labels-regex" => self.labels.pattern(key, value)?,
            "env" => self.env.names(value),
            "env-regex" => self.env.pattern(key, value)?,
            "tag" => self.tag = Some(Tag::parse(value)?),
            "compress" => self.compress = parse_bool(value).ok_or_else(refused)?,
            "mode" if matches!(value, "blocking" | "non-blocking") => {}
            "mode" => {
                return Err(Error::invalid(format!(
                    "logger: logging mode not supported: {value}"
                )));
            }
            "max-buffer-size" => {
                parse_size(value).ok_or_else(refused)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What only several options together can be wrong in. A container never waits for its log to be read, in either
    /// mode: the monitor writes to the file itself, and what a full disk does not take is lost, not waited for.
    fn check(&mut self, driver: &LogDriver) -> Result<()> {
        let is_set = |key: &str| driver.options.contains_key(key);
        let blocking = driver
            .options
            .get("mode")
            .is_none_or(|mode| mode != "non-blocking");
        if is_set("max-buffer-size") && blocking {
            return Err(Error::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        let has_rotated = self.max_files > 1 && self.max_bytes.is_some();
        if self.compress && !has_rotated && is_set("compress") {
            return Err(Error::invalid(
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ));
        }
        self.compress &= has_rotated;
        Ok(())
    }
}

/// Reads a truth value as Go does.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads `10m`, `512k`, `1g`, `4096`.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match bare.as_bytes().last()? {
        b'k' => (&bare[..bare.len() - 1], 10),
        b'm' => (&bare[..bare.len() - 1], 20),
        b'g' => (&bare[..bare.len() - 1], 30),
        _ => (bare, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str, options: &[(&str, &str)]) -> LogDriver {
        LogDriver {
            name: name.to_owned(),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn sizes_and_numbers_are_read() {
        let read = |options: &[(&str, &str)]| {
            let settings = settings(&driver("json-file", options)).unwrap().unwrap();
            (settings.max_bytes, settings.max_files, settings.compress)
        };
        assert_eq!(read(&[]), (None, 1, false));
        assert_eq!(
            read(&[("max-size", "10m"), ("max-file", "3"), ("compress", "true")]),
            (Some(10 << 20), 3, true)
        );
        assert_eq!(
            read(&[("max-size", "1kb"), ("compress", "false")]),
            (Some(1024), 1, false)
        );
        assert_eq!(
            read(&[("mode", "non-blocking"), ("max-buffer-size", "4m")]),
            (None, 1, false)
        );
        let local = |options| settings(&driver("local", options)).unwrap().unwrap().compress;
        assert!(local(&[]) && !local(&[("max-file", "1")]) && !local(&[("compress", "false")]));
        assert!(settings(&driver("none", &[])).unwrap().is_none());
        let sent = [
            ("cache-max-size", "1m"),
            ("cache-max-file", "2"),
            ("cache-disabled", "true"),
        ];
        let sent = settings(&driver("journald", &sent)).unwrap().unwrap();
        assert_eq!(
            (sent.max_bytes, sent.max_files, sent.readable),
            (Some(1 << 20), 2, false)
        );
        assert_eq!(sent.destination, Some(Destination::Journald));
        let sent = settings(&driver("syslog", &[])).unwrap().unwrap();
        assert_eq!(
            (sent.max_bytes, sent.max_files, sent.readable),
            (Some(20 << 20), 5, true)
        );
    }

    #[test]
    fn containers_get_what_the_node_says_and_they_do_not() {
        let node = driver("json-file", &[("max-size", "1m"), ("cache-max-size", "2m")]);
        let (same, other) = (
            driver("", &[("max-size", "9m")]),
            driver("syslog", &[("tag", "x")]),
        );
        assert_eq!(completed(None, &node), node);
        let merged = driver("json-file", &[("max-size", "9m"), ("cache-max-size", "2m")]);
        assert_eq!(completed(Some(same), &node), merged);
        let sent = driver("syslog", &[("tag", "x"), ("cache-max-size", "2m")]);
        assert_eq!(completed(Some(other), &node), sent);
        assert_eq!(completed(Some(driver("none", &[])), &node), driver("none", &[]));
    }

    #[test]
    fn what_no_driver_knows_is_refused() {
        let takes = |name: &str, option: (&str, &str)| settings(&driver(name, &[option]));
        for option in [
            ("cache-max-size", "1m"),
            ("tag", "x"),
            ("env-regex", "^A"),
            ("mode", "non-blocking"),
        ] {
            assert!(takes("journald", option).is_ok(), "{option:?}");
            assert!(takes("syslog", option).is_ok(), "{option:?}");
        }
        for option in [
            ("max-size", "1m"),
            ("compress", "true"),
            ("cache-size", "1"),
            ("cache-disabled", "x"),
        ] {
            assert!(takes("journald", option).is_err(), "{option:?}");
            assert!(takes("syslog", option).is_err(), "{option:?}");
        }
        for option in [("syslog-format", "rfc5424"), ("cache-disabled", "true")] {
            assert!(
                takes("syslog", option).is_ok() && takes("json-file", option).is_err(),
                "{option:?}"
            );
        }
        for bad in [
            ("max-size", "x"),
            ("max-size", "0"),
            ("max-file", "0"),
            ("max-file", "1000"),
            ("compress", "true"),
            ("max-buffer-size", "4m"),
            ("mode", "sometimes"),
            ("compress", "maybe"),
            ("labels-regex", "("),
            ("tag", "{{.Nothing}}"),
            ("colour", "red"),
        ] {
            assert!(settings(&driver("json-file", &[bad])).is_err(), "{bad:?}");
        }
        assert!(settings(&driver("none", &[("max-size", "1m")])).is_err());
        let unknown = settings(&driver("gelf", &[])).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "logger: no log driver named 'gelf' is registered"
        );
    }
}
