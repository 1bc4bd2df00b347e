//! The log driver `syslog`: where messages go and how they are written, as Docker's driver does.

use crate::error::{Error, Result};
use crate::logs::{LogEntry, LogStreamKind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// Port of a server where the address names none.
const PORT_DEFAULT: u16 = 514;
/// Docker's.
const FACILITY_DEFAULT: u8 = 3;
/// Facilities by number, RFC 5424 table 1; those between `ftp` and `local0` have no name that Docker knows.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
];
const FIRST_LOCAL: u8 = 16;

/// What the driver was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Syslog {
    /// Where the server is.
    pub address: Address,
    facility: u8,
    format: Format,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// The host's own, at one of its usual places.
    Local,
    /// A socket of the host: a stream, or datagrams.
    Unix { path: PathBuf, stream: bool },
    /// Datagrams to `host:port`.
    Udp(String),
    /// A stream to `host:port`.
    Tcp(String),
    /// A stream in TLS to `host:port`.
    Tls { to: String, trust: Trust },
}

/// Whom a client of TLS trusts, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Trust {
    /// Certificates of authorities; the host's where `None`.
    pub authority: Option<PathBuf>,
    /// Its own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Believe every server.
    pub skip_verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// As programs write to the local daemon.
    Unix,
    Rfc3164,
    Rfc5424 {
        micro: bool,
    },
}

/// Who sends messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender {
    /// The node.
    pub host: String,
    /// The container's tag.
    pub tag: String,
    /// The engine's process.
    pub pid: u32,
}

impl Syslog {
    /// Reads the driver's options.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        let format = match option("syslog-format") {
            "" => Format::Unix,
            "rfc3164" => Format::Rfc3164,
            "rfc5424" => Format::Rfc5424 { micro: false },
            "rfc5424micro" => Format::Rfc5424 { micro: true },
            _ => return Err(Error::invalid("Invalid syslog format")),
        };
        let facility = facility(option("syslog-facility"))?;
        let trust = trust(options)?;
        Ok(Self {
            address: address(option("syslog-address"), trust)?,
            facility,
            format,
        })
    }

    /// A message as it goes over the wire.
    pub fn message(&self, entry: &LogEntry, sender: &Sender) -> Vec<u8> {
        let severity = match entry.stream {
            LogStreamKind::Stdout => 6,
            LogStreamKind::Stderr => 3,
        };
        let priority = u32::from(self.facility) << 3 | severity;
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(entry.at.0))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let Sender { host, tag, pid } = sender;
        let head = match self.format {
            Format::Unix => format!("<{priority}>{} {tag}[{pid}]: ", short(at)),
            Format::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", short(at)),
            Format::Rfc5424 { micro } => {
                format!("<{priority}>1 {} {host} {tag} {pid} {tag} - ", long(at, micro))
            }
        };
        let mut message = head.into_bytes();
        message.extend_from_slice(entry.data.strip_suffix(b"\n").unwrap_or(&entry.data));
        message.push(b'\n');
        // RFC 5425 counts bytes, so that a message may hold line ends.
        if self.is_counted() {
            let mut counted = format!("{} ", message.len()).into_bytes();
            counted.append(&mut message);
            return counted;
        }
        message
    }

    fn is_counted(&self) -> bool {
        matches!(
            (&self.address, self.format),
            (Address::Tls { .. }, Format::Rfc5424 { .. })
        )
    }
}

/// `Nov 28 23:59:01`.
fn short(at: OffsetDateTime) -> String {
    const SHORT: &[BorrowedFormatItem<'_>] =
        format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second]");
    at.format(SHORT).unwrap_or_default()
}

fn long(at: OffsetDateTime, micro: bool) -> String {
    const MICRO: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    match micro {
        true => at.format(MICRO).unwrap_or_default(),
        false => {
            let whole = at.replace_nanosecond(0).unwrap_or(at);
            whole.format(&Rfc3339).unwrap_or_default()
        }
    }
}

fn facility(text: &str) -> Result<u8> {
    if text.is_empty() {
        return Ok(FACILITY_DEFAULT);
    }
    let named = FACILITIES.iter().position(|name| *name == text);
    let local = || {
        let number = text.strip_prefix("local")?.parse::<u8>().ok()?;
        (number < 8).then_some(FIRST_LOCAL + number)
    };
    let number = || text.parse::<u8>().ok().filter(|number| *number < FIRST_LOCAL + 8);
    named
        .and_then(|number| u8::try_from(number).ok())
        .or_else(local)
        .or_else(number)
        .ok_or_else(|| Error::invalid("invalid syslog facility"))
}

fn trust(options: &BTreeMap<String, String>) -> Result<Trust> {
    let file = |key: &str| options.get(key).map(PathBuf::from);
    let identity = match (file("syslog-tls-cert"), file("syslog-tls-key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "syslog-tls-cert and syslog-tls-key belong together: give both or none",
            ));
        }
    };
    Ok(Trust {
        authority: file("syslog-tls-ca-cert"),
        identity,
        // As with Docker, it is on as soon as it is there.
        skip_verify: options.contains_key("syslog-tls-skip-verify"),
    })
}

