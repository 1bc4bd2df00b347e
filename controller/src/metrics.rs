//! Figures of one controller. The core fills them in; who serves them is the daemon's business.

use crate::core::observed::Observed;
use muster_consensus::Status;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use std::time::Duration;

/// Upper bounds of latencies in seconds: a commit on a LAN takes well under a millisecond, a slow disk seconds.
const LATENCY_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Upper bounds of steps that touch no disk: microseconds for one object, a bounded reconcile at most some milliseconds.
const STEP_BUCKETS: [f64; 10] = [
    0.00001, 0.000025, 0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.025, 0.1, 1.0,
];
/// Upper bounds of batch sizes; a plan has at most 1,000 changes.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0];

/// The figures. Clones share them.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    /// From proposal to commit.
    commit_seconds: Histogram,
    /// One flush of the core: persist, apply, decide.
    flush_seconds: Histogram,
    /// Inputs taken in before a flush.
    flush_inputs: Histogram,
    /// Applying one changeset to the state.
    apply_seconds: Histogram,
    /// One call of reconcile.
    reconcile_seconds: Histogram,
    /// The scheduler's part of it, where it placed a task.
    scheduling_seconds: Histogram,
    /// Tasks that it placed.
    scheduling_tasks: Histogram,
    /// Changes proposed by one reconcile.
    reconcile_changes: Histogram,
    /// Changesets that apply rejected.
    rejections: IntCounter,
    /// Leaderships begun.
    leaderships: IntCounter,
    /// Agents with a live session here.
    sessions: IntGauge,
    /// Leases of nodes, on the leader.
    leases: IntGauge,
    term: IntGauge,
    committed: IntGauge,
    applied: IntGauge,
    log_bytes: IntGauge,
    log_disk_bytes: IntGauge,
    snapshot_index: IntGauge,
}

impl ControllerMetrics {
    /// Figures that nobody reads yet.
    pub fn new() -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
        };
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        Ok(Self {
            commit_seconds: histogram(
                "muster_raft_commit_seconds",
                "Time from proposal to commit on this controller",
                &LATENCY_BUCKETS,
            )?,
            flush_seconds: histogram(
                "muster_controller_flush_seconds",
                "Time of one round of the controller: persist, apply, decide",
                &LATENCY_BUCKETS,
            )?,
            flush_inputs: histogram(
                "muster_controller_flush_inputs",
                "Inputs taken in before one round of the controller",
                &BATCH_BUCKETS,
            )?,
            apply_seconds: histogram(
                "muster_raft_apply_seconds",
                "Time to apply one committed changeset to the state",
                &STEP_BUCKETS,
            )?,
            reconcile_seconds: histogram(
                "muster_reconcile_seconds",
                "Time of one reconcile, scheduling included",
                &STEP_BUCKETS,
            )?,
            scheduling_seconds: histogram(
                "muster_scheduling_seconds",
                "Time that the scheduler took in a reconcile that placed tasks",
                &STEP_BUCKETS,
            )?,
            scheduling_tasks: histogram(
                "muster_scheduling_tasks",
                "Tasks placed by one reconcile that placed any",
                &BATCH_BUCKETS,
            )?,
            reconcile_changes: histogram(
                "muster_reconcile_changes",
                "Changes proposed by one reconcile",
                &BATCH_BUCKETS,
            )?,
            rejections: IntCounter::new(
                "muster_changesets_rejected_total",
                "Changesets that this controller rejected when applying them",
            )?,
            leaderships: IntCounter::new(
                "muster_raft_leaderships_total",
                "Leaderships begun by this controller",
            )?,
            sessions: gauge("muster_sessions", "Agents with a live session at this controller")?,
            leases: gauge("muster_leases", "Leases of nodes at this controller")?,
            term: gauge("muster_raft_term", "Raft term of this controller")?,
            committed: gauge(
                "muster_raft_committed_index",
                "Log index known as committed by this controller",
            )?,
            applied: gauge(
                "muster_raft_applied_index",
                "Log index applied by this controller",
            )?,
            log_bytes: gauge("muster_raft_log_bytes", "Bytes of log entries in memory")?,
            log_disk_bytes: gauge("muster_raft_log_disk_bytes", "Bytes of log segments on disk")?,
            snapshot_index: gauge("muster_raft_snapshot_index", "Log index of the newest snapshot")?,
        })
    }

    /// Everything, for a registry.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.commit_seconds.clone()),
            Box::new(self.flush_seconds.clone()),
            Box::new(self.flush_inputs.clone()),
            Box::new(self.apply_seconds.clone()),
            Box::new(self.reconcile_seconds.clone()),
            Box::new(self.scheduling_seconds.clone()),
            Box::new(self.scheduling_tasks.clone()),
            Box::new(self.reconcile_changes.clone()),
            Box::new(self.rejections.clone()),
            Box::new(self.leaderships.clone()),
            Box::new(self.sessions.clone()),
            Box::new(self.leases.clone()),
            Box::new(self.term.clone()),
            Box::new(self.committed.clone()),
            Box::new(self.applied.clone()),
            Box::new(self.log_bytes.clone()),
            Box::new(self.log_disk_bytes.clone()),
            Box::new(self.snapshot_index.clone()),
        ]
    }

    /// Registers everything.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors()
            .into_iter()
            .try_for_each(|collector| registry.register(collector))
    }

    /// Takes over the Raft node's status.
    pub(crate) fn show(&self, status: &Status, sessions: usize, leases: usize) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.term.set(signed(status.role.term));
        self.committed.set(signed(status.commit));
        self.applied.set(signed(status.applied));
        self.log_bytes.set(signed(status.log_bytes));
        self.log_disk_bytes.set(signed(status.disk_bytes));
        self.snapshot_index.set(signed(status.snapshot_index));
        self.sessions.set(signed(sessions as u64));
        self.leases.set(signed(leases as u64));
    }

    /// Takes in what happened during one round.
    pub(crate) fn observe(&self, observed: Observed, inputs: usize, round: Duration) {
        self.flush_seconds.observe(round.as_secs_f64());
        self.flush_inputs.observe(inputs as f64);
        observed
            .commits
            .iter()
            .for_each(|time| self.commit_seconds.observe(time.as_secs_f64()));
        observed
            .applies
            .iter()
            .for_each(|time| self.apply_seconds.observe(time.as_secs_f64()));
        for reconciled in &observed.reconciles {
            self.reconcile_seconds.observe(reconciled.time.as_secs_f64());
            self.reconcile_changes.observe(reconciled.changes as f64);
            if reconciled.placed > 0 {
                self.scheduling_seconds
                    .observe(reconciled.scheduling.as_secs_f64());
                self.scheduling_tasks.observe(reconciled.placed as f64);
            }
        }
        self.rejections.inc_by(observed.rejections);
        self.leaderships.inc_by(observed.leaderships);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_figures_can_be_registered_together() {
        assert!(
            ControllerMetrics::new()
                .unwrap()
                .register(&Registry::new())
                .is_ok()
        );
    }
}
