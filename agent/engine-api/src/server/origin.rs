//! Refuses requests that a web page sends to an unprotected loopback port: foreign `Host` and `Origin` headers.

use crate::http::Failure;
use hyper::header::{HOST, ORIGIN};
use hyper::{HeaderMap, StatusCode};

/// Accepts requests whose `Host` is a loopback name and whose `Origin`, if any, is one too.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Failure> {
    let refuse = |header: &str, found: &str| {
        Failure::new(
            StatusCode::FORBIDDEN,
            format!(
                "{header} {found:?} is refused on an insecure loopback address: use localhost or 127.0.0.1"
            ),
        )
    };
    let host = headers
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !is_loopback(host) {
        return Err(refuse("Host", host));
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(is_loopback) {
            return Err(refuse("Origin", origin));
        }
    }
    Ok(())
}

fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    loopback && port.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(&headers).is_ok()
    }

    #[test]
    fn only_loopback_names_pass() {
        for host in [
            "localhost",
            "localhost:2375",
            "127.0.0.1:2375",
            "[::1]:2375",
            "LOCALHOST",
        ] {
            assert!(verdict(host, None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "10.0.0.1",
            "localhost:x",
            "",
        ] {
            assert!(!verdict(host, None), "{host}");
        }
        assert!(verdict("localhost", Some("http://localhost:3000")));
        for origin in ["http://evil.example", "null", "http://localhost.evil", "file://"] {
            assert!(!verdict("localhost", Some(origin)), "{origin}");
        }
    }
}
