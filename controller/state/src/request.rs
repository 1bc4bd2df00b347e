//! Outcomes of recent control requests, so that a retry applies once.

use crate::ObjectKey;
use imbl::OrdMap;
use muster_types::RequestId;
use serde::{Deserialize, Serialize};

/// Outcomes remembered. A client retries for seconds; at 1,000 requests a second this covers ten.
pub const REQUESTS_MAX: usize = 10_000;

/// What became of a control request that applied.
///
/// Rejected requests are not remembered: they changed nothing, so a retry may well succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestOutcome {
    /// Log index at which it applied.
    pub index: u64,
    /// The object that it was about: the first of its changeset.
    pub object: Option<ObjectKey>,
}

/// The most recent outcomes, oldest forgotten first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Requests {
    outcomes: OrdMap<RequestId, RequestOutcome>,
    /// An entry carries at most one request, so its index names it.
    by_index: OrdMap<u64, RequestId>,
}

impl Requests {
    pub(crate) fn get(&self, request: RequestId) -> Option<RequestOutcome> {
        self.outcomes.get(&request).copied()
    }

    pub(crate) fn record(&mut self, request: RequestId, outcome: RequestOutcome) {
        self.outcomes.insert(request, outcome);
        self.by_index.insert(outcome.index, request);
        while self.by_index.len() > REQUESTS_MAX {
            let Some((index, oldest)) = self.by_index.get_min().copied() else {
                return;
            };
            self.by_index.remove(&index);
            self.outcomes.remove(&oldest);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, RequestOutcome)> {
        self.outcomes
            .iter()
            .map(|(request, outcome)| (*request, *outcome))
    }
}
