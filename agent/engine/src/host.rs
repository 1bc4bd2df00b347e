//! What the engine reads of its host: identity, memory, processors, routes, limits.

use crate::spec::CpuList;
use muster_network::IpNet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The kernel's id of this boot: state in the run directory of another boot is stale.
pub fn boot_id() -> String {
    trimmed("/proc/sys/kernel/random/boot_id")
}

/// Bytes of memory.
pub fn memory_bytes() -> u64 {
    let content = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = content.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// Processors that may be used.
pub fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// The processors (`cpu`) or memory nodes (`node`) that are there. A kernel without memory nodes has one.
pub fn online(what: &str) -> CpuList {
    let list = trimmed(&format!("/sys/devices/system/{what}/online"));
    CpuList::parse(if list.is_empty() { "0" } else { &list }).unwrap_or_default()
}

/// Kernel release.
pub fn kernel_release() -> String {
    trimmed("/proc/sys/kernel/osrelease")
}

/// Host name.
pub fn host_name() -> String {
    trimmed("/proc/sys/kernel/hostname")
}

/// Name and version of the distribution, from os-release.
pub fn distribution() -> (String, String) {
    let content = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = content
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|text| text.trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    (value("PRETTY_NAME"), value("VERSION_ID"))
}

/// Whether packets are forwarded.
pub fn forwards_packets() -> bool {
    trimmed("/proc/sys/net/ipv4/ip_forward") == "1"
}

/// The networks that routes of this host lead to, without the default routes and without those of links that are
/// excepted.
pub fn route_networks(except: impl Fn(&str) -> bool) -> Vec<IpNet> {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    // A host without IPv6 has no such file.
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let mut networks = parse_routes(&v4, &except);
    networks.extend(parse_ipv6_routes(&v6, &except));
    networks
}

fn parse_ipv6_routes(content: &str, except: &impl Fn(&str) -> bool) -> Vec<IpNet> {
    let networks = content.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, prefix, .., interface] = fields.as_slice() else {
            return None;
        };
        let address = Ipv6Addr::from_bits(u128::from_str_radix(destination, 16).ok()?);
        let prefix = u8::from_str_radix(prefix, 16).ok()?;
        // Every link has those of the link itself and of multicast, which are no networks of anybody.
        let own_making = address.is_unicast_link_local() || address.is_multicast() || address.is_loopback();
        if except(interface) || prefix == 0 || own_making {
            return None;
        }
        IpNet::new(address.into(), prefix)
    });
    networks.collect()
}

fn parse_routes(content: &str, except: &impl Fn(&str) -> bool) -> Vec<IpNet> {
    let networks = content.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        let address = u32::from_str_radix(fields.next()?, 16).ok()?;
        let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?;
        if except(interface) || mask == 0 {
            return None;
        }
        // The kernel prints both as they lie in memory, in network order.
        let prefix = u8::try_from(u32::from_be_bytes(mask.to_ne_bytes()).leading_ones()).ok()?;
        IpNet::new(Ipv4Addr::from(address.to_ne_bytes()).into(), prefix)
    });
    networks.collect()
}

/// A set of capabilities of this process, one bit each: `CapBnd`, `CapEff`, …
pub fn capability_set(name: &str) -> u64 {
    let content = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = content
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

/// Nanoseconds that all processors of the host spent, idle time included, as `docker stats` divides by.
pub fn processor_time_ns() -> u64 {
    /// Ticks of /proc/stat per second: fixed in the kernel's interface.
    const TICKS_PER_SECOND: u64 = 100;
    let content = fs::read_to_string("/proc/stat").unwrap_or_default();
    let total: u64 = content
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    total * (1_000_000_000 / TICKS_PER_SECOND)
}

fn trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_without_the_default_and_the_own_bridge() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            br0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let read = |except: &str| {
            let networks = parse_routes(table, &|link: &str| link == except);
            networks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(read("br0"), ["192.0.2.0/24"]);
        assert_eq!(read("none"), ["192.0.2.0/24", "172.17.0.0/16"]);
        let table = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n\
            fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        let networks = parse_ipv6_routes(table, &|_: &str| false);
        assert_eq!(networks, ["fd00::/64".parse().unwrap()]);
        assert_eq!(parse_ipv6_routes(table, &|link: &str| link == "eth0"), []);
    }

    #[test]
    fn facts_of_this_host_are_found() {
        assert!(memory_bytes() > 1 << 20);
        assert!(cpus() > 0);
        for what in ["cpu", "node"] {
            assert!(CpuList::parse("0").unwrap().is_within(&online(what)), "{what}");
        }
        assert_eq!(boot_id().len(), 36);
        assert!(!kernel_release().is_empty());
        assert!(processor_time_ns() > 0);
    }
}
