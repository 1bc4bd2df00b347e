//! Placement constraints against a node's fields (reference: Swarm's grammar, swarm.md 1.4).

use muster_types::constraint::Operator;
use muster_types::service::Placement;
use muster_types::{Constraint, Node, NodeRole};
use std::net::{IpAddr, SocketAddr};

/// The constraints of one template, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Constraints(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Parsed(Constraint),
    /// Does not parse, so no node satisfies it. Validation refuses such input; a record may still hold it.
    Malformed(String),
}

impl Constraints {
    /// Reads the expressions of a template.
    pub fn of(placement: &Placement) -> Self {
        let parse = |expression: &String| match Constraint::parse(expression) {
            Ok(constraint) => Rule::Parsed(constraint),
            Err(_) => Rule::Malformed(expression.clone()),
        };
        Self(placement.constraints.iter().map(parse).collect())
    }

    /// The first expression that the node does not satisfy.
    pub fn unsatisfied(&self, node: &Node) -> Option<String> {
        self.0.iter().find_map(|rule| match rule {
            Rule::Parsed(constraint) if accepts(constraint, node) => None,
            Rule::Parsed(constraint) => Some(constraint.to_string()),
            Rule::Malformed(text) => Some(text.clone()),
        })
    }
}

fn accepts(constraint: &Constraint, node: &Node) -> bool {
    let description = &node.description;
    match constraint.key.to_ascii_lowercase().as_str() {
        "node.id" => constraint.accepts(&node.id.to_string()),
        "node.hostname" => constraint.accepts(&description.hostname),
        "node.ip" => accepts_address(constraint, &node.status.address),
        "node.role" => constraint.accepts(match node.spec.role {
            NodeRole::Controller => "manager",
            NodeRole::Worker => "worker",
        }),
        "node.platform.os" => constraint.accepts(&description.platform.os),
        "node.platform.arch" => constraint.accepts(&description.platform.architecture),
        _ => label(&constraint.key, node).is_some_and(|value| constraint.accepts(value)),
    }
}

/// The value of the label that a key names; empty when the node lacks it, `None` when the key names no label.
/// The prefix is compared without regard to case, the label's own name with it.
pub(crate) fn label<'a>(key: &str, node: &'a Node) -> Option<&'a str> {
    let strip = |prefix: &str| {
        let (head, name) = key.split_at_checked(prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then_some(name)
    };
    let (name, labels) = strip("node.labels.")
        .map(|name| (name, &node.spec.labels))
        .or_else(|| strip("engine.labels.").map(|name| (name, &node.description.engine_labels)))?;
    Some(labels.get(name).map_or("", String::as_str))
}

/// `node.ip` takes one address or a subnet. What is neither matches no node.
fn accepts_address(constraint: &Constraint, address: &str) -> bool {
    let node = address
        .parse::<IpAddr>()
        .or_else(|_| address.parse::<SocketAddr>().map(|address| address.ip()));
    let Some(inside) = subnet_contains(&constraint.value, node.ok()) else {
        return false;
    };
    match constraint.operator {
        Operator::Equal => inside,
        Operator::NotEqual => !inside,
    }
}

fn subnet_contains(value: &str, address: Option<IpAddr>) -> Option<bool> {
    let (network, prefix) = match value.split_once('/') {
        Some((network, prefix)) => (network.parse::<IpAddr>().ok()?, Some(prefix.parse::<u32>().ok()?)),
        None => (value.parse::<IpAddr>().ok()?, None),
    };
    let (network_bits, width) = bits(network);
    let prefix = prefix.unwrap_or(width);
    if prefix > width {
        return None;
    }
    let Some((address_bits, address_width)) = address.map(bits) else {
        return Some(false);
    };
    let differing = (network_bits ^ address_bits)
        .checked_shr(width - prefix)
        .unwrap_or(0);
    Some(address_width == width && differing == 0)
}

/// The address as a number and its width in bits.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::node;

    fn accepted(expression: &str, node: &Node) -> bool {
        let placement = Placement {
            constraints: vec![expression.to_owned()],
            ..Default::default()
        };
        Constraints::of(&placement).unsatisfied(node).is_none()
    }

    #[test]
    fn every_key_of_the_grammar() {
        let mut node = node(5);
        node.spec.role = NodeRole::Controller;
        node.spec.labels.insert("Zone".into(), "East".into());
        node.status.address = "10.1.2.3:4242".into();
        {
            let description = std::sync::Arc::make_mut(&mut node.description);
            description.hostname = "alpha".into();
            description.platform.os = "linux".into();
            description.platform.architecture = "x86_64".into();
            description.engine_labels.insert("disk".into(), "ssd".into());
        }
        let id = format!("node.id=={}", node.id);
        for (expression, expected) in [
            (id.as_str(), true),
            ("node.hostname==ALPHA", true),
            ("node.hostname!=alpha", false),
            ("node.role==manager", true),
            ("Node.Role==worker", false),
            ("node.platform.os==linux", true),
            ("node.platform.arch==amd64", false),
            ("node.platform.arch==x86_64", true),
            ("node.labels.Zone==east", true),
            ("node.labels.zone==east", false),
            ("node.labels.zone!=east", true),
            ("NODE.LABELS.Zone==east", true),
            ("engine.labels.disk==ssd", true),
            ("node.ip==10.1.2.3", true),
            ("node.ip==10.1.0.0/16", true),
            ("node.ip!=10.1.0.0/16", false),
            ("node.ip==10.2.0.0/16", false),
            ("node.ip==0.0.0.0/0", true),
            ("node.ip!=::/0", true),
            ("node.ip!=10.0.0.0/40", false),
            ("node.ip!=nonsense", false),
            ("node.unknown!=x", false),
            ("nonsense", false),
        ] {
            assert_eq!(accepted(expression, &node), expected, "{expression}");
        }
    }
}
