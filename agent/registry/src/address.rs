//! Where a registry, a token server or a store of blobs is: scheme, host, port and a prefix of paths.

use std::fmt;
use std::net::IpAddr;

/// Longest URL that is followed: what proxies accept.
const URL_BYTES_MAX: usize = 8 << 10;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// A server, and the path below which it serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: Scheme,
    host: String,
    port: Option<u16>,
    /// Empty, or with a slash in front and none behind.
    prefix: String,
}

/// A URL that a server named, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub address: Address,
    /// Path and query.
    pub path: String,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Address {
    /// The server of `host[:port]`, as in references.
    pub fn new(scheme: Scheme, authority: &str) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse().ok().filter(|port| *port != 0)?))
            }
            _ => (authority, None),
        };
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let valid = bracketed || !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
        valid.then(|| Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
            prefix: String::new(),
        })
    }

    /// The server of a URL without user, query and fragment.
    pub fn of_url(url: &str) -> Option<Self> {
        let target = Target::parse(url)?;
        let prefix = target.path.trim_end_matches('/');
        (!target.path.contains('?')).then(|| Self {
            prefix: prefix.to_owned(),
            ..target.address
        })
    }

    /// How it is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The same server, spoken to otherwise.
    pub(crate) fn by(&self, scheme: Scheme) -> Self {
        Self {
            scheme,
            ..self.clone()
        }
    }

    /// The host, IPv6 addresses in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the port is given and not that of the scheme.
    pub(crate) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// `host[:port]`.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// A URL on this server.
    pub fn url(&self, path: &str) -> String {
        format!("{self}{}{path}", self.prefix)
    }

    /// A path on this server, below its prefix.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The address, where the host is one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }

    /// Whether it is this machine, as far as the name says.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Whether it is an address that means another machine to everyone who uses it: this one, or a neighbour.
    pub(crate) fn is_local(&self) -> bool {
        let link_local = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        self.is_loopback() || self.ip().is_some_and(link_local)
    }

    /// The port that is connected to.
    fn effective_port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// Whether both are the same server: scheme, host and port.
    pub(crate) fn is_same_server(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.is_same_place(other)
    }

    /// Whether both are at the same host and port.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        self.host == other.host && self.effective_port() == other.effective_port()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

impl Target {
    /// Takes an absolute URL apart. One with a user in it is refused: nobody's name is sent where a server says.
    pub fn parse(url: &str) -> Option<Self> {
        let clean = url.len() <= URL_BYTES_MAX && url.bytes().all(|byte| byte.is_ascii_graphic());
        let (scheme, rest) = url.split_once("://").filter(|_| clean)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Some(Self {
            address: Address::new(scheme, authority)?,
            path,
        })
    }

    /// What a `Location` means that this server answered.
    pub fn relative_to(location: &str, server: &Address) -> Option<Self> {
        if location.contains("://") {
            return Self::parse(location);
        }
        let clean = location.len() <= URL_BYTES_MAX && location.bytes().all(|byte| byte.is_ascii_graphic());
        (clean && location.starts_with('/') && !location.starts_with("//")).then(|| Self {
            address: Address {
                prefix: String::new(),
                ..server.clone()
            },
            path: location.to_owned(),
        })
    }

    /// The whole URL.
    pub fn url(&self) -> String {
        format!("{}{}", self.address, self.path)
    }

    /// The same with a parameter more.
    pub fn with_parameter(&self, name: &str, value: &str) -> Self {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        Self {
            address: self.address.clone(),
            path: format!("{}{separator}{name}={}", self.path, encode(value)),
        }
    }
}

/// Percent-encodes everything but letters, digits and what needs no encoding.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("HTTPS://Auth.Example:444/token?a=b#c").unwrap();
        assert_eq!(target.address.authority(), "auth.example:444");
        assert_eq!(target.path, "/token?a=b");
        assert_eq!(
            target.with_parameter("scope", "repository:a/b:pull").url(),
            "https://auth.example:444/token?a=b&scope=repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(Target::parse("http://h?x").unwrap().path, "/?x");
        for bad in [
            "",
            "/a",
            "ftp://a/",
            "http://",
            "http://user:password@host/",
            "http://host:0/",
            "http://host:99999/",
            "http://a b/",
            "http://host\r\nX: y/",
            "http://[::x]/",
        ] {
            assert!(Target::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn locations_stay_on_their_server_or_name_another() {
        let server = Address::of_url("http://localhost:5000/prefix").unwrap();
        let own = Target::relative_to("/v2/a/blobs/uploads/1?_state=x", &server).unwrap();
        assert_eq!(own.url(), "http://localhost:5000/v2/a/blobs/uploads/1?_state=x");
        assert!(own.address.is_same_server(&server));
        let other = Target::relative_to("https://cdn.example/x", &server).unwrap();
        assert!(!other.address.is_same_server(&server));
        for bad in ["//other.example/x", "x", "", "/a\nb"] {
            assert!(Target::relative_to(bad, &server).is_none(), "{bad}");
        }
    }

    #[test]
    fn servers_are_compared_by_scheme_host_and_port() {
        let at = |url: &str| Address::of_url(url).unwrap();
        assert!(at("https://a:443").is_same_server(&at("https://A/x")));
        assert!(!at("https://a:444").is_same_server(&at("https://a")));
        assert!(!at("http://a").is_same_server(&at("https://a")));
        for local in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "169.254.169.254",
            "0.0.0.0",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(at(&format!("http://{local}:1")).is_local(), "{local}");
        }
        assert!(!at("http://10.0.0.1").is_local());
    }
}