fn address(text: &str, trust: Trust) -> Result<Address> {
    if text.is_empty() {
        return Ok(Address::Local);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if matches!(scheme, "unix" | "unixgram") {
        let path = PathBuf::from(rest);
        if !path.exists() {
            return Err(Error::invalid(format!(
                "syslog-address {text}: there is no socket {}",
                path.display()
            )));
        }
        let stream = scheme == "unix";
        return Ok(Address::Unix { path, stream });
    }
    if !matches!(scheme, "udp" | "tcp" | "tcp+tls") {
        return Err(Error::invalid(format!(
            "syslog-address must be in form proto://address, with unix, unixgram, udp, tcp or tcp+tls, got {text}"
        )));
    }
    let to = host_and_port(rest).ok_or_else(|| {
        Error::invalid(format!(
            "syslog-address {text}: {rest:?} is no host with an optional port"
        ))
    })?;
    Ok(match scheme {
        "udp" => Address::Udp(to),
        "tcp" => Address::Tcp(to),
        _ => Address::Tls { to, trust },
    })
}

fn host_and_port(text: &str) -> Option<String> {
    let text = text.split('/').next().unwrap_or_default();
    let bracketed = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, PORT_DEFAULT),
    };
    let is_plain = !host.is_empty() && (bracketed || !host.contains(':'));
    is_plain.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::Timestamp;

    fn read(options: &[(&str, &str)]) -> Result<Syslog> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Syslog::read(&options.collect())
    }

    fn message(options: &[(&str, &str)], stream: LogStreamKind) -> String {
        let entry = LogEntry {
            stream,
            at: Timestamp(1_795_232_121_250_000_000),
            data: b"a line\n".as_slice().into(),
            attributes: BTreeMap::new(),
        };
        let sender = Sender {
            host: "node".to_owned(),
            tag: "abc".to_owned(),
            pid: 7,
        };
        String::from_utf8(read(options).unwrap().message(&entry, &sender)).unwrap()
    }

    #[test]
    fn messages_have_the_form_that_was_asked_for() {
        let out = LogStreamKind::Stdout;
        assert_eq!(message(&[], out), "<30>Nov 21 03:35:21 abc[7]: a line\n");
        assert_eq!(
            message(
                &[("syslog-format", "rfc3164"), ("syslog-facility", "local1")],
                LogStreamKind::Stderr
            ),
            "<139>Nov 21 03:35:21 node abc[7]: a line\n"
        );
        assert_eq!(
            message(&[("syslog-format", "rfc5424")], out),
            "<30>1 2026-11-21T03:35:21Z node abc 7 abc - a line\n"
        );
        let micro = "<30>1 2026-11-21T03:35:21.250000Z node abc 7 abc - a line\n";
        assert_eq!(message(&[("syslog-format", "rfc5424micro")], out), micro);
        let tls = [
            ("syslog-format", "rfc5424micro"),
            ("syslog-address", "tcp+tls://logs"),
        ];
        assert_eq!(message(&tls, out), format!("{} {micro}", micro.len()));
    }

    #[test]
    fn addresses_are_read() {
        let of = |text: &str| read(&[("syslog-address", text)]).map(|syslog| syslog.address);
        assert_eq!(read(&[]).unwrap().address, Address::Local);
        assert_eq!(of("udp://logs").unwrap(), Address::Udp("logs:514".into()));
        assert_eq!(
            of("tcp://10.0.0.1:601").unwrap(),
            Address::Tcp("10.0.0.1:601".into())
        );
        assert_eq!(
            of("tcp://[fd00::1]").unwrap(),
            Address::Tcp("[fd00::1]:514".into())
        );
        assert_eq!(
            of("udp://[fd00::1]:5").unwrap(),
            Address::Udp("[fd00::1]:5".into())
        );
        assert!(matches!(of("tcp+tls://logs:6514").unwrap(), Address::Tls { .. }));
        assert!(matches!(
            of("unixgram:///").unwrap(),
            Address::Unix { stream: false, .. }
        ));
        for bad in [
            "logs",
            "http://logs",
            "tcp://",
            "udp://fd00::1",
            "tcp://a:x",
            "unix:///nosuch/socket",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_options_are_refused() {
        for (key, good, bad) in [
            ("syslog-facility", "local7", "local8"),
            ("syslog-facility", "23", "24"),
            ("syslog-facility", "authpriv", "AUTH"),
            ("syslog-format", "rfc3164", "json"),
        ] {
            assert!(read(&[(key, good)]).is_ok(), "{good}");
            assert!(read(&[(key, bad)]).is_err(), "{bad}");
        }
        assert!(read(&[("syslog-tls-cert", "/c")]).is_err());
    }
}
