//! What is known of the one true log: every applied entry of every controller is compared with it, and every step
//! between two states is checked.

use muster_controller::core::io::Output;
use muster_controller::core::witness::{Applied, Witness};
use muster_state::invariants::{check, check_step, equal_index_means_equal_state};
use muster_state::{Change, ClusterState, Entry, Outcome};
use muster_types::{DesiredState, RaftId, RequestId, ServiceId, Slot, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whole states are compared and checked at every so many indexes; single entries and steps at each.
const SAMPLE_EVERY: u64 = 16;
/// Whole states kept for comparison with controllers that lag.
const SAMPLES_KEPT: usize = 256;

/// What only a leader may do, it does in the term that it leads.
const LEADER_ONLY: &str = "leader-only effects carry the current term";

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: String,
    /// What breaks it.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

#[derive(Debug)]
struct Logged {
    term: u64,
    entry: Option<(Entry, Outcome)>,
    /// The first controller that applied it.
    by: RaftId,
}

/// Everything that was ever applied, and what must stay true of it.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Virtual time.
    pub now_us: u64,
    log: BTreeMap<u64, Logged>,
    newest: ClusterState,
    samples: BTreeMap<u64, ClusterState>,
    leaders: BTreeMap<u64, RaftId>,
    applied_requests: BTreeSet<RequestId>,
    acknowledged: BTreeMap<RequestId, u64>,
    heard_us: BTreeMap<usize, u64>,
    /// Slots of which an agent was told that the cluster knows that they completed, by service, revision and slot.
    completed_slots: BTreeSet<(ServiceId, u64, Slot)>,
    /// The first broken invariant.
    pub violation: Option<Violation>,
}

/// The oracle, shared by the controllers of a run.
pub type SharedOracle = Arc<Mutex<Oracle>>;

