//! `HEALTHCHECK`.

use crate::command::Command;
use crate::error::{Error, Result};
use crate::go_text;
use crate::pairs::{flags, needed};
use serde_json::{Map, Value};

/// A health check; without a test it switches that of the base off.
#[derive(Debug, Clone, PartialEq)]
pub struct Healthcheck {
    test: Option<Command>,
    options: Map<String, Value>,
}

impl Healthcheck {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (given, rest) = flags(text)?;
        let mut options = Map::new();
        for (name, value) in given {
            let (key, value) = option(&name, &needed(&name, value)?)?;
            options.insert(key.to_owned(), value);
        }
        let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        match (kind.to_ascii_uppercase().as_str(), command.trim()) {
            ("NONE", "") if options.is_empty() => Ok(Self { test: None, options }),
            ("NONE", _) => Err(Error::new("HEALTHCHECK NONE takes no arguments")),
            ("CMD", "") => Err(Error::new("Missing command after HEALTHCHECK CMD")),
            ("CMD", command) => Ok(Self {
                test: Some(Command::parse(command)?),
                options,
            }),
            (other, _) => Err(Error::new(format!(
                "Unknown type {other:?} in HEALTHCHECK (try CMD)"
            ))),
        }
    }

    /// Docker's JSON of it.
    pub fn value(&self) -> Value {
        let mut value = self.options.clone();
        value.insert("Test".to_owned(), self.words().into());
        Value::Object(value)
    }

    /// As Docker's builder writes it into the history of an image: the fields of a structure in Go.
    pub fn in_history(&self) -> String {
        let number = |key: &str| self.options.get(key).and_then(Value::as_u64);
        let duration = |key: &str| go_text::quoted(&go_text::duration(number(key).unwrap_or(0)));
        let mut fields = vec![go_text::list(&self.words())];
        fields.extend(["Interval", "Timeout", "StartPeriod"].map(duration));
        // The field is newer than the others.
        if self.options.contains_key("StartInterval") {
            fields.push(duration("StartInterval"));
        }
        let retries = number("Retries").and_then(|retries| u32::try_from(retries).ok());
        fields.push(go_text::character(retries.unwrap_or(0)));
        format!("&{{{}}}", fields.join(" "))
    }

    fn words(&self) -> Vec<String> {
        match &self.test {
            None => vec!["NONE".to_owned()],
            Some(Command::List(words)) => ["CMD".to_owned()].into_iter().chain(words.clone()).collect(),
            Some(Command::Line(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
        }
    }
}

fn option(name: &str, value: &str) -> Result<(&'static str, Value)> {
    let invalid = || Error::new(format!("invalid value {value:?} of --{name} in HEALTHCHECK"));
    let key = match name {
        "interval" => "Interval",
        "timeout" => "Timeout",
        "start-period" => "StartPeriod",
        "start-interval" => "StartInterval",
        "retries" => return Ok(("Retries", value.parse::<u32>().map_err(|_| invalid())?.into())),
        _ => return Err(Error::new(format!("Unknown flag: {name}"))),
    };
    Ok((key, nanoseconds(value).ok_or_else(invalid)?.into()))
}

/// Reads Go's durations: `1m30s`, `500ms`, `1.5s`.
fn nanoseconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0_u64, text);
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        let unit: u64 = match &rest[digits..unit_end] {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let part = number * unit as f64;
        if part > i64::MAX as f64 {
            return None;
        }
        total = total
            .checked_add(part as u64)
            .filter(|total| *total <= i64::MAX as u64)?;
        rest = &rest[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn checks_are_read() {
        let check = Healthcheck::parse("--interval=5s --retries=2 CMD [\"a\", \"b\"]").unwrap();
        assert_eq!(
            check.value(),
            json!({"Test": ["CMD", "a", "b"], "Interval": 5_000_000_000_u64, "Retries": 2})
        );
        assert_eq!(
            Healthcheck::parse("cmd curl x").unwrap().value(),
            json!({"Test": ["CMD-SHELL", "curl x"]})
        );
        assert_eq!(
            Healthcheck::parse("NONE").unwrap().value(),
            json!({"Test": ["NONE"]})
        );
        for bad in [
            "",
            "NONE x",
            "CMD",
            "TCP x",
            "--x=1 CMD a",
            "--interval CMD a",
            "--interval=5 CMD a",
        ] {
            assert!(Healthcheck::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_history_has_dockers_words() {
        for (text, shown) in [
            (
                "--interval=5s CMD true",
                r#"&{["CMD-SHELL" "true"] "5s" "0s" "0s" '\x00'}"#,
            ),
            ("NONE", r#"&{["NONE"] "0s" "0s" "0s" '\x00'}"#),
            (
                r#"--interval=5m --timeout=1500ms --start-period=2h3s --retries=3 CMD ["a b","c\"d"]"#,
                r#"&{["CMD" "a b" "c\"d"] "5m0s" "1.5s" "2h0m3s" '\x03'}"#,
            ),
            (
                "--start-interval=1s CMD x",
                r#"&{["CMD-SHELL" "x"] "0s" "0s" "0s" "1s" '\x00'}"#,
            ),
        ] {
            assert_eq!(Healthcheck::parse(text).unwrap().in_history(), shown, "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(nanoseconds("1m30s"), Some(90_000_000_000));
        assert_eq!(nanoseconds("500ms"), Some(500_000_000));
        assert_eq!(nanoseconds("1.5s"), Some(1_500_000_000));
        for bad in ["", "5", "s", "1x", "..s", "99999999999999h"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
    }
}
