//! What a container's networks put into its hosts file and its resolver configuration.

use super::ResolverChoice;
use super::WAY_OUT;
use super::held::addresses;
use super::place::Places;
use crate::engine::Inner;
use crate::files;
use crate::record::Record;
use muster_types::container::ContainerConfig;
use std::net::IpAddr;

/// What a container's networks and links put into its hosts file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostsEntries {
    /// The container's own addresses.
    pub own: Vec<IpAddr>,
    /// Linked containers with their names.
    pub links: Vec<(IpAddr, String)>,
    /// What the extra host address `host-gateway` stands for.
    pub host_gateway: Vec<IpAddr>,
}

/// The container's own addresses, of its first network first.
pub(crate) fn own_addresses(places: &Places) -> Vec<IpAddr> {
    let own = places.iter().filter(|(name, _)| *name != WAY_OUT);
    let mut endpoints: Vec<_> = own.map(|(_, place)| place).collect();
    endpoints.sort_by(|one, other| one.interface.cmp(&other.interface));
    endpoints.into_iter().flat_map(addresses).collect()
}

/// A line for an address.
pub(crate) fn line(address: IpAddr, names: &str) -> String {
    format!("{address}\t{names}\n")
}

/// The content without the lines that begin with one of the addresses and end with these names; what else there is,
/// such as what the container wrote itself, stays.
pub(crate) fn without(content: &str, addresses: &[IpAddr], names: &str) -> String {
    let is_dropped = |text: &str| {
        addresses
            .iter()
            .any(|address| text == line(*address, names).trim_end())
    };
    let kept = content.lines().filter(|text| !is_dropped(text));
    kept.flat_map(|text| [text, "\n"]).collect()
}

/// The content with the lines of one linked container, known by its names, replaced.
pub(crate) fn relinked(content: &str, names: &str, address: IpAddr) -> String {
    let is_link = |text: &str| text.split_once('\t').is_some_and(|(_, others)| others == names);
    let mut changed: String = content
        .lines()
        .filter(|text| !is_link(text))
        .flat_map(|text| [text, "\n"])
        .collect();
    changed.push_str(&line(address, names));
    changed
}

impl Inner {
    /// The sockets of a container's resolver ended with the daemon that served them.
    pub(crate) async fn serve_names_again(&self, record: &Record) {
        let Some(run) = self
            .find(record.id.as_str())
            .ok()
            .and_then(|container| container.run())
        else {
            return;
        };
        let choice = self.resolver_choice(&record.config);
        if let Err(error) = self.networking.serve_names(record, &run.places, &choice).await {
            tracing::error!(
                container = record.id.short(),
                error = error.chain(),
                "it cannot ask for names"
            );
        }
    }

    /// The resolver configuration, with the engine's own resolver or without.
    pub(crate) fn resolver_file(&self, record: &Record, own: bool) -> String {
        let dns = self.dns_of(&record.config);
        match own {
            true => files::own_resolv_conf(&files::host_resolver(), &dns),
            false => files::resolv_conf(&files::host_resolver(), &dns, &record.config.host.network).0,
        }
    }

    /// What the container's resolver is told besides the names.
    pub(crate) fn resolver_choice(&self, config: &ContainerConfig) -> ResolverChoice {
        let dns = self.dns_of(config);
        ResolverChoice {
            own_ndots: dns
                .options
                .iter()
                .any(|option| option.starts_with("ndots:") && option != "ndots:0"),
            nameservers: dns.nameservers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_and_go_and_others_stay() {
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap());
        let content = format!(
            "127.0.0.1\tlocalhost\n{}# mine\n{}",
            line(one, "web"),
            line(two, "web")
        );
        assert_eq!(
            without(&content, &[one], "web"),
            "127.0.0.1\tlocalhost\n# mine\n10.0.0.3\tweb\n"
        );
        assert_eq!(without(&content, &[one], "other"), content);
        let relinked = relinked(
            "127.0.0.1\tlocalhost\n10.0.0.9\tdb 1234 db1\n",
            "db 1234 db1",
            one,
        );
        assert_eq!(relinked, "127.0.0.1\tlocalhost\n10.0.0.2\tdb 1234 db1\n");
    }
}
