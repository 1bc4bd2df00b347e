//! Why no node fits, one part per cause with counts.

use muster_types::NodeState;
use muster_types::service::Protocol;
use std::collections::BTreeMap;
use std::fmt;

/// Why one node does not take a task: the first filter that says no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its agent is not there.
    NotReady(Absence),
    /// Its version of Muster would not run the task as it is meant.
    OlderVersion,
    /// The user paused it.
    Paused,
    /// The user drains it.
    Drained,
    /// It has too little CPU left; the shortage in billionths.
    Cpu(u64),
    /// It has too little memory left; the shortage in bytes.
    Memory(u64),
    /// It does not satisfy this constraint.
    Constraint(String),
    /// The image has no build for its platform.
    Platform,
    /// A task there uses this port.
    PortInUse(Protocol, u16),
    /// It has as many tasks of the service as one node may have.
    ReplicasPerNode(u64),
    /// The task belongs to another node.
    OtherNode,
}

/// How a node's agent is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// Missed its lease.
    Down,
    /// Left on purpose.
    Disconnected,
    /// Not heard of since the last change of leader.
    Unknown,
}

impl Absence {
    /// How a node in this state is absent; `None` when it is not.
    pub fn of(state: NodeState) -> Option<Self> {
        match state {
            NodeState::Ready => None,
            NodeState::Down => Some(Self::Down),
            NodeState::Disconnected => Some(Self::Disconnected),
            NodeState::Unknown => Some(Self::Unknown),
        }
    }
}

/// How many nodes do not fit for which cause.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation(BTreeMap<CauseKind, (u64, Cause)>);

/// Shortages of one resource are one cause, whatever their amount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum CauseKind {
    Cpu,
    Memory,
    Other(Cause),
}

impl Explanation {
    /// Counts one node. Of several shortages the smallest is shown: what would have to be freed at least.
    pub fn add(&mut self, cause: Cause) {
        let kind = match &cause {
            Cause::Cpu(_) => CauseKind::Cpu,
            Cause::Memory(_) => CauseKind::Memory,
            other => CauseKind::Other(other.clone()),
        };
        match self.0.get_mut(&kind) {
            None => {
                self.0.insert(kind, (1, cause));
            }
            Some((nodes, least)) => {
                *nodes += 1;
                if cause < *least {
                    *least = cause;
                }
            }
        }
    }
}

/// The causes without the words around them; the most frequent first.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the cluster has no nodes");
        }
        let mut parts: Vec<&(u64, Cause)> = self.0.values().collect();
        parts.sort_by_key(|(nodes, _)| std::cmp::Reverse(*nodes));
        for (position, (nodes, cause)) in parts.into_iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            let plural = if *nodes == 1 { "" } else { "s" };
            write!(f, "{separator}{nodes} node{plural}: {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady(Absence::Down) => f.write_str("down"),
            Self::NotReady(Absence::Disconnected) => f.write_str("disconnected"),
            Self::NotReady(Absence::Unknown) => f.write_str("not ready"),
            Self::OlderVersion => f.write_str("its version of Muster is too old for the service: update it"),
            Self::Paused => f.write_str("availability pause"),
            Self::Drained => f.write_str("availability drain"),
            Self::Cpu(short) => write!(f, "{} CPU short", Cpus(*short)),
            Self::Memory(short) => write!(f, "{} MiB memory short", short.div_ceil(1 << 20)),
            Self::Constraint(text) => write!(f, "constraint {text}"),
            Self::Platform => f.write_str("unsupported platform"),
            Self::PortInUse(protocol, port) => write!(f, "host port {port}/{protocol} in use"),
            Self::ReplicasPerNode(most) => write!(f, "max replicas per node {most} reached"),
            Self::OtherNode => f.write_str("not the task's node"),
        }
    }
}

/// Billionths of a CPU, rounded up to thousandths.
struct Cpus(u64);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = self.0.div_ceil(1_000_000);
        let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_per_cause_the_most_frequent_first() {
        let mut explanation = Explanation::default();
        assert_eq!(explanation.to_string(), "the cluster has no nodes");
        explanation.add(Cause::Memory(512 << 20));
        explanation.add(Cause::Constraint("node.labels.zone==a".into()));
        explanation.add(Cause::Constraint("node.labels.zone==a".into()));
        assert_eq!(
            explanation.to_string(),
            "2 nodes: constraint node.labels.zone==a; 1 node: 512 MiB memory short"
        );
    }

    #[test]
    fn the_smallest_shortage_is_shown() {
        let mut explanation = Explanation::default();
        explanation.add(Cause::Cpu(1_500_000_000));
        explanation.add(Cause::Cpu(250_000_001));
        assert_eq!(explanation.to_string(), "2 nodes: 0.251 CPU short");
        let mut whole = Explanation::default();
        whole.add(Cause::Cpu(10_000_000_000));
        assert_eq!(whole.to_string(), "1 node: 10 CPU short");
    }
}
