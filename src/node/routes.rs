//! Subnets that this host has routes to: no network of the cluster may take them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use muster_types::node::ROUTES_MAX;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the kernel's tables say now. Where they cannot be read, there is nothing to keep clear of.
pub fn of_host() -> Vec<IpNet> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    subnets(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
}

/// The subnets of both tables, without what every host has. Of too many the largest are kept: they rule out most.
fn subnets(ipv4: &str, ipv6: &str) -> Vec<IpNet> {
    let of_ipv4 = ipv4.lines().skip(1).filter_map(ipv4_route);
    let mut found: Vec<IpNet> = of_ipv4.chain(ipv6.lines().filter_map(ipv6_route)).collect();
    found.retain(|net| is_of_hosts(*net));
    found.sort_by_key(|net| (net.prefix_len(), *net));
    found.dedup();
    found.truncate(ROUTES_MAX);
    found
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, three counters, mask; numbers as they lie in
/// memory, in hexadecimal.
fn ipv4_route(line: &str) -> Option<IpNet> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |place: usize| {
        let number = u32::from_str_radix(fields.get(place)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let net = Ipv4Net::with_netmask(number(1)?, number(7)?).ok()?;
    Some(IpNet::V4(net.trunc()))
}

/// A line of `/proc/net/ipv6_route`: destination and the length of its prefix first, the interface last.
fn ipv6_route(line: &str) -> Option<IpNet> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.last()? == "lo" {
        return None;
    }
    let address = u128::from_str_radix(fields.first()?, 16).ok()?;
    let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    let net = Ipv6Net::new(Ipv6Addr::from_bits(address), length).ok()?;
    Some(IpNet::V6(net.trunc()))
}

fn is_of_hosts(net: IpNet) -> bool {
    let address = net.network();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    net.prefix_len() > 0 && !link_local && !address.is_loopback() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth1\t0002A8C0\t00000000\t0001\t0\t0\t200\t00FFFFFF\t0\t0\t0
tun0\t0000140A\t00000000\t0001\t0\t0\t0\t0000FCFF\t0\t0\t0
damaged
";
    const IPV6: &str = "\
fd000000000000010000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000001     eth0
fd000000000000010000000000000005 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000001 00000000 80200001       lo
ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
";

    #[test]
    fn the_kernels_tables_are_read_without_what_every_host_has() {
        let found: Vec<String> = subnets(IPV4, IPV6).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "10.20.0.0/14",
                "172.17.0.0/16",
                "192.168.2.0/24",
                "fd00:0:0:1::/64"
            ]
        );
    }

    #[test]
    fn of_too_many_routes_the_largest_are_kept() {
        let lines: String = (0..400)
            .map(|number| format!("{:032x} {:02x} lo0\n", (0xfd00u128 << 112) | (number << 64), 64))
            .collect();
        let table = format!("{lines}{:032x} 20 eth0\n", 0x2001u128 << 112);
        let found = subnets("", &table);
        assert_eq!(found.len(), ROUTES_MAX);
        assert_eq!(found[0].to_string(), "2001::/32");
    }
}
