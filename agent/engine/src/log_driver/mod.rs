//! Log drivers: what their options mean.

mod attributes;
mod tag;

use crate::error::{Error, Result};
use crate::logs;
use crate::record::Record;
use attributes::Selection;
use muster_types::service::LogDriver;
use std::collections::BTreeMap;
use tag::Tag;

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
    /// For the user of a container that asks for it.
    pub warnings: Vec<String>,
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

/// Reads a driver's options; `None` for no log.
pub(crate) fn settings(driver: &LogDriver) -> Result<Option<Settings>> {
    let name = match driver.name.as_str() {
        "none" if driver.options.is_empty() => return Ok(None),
        "none" => "none",
        "" | "json-file" => "json-file",
        "local" => "local",
        other => {
            return Err(Error::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let mut settings = Settings {
        max_bytes: None,
        max_files: 1,
        labels: Selection::default(),
        env: Selection::default(),
        tag: None,
        warnings: Vec::new(),
    };
    for (key, value) in &driver.options {
        if name == "none" || !settings.set(key, value)? {
            return Err(Error::invalid(format!(
                "unknown log opt '{key}' for {name} log driver"
            )));
        }
    }
    settings.check(driver)?;
    Ok(Some(settings))
}

impl Settings {
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
            "compress" => match value {
                "false" | "0" => {}
                "true" | "1" => self.warnings.push(
                    "The log option compress has no effect: rotated log files are kept uncompressed."
                        .to_owned(),
                ),
                _ => return Err(refused()),
            },
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
    fn check(&self, driver: &LogDriver) -> Result<()> {
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
        if !self.warnings.is_empty() && (self.max_files == 1 || self.max_bytes.is_none()) {
            return Err(Error::invalid(
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ));
        }
        Ok(())
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
            (settings.max_bytes, settings.max_files, settings.warnings.len())
        };
        assert_eq!(read(&[]), (None, 1, 0));
        assert_eq!(
            read(&[("max-size", "10m"), ("max-file", "3"), ("compress", "true")]),
            (Some(10 << 20), 3, 1)
        );
        assert_eq!(
            read(&[("max-size", "1kb"), ("compress", "false")]),
            (Some(1024), 1, 0)
        );
        assert_eq!(
            read(&[("mode", "non-blocking"), ("max-buffer-size", "4m")]),
            (None, 1, 0)
        );
        assert!(settings(&driver("none", &[])).unwrap().is_none());
    }

    #[test]
    fn what_no_driver_knows_is_refused() {
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
