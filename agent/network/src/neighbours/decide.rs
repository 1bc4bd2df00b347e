//! What is to be done about the firewalls of others, from what was found of them. Pure.

use std::collections::BTreeSet;

use crate::nft::others::{Chain, Rule, Side};

/// What the comment of each rule that is ours begins with.
const TAG: &str = "muster";
/// Numbers of families and of the hook on the way through this host.
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;
const HOOK_FORWARD: u32 = 2;
/// The table and the chain that iptables calls so, in nf_tables.
const IPTABLES_TABLE: &str = "filter";
const IPTABLES_CHAIN: &str = "FORWARD";
const FIREWALLD_TABLE: &str = "firewalld";

/// What was found of the packet filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Our own table, which is left out everywhere.
    pub own_table: String,
    /// Bridges whose traffic is to be admitted.
    pub bridges: BTreeSet<String>,
    pub chains: Vec<Chain>,
    pub rules: Vec<Rule>,
    /// Tables of the iptables that do not use nf_tables.
    pub legacy_tables: Vec<String>,
    pub firewalld: FirewalldState,
}

/// What firewalld itself says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum FirewalldState {
    /// There is none.
    #[default]
    Unasked,
    /// These are the interfaces of our zone.
    Admits(BTreeSet<String>),
    /// It cannot be asked, for this reason.
    Unreachable(String),
}

/// A rule that has to be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Admission {
    pub chain: Chain,
    pub side: Side,
    pub bridge: String,
}

/// What is to be done, and what to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Whose firewalls there are.
    pub found: Vec<String>,
    pub add: Vec<Admission>,
    pub remove: Vec<Rule>,
    /// What only the administrator can do, with the command.
    pub warnings: Vec<String>,
}

impl Admission {
    /// The comment by which the rule is known again.
    pub fn comment(&self) -> String {
        let side = match self.side {
            Side::From => "from",
            Side::To => "to",
        };
        format!("{TAG} {side} {}", self.bridge)
    }

    fn is_made_by(&self, rule: &Rule) -> bool {
        let chain = &self.chain;
        (rule.family, &rule.table, &rule.chain) == (chain.family, &chain.table, &chain.name)
            && rule.comment.as_ref() == Some(&self.comment())
    }
}

/// Whether a rule outside of our own table is ours.
pub(crate) fn is_ours(rule: &Rule, own_table: &str) -> bool {
    let tagged = |comment: &str| comment == TAG || comment.starts_with(&format!("{TAG} "));
    rule.table != own_table && rule.comment.as_deref().is_some_and(tagged)
}

/// Decides. An accept in our table decides nothing about a packet that a chain of another table drops, so that each such
/// chain has to admit the bridges itself.
pub(crate) fn decide(facts: &Facts) -> Decision {
    let mut decision = Decision {
        found: found(facts),
        ..Decision::default()
    };
    let mut wanted = Vec::new();
    for chain in forward_chains(facts) {
        if is_of_iptables(chain) && chain.drops {
            wanted.extend(admissions(chain, &facts.bridges));
        } else if is_of_firewalld(chain) {
            decision.warnings.extend(firewalld_warning(facts));
        } else if chain.drops {
            decision.warnings.extend(table_warning(facts, chain));
        }
    }
    decision.warnings.extend(legacy_warning(facts));
    // Of firewalld's several chains the same is to be said.
    decision.warnings.dedup();
    let mut kept: Vec<&Admission> = Vec::new();
    for rule in facts.rules.iter().filter(|rule| is_ours(rule, &facts.own_table)) {
        match wanted.iter().find(|admission| admission.is_made_by(rule)) {
            Some(admission) if !kept.contains(&admission) => kept.push(admission),
            Some(_) | None => decision.remove.push(rule.clone()),
        }
    }
    decision.add = wanted
        .iter()
        .filter(|admission| !kept.contains(admission))
        .cloned()
        .collect();
    decision
}

/// Whether the chain is one of firewalld's own table.
pub(crate) fn is_of_firewalld(chain: &Chain) -> bool {
    chain.table == FIREWALLD_TABLE
}

/// Whether firewalld decides about what passes through this host.
pub(crate) fn has_firewalld(facts: &Facts) -> bool {
    forward_chains(facts).any(is_of_firewalld)
}

/// Chains of others that see what passes through this host.
fn forward_chains(facts: &Facts) -> impl Iterator<Item = &Chain> {
    let others = facts
        .chains
        .iter()
        .filter(move |chain| chain.table != facts.own_table);
    others.filter(|chain| chain.hook == Some(HOOK_FORWARD))
}

fn is_of_iptables(chain: &Chain) -> bool {
    [FAMILY_IPV4, FAMILY_IPV6].contains(&chain.family)
        && (chain.table.as_str(), chain.name.as_str()) == (IPTABLES_TABLE, IPTABLES_CHAIN)
}

