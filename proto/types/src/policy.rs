//! Which services of a network may open connections to which ports of which.

use crate::network::NetworkSpec;
use crate::service::Protocol;
use crate::validate::object_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Label of a network with its rules, separated by semicolons.
pub const LABEL_RULES: &str = "muster.network.policy";
/// Label of a network that says what holds for services that no rule is about.
pub const LABEL_DEFAULT: &str = "muster.network.policy.default";
/// Label by which a stack's networks name the stack.
const LABEL_STACK: &str = "com.docker.stack.namespace";
/// Most rules of a network: each is looked at for every service that a node runs there.
pub const RULES_MAX: usize = 256;
/// Most ports of all rules of a network together: each becomes an element of packet filters for every task that may come.
pub const PORTS_MAX: usize = 256;

/// A network's rules. A service that some rule leads to accepts new connections that a rule allows, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// What holds for services that no rule leads to.
    pub unruled: Unruled,
    /// The rules.
    pub rules: Vec<PolicyRule>,
}

/// What holds for services that no rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Unruled {
    /// They accept every connection.
    #[default]
    Allow,
    /// They accept none.
    Deny,
}

/// Allows connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Whose connections.
    pub from: Party,
    /// Where to.
    pub to: Party,
    /// To which ports; to all when empty.
    pub ports: BTreeSet<(Protocol, u16)>,
}

/// A side of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    /// Everybody on the network.
    Any,
    /// The tasks of a service.
    Service(String),
}

impl Party {
    /// Whether the service is meant: by its name, or on a network of a stack by its name in the stack.
    pub fn is(&self, service: &str, stack: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Service(name) => {
                let in_stack = || service.strip_prefix(stack?)?.strip_prefix('_');
                name == service || in_stack() == Some(name)
            }
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Any),
            name => object_name(name)
                .map(|()| Self::Service(name.to_owned()))
                .map_err(|_| format!("{name:?} is neither the name of a service nor \"*\"")),
        }
    }
}

/// The stack that a network is of.
pub fn stack_of(labels: &crate::service::Labels) -> Option<&str> {
    labels.get(LABEL_STACK).map(String::as_str)
}

impl NetworkPolicy {
    /// Reads rules as users write them; every problem with them.
    pub fn read<'a>(default: &str, rules: impl IntoIterator<Item = &'a str>) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let unruled = match default {
            "" | "allow" => Unruled::Allow,
            "deny" => Unruled::Deny,
            other => {
                problems.push(format!("the default {other:?} is neither \"allow\" nor \"deny\""));
                Unruled::Allow
            }
        };
        let mut read = Vec::new();
        for text in rules {
            match text.parse() {
                Ok(rule) => read.push(rule),
                Err(problem) => problems.push(format!("rule {text:?}: {problem}")),
            }
        }
        if read.len() > RULES_MAX {
            problems.push(format!("there are more than {RULES_MAX} rules"));
        }
        let ports: usize = read.iter().map(|rule: &PolicyRule| rule.ports.len()).sum();
        if ports > PORTS_MAX {
            problems.push(format!("the rules have more than {PORTS_MAX} ports together"));
        }
        match problems.is_empty() {
            true => Ok(Self { unruled, rules: read }),
            false => Err(problems),
        }
    }

    /// What a network's labels say; `None` when they say nothing.
    pub fn of_labels(spec: &NetworkSpec) -> Result<Option<Self>, Vec<String>> {
        let label = |name: &str| spec.labels.get(name).map(String::as_str);
        let (rules, default) = (label(LABEL_RULES), label(LABEL_DEFAULT));
        if rules.is_none() && default.is_none() {
            return Ok(None);
        }
        let rules = rules.unwrap_or_default().split(';').map(str::trim);
        let rules = rules.filter(|rule| !rule.is_empty());
        Self::read(default.unwrap_or_default(), rules).map(Some)
    }

    /// Whether a service accepts new connections of another one: to this port, or where none is named to any at all.
    pub fn accepts(&self, from: &str, to: &str, port: Option<(Protocol, u16)>, stack: Option<&str>) -> bool {
        let mut about = self.rules.iter().filter(|rule| rule.to.is(to, stack)).peekable();
        if about.peek().is_none() {
            return self.unruled == Unruled::Allow;
        }
        let fits =
            |rule: &PolicyRule| port.is_none_or(|port| rule.ports.is_empty() || rule.ports.contains(&port));
        about.any(|rule| rule.from.is(from, stack) && fits(rule))
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.unruled == Unruled::Allow
    }
}

