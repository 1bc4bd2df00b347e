//! The files that the engine generates for a container: hosts, hostname, resolv.conf.

use crate::network::HostsEntries;
use muster_types::container::{ContainerConfig, NetworkMode};
use muster_types::service::DnsSpec;
use std::net::IpAddr;

/// Name servers where the host has only its own loopback ones, which a container cannot reach; Docker's.
const PUBLIC_NAMESERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Name of the hosts file.
pub const HOSTS: &str = "hosts";
/// Name of the hostname file.
pub const HOSTNAME: &str = "hostname";
/// Name of the resolver configuration.
pub const RESOLV_CONF: &str = "resolv.conf";

const HOSTS_HEAD: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
     fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The hosts file.
pub fn hosts(config: &ContainerConfig, host_name: &str, entries: &HostsEntries) -> String {
    let mut content = HOSTS_HEAD.to_owned();
    for entry in &config.host.extra_hosts {
        // `name:address`; the address may hold colons itself.
        if let Some((name, address)) = entry.split_once(':') {
            match address.trim_matches(['[', ']']) {
                "host-gateway" => {
                    for gateway in &entries.host_gateway {
                        content.push_str(&format!("{gateway}\t{name}\n"));
                    }
                }
                address => content.push_str(&format!("{address}\t{name}\n")),
            }
        }
    }
    for (address, names) in &entries.links {
        content.push_str(&format!("{address}\t{names}\n"));
    }
    let names = own_names(config, host_name);
    for address in &entries.own {
        content.push_str(&format!("{address}\t{names}\n"));
    }
    content
}

/// The container's own names in its hosts file.
pub fn own_names(config: &ContainerConfig, host_name: &str) -> String {
    match config.domainname.as_str() {
        "" => host_name.to_owned(),
        domain => format!("{host_name}.{domain} {host_name}"),
    }
}

/// The resolver configuration of a container whose names the engine resolves.
pub fn own_resolv_conf(host: &str, wanted: &DnsSpec) -> String {
    let mut content = format!("nameserver {}\n", muster_network::RESOLVER_ADDRESS);
    let search = own_or_host(&wanted.search, host, "search");
    if !search.is_empty() && search != ["."] {
        content.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = own_or_host(&wanted.options, host, "options");
    if !wanted.options.iter().any(|option| option.starts_with("ndots:")) {
        // Names of containers have no dot, and are to be asked for before any search domain.
        options.retain(|option| !option.starts_with("ndots:"));
        options.push("ndots:0".to_owned());
    }
    content.push_str(&format!("options {}\n", options.join(" ")));
    content
}

/// The host's own name servers, those on its loopback included.
pub fn host_nameservers() -> Vec<String> {
    values(
        &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        "nameserver",
    )
}

/// The hostname file.
pub fn hostname(host_name: &str) -> String {
    format!("{host_name}\n")
}

/// The resolver configuration, and a warning when the host's could not be used.
pub fn resolv_conf(host: &str, wanted: &DnsSpec, network: &NetworkMode) -> (String, Option<&'static str>) {
    if *network == NetworkMode::Host && *wanted == DnsSpec::default() {
        return (host.to_owned(), None);
    }
    let mut warning = None;
    let mut servers = match wanted.nameservers.as_slice() {
        [] => reachable_servers(host),
        given => given.to_vec(),
    };
    if servers.is_empty() {
        warning = Some(
            "the host has only loopback name servers, which containers cannot reach: 8.8.8.8 and 8.8.4.4 are used; \
             give --dns to choose others",
        );
        servers = PUBLIC_NAMESERVERS.map(str::to_owned).to_vec();
    }
    let search = own_or_host(&wanted.search, host, "search");
    let options = own_or_host(&wanted.options, host, "options");
    let mut content: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if !search.is_empty() && search != ["."] {
        content.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        content.push_str(&format!("options {}\n", options.join(" ")));
    }
    (content, warning)
}

/// The host's resolver configuration: the one behind a local stub resolver, where there is one.
pub fn host_resolver() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let own = read("/etc/resolv.conf");
    if reachable_servers(&own).is_empty() {
        let upstream = read("/run/systemd/resolve/resolv.conf");
        if !reachable_servers(&upstream).is_empty() {
            return upstream;
        }
    }
    own
}

