//! Coalescing of status reports: the first change after quiet goes at once, later ones at most every
//! [`REPORT_INTERVAL`], with the newest status per task; a final status is reported until it is acknowledged.

use crate::TaskRecord;
use muster_types::{TaskId, TaskState, TaskStatus, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest time between two reports of one session (architecture, decision 8).
pub const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Most statuses in one report; the rest follows in the next. Keeps a changeset under the controllers' bound.
pub const REPORT_STATUSES_MAX: usize = 500;

/// (attempt, state) of a status; it never moves back.
type Rank = (u32, TaskState);

/// The reporting half of a session. A new session begins with a new `Reporter`, so everything that was not
/// acknowledged is sent again.
#[derive(Debug, Default)]
pub struct Reporter {
    last_report: Option<Timestamp>,
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
        if self
            .next_at()
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
        if statuses.is_empty() {
            return None;
        }
        self.sequence += 1;
        self.last_report = Some(now);
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

    /// When the next report may go at the earliest; `None` when one may go at once.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.last_report.map(|last| last.after(REPORT_INTERVAL))
    }

    /// Whether some record holds news that was not sent in this session.
    pub fn has_news(&self, records: &BTreeMap<TaskId, TaskRecord>) -> bool {
        records.iter().any(|(id, record)| self.is_news(id, record))
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

    fn is_news(&self, id: &TaskId, record: &TaskRecord) -> bool {
        let known = record.acknowledged.max(self.sent.get(id).copied());
        known.is_none_or(|known| record.rank() > known)
    }
}
