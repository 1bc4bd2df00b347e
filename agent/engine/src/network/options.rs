//! Driver options of networks: those that have an effect are read, all others are refused.

use crate::error::{Error, Result};
use muster_network::{Families, MacvlanMode};
use muster_types::service::Labels;
use std::net::IpAddr;

const BRIDGE_PREFIX: &str = "com.docker.network.bridge.";
const MTU: &str = "com.docker.network.driver.mtu";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Longest prefix of interface names that leaves room for a number.
const PREFIX_CHARS_MAX: usize = 11;
/// The kernel's longest name of an interface.
const INTERFACE_CHARS_MAX: usize = 15;

/// What the options of a network mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the bridge.
    pub bridge_name: Option<String>,
    /// Containers of the network may talk to each other.
    pub icc: bool,
    /// Containers reach the outside under the host's address.
    pub masquerade: bool,
    /// Host address of published ports that name none.
    pub host_binding: Option<IpAddr>,
    /// How containers are reached by the addresses of each family.
    pub gateway_mode_ipv4: GatewayMode,
    pub gateway_mode_ipv6: GatewayMode,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Interfaces in containers are named so, with a number behind.
    pub interface_prefix: String,
    /// Link of the host that a macvlan network is on, and whom containers reach there.
    pub parent: Option<String>,
    pub macvlan_mode: MacvlanMode,
}

/// How the containers of a bridge are reached, and what the bridge is to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// At published ports of the host's.
    #[default]
    Nat,
    /// At those, and at every port of their own addresses by who knows a way to them.
    NatUnprotected,
    /// At published ports, which are those of their own addresses, and by ping; packets keep their addresses.
    Routed,
    /// Not at all: the host has no address on the bridge.
    Isolated,
}

impl GatewayMode {
    fn read(key: &str, value: &str) -> Result<Self> {
        match value {
            "" | "nat" => Ok(Self::Nat),
            "nat-unprotected" => Ok(Self::NatUnprotected),
            "isolated" => Ok(Self::Isolated),
            "routed" => Ok(Self::Routed),
            _ => Err(Error::invalid(format!(
                "invalid value for {key}: unknown gateway mode {value}"
            ))),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bridge_name: None,
            icc: true,
            masquerade: true,
            host_binding: None,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            mtu: None,
            interface_prefix: "eth".to_owned(),
            parent: None,
            macvlan_mode: MacvlanMode::default(),
        }
    }
}

impl Options {
    /// The mode of a family.
    pub fn gateway_mode(&self, is_ipv4: bool) -> GatewayMode {
        match is_ipv4 {
            true => self.gateway_mode_ipv4,
            false => self.gateway_mode_ipv6,
        }
    }

    /// In which families containers are reached at every port.
    pub fn unprotected(&self) -> Families {
        self.with_mode(GatewayMode::NatUnprotected)
    }

    /// In which families containers are reached by their own addresses.
    pub fn routed(&self) -> Families {
        self.with_mode(GatewayMode::Routed)
    }

    fn with_mode(&self, mode: GatewayMode) -> Families {
        Families {
            ipv4: self.gateway_mode_ipv4 == mode,
            ipv6: self.gateway_mode_ipv6 == mode,
        }
    }

    /// Refuses modes that other networks than internal ones cannot have.
    pub fn check_modes(&self, internal: bool) -> Result<()> {
        let isolated = [self.gateway_mode_ipv4, self.gateway_mode_ipv6].contains(&GatewayMode::Isolated);
        if isolated && !internal {
            return Err(Error::invalid(
                "gateway mode 'isolated' can only be used for an internal network",
            ));
        }
        Ok(())
    }
}

/// Reads the options of a driver.
pub fn read(driver: &str, options: &Labels) -> Result<Options> {
    let mut read = Options::default();
    for (key, value) in options {
        match (driver, key.as_str()) {
            (_, MTU) => read.mtu = Some(number(key, value)?).filter(|mtu| *mtu != 0),
            (_, INTERFACE_PREFIX) => read.interface_prefix = interface_prefix(value)?,
            ("macvlan", "parent") => read.parent = Some(value.clone()),
            ("macvlan", "macvlan_mode") => read.macvlan_mode = macvlan_mode(value)?,
            ("bridge", key) => bridge_option(&mut read, key, value)?,
            (_, key) => return Err(unknown(driver, key)),
        }
    }
    Ok(read)
}

fn macvlan_mode(value: &str) -> Result<MacvlanMode> {
    match value {
        "" | "bridge" => Ok(MacvlanMode::Bridge),
        "private" => Ok(MacvlanMode::Private),
        "vepa" => Ok(MacvlanMode::Vepa),
        "passthru" => Ok(MacvlanMode::Passthru),
        _ => Err(Error::invalid(format!(
            "requested macvlan mode '{value}' is not valid: it is bridge, private, vepa or passthru"
        ))),
    }
}