fn reachable_servers(host: &str) -> Vec<String> {
    let servers = values(host, "nameserver");
    let outside = |server: &String| {
        server
            .parse::<IpAddr>()
            .is_ok_and(|address| !address.is_loopback())
    };
    servers.into_iter().filter(outside).collect()
}

fn own_or_host(own: &[String], host: &str, keyword: &str) -> Vec<String> {
    if own.is_empty() {
        values(host, keyword)
    } else {
        own.to_vec()
    }
}

fn values(content: &str, keyword: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in content.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some(keyword) {
            if keyword != "nameserver" {
                // Of these, the last line holds.
                found.clear();
            }
            found.extend(words.map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 10.0.0.53\nnameserver 127.0.0.53\nsearch a.example b.example\noptions ndots:2\n";

    #[test]
    fn the_hosts_servers_are_taken_without_loopback() {
        let (content, warning) = resolv_conf(HOST, &DnsSpec::default(), &NetworkMode::Bridge);
        assert_eq!(
            content,
            "nameserver 10.0.0.53\nsearch a.example b.example\noptions ndots:2\n"
        );
        assert!(warning.is_none());
    }

    #[test]
    fn only_loopback_servers_are_replaced_with_a_warning() {
        let (content, warning) = resolv_conf(
            "nameserver 127.0.0.53\n",
            &DnsSpec::default(),
            &NetworkMode::Bridge,
        );
        assert_eq!(content, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert!(warning.is_some());
    }

    #[test]
    fn own_settings_win_and_host_networking_keeps_the_file() {
        let own = DnsSpec {
            nameservers: vec!["1.1.1.1".to_owned()],
            search: vec![".".to_owned()],
            options: vec![],
        };
        let (content, _) = resolv_conf(HOST, &own, &NetworkMode::Bridge);
        assert_eq!(content, "nameserver 1.1.1.1\noptions ndots:2\n");
        let (content, _) = resolv_conf("nameserver 127.0.0.53\n", &DnsSpec::default(), &NetworkMode::Host);
        assert_eq!(content, "nameserver 127.0.0.53\n");
    }

    #[test]
    fn hosts_name_the_container_and_extra_hosts() {
        let mut config = ContainerConfig {
            domainname: "example.org".to_owned(),
            ..ContainerConfig::default()
        };
        config.host.extra_hosts = vec!["db:10.0.0.9".into(), "v6:::1".into(), "host:host-gateway".into()];
        let entries = HostsEntries {
            own: vec!["172.17.0.2".parse().unwrap()],
            links: vec![("172.17.0.9".parse().unwrap(), "cache c1".to_owned())],
            host_gateway: vec!["172.17.0.1".parse().unwrap()],
        };
        let content = hosts(&config, "web", &entries);
        assert!(
            content.ends_with(
                "10.0.0.9\tdb\n::1\tv6\n172.17.0.1\thost\n172.17.0.9\tcache c1\n172.17.0.2\tweb.example.org web\n"
            ),
            "{content}"
        );
    }

    #[test]
    fn names_resolved_by_the_engine_are_asked_for_first() {
        let content = own_resolv_conf(HOST, &DnsSpec::default());
        assert_eq!(
            content,
            "nameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:0\n"
        );
        let own = DnsSpec {
            options: vec!["ndots:3".to_owned(), "rotate".to_owned()],
            ..DnsSpec::default()
        };
        assert!(own_resolv_conf("", &own).ends_with("\noptions ndots:3 rotate\n"));
    }
}
