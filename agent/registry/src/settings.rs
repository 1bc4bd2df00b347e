//! What an administrator says of registries: mirrors, those without verified TLS, and where certificates lie.

use crate::address::{Address, Scheme};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Settings of the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Mirrors, in the order in which they are asked.
    pub mirrors: Vec<Mirror>,
    /// Registries that are spoken to without verified TLS, or in plain HTTP. Loopback addresses always are.
    pub insecure: Vec<Insecure>,
    /// Directories in which `HOST:PORT/*.crt`, `*.cert` and `*.key` lie, as in `/etc/docker/certs.d`.
    pub certificates: Vec<PathBuf>,
    /// Nodes whose registries show the certificates of a cluster.
    pub nodes: KnownNodes,
    /// How long a registry may take.
    pub patience: Patience,
}

/// In this time a registry has to send a document whole, or a little of a blob; else it is asked again, or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

/// What the certificate of a node must come from, and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAuthority {
    /// The cluster's root, PEM.
    pub root_pem: String,
    /// A name that every node's certificate has.
    pub name: &'static str,
}

type FindNode = Box<dyn Fn(&str) -> Option<NodeAuthority> + Send + Sync>;

/// The nodes of this node's cluster. They are told once the daemon knows its cluster; all clones know them then.
#[derive(Clone, Default)]
pub struct KnownNodes(Arc<OnceLock<FindNode>>);

impl KnownNodes {
    /// Tells how to find out whether a host (without its port) is a node. Told twice, the first stays.
    pub fn tell(&self, find: impl Fn(&str) -> Option<NodeAuthority> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(find));
    }

    /// What a host must show, if it is a node.
    pub(crate) fn authority_of(&self, host: &str) -> Option<NodeAuthority> {
        self.0.get().and_then(|find| find(host))
    }
}

impl std::fmt::Debug for KnownNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KnownNodes")
    }
}

/// Whom the daemon knows is no setting.
impl PartialEq for KnownNodes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for KnownNodes {}

/// A mirror of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry whose repositories it has, as in references.
    pub of: String,
    /// Where it is.
    pub address: Address,
}

/// Which registries are insecure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insecure {
    /// One, by host and port as in references.
    Host(String),
    /// All at addresses of this network.
    Network(IpAddr, u8),
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Not a mirror.
    #[error(
        "{text:?} is no mirror: use http[s]://HOST[:PORT][/PATH], or REGISTRY=URL for another registry than docker.io"
    )]
    Mirror {
        /// What was given.
        text: String,
    },
    /// Not a registry or network.
    #[error("{text:?} is neither HOST[:PORT] nor a network such as 10.0.0.0/8")]
    Insecure {
        /// What was given.
        text: String,
    },
}

/// The registry that `docker.io` means.
pub(crate) const HUB: &str = "docker.io";

impl Mirror {
    /// Reads `URL` (a mirror of docker.io, as Docker's setting) or `REGISTRY=URL`.
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        let error = || SettingError::Mirror {
            text: text.to_owned(),
        };
        let (of, url) = match text.split_once('=') {
            Some((of, url)) if !of.contains('/') => (of, url),
            _ => (HUB, text),
        };
        let address = Address::of_url(url).ok_or_else(error)?;
        match of.is_empty() {
            true => Err(error()),
            false => Ok(Self {
                of: of.to_owned(),
                address,
            }),
        }
    }
}

impl Insecure {
    /// Reads `HOST[:PORT]` or a network in CIDR form.
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        let error = || SettingError::Insecure {
            text: text.to_owned(),
        };
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| error())?;
            let bits: u8 = bits.parse().map_err(|_| error())?;
            let bits_max = if address.is_ipv4() { 32 } else { 128 };
            return match bits <= bits_max {
                true => Ok(Self::Network(address, bits)),
                false => Err(error()),
            };
        }
        Address::new(Scheme::Http, text)
            .map(|_| Self::Host(text.to_ascii_lowercase()))
            .ok_or_else(error)
    }

    fn covers(&self, address: &Address) -> bool {
        match self {
            Self::Host(host) => *host == address.authority() || *host == address.host(),
            Self::Network(network, bits) => address.ip().is_some_and(|ip| is_in(ip, *network, *bits)),
        }
    }
}

impl RegistrySettings {
    /// Whether a registry may be spoken to without verified TLS.
    pub(crate) fn is_insecure(&self, address: &Address) -> bool {
        address.is_loopback() || self.insecure.iter().any(|rule| rule.covers(address))
    }
}

fn is_in(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (ip, network, width) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            (u128::from(ip.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let dropped = width - u32::from(bits);
    // A shift by the whole width is none that the processor does.
    ip.checked_shr(dropped).unwrap_or(0) == network.checked_shr(dropped).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_or_refused() {
        let mirror = Mirror::parse("https://mirror.example:8443/hub/").unwrap();
        assert_eq!(
            (mirror.of.as_str(), mirror.address.url("/v2/")),
            ("docker.io", "https://mirror.example:8443/hub/v2/".to_owned())
        );
        assert_eq!(
            Mirror::parse("quay.io=http://10.0.0.1:5000").unwrap().of,
            "quay.io"
        );
        for bad in [
            "",
            "mirror.example",
            "ftp://a",
            "=http://a",
            "http://u:p@a",
            "http://",
        ] {
            assert!(Mirror::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "a/b", "10.0.0.0/33", "::/129", "a:b"] {
            assert!(Insecure::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn insecure_registries_are_found_by_name_and_network() {
        let settings = RegistrySettings {
            insecure: ["Reg.Example:5000", "10.1.0.0/16", "plain.example"]
                .map(|text| Insecure::parse(text).unwrap())
                .to_vec(),
            ..RegistrySettings::default()
        };
        let insecure =
            |authority: &str| settings.is_insecure(&Address::new(Scheme::Https, authority).unwrap());
        for yes in [
            "reg.example:5000",
            "10.1.2.3:80",
            "plain.example:1",
            "localhost:5000",
            "127.1.2.3",
            "[::1]:5000",
        ] {
            assert!(insecure(yes), "{yes}");
        }
        for no in ["reg.example", "10.2.0.1", "localhost.example", "[::2]"] {
            assert!(!insecure(no), "{no}");
        }
    }
}
