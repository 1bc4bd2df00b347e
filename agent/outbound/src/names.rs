//! The addresses of a name, without the C library: a static program cannot use its lookup.

use hickory_resolver::TokioResolver;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// The addresses of a host, of which there is at least one: by `/etc/hosts` and the name servers of `/etc/resolv.conf`. An
/// address is its own.
pub async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("lookup {host}: {error}"));
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| failed(&error))?;
    let found = resolver.lookup_ip(host).await.map_err(|error| failed(&error))?;
    let addresses: Vec<IpAddr> = found.iter().collect();
    match addresses.is_empty() {
        true => Err(failed(&"it has no address")),
        false => Ok(addresses),
    }
}

/// As [`lookup`], for a thread that may block, no longer than the limit.
pub fn lookup_within(host: &str, limit: Duration) -> io::Result<Vec<IpAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let late = || {
        let problem = format!("lookup {host}: no name server answered within {limit:?}");
        io::Error::new(io::ErrorKind::TimedOut, problem)
    };
    runtime.block_on(async {
        tokio::time::timeout(limit, lookup(host))
            .await
            .unwrap_or_else(|_| Err(late()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_lookup_and_names_get_no_more_time_than_they_may_take() {
        for address in ["127.0.0.1", "::1"] {
            let found = lookup_within(address, Duration::from_secs(60)).unwrap();
            assert_eq!(found, [address.parse::<IpAddr>().unwrap()]);
        }
        let late = lookup_within("host.invalid", Duration::ZERO).unwrap_err();
        assert!(late.to_string().contains("lookup host.invalid"), "{late}");
    }
}
