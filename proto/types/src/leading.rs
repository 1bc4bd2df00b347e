//! How connections to a service are led, beyond what Docker's API has fields for: labels of the service.

use crate::service::Labels;
pub use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Label with addresses of nodes at which published ports answer, and at no others.
pub const LABEL_ADDRESS: &str = "muster.publish.address";
/// Label that says which endpoints get connections where there are several.
pub const LABEL_PREFER: &str = "muster.endpoints.prefer";
/// Most addresses of a service's ports: each is a rule of every node.
pub const ADDRESSES_MAX: usize = 16;
/// Labels that begin so mean something here, so that a misspelt one is refused.
const OWN: [&str; 2] = ["muster.publish.", "muster.endpoints."];

/// How connections to a service are led.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Leading {
    /// Published ports answer at the nodes' addresses in these; at all of them when there are none.
    pub addresses: BTreeSet<IpNet>,
    /// A node leads connections to endpoints of its own where it has some.
    pub prefers_local: bool,
}

impl Leading {
    /// What a service's labels say, or everything that is wrong with them.
    pub fn read(labels: &Labels) -> Result<Self, Vec<String>> {
        let (mut leading, mut problems) = (Self::default(), Vec::new());
        for (label, value) in labels {
            match label.as_str() {
                LABEL_ADDRESS => leading.read_addresses(value, &mut problems),
                LABEL_PREFER if value == "local" => leading.prefers_local = true,
                LABEL_PREFER => problems.push(format!("label {LABEL_PREFER}={value:?}: it can be \"local\"")),
                other if OWN.iter().any(|own| other.starts_with(own)) => problems.push(format!(
                    "label {other} means nothing; there are {LABEL_ADDRESS} and {LABEL_PREFER}"
                )),
                _ => {}
            }
        }
        match problems.is_empty() {
            true => Ok(leading),
            false => Err(problems),
        }
    }

    /// Whether published ports answer at this address.
    pub fn answers_at(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|net| net.contains(&address))
    }

    fn read_addresses(&mut self, list: &str, problems: &mut Vec<String>) {
        for text in list.split(',').map(str::trim) {
            let address = text
                .parse::<IpAddr>()
                .map(|address| match address.is_unspecified() {
                    // As in Docker, all addresses of the family.
                    true => IpNet::new_assert(address, 0),
                    false => IpNet::from(address),
                });
            match address.map_err(|_| ()).or_else(|()| text.parse().map_err(|_| ())) {
                Ok(net) => drop(self.addresses.insert(net.trunc())),
                Err(()) => problems.push(format!(
                    "label {LABEL_ADDRESS}: {text:?} is neither an address nor a subnet (as in 192.0.2.7, 10.1.0.0/16 or \
                     fd00::/64, with commas between several)"
                )),
            }
        }
        if self.addresses.len() > ADDRESSES_MAX {
            problems.push(format!(
                "label {LABEL_ADDRESS} has more than {ADDRESSES_MAX} addresses; name a subnet"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[(&str, &str)]) -> Result<Leading, Vec<String>> {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Leading::read(&labels.collect())
    }

    #[test]
    fn addresses_and_subnets_of_both_families_are_read() {
        let leading = read(&[(LABEL_ADDRESS, "192.0.2.7, 10.1.2.3/16,fd00::/64"), ("team", "a")]).unwrap();
        for (address, answers) in [
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("10.1.255.1", true),
            ("10.2.0.1", false),
            ("fd00::9", true),
            ("::1", false),
        ] {
            assert_eq!(leading.answers_at(address.parse().unwrap()), answers, "{address}");
        }
        assert!(read(&[]).unwrap().answers_at([192, 0, 2, 1].into()));
        let ipv4 = read(&[(LABEL_ADDRESS, "0.0.0.0")]).unwrap();
        assert!(ipv4.answers_at([192, 0, 2, 1].into()) && !ipv4.answers_at("::1".parse().unwrap()));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (label, value, says) in [
            (LABEL_ADDRESS, "", "neither an address nor a subnet"),
            (LABEL_ADDRESS, "eth0", "neither an address nor a subnet"),
            (LABEL_ADDRESS, "10.0.0.0/33", "neither an address nor a subnet"),
            (LABEL_PREFER, "remote", "it can be \"local\""),
            ("muster.publish.adress", "10.0.0.1", "means nothing"),
        ] {
            let problems = read(&[(label, value)]).unwrap_err();
            assert!(problems[0].contains(says), "{label} {value}: {problems:?}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("10.0.0.{n}")).collect();
        assert_eq!(read(&[(LABEL_ADDRESS, &many.join(","))]).unwrap_err().len(), 1);
        assert!(read(&[(LABEL_PREFER, "local")]).unwrap().prefers_local);
    }
}
