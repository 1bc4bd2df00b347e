//! Addresses as this crate takes them: an IPv4 address with its prefix, and a MAC address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 address together with the length of its network's prefix, as in `172.17.0.1/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no address with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no IPv4 address with a prefix length from 0 to 32, as in 172.17.0.1/16")]
pub struct InvalidIpv4Net {
    /// What was given.
    pub text: String,
}

impl Ipv4Net {
    /// An address with a prefix; `None` if the prefix is longer than 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then_some(Self { address, prefix })
    }

    /// The address itself.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The length of the network's prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network's first address.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// The network's last address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// Whether `address` is in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network().to_bits()
    }

    /// The `n`th address of the network, counted from its first; `None` at its last address and beyond.
    pub fn nth(&self, n: u32) -> Option<Self> {
        let address = self.network().to_bits().checked_add(n)?;
        (address < self.broadcast().to_bits()).then(|| Self {
            address: Ipv4Addr::from_bits(address),
            prefix: self.prefix,
        })
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = InvalidIpv4Net;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Self::new(address.parse().ok()?, prefix.parse().ok()?));
        parsed.ok_or_else(|| InvalidIpv4Net {
            text: text.to_owned(),
        })
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = InvalidIpv4Net;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no MAC address of six hexadecimal bytes, as in 02:42:ac:11:00:02")]
pub struct InvalidMacAddress {
    /// What was given.
    pub text: String,
}

impl MacAddress {
    /// The address that goes with an IPv4 address, so that whoever takes over the one takes over the other and
    /// no neighbour's cache is wrong.
    pub fn for_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The same for an address of either family; of IPv6, the last bytes tell containers of one network apart.
    pub fn for_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::for_ipv4(address),
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                Self([0x02, 0x42, a, b, c, d])
            }
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMacAddress {
            text: text.to_owned(),
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            Err(invalid())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidMacAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_know_their_bounds() {
        let net: Ipv4Net = "172.17.4.9/16".parse().unwrap();
        assert_eq!(net.network(), Ipv4Addr::new(172, 17, 0, 0));
        assert_eq!(net.broadcast(), Ipv4Addr::new(172, 17, 255, 255));
        assert!(net.contains(Ipv4Addr::new(172, 17, 200, 1)));
        assert!(!net.contains(Ipv4Addr::new(172, 18, 0, 1)));
        assert_eq!(net.nth(2).unwrap().to_string(), "172.17.0.2/16");
        assert_eq!(net.nth(65_535), None);
        assert!(
            "0.0.0.0/0"
                .parse::<Ipv4Net>()
                .unwrap()
                .contains(Ipv4Addr::BROADCAST)
        );
        assert!("10.0.0.1/33".parse::<Ipv4Net>().is_err());
        assert!("10.0.0.1".parse::<Ipv4Net>().is_err());
    }

    #[test]
    fn mac_addresses_round_trip() {
        let mac = MacAddress::for_ipv4(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for text in [
            "",
            "02:42",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "02:42:ac:11:00:gg",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