/// Behind all other rules of the chain, so that what the administrator or another engine refuses there stays refused.
fn admissions<'a>(chain: &'a Chain, bridges: &'a BTreeSet<String>) -> impl Iterator<Item = Admission> + 'a {
    bridges.iter().flat_map(move |bridge| {
        [Side::From, Side::To].map(|side| Admission {
            chain: chain.clone(),
            side,
            bridge: bridge.clone(),
        })
    })
}

fn found(facts: &Facts) -> Vec<String> {
    let has_chain = |name: &str| facts.chains.iter().any(|chain| chain.name == name);
    let has_table = |name: &str| facts.chains.iter().any(|chain| chain.table == name);
    let mut found = Vec::new();
    if has_chain("DOCKER-USER") {
        found.push("dockerd".to_owned());
    }
    if facts.chains.iter().any(|chain| chain.name.starts_with("ufw-")) {
        found.push("ufw".to_owned());
    }
    if has_table(FIREWALLD_TABLE) {
        found.push("firewalld".to_owned());
    }
    for chain in forward_chains(facts).filter(|chain| chain.drops) {
        found.push(format!("{} drops what nothing accepts", shown(chain)));
    }
    if !facts.legacy_tables.is_empty() {
        found.push(format!("legacy iptables: {}", facts.legacy_tables.join(", ")));
    }
    found
}

fn shown(chain: &Chain) -> String {
    let family = match chain.family {
        1 => "inet",
        FAMILY_IPV4 => "ip",
        FAMILY_IPV6 => "ip6",
        _ => "family",
    };
    format!("{family} {} {}", chain.table, chain.name)
}

/// Bridges that firewalld neither could be told of nor knows by its own configuration.
fn firewalld_warning(facts: &Facts) -> Option<String> {
    let FirewalldState::Unreachable(reason) = &facts.firewalld else {
        return None;
    };
    let table = |rule: &&Rule| rule.table == FIREWALLD_TABLE;
    let unknown = unknown_bridges(facts, table);
    (!unknown.is_empty()).then(|| {
        let interfaces: Vec<String> = unknown
            .iter()
            .map(|bridge| format!("--add-interface={bridge}"))
            .collect();
        format!(
            "WARNING: firewalld rejects traffic of {} and cannot be told ({reason}): run firewall-cmd --permanent \
             --zone=trusted {} && firewall-cmd --reload",
            unknown.join(", "),
            interfaces.join(" ")
        )
    })
}

fn table_warning(facts: &Facts, chain: &Chain) -> Option<String> {
    let same =
        |rule: &&Rule| (rule.family, &rule.table, &rule.chain) == (chain.family, &chain.table, &chain.name);
    let unknown = unknown_bridges(facts, same);
    (!unknown.is_empty()).then(|| {
        let place = shown(chain);
        let rules = unknown.iter().flat_map(|bridge| {
            ["iifname", "oifname"].map(|key| format!("nft add rule {place} {key} {bridge} accept"))
        });
        let rules: Vec<String> = rules.collect();
        format!(
            "WARNING: the chain {place} of another firewall drops traffic of {}: add to it {}",
            unknown.join(", "),
            rules.join("; ")
        )
    })
}

/// Bridges that none of these rules is about.
fn unknown_bridges(facts: &Facts, among: impl Fn(&&Rule) -> bool) -> Vec<String> {
    let named = |bridge: &String| facts.rules.iter().filter(&among).any(|rule| rule.names(bridge));
    facts
        .bridges
        .iter()
        .filter(|bridge| !named(bridge))
        .cloned()
        .collect()
}

