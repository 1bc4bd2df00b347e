//! Coalescing of status reports, with the newest status per task: two reports are never less than [`REPORT_INTERVAL`]
//! apart. The first change after quiet goes at once, except for a state that an operation under way is about to change:
//! that waits as long, so that a start usually costs one report. A final status is reported until it is acknowledged.

use crate::TaskRecord;
use muster_types::task::REPORT_STATUSES_MAX;
use muster_types::{TaskId, TaskState, TaskStatus, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest time between two reports of one session (architecture, decision 8).
pub const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// (attempt, state) of a status; it never moves back.
type Rank = (u32, TaskState);

/// The reporting half of a session. A new session begins with a new `Reporter`, so everything that was not
/// acknowledged is sent again.
#[derive(Debug, Default)]
pub struct Reporter {
    last_report: Option<Timestamp>,
    /// Since when there is something to tell.
    waiting_since: Option<Timestamp>,
    sequence: u64,
    sent: BTreeMap<TaskId, Rank>,
    in_flight: BTreeMap<u64, Vec<(TaskId, Rank)>>,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Grows with every report of the session.
    pub sequence: u64,
    /// The newest status of each task that changed.
    pub statuses: Vec<(TaskId, TaskStatus)>,
}

impl Reporter {
    /// The next report, if one is due.
    pub fn next(&mut self, records: &BTreeMap<TaskId, TaskRecord>, now: Timestamp) -> Option<Report> {
        let urgency = self.urgency(records)?;
        self.waiting_since.get_or_insert(now);
        // Only a clock that was set back makes it due later than an interval from now.
        if self
            .due(urgency)
            .is_some_and(|due| due > now && due <= now.after(REPORT_INTERVAL))
        {
            return None;
        }
        let statuses: Vec<_> = records
            .iter()
            .filter(|(id, record)| self.is_news(id, record))
            .take(REPORT_STATUSES_MAX)
            .map(|(id, record)| (*id, record.status.clone()))
            .collect();
        self.sequence += 1;
        self.last_report = Some(now);
        self.waiting_since = None;
        let ranks: Vec<_> = statuses
            .iter()
            .map(|(id, status)| (*id, (status.attempt, status.state)))
            .collect();
        self.sent.extend(ranks.iter().copied());
        self.in_flight.insert(self.sequence, ranks);
        Some(Report {
            sequence: self.sequence,
            statuses,
        })
    }

    /// When the next report is due; `None` when there is nothing to tell, or it may be told at once.
    pub fn next_at(&self, records: &BTreeMap<TaskId, TaskRecord>) -> Option<Timestamp> {
        self.due(self.urgency(records)?)
    }

    /// The controllers committed a report.
    pub fn acknowledged(&mut self, sequence: u64, records: &mut BTreeMap<TaskId, TaskRecord>) {
        for (id, rank) in self.in_flight.remove(&sequence).unwrap_or_default() {
            if let Some(record) = records.get_mut(&id) {
                record.acknowledged = record.acknowledged.max(Some(rank));
            }
        }
    }

    /// Forgets tasks that are gone.
    pub fn forget(&mut self, task: &TaskId) {
        self.sent.remove(task);
    }

    /// How pressing the most pressing news is that was not sent in this session; `None` when there is none.
    fn urgency(&self, records: &BTreeMap<TaskId, TaskRecord>) -> Option<Urgency> {
        let news = records.iter().filter(|(id, record)| self.is_news(id, record));
        news.map(|(_, record)| Urgency::of(record)).max()
    }

    fn due(&self, urgency: Urgency) -> Option<Timestamp> {
        let awaited = match urgency {
            Urgency::Settled => None,
            Urgency::Passing => self.waiting_since,
        };
        self.last_report
            .max(awaited)
            .map(|since| since.after(REPORT_INTERVAL))
    }

    fn is_news(&self, id: &TaskId, record: &TaskRecord) -> bool {
        let known = record.acknowledged.max(self.sent.get(id).copied());
        known.is_none_or(|known| record.rank() > known)
    }
}

/// How soon news must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// An operation is under way that takes the task further.
    Passing,
    /// The task runs, has ended, or waits for somebody else.
    Settled,
}

impl Urgency {
    fn of(record: &TaskRecord) -> Self {
        if record.phase.is_busy() && record.status.state < TaskState::Running {
            Self::Passing
        } else {
            Self::Settled
        }
    }
}
