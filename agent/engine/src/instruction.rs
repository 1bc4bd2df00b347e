//! The Dockerfile instructions that `docker commit --change` and `docker import --change` take.

use crate::error::{Error, Result};
use crate::signal;
use serde_json::{Map, Value};

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Instruction {
    Cmd(Words),
    Entrypoint(Words),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Expose(Vec<String>),
    Volume(Vec<String>),
    User(String),
    Workdir(String),
    OnBuild(String),
    StopSignal(String),
    Healthcheck(Check),
}

/// What is run: a list of words, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Words {
    List(Vec<String>),
    Line(String),
}

impl Words {
    /// The words that are run.
    pub fn in_shell(self, shell: &[String]) -> Vec<String> {
        match self {
            Self::List(words) => words,
            Self::Line(line) => shell.iter().cloned().chain([line]).collect(),
        }
    }
}

/// A health check; `None` as test switches it off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Check {
    test: Option<Words>,
    options: Map<String, Value>,
}

impl Check {
    /// Docker's JSON of it.
    pub fn value(self) -> Value {
        let test: Vec<String> = match self.test {
            None => vec!["NONE".to_owned()],
            Some(Words::List(words)) => ["CMD".to_owned()].into_iter().chain(words).collect(),
            Some(Words::Line(line)) => vec!["CMD-SHELL".to_owned(), line],
        };
        let mut value = self.options;
        value.insert("Test".to_owned(), test.into());
        Value::Object(value)
    }
}

impl Instruction {
    /// Parses one line; `env` are the variables that words may name.
    pub fn parse(line: &str, env: &[String]) -> Result<Self> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
        if rest.is_empty() {
            return Err(Error::invalid(format!("{name} requires at least one argument")));
        }
        let expanded = || expand(rest, env);
        match name.as_str() {
            "CMD" => Ok(Self::Cmd(words(rest))),
            "ENTRYPOINT" => Ok(Self::Entrypoint(words(rest))),
            "ENV" => Ok(Self::Env(pairs("ENV", rest, env)?)),
            "LABEL" => Ok(Self::Label(pairs("LABEL", rest, env)?)),
            "EXPOSE" => expanded()
                .split_whitespace()
                .map(port)
                .collect::<Result<_>>()
                .map(Self::Expose),
            "VOLUME" => Ok(Self::Volume(match words(rest) {
                Words::List(paths) => paths,
                Words::Line(line) => expand(&line, env).split_whitespace().map(str::to_owned).collect(),
            })),
            "USER" => Ok(Self::User(expanded())),
            "WORKDIR" => Ok(Self::Workdir(expanded())),
            "ONBUILD" => on_build(rest).map(Self::OnBuild),
            "STOPSIGNAL" => {
                let name = expanded();
                signal::parse(&name)?;
                Ok(Self::StopSignal(name))
            }
            "HEALTHCHECK" => health_check(rest).map(Self::Healthcheck),
            other => Err(Error::invalid(format!("{other} is not a valid change command"))),
        }
    }
}

/// A JSON list of strings, or else a line for the shell.
fn words(text: &str) -> Words {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => Words::List(words),
        Err(_) => Words::Line(text.to_owned()),
    }
}

fn port(text: &str) -> Result<String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let valid = range.split('-').count() <= 2
        && range
            .split('-')
            .all(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && ["tcp", "udp", "sctp"].contains(&protocol);
    match valid {
        true => Ok(format!("{range}/{protocol}")),
        false => Err(Error::invalid(format!("invalid containerPort: {text}"))),
    }
}

fn on_build(trigger: &str) -> Result<String> {
    let first = trigger
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match first.as_str() {
        "ONBUILD" => Err(Error::invalid(
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        )),
        "MAINTAINER" | "FROM" => Err(Error::invalid(format!(
            "{first} isn't allowed as an ONBUILD trigger"
        ))),
        _ => Ok(trigger.to_owned()),
    }
}

/// `KEY=value KEY2="value 2"`, or the old `KEY value`.
fn pairs(instruction: &str, text: &str, env: &[String]) -> Result<Vec<(String, String)>> {
    let words = split_words(text);
    let first = words.first().map_or("", String::as_str);
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), unquote(&expand(value.trim(), env)))]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((unquote(key), unquote(&expand(value, env)))),
        _ => Err(Error::invalid(format!(
            "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
        ))),
    };
    words.iter().map(pair).collect()
}

