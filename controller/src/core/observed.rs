//! What a controller measures of itself, for metrics.

use std::time::Duration;

/// Most observations of a kind kept until somebody takes them.
const OBSERVED_MAX: usize = 4096;

/// What happened since it was last taken.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Time from proposal to commit, of each proposal of this controller.
    pub commits: Vec<Duration>,
    /// Time to apply each committed changeset to the state.
    pub applies: Vec<Duration>,
    /// Each call of reconcile.
    pub reconciles: Vec<Reconciled>,
    /// Changesets that apply rejected.
    pub rejections: u64,
    /// Leaderships begun here.
    pub leaderships: u64,
}

/// One call of reconcile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reconciled {
    /// Changes that it proposed.
    pub changes: usize,
    /// Tasks that it gave a node.
    pub placed: usize,
    /// How long it took.
    pub time: Duration,
    /// How much of that the scheduler took.
    pub scheduling: Duration,
}

/// Notes one more, unless nobody takes them.
pub(super) fn note<T>(observed: &mut Vec<T>, one: T) {
    if observed.len() < OBSERVED_MAX {
        observed.push(one);
    }
}

/// Says how long work takes. The core has no clock: without one of its shell nothing takes any time.
#[derive(Default)]
pub(super) struct Stopwatch(pub(super) Option<Box<dyn Fn() -> Duration + Send>>);

impl Stopwatch {
    /// Time since some moment that stays the same.
    pub(super) fn read(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |read| read())
    }

    /// Time since an earlier reading.
    pub(super) fn since(&self, earlier: Duration) -> Duration {
        self.read().saturating_sub(earlier)
    }
}
