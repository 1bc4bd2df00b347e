//! Which connections the containers of this node accept on a network, as its rules say.

use muster_types::overlay::{EndpointOwner, OverlayEndpoint};
use muster_types::policy::{NetworkPolicy, Party, Unruled, stack_of};
use muster_types::service::Protocol;
use muster_types::{AssignedNetwork, NodeId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The connections that a container accepts; it refuses all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardPlan {
    /// Addresses that may open any.
    pub from: BTreeSet<IpAddr>,
    /// Addresses that may open some, with the ports.
    pub ports: BTreeSet<(IpAddr, Protocol, u16)>,
    /// Ports that are open to everybody.
    pub open: BTreeSet<(Protocol, u16)>,
}

/// What the containers of the node `own` accept, by their addresses; those that accept everything are not among them.
pub fn guards(network: &AssignedNetwork, own: NodeId) -> BTreeMap<IpAddr, Arc<GuardPlan>> {
    let Some(policy) = &network.facts.policy else {
        return BTreeMap::new();
    };
    let names: BTreeMap<ServiceId, &str> = network
        .services
        .iter()
        .map(|service| (service.id, service.name.as_str()))
        .collect();
    let tasks = || {
        network
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint, task_service(endpoint)?)))
    };
    let mut of_services: BTreeMap<ServiceId, Option<Arc<GuardPlan>>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (endpoint, service) in tasks().filter(|(endpoint, _)| endpoint.node == own) {
        let guard = of_services.entry(service).or_insert_with(|| {
            let Some(name) = names.get(&service) else {
                // It is being removed: nobody has to come any more.
                return Some(Arc::default());
            };
            let is = |party: &Party, name: &str| party.is(name, stack_of(&network.facts.labels));
            let sources = |party: &Party| -> Vec<IpAddr> {
                let meant = tasks().filter(|(source, service)| {
                    !source.down && names.get(service).is_some_and(|name| is(party, name))
                });
                meant.flat_map(|(source, _)| source.addresses.clone()).collect()
            };
            guard(policy, |party| is(party, name), sources).map(Arc::new)
        });
        for address in &endpoint.addresses {
            found.extend(guard.clone().map(|guard| (*address, guard)));
        }
    }
    found
}

fn task_service(endpoint: &OverlayEndpoint) -> Option<ServiceId> {
    match endpoint.owner {
        EndpointOwner::Task(_) => endpoint.service,
        EndpointOwner::Node(_) | EndpointOwner::Attachment(_) => None,
    }
}

/// `None` for one that accepts everything.
fn guard(
    policy: &NetworkPolicy,
    is_meant: impl Fn(&Party) -> bool,
    sources: impl Fn(&Party) -> Vec<IpAddr>,
) -> Option<GuardPlan> {
    let rules: Vec<_> = policy.rules.iter().filter(|rule| is_meant(&rule.to)).collect();
    if rules.is_empty() && policy.unruled == Unruled::Allow {
        return None;
    }
    let mut guard = GuardPlan::default();
    for rule in rules {
        match (&rule.from, rule.ports.is_empty()) {
            (Party::Any, true) => return None,
            (Party::Any, false) => guard.open.extend(&rule.ports),
            (from, true) => guard.from.extend(sources(from)),
            (from, false) => {
                for source in sources(from) {
                    let ports = rule
                        .ports
                        .iter()
                        .map(|(protocol, port)| (source, *protocol, *port));
                    guard.ports.extend(ports);
                }
            }
        }
    }
    Some(guard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::sample::{endpoint, ip, network, node, service, task};

    /// Services `web`, `db` and `other`, of one task each, on nodes 1, 2 and 2.
    fn ruled(default: &str, rules: &[&str]) -> AssignedNetwork {
        let all = ["web", "db", "other"].iter().zip(1u8..);
        let mut services = Vec::new();
        let mut endpoints = Vec::new();
        for (name, number) in all {
            let mut row = service(name, &[], &[]);
            row.id = ServiceId::from_u128(number.into());
            let mut place = endpoint(task(number.into()), number, number.min(2));
            place.service = Some(row.id);
            services.push(row);
            endpoints.push(place);
        }
        let mut network = network(endpoints, services);
        let policy = NetworkPolicy::read(default, rules.iter().copied()).unwrap();
        network.facts.policy = Some(Arc::new(policy));
        network
    }

    fn on(network: &AssignedNetwork, number: u8) -> BTreeMap<IpAddr, GuardPlan> {
        let guards = guards(network, node(number).0).into_iter();
        guards
            .map(|(address, guard)| (address, GuardPlan::clone(&guard)))
            .collect()
    }

    #[test]
    fn a_service_that_a_rule_leads_to_accepts_what_rules_allow_and_others_accept_everything() {
        let network = ruled("", &["web -> db:5432", "* -> db:9100/udp"]);
        let db = GuardPlan {
            ports: [(ip(1), Protocol::Tcp, 5432)].into(),
            open: [(Protocol::Udp, 9100)].into(),
            ..GuardPlan::default()
        };
        assert_eq!(on(&network, 2), BTreeMap::from([(ip(2), db)]));
        assert!(on(&network, 1).is_empty() && on(&ruled("", &[]), 2).is_empty());
        // Every port of everybody is as without a rule.
        assert!(on(&ruled("", &["web -> db:1", "* -> db"]), 2).is_empty());
    }

    #[test]
    fn without_a_rule_nothing_is_accepted_where_the_default_says_so() {
        let network = ruled("deny", &["web -> *"]);
        let from_web = GuardPlan {
            from: [ip(1)].into(),
            ..GuardPlan::default()
        };
        assert_eq!(
            on(&network, 2),
            BTreeMap::from([(ip(2), from_web.clone()), (ip(3), from_web)])
        );
        assert_eq!(
            on(&ruled("deny", &[]), 1),
            BTreeMap::from([(ip(1), GuardPlan::default())])
        );
    }

    #[test]
    fn who_is_lost_or_unknown_may_nothing() {
        let mut network = ruled("", &["web -> db"]);
        network.endpoints[0].down = true;
        assert_eq!(on(&network, 2), BTreeMap::from([(ip(2), GuardPlan::default())]));
        let mut network = ruled("", &["web -> db"]);
        network.services.remove(0);
        assert_eq!(on(&network, 2), BTreeMap::from([(ip(2), GuardPlan::default())]));
        assert_eq!(on(&network, 1), BTreeMap::from([(ip(1), GuardPlan::default())]));
    }
}