/// Locks the oracle; a run has one thread.
pub fn lock(oracle: &SharedOracle) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Oracle {
    /// An oracle that begins with the state of a new cluster.
    pub fn new(first: ClusterState) -> Self {
        Self {
            newest: first,
            ..Self::default()
        }
    }

    /// The newest state that any controller reached.
    pub fn newest(&self) -> &ClusterState {
        &self.newest
    }

    /// Notes a broken invariant; the first one counts.
    pub fn violated(&mut self, invariant: impl Into<String>, detail: impl Into<String>) {
        self.violation.get_or_insert_with(|| Violation {
            invariant: invariant.into(),
            detail: detail.into(),
        });
    }

    /// A controller leads a term.
    pub fn led(&mut self, term: u64, raft_id: RaftId) {
        let first = *self.leaders.entry(term).or_insert(raft_id);
        if first != raft_id {
            self.violated(
                "a term has one leader",
                format!("Raft ids {first} and {raft_id} both lead term {term}"),
            );
        }
    }

    /// A controller did what only a leader may, in a round in which it did not lead at any moment.
    pub fn acted_without_leading(&mut self, raft_id: RaftId, what: &str) {
        self.violated(LEADER_ONLY, format!("Raft id {raft_id} does not lead and {what}"));
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, request: RequestId) {
        let index = self.newest.index();
        self.acknowledged.insert(request, index);
        if !self.applied_requests.contains(&request) {
            self.violated(
                "an acknowledged write is never lost",
                format!("request {request} was acknowledged before any controller applied it"),
            );
        }
    }

    /// An agent was told that the cluster knows of these completions.
    pub fn completions_acknowledged(&mut self, tasks: &[TaskId]) {
        let newest = &self.newest;
        let rows = tasks.iter().filter_map(|task| newest.task(*task));
        let slots = rows.map(|task| (task.service, task.template_version, task.slot));
        self.completed_slots.extend(slots);
    }

    /// From then on nothing of that run of a job is let run in the slot. One that was decided before may still be made.
    fn check_completed_slots(&mut self, applied: &Applied<'_>) {
        let Some((entry, Outcome::Applied)) = applied.entry else {
            return;
        };
        let begins = |change: &Change| match change {
            Change::TaskCreate(task) => (task.desired == DesiredState::Running).then_some(task.id),
            Change::TaskControl { task, desired, .. } => {
                let before = applied.before.task(*task)?;
                let lets_run = before.desired != DesiredState::Running && *desired == DesiredState::Running;
                lets_run.then_some(*task)
            }
            _ => None,
        };
        let tasks = entry.changeset.changes.iter().filter_map(begins);
        let mut rows = tasks.filter_map(|task| applied.after.task(task));
        let again = rows.find(|task| {
            let revision = applied.after.template(task.service, task.template_version);
            let slot = (task.service, task.template_version, task.slot);
            revision.is_some_and(|revision| revision.iteration.is_some())
                && self.completed_slots.contains(&slot)
        });
        if let Some(task) = again {
            self.violated(
                "a job slot completes exactly once as far as the cluster can know",
                format!(
                    "slot {} of service {} begins although an agent was told that its completion is known",
                    task.slot, task.service
                ),
            );
        }
    }

    /// A heartbeat of the machine was accepted.
    pub fn heard_of(&mut self, machine: usize) {
        let now_us = self.now_us;
        self.heard_us.insert(machine, now_us);
    }

    /// When a heartbeat of the machine was accepted last.
    pub fn heard_us(&self, machine: usize) -> Option<u64> {
        self.heard_us.get(&machine).copied()
    }

    /// At the end every acknowledged write must be in the state that all agree on.
    pub fn check_acknowledged(&mut self, state: &ClusterState) {
        let lost = self
            .acknowledged
            .keys()
            .find(|request| state.request_outcome(**request).is_none())
            .copied();
        if let Some(request) = lost {
            self.violated(
                "an acknowledged write is never lost",
                format!("request {request} is not in the final state"),
            );
        }
    }

    fn applied(&mut self, raft_id: RaftId, applied: &Applied<'_>) {
        match self.log.get(&applied.index) {
            Some(known) => self.compare(raft_id, applied, known.term, known.by),
            None => self.extend(raft_id, applied),
        }
        if applied.index.is_multiple_of(SAMPLE_EVERY) {
            self.sample(applied.after);
        }
    }

    fn compare(&mut self, raft_id: RaftId, applied: &Applied<'_>, term: u64, by: RaftId) {
        let known = self
            .log
            .get(&applied.index)
            .and_then(|known| known.entry.as_ref());
        let equal = match (known, applied.entry) {
            (None, None) => true,
            (Some((entry, outcome)), Some((other, became))) => entry == other && outcome == became,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if term != applied.term || !equal {
            let detail = format!(
                "index {} was applied by Raft id {by} in term {term} and by {raft_id} in term {} as something else",
                applied.index, applied.term
            );
            self.violated("equal index means equal state", detail);
        }
    }

    fn extend(&mut self, raft_id: RaftId, applied: &Applied<'_>) {
        let before = self
            .log
            .last_key_value()
            .map(|(index, logged)| (*index, logged.term));
        if let Some((index, term)) = before
            && (applied.index != index + 1 || applied.term < term)
        {
            let detail = format!(
                "index {} of term {} follows index {index} of term {term}",
                applied.index, applied.term
            );
            self.violated(LEADER_ONLY, detail);
        }
        if !self.leaders.contains_key(&applied.term) {
            let detail = format!(
                "index {} is of term {}, which nobody led",
                applied.index, applied.term
            );
            self.violated(LEADER_ONLY, detail);
        }
        for violation in check_step(applied.before, applied.after) {
            self.violated(violation.invariant, violation.detail);
        }
        self.check_completed_slots(applied);
        if let Some((entry, Outcome::Applied)) = applied.entry {
            self.applied_requests.extend(entry.changeset.request);
        }
        self.newest = applied.after.clone();
        self.log.insert(
            applied.index,
            Logged {
                term: applied.term,
                entry: applied
                    .entry
                    .map(|(entry, outcome)| (entry.clone(), outcome.clone())),
                by: raft_id,
            },
        );
    }

    fn sample(&mut self, state: &ClusterState) {
        match self.samples.get(&state.index()) {
            Some(known) => {
                if let Some(violation) = equal_index_means_equal_state(known, state) {
                    self.violated(violation.invariant, violation.detail);
                }
            }
            None => {
                for violation in check(state) {
                    self.violated(violation.invariant, violation.detail);
                }
                self.samples.insert(state.index(), state.clone());
                while self.samples.len() > SAMPLES_KEPT {
                    self.samples.pop_first();
                }
            }
        }
    }
}

/// What of this a leader alone may do.
pub fn act_of_a_leader(output: &Output) -> Option<&'static str> {
    match output {
        Output::Assign { .. } => Some("assigns tasks"),
        Output::SessionOpened { .. } => Some("opens a session"),
        Output::HeartbeatTaken { accepted: true, .. } => Some("renews a lease"),
        // What is committed stays so when its proposer leads no more, and it may say so.
        Output::Reply { .. } | Output::StatusCommitted { .. } => None,
        Output::Send { .. }
        | Output::FetchChunk { .. }
        | Output::ChunkServed { .. }
        | Output::Members(_)
        | Output::Changed { .. }
        | Output::Removed
        | Output::Read { .. }
        | Output::HeartbeatTaken { .. }
        | Output::SessionEnded { .. }
        | Output::View { .. }
        | Output::KeysRotated { .. }
        | Output::Settled { .. } => None,
    }
}