/// What they do cannot be read over netlink, and a program is not run.
fn legacy_warning(facts: &Facts) -> Option<String> {
    let filters = facts.legacy_tables.iter().any(|table| table == IPTABLES_TABLE);
    (filters && !facts.bridges.is_empty()).then(|| {
        let rules = facts.bridges.iter().flat_map(|bridge| {
            [("-i", "from"), ("-o", "to")].map(|(option, side)| {
                format!("iptables-legacy -A FORWARD {option} {bridge} -m comment --comment '{TAG} {side} {bridge}' -j ACCEPT")
            })
        });
        let rules: Vec<String> = rules.collect();
        format!(
            "WARNING: iptables-legacy is in use, which cannot be looked into: if its FORWARD chain drops, run {}",
            rules.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: u8, table: &str, name: &str, drops: bool) -> Chain {
        let hooked = ["FORWARD", "forward", "filter_FORWARD"].contains(&name);
        Chain {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
            hook: hooked.then_some(HOOK_FORWARD),
            drops,
        }
    }

    fn rule(chain: &Chain, handle: u64, comment: Option<&str>) -> Rule {
        Rule {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle,
            comment: comment.map(str::to_owned),
            expressions: Vec::new(),
        }
    }

    /// A rule that compares an interface's name.
    fn naming(chain: &Chain, interface: &str) -> Rule {
        let mut expressions = vec![0; 4];
        expressions.extend_from_slice(interface.as_bytes());
        expressions.push(0);
        let length = expressions.len() as u16;
        expressions[..2].copy_from_slice(&length.to_ne_bytes());
        Rule {
            expressions,
            ..rule(chain, 1, None)
        }
    }

    fn facts(chains: &[Chain], rules: &[Rule]) -> Facts {
        Facts {
            own_table: "muster".to_owned(),
            bridges: BTreeSet::from(["muster0".to_owned()]),
            chains: chains.to_vec(),
            rules: rules.to_vec(),
            legacy_tables: Vec::new(),
            firewalld: FirewalldState::Unreachable("it sleeps".to_owned()),
        }
    }

    fn comments(decision: &Decision) -> Vec<String> {
        decision.add.iter().map(Admission::comment).collect()
    }

    #[test]
    fn chains_of_iptables_that_drop_admit_the_bridges() {
        let forward = chain(2, "filter", "FORWARD", true);
        for beside in ["DOCKER-USER", "ufw-user-forward"] {
            let decision = decide(&facts(&[forward.clone(), chain(2, "filter", beside, false)], &[]));
            assert_eq!(comments(&decision), ["muster from muster0", "muster to muster0"]);
            assert!(decision.add.iter().all(|admission| admission.chain == forward));
            assert_eq!((decision.remove.len(), decision.warnings.len()), (0, 0));
            assert_eq!(decision.found.len(), 2, "{:?}", decision.found);
        }
    }

    #[test]
    fn nothing_is_done_where_nothing_drops() {
        let accepts = chain(2, "filter", "FORWARD", false);
        let own = chain(2, "muster", "forward", true);
        let input = Chain {
            hook: Some(1),
            ..chain(2, "filter", "INPUT", true)
        };
        let decision = decide(&facts(&[accepts, own, input], &[]));
        assert_eq!(decision, Decision::default());
    }

    #[test]
    fn rules_are_added_once_and_removed_when_nothing_needs_them() {
        let forward = chain(2, "filter", "FORWARD", true);
        let from = rule(&forward, 5, Some("muster from muster0"));
        let again = rule(&forward, 6, Some("muster from muster0"));
        let gone = rule(&forward, 7, Some("muster to br-gone"));
        let foreign = rule(&forward, 8, Some("mustering"));
        let own = rule(&chain(2, "muster", "forward", false), 9, Some("muster"));
        let rules = [from.clone(), again.clone(), gone.clone(), foreign, own];
        let decision = decide(&facts(std::slice::from_ref(&forward), &rules));
        assert_eq!(comments(&decision), ["muster to muster0"]);
        assert_eq!(decision.remove, [again, gone]);
        let accepts = Chain {
            drops: false,
            ..forward
        };
        assert_eq!(
            decide(&facts(&[accepts], std::slice::from_ref(&from))).remove,
            [from]
        );
    }

    #[test]
    fn what_only_the_administrator_can_do_is_said_with_the_command() {
        let firewalld = chain(1, "firewalld", "filter_FORWARD", false);
        let own = chain(1, "mine", "forward", true);
        let mut legacy = facts(&[], &[]);
        legacy.legacy_tables = vec!["filter".to_owned()];
        for (facts, command) in [
            (
                facts(std::slice::from_ref(&firewalld), &[]),
                "firewall-cmd --permanent --zone=trusted --add-interface=muster0 && firewall-cmd --reload",
            ),
            (
                facts(std::slice::from_ref(&own), &[]),
                "nft add rule inet mine forward iifname muster0 accept",
            ),
            (
                legacy,
                "iptables-legacy -A FORWARD -i muster0 -m comment --comment 'muster from muster0' -j ACCEPT",
            ),
        ] {
            let decision = decide(&facts);
            assert!(decision.add.is_empty());
            let [warning] = decision.warnings.as_slice() else {
                panic!("{:?}", decision.warnings);
            };
            assert!(
                warning.starts_with("WARNING: ") && warning.contains(command),
                "{warning}"
            );
        }
        let told = Facts {
            firewalld: FirewalldState::Admits(BTreeSet::from(["muster0".to_owned()])),
            ..facts(std::slice::from_ref(&firewalld), &[])
        };
        assert_eq!(decide(&told).warnings, Vec::<String>::new());
        // Once it is done, nothing is said any more.
        let zone = chain(1, "firewalld", "filter_FORWARD_IN_ZONES", false);
        let done = [
            facts(&[firewalld, zone.clone()], &[naming(&zone, "muster0")]),
            facts(std::slice::from_ref(&own), &[naming(&own, "muster0")]),
        ];
        for facts in done {
            assert_eq!(decide(&facts).warnings, Vec::<String>::new());
        }
    }
}
