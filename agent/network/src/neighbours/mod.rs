//! Other firewalls on the same host: what of them stands in the way of containers, and the few rules that we put into
//! their chains.
//!
//! Our own table admits what containers may do, but a packet has to pass every base chain of a hook, and one that drops it
//! has the last word. [`decide`] says what follows from what was found; here it is looked up and carried out. Every rule
//! of ours in a chain of others has a comment that begins with `muster`, firewalld has a zone of ours, and nothing else of
//! theirs is ever changed.

mod decide;
mod firewalld;

use std::collections::BTreeSet;

use rustix::io::Errno;

use crate::netlink::{NetlinkError, Protocol, Socket};
use crate::nft::others::{accept_last, delete_rule, read_chains, read_rules};
use crate::nft::{self, Family};
use decide::{Decision, Facts, FirewalldState, decide, has_firewalld, is_ours};
use firewalld::{Firewalld, ZONE};
use muster_dbus::DbusError;

/// The set of our table that names the bridges.
const BRIDGES: &str = "bridges";
/// Tables of the iptables that do not use nf_tables, in this network namespace.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// What was found of other firewalls in this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherFirewalls {
    /// Whose there are, and which chains drop.
    pub found: Vec<String>,
    /// Our rules in chains of others and the interfaces of our zone, as they are now.
    pub admitted: Vec<String>,
    /// What only the administrator can do, each with the command that does it.
    pub warnings: Vec<String>,
}

/// Why what was put at other firewalls could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// Rules in chains of others.
    #[error("cannot change the packet filter")]
    Rules(#[from] NetlinkError),
    /// The zone.
    #[error(
        "firewalld cannot be told: once it runs, run firewall-cmd --permanent --delete-zone={ZONE} && firewall-cmd --reload"
    )]
    Zone(#[from] DbusError),
}

/// Looks at the other firewalls of the calling thread's network namespace. `table` is our own. Blocking.
pub fn other_firewalls(table: &str) -> Result<OtherFirewalls, NetlinkError> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut facts = look(&mut socket, table)?;
    if has_firewalld(&facts) {
        let admitted = Firewalld::connect().and_then(|mut firewalld| firewalld.admitted());
        note_firewalld(&mut facts, admitted);
    }
    Ok(described(&facts, decide(&facts)))
}

/// Has the other firewalls admit our bridges, and takes back rules that nothing needs any more. Idempotent. Blocking.
pub fn admit_bridges(table: &str) -> Result<OtherFirewalls, NetlinkError> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut facts = look(&mut socket, table)?;
    if has_firewalld(&facts) {
        let admitted = Firewalld::connect().and_then(|mut firewalld| {
            firewalld.admit(&facts.bridges)?;
            firewalld.admitted()
        });
        // It has made rules meanwhile.
        facts = look(&mut socket, table)?;
        note_firewalld(&mut facts, admitted);
    }
    let decision = decide(&facts);
    if decision.add.is_empty() && decision.remove.is_empty() {
        return Ok(described(&facts, decision));
    }
    for rule in &decision.remove {
        gone_is_fine(delete_rule(&mut socket, rule))?;
    }
    for admission in &decision.add {
        let (chain, bridge) = (&admission.chain, &admission.bridge);
        let added = accept_last(&mut socket, chain, admission.side, bridge, &admission.comment());
        // The chain's owner may have taken it away meanwhile.
        gone_is_fine(added)?;
        tracing::info!(
            table = chain.table,
            chain = chain.name,
            bridge,
            "another firewall admits a bridge"
        );
    }
    let now = look(&mut socket, table)?;
    let facts = Facts {
        firewalld: facts.firewalld,
        ..now
    };
    let decision = decide(&facts);
    Ok(described(&facts, decision))
}

/// Takes back every rule that we put into chains of others, and our zone of firewalld with its interfaces; returns how
/// many rules and interfaces there were. Blocking.
pub fn withdraw_bridges(table: &str) -> Result<usize, WithdrawError> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let chains = read_chains(&mut socket)?;
    let zoned = if chains.iter().any(decide::is_of_firewalld) {
        Firewalld::connect()?.withdraw()?
    } else {
        0
    };
    let rules = read_rules(&mut socket)?;
    let ours: Vec<_> = rules.into_iter().filter(|rule| is_ours(rule, table)).collect();
    for rule in &ours {
        gone_is_fine(delete_rule(&mut socket, rule))?;
    }
    Ok(ours.len() + zoned)
}

fn note_firewalld(facts: &mut Facts, admitted: Result<BTreeSet<String>, DbusError>) {
    facts.firewalld = match admitted {
        Ok(bridges) => FirewalldState::Admits(bridges),
        Err(error) => {
            let reason =
                std::error::Error::source(&error).map_or(String::new(), |reason| format!(": {reason}"));
            FirewalldState::Unreachable(format!("{error}{reason}"))
        }
    };
}

fn gone_is_fine(changed: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match changed {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn look(socket: &mut Socket, table: &str) -> Result<Facts, NetlinkError> {
    let bridges = match nft::read_elements(socket, Family::Ipv4, table, BRIDGES) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Vec::new(),
        elements => elements?,
    };
    let name = |key: &[u8]| {
        let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
        String::from_utf8(key[..end].to_vec()).ok()
    };
    let chains = read_chains(socket)?;
    let is_alone = chains.iter().all(|chain| chain.table == table);
    // On most hosts there is nobody else, and then there is nothing to read.
    let rules = if is_alone { Vec::new() } else { read_rules(socket)? };
    let legacy = std::fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
    Ok(Facts {
        own_table: table.to_owned(),
        bridges: bridges
            .iter()
            .filter_map(|element| name(&element.key))
            .collect::<BTreeSet<_>>(),
        chains,
        rules,
        legacy_tables: legacy.lines().map(str::to_owned).collect(),
        firewalld: FirewalldState::default(),
    })
}

fn described(facts: &Facts, decision: Decision) -> OtherFirewalls {
    let ours = facts.rules.iter().filter(|rule| is_ours(rule, &facts.own_table));
    let admitted = ours.map(|rule| {
        let comment = rule.comment.as_deref().unwrap_or_default();
        format!("{} {}: {comment}", rule.table, rule.chain)
    });
    let zoned = match &facts.firewalld {
        FirewalldState::Admits(bridges) => Some(bridges),
        FirewalldState::Unasked | FirewalldState::Unreachable(_) => None,
    };
    let zoned = zoned.into_iter().flatten();
    OtherFirewalls {
        found: decision.found,
        admitted: admitted
            .chain(zoned.map(|bridge| format!("zone {ZONE} of firewalld: {bridge}")))
            .collect(),
        warnings: decision.warnings,
    }
}
