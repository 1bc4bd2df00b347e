//! Query parameters, read as Docker reads them.

use super::Failure;
use muster_types::Timestamp;

/// The decoded query of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes what follows the `?`.
    pub fn parse(text: Option<&str>) -> Self {
        Self(percent_pairs(text.unwrap_or_default()))
    }

    /// The first value; `None` when it is absent or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether it is given at all, even empty.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// All values.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Docker's truth: everything but empty, `0`, `no`, `false` and `none`.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// [`Query::flag`] with another value for an absent parameter.
    pub fn flag_or(&self, name: &str, absent: bool) -> bool {
        match self.get(name) {
            None => absent && !self.has(name),
            Some(value) => !matches!(
                value.trim().to_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            ),
        }
    }

    /// A number; 400 when it is none.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    Failure::invalid(format!(
                        "invalid value {value:?} of parameter {name:?}: a number is expected"
                    ))
                })
            })
            .transpose()
    }

    /// A time: Unix seconds with an optional fraction, or RFC 3339. `0` means not given.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, Failure> {
        let Some(text) = self.get(name).filter(|text| *text != "0") else {
            return Ok(None);
        };
        parse_time(text).map(Some).ok_or_else(|| {
            Failure::invalid(format!(
                "invalid value {text:?} of parameter {name:?}: Unix seconds or an RFC 3339 time is expected"
            ))
        })
    }
}

/// Unix seconds with an optional fraction, or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = seconds.parse::<i64>() {
        if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
        return seconds
            .checked_mul(1_000_000_000)?
            .checked_add(nanos)
            .map(Timestamp);
    }
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(parsed.unix_timestamp_nanos()).ok().map(Timestamp)
}

fn percent_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Percent-decodes; what is no valid escape or UTF-8 stays visible.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encodes what is not a letter, a digit or one of `-_.~`; a space becomes a plus, as Go writes queries.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            b' ' => encoded.push('+'),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse(Some("a=x%20y&b=%7B%7D&c&d=1&e=false&a=z&bad=%zz&plus=a+b"));
        assert_eq!(query.get("a"), Some("x y"));
        assert_eq!(query.get("b"), Some("{}"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(query.get("plus"), Some("a b"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["x y", "z"]);
        assert_eq!(encode("a b/ü~"), "a+b%2F%C3%BC~");
        assert_eq!(decode(&encode("50%")), "50%");
        assert!(query.flag("d") && !query.flag("e") && !query.flag("c") && !query.flag("missing"));
        assert!(query.flag_or("missing", true) && !query.flag_or("e", true));
    }

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        assert_eq!(parse_time("1.5"), Some(Timestamp(1_500_000_000)));
        assert_eq!(parse_time("12"), Some(Timestamp::from_secs(12)));
        assert_eq!(parse_time("1970-01-01T00:00:01Z"), Some(Timestamp::from_secs(1)));
        for bad in ["x", "1.x", "99999999999999999999", "1.0000000001"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        assert!(
            Query::parse(Some("n=abc"))
                .number::<u32>("n")
                .is_err_and(|f| f.status == 400)
        );
    }
}