fn bridge_option(read: &mut Options, key: &str, value: &str) -> Result<()> {
    match key.strip_prefix(BRIDGE_PREFIX) {
        Some("name") => read.bridge_name = Some(bridge_name(value)?),
        Some("enable_icc") => read.icc = truth(key, value)?,
        Some("enable_ip_masquerade") => read.masquerade = truth(key, value)?,
        // The unspecified address is what ports are on without being asked.
        Some("host_binding_ipv4") => {
            read.host_binding = Some(host_binding(key, value)?).filter(|address| !address.is_unspecified());
        }
        // Which network is the default bridge is not the user's choice, and has no effect but on what is shown.
        Some("default_bridge") => drop(truth(key, value)?),
        Some("gateway_mode_ipv4") => read.gateway_mode_ipv4 = GatewayMode::read(key, value)?,
        Some("gateway_mode_ipv6") => read.gateway_mode_ipv6 = GatewayMode::read(key, value)?,
        _ => return Err(unknown("bridge", key)),
    }
    Ok(())
}

fn unknown(driver: &str, key: &str) -> Error {
    Error::not_supported(format!("the option {key:?} of {driver} networks"))
}

fn truth(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid(format!(
            "invalid value for {key}: {value:?} is neither true nor false"
        ))),
    }
}

fn number(key: &str, value: &str) -> Result<u32> {
    let read = value.parse().ok().filter(|number| *number <= 65_535);
    read.ok_or_else(|| {
        Error::invalid(format!(
            "invalid value for {key}: {value:?} is no number up to 65535"
        ))
    })
}

fn host_binding(key: &str, value: &str) -> Result<IpAddr> {
    let address = value.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4);
    address.ok_or_else(|| Error::invalid(format!("invalid value for {key}: {value:?} is no IPv4 address")))
}

fn is_interface_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=INTERFACE_CHARS_MAX).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..")
}

fn bridge_name(value: &str) -> Result<String> {
    if is_interface_name(value) && !matches!(value, "all" | "default" | "lo") {
        return Ok(value.to_owned());
    }
    Err(Error::invalid(format!(
        "{value:?} is no name of a bridge: use 1 to 15 letters, digits and any of _.-"
    )))
}

fn interface_prefix(value: &str) -> Result<String> {
    if is_interface_name(value) && value.len() <= PREFIX_CHARS_MAX {
        return Ok(value.to_owned());
    }
    Err(Error::invalid(format!(
        "invalid value for {INTERFACE_PREFIX}: {value:?}: use 1 to {PREFIX_CHARS_MAX} letters, digits and any of _.-"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn with(driver: &str, key: &str, value: &str) -> Result<Options> {
        read(driver, &Labels::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn options_with_an_effect_are_read() {
        let bridge =
            |key: &str, value: &str| with("bridge", &format!("{BRIDGE_PREFIX}{key}"), value).unwrap();
        assert_eq!(bridge("name", "br9").bridge_name.as_deref(), Some("br9"));
        assert!(!bridge("enable_icc", "false").icc);
        assert!(!bridge("enable_ip_masquerade", "0").masquerade);
        assert_eq!(
            bridge("host_binding_ipv4", "127.0.0.1").host_binding,
            "127.0.0.1".parse().ok()
        );
        let mode = bridge("gateway_mode_ipv6", "nat-unprotected");
        assert_eq!(
            (mode.gateway_mode_ipv4, mode.gateway_mode_ipv6),
            (GatewayMode::Nat, GatewayMode::NatUnprotected)
        );
        let routed = bridge("gateway_mode_ipv6", "routed").routed();
        assert_eq!((routed.ipv4, routed.ipv6), (false, true));
        assert_eq!(with("bridge", MTU, "1400").unwrap().mtu, Some(1400));
        assert_eq!(
            with("macvlan", "parent", "eth0").unwrap().parent.as_deref(),
            Some("eth0")
        );
        let mode = with("macvlan", "macvlan_mode", "vepa").unwrap().macvlan_mode;
        assert_eq!(mode, MacvlanMode::Vepa);
        let refused = with("macvlan", "macvlan_mode", "maybe").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(read("bridge", &Labels::new()).unwrap(), Options::default());
    }

    #[test]
    fn all_others_are_refused() {
        for (driver, key, value) in [
            ("bridge", "parent", "eth0"),
            ("bridge", "foo", "bar"),
            ("macvlan", "com.docker.network.bridge.name", "br0"),
        ] {
            let error = with(driver, key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotImplemented, "{key}");
        }
        for (key, value) in [
            ("com.docker.network.bridge.name", "a/b"),
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "maybe"),
            ("com.docker.network.bridge.host_binding_ipv4", "::1"),
            (MTU, "x"),
            (INTERFACE_PREFIX, "much-too-long-"),
        ] {
            assert_eq!(
                with("bridge", key, value).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{key}"
            );
        }
    }
}
