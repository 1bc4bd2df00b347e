//! The `filters` parameter: for each key a set of accepted values.

use super::{Failure, Query, parse_time};
use muster_types::Timestamp;
use muster_types::service::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// Values that one request may give, of all keys together: each costs a look at every object that is listed, and a client
/// that has more to ask for lists everything.
const VALUES_MAX: usize = 4096;

/// Parsed filters. Values of one key are alternatives (labels: all must hold), keys must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads the parameter, as `{"key":{"value":true}}` or `{"key":["value"]}`, and refuses keys not in `known`.
    pub fn parse(query: &Query, known: &[&str]) -> Result<Self, Failure> {
        let Some(text) = query.get("filters") else {
            return Ok(Self::default());
        };
        let filters =
            Self::from_json(text).ok_or_else(|| Failure::invalid(format!("invalid filters {text:?}")))?;
        if let Some(key) = filters.0.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Failure::invalid(format!("invalid filter '{key}'")));
        }
        let count: usize = filters.0.values().map(BTreeSet::len).sum();
        if count > VALUES_MAX {
            return Err(Failure::invalid(format!(
                "invalid filters: {count} values are given, at most {VALUES_MAX} are taken"
            )));
        }
        Ok(filters)
    }

    fn from_json(text: &str) -> Option<Self> {
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).ok()?;
        let mut filters = BTreeMap::new();
        for (key, values) in object {
            let values: BTreeSet<String> = match values {
                serde_json::Value::Array(list) => list
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned))
                    .collect::<Option<_>>()?,
                // Docker looks at the names only.
                serde_json::Value::Object(set) => set
                    .into_iter()
                    .map(|(value, on)| on.is_boolean().then_some(value))
                    .collect::<Option<_>>()?,
                _ => return None,
            };
            filters.insert(key, values);
        }
        Some(Self(filters))
    }

    /// The values of a key.
    pub fn values<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// The key is there.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// The key is absent, or one of its values is accepted.
    pub fn any(&self, key: &str, accepts: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(accepts)
    }

    /// One of the key's values equals `text`.
    pub fn contains(&self, key: &str, text: &str) -> bool {
        self.0.get(key).is_some_and(|values| values.contains(text))
    }

    /// The key is absent, or one of its values equals `text`.
    pub fn exact(&self, key: &str, text: &str) -> bool {
        !self.has(key) || self.contains(key, text)
    }

    /// The key is absent, or `text` begins with one of its values. Nothing begins with an empty one, as in Docker.
    pub fn prefix(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| !value.is_empty() && text.starts_with(value))
    }

    /// The key is absent, or one of its values is part of `text`, as Docker's name filters match.
    pub fn part(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| text.contains(value))
    }

    /// All `name` or `name=value` labels of the key are there.
    pub fn labels(&self, key: &str, labels: &Labels) -> bool {
        self.values(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }

    /// The bound `until`: a time, or an age such as `24h` or `1h30m`.
    pub fn until(&self) -> Result<Option<Timestamp>, Failure> {
        self.age("until")
    }

    /// As [`Filters::until`], of another key.
    pub fn age(&self, key: &str) -> Result<Option<Timestamp>, Failure> {
        let values: Vec<&str> = self.values(key).collect();
        match values.as_slice() {
            [] => Ok(None),
            [text] => parse_time(text)
                .or_else(|| age(text).and_then(before_now))
                .map(Some)
                .ok_or_else(|| Failure::invalid(format!("invalid filter '{key}={text}'"))),
            _ => Err(Failure::invalid(format!("more than one {key} filter specified"))),
        }
    }

    /// The key's only value as a truth value.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, Failure> {
        if !self.has(key) {
            return Ok(None);
        }
        let values: BTreeSet<Option<bool>> = self
            .values(key)
            .map(|value| match value {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            })
            .collect();
        match values.into_iter().collect::<Vec<_>>().as_slice() {
            [Some(value)] => Ok(Some(*value)),
            _ => Err(Failure::invalid(format!(
                "invalid filter '{key}': true or false is expected"
            ))),
        }
    }
}

/// Reads a duration as Go writes it.
fn age(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let mut rest = text;
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit());
        let end = unit.map_or(rest.len(), |length| digits + length);
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == &rest[digits..end])?;
        let amount: f64 = rest[..digits].parse().ok()?;
        whole = whole.checked_add(Duration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(whole)
}

fn before_now(age: Duration) -> Option<Timestamp> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp::ZERO.after(now.checked_sub(age)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Filters, Failure> {
        let query = Query::parse(Some(&format!("filters={json}")));
        Filters::parse(&query, &["label", "name", "dangling"])
    }

    #[test]
    fn both_forms_are_read() {
        for json in [r#"{"name":{"a":true}}"#, r#"{"name":["a"]}"#] {
            let filters = parse(json).unwrap();
            assert!(filters.exact("name", "a") && !filters.exact("name", "b"));
            assert!(filters.exact("label", "anything"));
        }
    }

    #[test]
    fn labels_must_all_hold() {
        let filters = parse(r#"{"label":["a","b=1"]}"#).unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<Labels>()
        };
        assert!(filters.labels("label", &labels(&[("a", "x"), ("b", "1")])));
        assert!(!filters.labels("label", &labels(&[("a", "x"), ("b", "2")])));
        assert!(!filters.labels("label", &labels(&[("b", "1")])));
    }

    #[test]
    fn bad_filters_are_refused() {
        for bad in [
            "{",
            "[]",
            r#"{"name":1}"#,
            r#"{"name":[1]}"#,
            r#"{"unknown":["a"]}"#,
        ] {
            assert_eq!(parse(bad).unwrap_err().status, 400, "{bad}");
        }
        let many = |count: usize| {
            let names: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            parse(&serde_json::json!({ "name": names, "label": ["a"] }).to_string())
        };
        assert!(many(VALUES_MAX - 1).is_ok());
        assert_eq!(many(VALUES_MAX).unwrap_err().status, 400);
        assert!(
            parse(r#"{"dangling":["maybe"]}"#)
                .unwrap()
                .truth("dangling")
                .is_err()
        );
        assert_eq!(
            parse(r#"{"dangling":["1"]}"#).unwrap().truth("dangling"),
            Ok(Some(true))
        );
    }
    #[test]
    fn a_bound_is_a_time_or_an_age() {
        let until = |text: &str| {
            let query = Query::parse(Some(&format!("filters={{\"until\":[\"{text}\"]}}")));
            Filters::parse(&query, &["until"]).unwrap().until()
        };
        assert_eq!(until("12").unwrap(), Some(Timestamp::from_secs(12)));
        assert!(until("24h").unwrap() < until("1h30m").unwrap());
        assert_eq!(age("1h1m1.5s"), Some(Duration::from_millis(3_661_500)));
        assert_eq!(age("2ms"), Some(Duration::from_millis(2)));
        for bad in ["h", "1", "1d", "1h1", "-1h", "1..2s", "999999999999999999999h"] {
            assert_eq!(age(bad), None, "{bad}");
        }
        assert!(until("soon").is_err());
    }
}