impl Unruled {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl std::str::FromStr for PolicyRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once("->")
            .ok_or("it has to be FROM -> TO[:PORT[/PROTOCOL],...], as in \"web -> db:5432/tcp\"")?;
        let (to, list) = match to.split_once(':') {
            Some((to, list)) => (to, Some(list)),
            None => (to, None),
        };
        let mut ports = BTreeSet::new();
        for port in list.iter().flat_map(|list| list.split(',')) {
            ports.insert(read_port(port.trim())?);
        }
        Ok(Self {
            from: Party::read(from.trim())?,
            to: Party::read(to.trim())?,
            ports,
        })
    }
}

/// Reads `PORT[/PROTOCOL]`.
pub fn read_port(text: &str) -> Result<(Protocol, u16), String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = protocols.into_iter().find(|known| known.name() == protocol);
    let number = number.parse().ok().filter(|number| *number != 0);
    protocol
        .zip(number)
        .ok_or_else(|| format!("{text:?} is no port, as in 5432, 53/udp or 9000/sctp"))
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)?;
        for (place, (protocol, port)) in self.ports.iter().enumerate() {
            write!(f, "{}{port}/{protocol}", if place == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::Service(name) => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        for (text, written) in [
            ("web -> db:5432", "web -> db:5432/tcp"),
            ("*->web", "* -> web"),
            (" a -> * : 53/udp, 53 ,9/sctp", "a -> *:53/tcp,53/udp,9/sctp"),
        ] {
            let rule: PolicyRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), written);
            assert_eq!(written.parse(), Ok(rule));
        }
        for bad in [
            "",
            "web",
            "web > db",
            "-> db",
            "web -> db:",
            "a -> b:0",
            "a -> b:1/icmp",
            "a.b -> c",
            "a -> b:70000",
        ] {
            assert!(bad.parse::<PolicyRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_networks_labels_say_the_same() {
        let mut spec = NetworkSpec::default();
        assert_eq!(NetworkPolicy::of_labels(&spec), Ok(None));
        spec.labels
            .insert(LABEL_RULES.to_owned(), "web -> db:1; db -> web;".to_owned());
        spec.labels.insert(LABEL_DEFAULT.to_owned(), "deny".to_owned());
        let policy = NetworkPolicy::of_labels(&spec).unwrap().unwrap();
        assert_eq!((policy.unruled, policy.rules.len()), (Unruled::Deny, 2));
        spec.labels.insert(LABEL_DEFAULT.to_owned(), "no".to_owned());
        spec.labels.insert(LABEL_RULES.to_owned(), "web; db".to_owned());
        assert_eq!(NetworkPolicy::of_labels(&spec).unwrap_err().len(), 3);
    }

    #[test]
    fn rules_and_the_ports_of_all_of_them_together_are_bounded() {
        let read = |rules: usize, ports: usize| {
            let list: Vec<String> = (1..=ports).map(|port| port.to_string()).collect();
            let rules = vec![format!("web -> db:{}", list.join(",")); rules];
            NetworkPolicy::read("deny", rules.iter().map(String::as_str))
        };
        assert!(read(RULES_MAX, 1).is_ok() && read(1, PORTS_MAX).is_ok() && read(4, PORTS_MAX / 4).is_ok());
        for (rules, ports) in [(RULES_MAX + 1, 1), (1, PORTS_MAX + 1), (4, PORTS_MAX / 4 + 1)] {
            let problems = read(rules, ports).unwrap_err();
            assert!(problems[0].contains("more than 256"), "{problems:?}");
        }
    }

    #[test]
    fn what_is_accepted_is_what_some_rule_about_the_service_allows() {
        let accepts = |default, from, to, port| {
            let policy = NetworkPolicy::read(default, ["web -> db:5432", "* -> *:9100/udp"]).unwrap();
            policy.accepts(from, to, port, None)
        };
        let postgres = Some((Protocol::Tcp, 5432));
        assert!(accepts("", "web", "db", postgres) && accepts("", "web", "db", None));
        assert!(
            !accepts("", "other", "db", postgres) && !accepts("", "web", "db", Some((Protocol::Udp, 5432)))
        );
        assert!(accepts("deny", "other", "web", Some((Protocol::Udp, 9100))));
        let unruled = |default| {
            NetworkPolicy::read(default, [])
                .unwrap()
                .accepts("a", "b", None, None)
        };
        assert!(unruled("allow") && !unruled("deny"));
    }

    #[test]
    fn a_stacks_services_are_meant_by_their_names_in_it() {
        let web = Party::Service("web".to_owned());
        assert!(web.is("web", None) && web.is("shop_web", Some("shop")));
        assert!(!web.is("shop_web", None) && !web.is("shopweb", Some("shop")) && !web.is("db", Some("shop")));
        assert!(Party::Any.is("db", None));
    }
}
