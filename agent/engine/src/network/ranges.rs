//! The ranges of addresses of a network, as users write them, and what can be wrong with one.

use super::ipam::AddressPool;
use crate::error::{Error, Result};
use muster_network::IpNet;
use muster_types::network::AddressRange;
use std::net::IpAddr;

/// The pool of a range of the network with this name.
pub(super) fn pool(network: &str, range: &AddressRange) -> Result<AddressPool> {
    let subnet = parse_subnet(&range.subnet)?;
    let part = match range.ip_range.as_str() {
        "" => None,
        text => Some(parse_subnet(text)?),
    };
    AddressPool::new(
        network,
        subnet,
        part,
        range.gateway,
        range.auxiliary.values().copied(),
    )
}

/// A subnet as users write it.
pub(super) fn parse_subnet(text: &str) -> Result<IpNet> {
    text.parse()
        .map_err(|_| Error::invalid(format!("invalid CIDR address: {text}")))
}

/// Whether nothing is said.
pub(super) fn is_empty(range: &AddressRange) -> bool {
    *range == AddressRange::default()
}

/// What is wrong with a range, in Docker's words.
pub(super) fn problems_of(range: &AddressRange) -> Vec<String> {
    let mut problems = Vec::new();
    if range.subnet.is_empty() {
        if !range.ip_range.is_empty() || range.gateway.is_some() || !range.auxiliary.is_empty() {
            problems.push(
                "every ip-range, gateway or auxiliary address must have a corresponding subnet".to_owned(),
            );
        }
        return problems;
    }
    let Ok(subnet) = range.subnet.parse::<IpNet>() else {
        return vec![format!(
            "invalid subnet {}: invalid CIDR block notation",
            range.subnet
        )];
    };
    let family = if subnet.is_ipv4() { 4 } else { 6 };
    if subnet != subnet.network() {
        problems.push(format!(
            "invalid subnet {subnet}: it should be {}",
            subnet.network()
        ));
    }
    if !range.ip_range.is_empty() {
        problems.extend(problems_of_part(&range.ip_range, subnet, family));
    }
    let wrong = |address: IpAddr| match (address.is_ipv4() == subnet.is_ipv4(), subnet.contains(address)) {
        (false, _) => Some(format!("parent subnet is an IPv{family} block")),
        (true, false) => Some(format!("parent subnet {subnet} doesn't contain this address")),
        (true, true) => None,
    };
    if let Some((gateway, why)) = range.gateway.and_then(|gateway| Some((gateway, wrong(gateway)?))) {
        problems.push(format!("invalid gateway {gateway}: {why}"));
    }
    let bad = |(name, address): (&String, &IpAddr)| {
        Some(format!("invalid auxiliary address {name}: {}", wrong(*address)?))
    };
    problems.extend(range.auxiliary.iter().filter_map(bad));
    problems
}

fn problems_of_part(text: &str, subnet: IpNet, family: u8) -> Vec<String> {
    let Ok(part) = text.parse::<IpNet>() else {
        return vec![format!("invalid ip-range {text}: invalid CIDR block notation")];
    };
    if part.is_ipv4() != subnet.is_ipv4() {
        return vec![format!(
            "invalid ip-range {part}: parent subnet is an IPv{family} block"
        )];
    }
    let mut problems = Vec::new();
    if part.prefix() < subnet.prefix() {
        problems.push(format!(
            "invalid ip-range {part}: CIDR block is bigger than its parent subnet {subnet}"
        ));
    }
    if part != part.network() {
        problems.push(format!(
            "invalid ip-range {part}: it should be {}",
            part.network()
        ));
    }
    if !subnet.overlaps(&part) {
        problems.push(format!(
            "invalid ip-range {part}: parent subnet {subnet} doesn't contain ip-range"
        ));
    }
    problems
}