/// Shows one controller's entries to the oracle.
pub struct OracleWitness {
    oracle: SharedOracle,
    raft_id: RaftId,
}

impl OracleWitness {
    /// A witness of one controller.
    pub fn new(oracle: SharedOracle, raft_id: RaftId) -> Self {
        Self { oracle, raft_id }
    }
}

impl Witness for OracleWitness {
    fn applied(&mut self, applied: &Applied<'_>) {
        lock(&self.oracle).applied(self.raft_id, applied);
    }

    fn restored(&mut self, state: &ClusterState) {
        let mut oracle = lock(&self.oracle);
        if let Some(known) = oracle.samples.get(&state.index())
            && let Some(violation) = equal_index_means_equal_state(known, state)
        {
            oracle.violated(violation.invariant, violation.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(oracle: &Oracle) -> &str {
        oracle
            .violation
            .as_ref()
            .map_or("", |violation| &violation.invariant)
    }

    /// An oracle that saw Raft id 1 lead term 3 and apply index 7 in it.
    fn oracle() -> Oracle {
        let mut oracle = Oracle::new(ClusterState::new());
        oracle.led(3, RaftId(1));
        apply(&mut oracle, 1, (7, 3));
        assert_eq!(oracle.violation, None);
        oracle
    }

    /// Raft id `by` applies an entry of Raft's own.
    fn apply(oracle: &mut Oracle, by: u64, (index, term): (u64, u64)) {
        let state = ClusterState::new();
        let applied = Applied {
            index,
            term,
            entry: None,
            before: &state,
            after: &state,
        };
        oracle.applied(RaftId(by), &applied);
    }

    #[test]
    fn a_second_leader_of_a_term_is_noticed() {
        let mut oracle = oracle();
        oracle.led(3, RaftId(1));
        assert_eq!(oracle.violation, None);
        oracle.led(3, RaftId(2));
        assert_eq!(broken(&oracle), "a term has one leader");
    }

    #[test]
    fn an_entry_of_a_term_that_nobody_led_or_that_is_over_is_noticed() {
        let mut nobody = oracle();
        apply(&mut nobody, 1, (8, 4));
        assert_eq!(broken(&nobody), LEADER_ONLY);
        let mut over = oracle();
        over.led(2, RaftId(2));
        apply(&mut over, 1, (8, 2));
        assert_eq!(broken(&over), LEADER_ONLY);
        let mut next = oracle();
        next.led(4, RaftId(2));
        apply(&mut next, 1, (8, 4));
        assert_eq!(next.violation, None);
    }

    #[test]
    fn an_index_that_two_apply_in_other_terms_is_noticed() {
        let mut oracle = oracle();
        oracle.led(4, RaftId(2));
        apply(&mut oracle, 2, (7, 3));
        assert_eq!(oracle.violation, None);
        apply(&mut oracle, 2, (7, 4));
        assert_eq!(broken(&oracle), "equal index means equal state");
    }

    #[test]
    fn a_write_that_nobody_applied_and_one_that_is_lost_in_the_end_are_noticed() {
        let request = RequestId::from_u128(1);
        let mut early = oracle();
        early.acknowledged(request);
        assert_eq!(broken(&early), "an acknowledged write is never lost");
        let mut lost = oracle();
        lost.applied_requests.insert(request);
        lost.acknowledged(request);
        assert_eq!(lost.violation, None);
        lost.check_acknowledged(&ClusterState::new());
        assert_eq!(broken(&lost), "an acknowledged write is never lost");
    }

    #[test]
    fn the_first_violation_counts() {
        let mut oracle = oracle();
        oracle.acted_without_leading(RaftId(2), "assigns tasks");
        oracle.led(3, RaftId(2));
        assert_eq!(broken(&oracle), LEADER_ONLY);
    }
}
