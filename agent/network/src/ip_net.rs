//! An address of either family with the length of its network's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::address::Ipv4Net;

/// An IPv4 or IPv6 address together with the length of its network's prefix, as in `172.17.0.1/16` or `fd00::1/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no address with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address with a prefix length, as in 172.17.0.1/16 or fd00::1/64")]
pub struct InvalidIpNet {
    /// What was given.
    pub text: String,
}

impl IpNet {
    /// An address with a prefix; `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= width(address)).then_some(Self { address, prefix })
    }

    /// The address itself.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the network's prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The network alone: the address with everything behind the prefix cleared.
    pub fn network(&self) -> Self {
        let bits = bits_of(self.address) & !self.host_mask();
        Self {
            address: address_from(bits, self.is_ipv4()),
            prefix: self.prefix,
        }
    }

    /// The network's last address.
    pub fn last(&self) -> IpAddr {
        address_from(bits_of(self.address) | self.host_mask(), self.is_ipv4())
    }

    /// Whether `address` is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same_family = address.is_ipv4() == self.is_ipv4();
        same_family && (bits_of(address) ^ bits_of(self.address)) & !self.host_mask() == 0
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Another address in the same network.
    pub fn with_address(&self, address: IpAddr) -> Option<Self> {
        self.contains(address).then_some(Self {
            address,
            prefix: self.prefix,
        })
    }

    fn host_mask(&self) -> u128 {
        let free = u32::from(width(self.address) - self.prefix);
        u128::MAX.checked_shr(128 - free).unwrap_or(0)
    }
}

/// The address as a number; an IPv4 address fills the low 32 bits.
pub fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address that a number stands for in a family; higher bits than the family has are dropped.
pub fn address_from(bits: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl From<Ipv4Net> for IpNet {
    fn from(net: Ipv4Net) -> Self {
        Self {
            address: IpAddr::V4(net.address()),
            prefix: net.prefix(),
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IpNet {
    type Err = InvalidIpNet;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Self::new(address.parse().ok()?, prefix.parse().ok()?));
        parsed.ok_or_else(|| InvalidIpNet {
            text: text.to_owned(),
        })
    }
}

impl From<IpNet> for String {
    fn from(net: IpNet) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for IpNet {
    type Error = InvalidIpNet;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_of_both_families_know_their_bounds() {
        let v4 = net("172.18.4.9/16");
        assert_eq!(v4.network().to_string(), "172.18.0.0/16");
        assert_eq!(v4.last().to_string(), "172.18.255.255");
        let v6 = net("fd00:1::9/64");
        assert_eq!(v6.network().to_string(), "fd00:1::/64");
        assert_eq!(v6.last().to_string(), "fd00:1::ffff:ffff:ffff:ffff");
        for (whole, inside) in [
            ("0.0.0.0/0", "1.2.3.4"),
            ("::/0", "fe80::1"),
            ("10.0.0.1/32", "10.0.0.1"),
        ] {
            assert!(net(whole).contains(inside.parse().unwrap()), "{whole}");
        }
        assert!(!v4.contains("fd00::1".parse().unwrap()));
        assert!(!net("10.0.0.1/32").contains("10.0.0.2".parse().unwrap()));
        for bad in ["10.0.0.1/33", "::1/129", "10.0.0.1", "/8", "x/8"] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let (wide, narrow) = (net("10.0.0.0/8"), net("10.9.0.0/24"));
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!narrow.overlaps(&net("10.9.1.0/24")));
        assert!(!net("::/0").overlaps(&net("0.0.0.0/0")));
    }
}