/// Splits at spaces outside of quotes; quotes and backslashes stay.
fn split_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quote, mut escaped) = (None, false);
    for letter in text.chars() {
        let splits = quote.is_none() && !escaped && letter.is_whitespace();
        if splits {
            words.push(String::new());
            continue;
        }
        match (quote, escaped, letter) {
            (_, true, _) => escaped = false,
            (Some('\''), _, '\\') => {}
            (_, _, '\\') => escaped = true,
            (Some(open), _, close) if open == close => quote = None,
            (None, _, '"' | '\'') => quote = Some(letter),
            _ => {}
        }
        if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Removes quotes and backslashes.
fn unquote(text: &str) -> String {
    let (mut plain, mut quote, mut escaped) = (String::new(), None, false);
    for letter in text.chars() {
        match (quote, escaped, letter) {
            (_, true, _) => {
                escaped = false;
                plain.push(letter);
            }
            (Some('\''), _, '\\') => plain.push(letter),
            (_, _, '\\') => escaped = true,
            (Some(open), _, close) if open == close => quote = None,
            (None, _, '"' | '\'') => quote = Some(letter),
            _ => plain.push(letter),
        }
    }
    plain
}

/// Replaces `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+instead}` outside of single quotes.
fn expand(text: &str, env: &[String]) -> String {
    let value = |name: &str| {
        env.iter()
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_default()
    };
    let (mut expanded, mut rest, mut single) = (String::new(), text, false);
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        if letter == '\'' {
            single = !single;
        }
        if letter == '\\' && !single {
            let taken = letter.len_utf8() + after.chars().next().map_or(0, char::len_utf8);
            expanded.push_str(&rest[..taken]);
            rest = &rest[taken..];
            continue;
        }
        if letter != '$' || single {
            expanded.push(letter);
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        if let Some((inner, behind)) = braced {
            expanded.push_str(&match (inner.split_once(":-"), inner.split_once(":+")) {
                (Some((name, default)), _) if value(name).is_empty() => default.to_owned(),
                (Some((name, _)), _) => value(name).to_owned(),
                (None, Some((name, instead))) if !value(name).is_empty() => instead.to_owned(),
                (None, Some(_)) => String::new(),
                (None, None) => value(inner).to_owned(),
            });
            rest = behind;
            continue;
        }
        let end = after
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(after.len());
        match end {
            0 => expanded.push('$'),
            _ => expanded.push_str(value(&after[..end])),
        }
        rest = &after[end..];
    }
    expanded
}

fn health_check(text: &str) -> Result<Check> {
    let mut options = Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, behind) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("--{option} of HEALTHCHECK needs a value")))?;
        let (key, value) = health_option(name, value)?;
        options.insert(key.to_owned(), value);
        rest = behind.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match (kind.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") if options.is_empty() => Ok(Check { test: None, options }),
        ("NONE", _) => Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        ("CMD", "") => Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        ("CMD", command) => Ok(Check {
            test: Some(words(command)),
            options,
        }),
        (other, _) => Err(Error::invalid(format!(
            "Unknown type {other:?} in HEALTHCHECK (try CMD)"
        ))),
    }
}

fn health_option(name: &str, value: &str) -> Result<(&'static str, Value)> {
    let invalid = || Error::invalid(format!("invalid value {value:?} of --{name} in HEALTHCHECK"));
    let key = match name {
        "interval" => "Interval",
        "timeout" => "Timeout",
        "start-period" => "StartPeriod",
        "start-interval" => "StartInterval",
        "retries" => return Ok(("Retries", value.parse::<u32>().map_err(|_| invalid())?.into())),
        _ => return Err(Error::invalid(format!("Unknown flag: {name}"))),
    };
    Ok((key, nanoseconds(value).ok_or_else(invalid)?.into()))
}

/// Reads Go's durations: `1m30s`, `500ms`.
fn nanoseconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0_u64, text);
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
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
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_unquoted_and_expanded() {
        let env = ["A=one".to_owned(), "E=".to_owned()];
        for (text, expected) in [
            ("$A-${A}", "one-one"),
            ("${E:-two}${A:+yes}${B:+no}", "twoyes"),
            ("\\$A '$A' $", "\\$A '$A' $"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
        let pairs = pairs("ENV", r#"K="a b" L=c\ d M='$A' N=$A"#, &env).unwrap();
        let values: Vec<&str> = pairs.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["a b", "c d", "$A", "one"]);
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(nanoseconds("1m30s"), Some(90_000_000_000));
        assert_eq!(nanoseconds("500ms"), Some(500_000_000));
        for bad in ["", "5", "s", "1x"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
    }
}
