//! Which servers are asked for a repository, in which order, and whom an answer may send a client to.

use crate::address::{Address, Scheme, Target};
use crate::settings::{HUB, RegistrySettings};

/// Where Docker Hub's registry is.
const HUB_REGISTRY: &str = "registry-1.docker.io";
/// Names of Docker Hub in credentials and settings.
const HUB_NAMES: [&str; 4] = [HUB, "index.docker.io", HUB_REGISTRY, "registry.docker.io"];

/// One way to reach a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The server.
    pub address: Address,
    /// Whether certificates are verified, and plain HTTP is no surprise.
    pub trust: Trust,
    /// Whether it is the registry itself or a mirror of it.
    pub role: Role,
}

/// How much a server must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Its certificate is verified.
    Verified,
    /// Any certificate will do, or none.
    Insecure,
}

/// What a server is to the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The registry that the reference names.
    Registry,
    /// A copy; nobody's credentials are sent to it, and what it lacks the registry may have.
    Mirror,
}

/// Why a server is not followed to where it points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a URL of this protocol.
    #[error("it is not an http or https URL")]
    NoUrl,
    /// From TLS to plain text.
    #[error("it leads from https to plain http")]
    Downgrade,
    /// To this machine or its neighbours.
    #[error("it leads from the registry's host to an address of this machine or its link")]
    Inward,
}

/// The servers of a registry, the first to be asked first.
pub(crate) fn endpoints(domain: &str, settings: &RegistrySettings) -> Vec<Endpoint> {
    let mirrors = settings.mirrors.iter().filter(|mirror| mirror.of == domain);
    let mirrors = mirrors.map(|mirror| Endpoint {
        trust: trust_of(&mirror.address, settings),
        address: mirror.address.clone(),
        role: Role::Mirror,
    });
    let registry = if domain == HUB { HUB_REGISTRY } else { domain };
    let mut all: Vec<Endpoint> = mirrors.collect();
    // The grammar of references is narrower than that of addresses.
    if let Some(address) = Address::new(Scheme::Https, registry) {
        let trust = trust_of(&address, settings);
        let plain = (trust == Trust::Insecure).then(|| address.by(Scheme::Http));
        all.extend(
            [Some(address), plain]
                .into_iter()
                .flatten()
                .map(|address| Endpoint {
                    address,
                    trust,
                    role: Role::Registry,
                }),
        );
    }
    all
}

/// What a server at this address must prove.
pub(crate) fn trust_of(address: &Address, settings: &RegistrySettings) -> Trust {
    match settings.is_insecure(address) {
        true => Trust::Insecure,
        false => Trust::Verified,
    }
}

/// Whether two names mean the same registry: `index.docker.io` and URLs of it mean `docker.io`.
pub(crate) fn domain_of(server: &str) -> String {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    match host.is_empty() || HUB_NAMES.contains(&host) {
        true => HUB.to_owned(),
        false => host.to_owned(),
    }
}

/// Where a server's answer sends the client, if that may be followed. It may not lead from TLS to plain HTTP, nor from
/// another machine's registry to this machine's services; insecure registries may name each other.
pub(crate) fn follow(from: &Address, location: &str, settings: &RegistrySettings) -> Result<Target, Refusal> {
    let target = Target::relative_to(location, from).ok_or(Refusal::NoUrl)?;
    let to = &target.address;
    if to.is_same_server(from) {
        return Ok(target);
    }
    if to.scheme() == Scheme::Http && (from.scheme() == Scheme::Https || !settings.is_insecure(to)) {
        return Err(Refusal::Downgrade);
    }
    if to.is_local() && !from.is_local() {
        return Err(Refusal::Inward);
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Insecure, Mirror};

    fn urls(domain: &str, settings: &RegistrySettings) -> Vec<String> {
        let all = endpoints(domain, settings);
        all.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn mirrors_come_first_and_plain_http_only_where_it_is_expected() {
        let settings = RegistrySettings {
            mirrors: vec![
                Mirror::parse("https://mirror.example").unwrap(),
                Mirror::parse("quay.io=http://127.0.0.1:5001").unwrap(),
            ],
            insecure: vec![Insecure::parse("10.0.0.0/8").unwrap()],
            ..RegistrySettings::default()
        };
        assert_eq!(
            urls("docker.io", &settings),
            ["https://mirror.example", "https://registry-1.docker.io"]
        );
        assert_eq!(
            urls("quay.io", &settings),
            ["http://127.0.0.1:5001", "https://quay.io"]
        );
        assert_eq!(
            urls("10.1.1.1:5000", &settings),
            ["https://10.1.1.1:5000", "http://10.1.1.1:5000"]
        );
        assert_eq!(urls("reg.example:5000", &settings), ["https://reg.example:5000"]);
        assert_eq!(urls("localhost:5000", &settings).len(), 2);
        assert_eq!(endpoints("quay.io", &settings)[0].role, Role::Mirror);
    }

    #[test]
    fn names_of_the_hub_are_one_registry() {
        for name in [
            "",
            "docker.io",
            "https://index.docker.io/v1/",
            "registry-1.docker.io",
        ] {
            assert_eq!(domain_of(name), "docker.io", "{name}");
        }
        assert_eq!(domain_of("https://reg.example:5000/v2/"), "reg.example:5000");
        assert_eq!(domain_of("localhost:5000"), "localhost:5000");
    }

    #[test]
    fn redirects_are_followed_outwards_only() {
        let settings = RegistrySettings {
            insecure: vec![Insecure::parse("10.0.0.0/8").unwrap()],
            ..RegistrySettings::default()
        };
        let follow = |from: &str, to: &str| {
            super::follow(&Address::of_url(from).unwrap(), to, &settings).map(|target| target.url())
        };
        assert_eq!(
            follow("https://a", "https://cdn.example/x?y"),
            Ok("https://cdn.example/x?y".to_owned())
        );
        assert_eq!(
            follow("http://10.0.0.1:5000", "/x"),
            Ok("http://10.0.0.1:5000/x".to_owned())
        );
        assert!(follow("http://10.0.0.1", "http://10.0.0.2/x").is_ok());
        assert!(follow("http://127.0.0.1:1", "http://127.0.0.1:2/x").is_ok());
        for (from, to, refusal) in [
            ("https://a", "http://a/x", Refusal::Downgrade),
            ("https://10.0.0.1", "http://10.0.0.1/x", Refusal::Downgrade),
            ("http://10.0.0.1", "http://other.example/x", Refusal::Downgrade),
            ("https://a", "https://127.0.0.1/x", Refusal::Inward),
            ("http://10.0.0.1", "http://localhost:22/x", Refusal::Inward),
            ("https://a", "https://169.254.169.254/x", Refusal::Inward),
            ("https://a", "file:///etc/shadow", Refusal::NoUrl),
            ("https://a", "//b/x", Refusal::NoUrl),
        ] {
            assert_eq!(follow(from, to), Err(refusal), "{from} {to}");
        }
    }
}
