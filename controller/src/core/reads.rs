//! Linearizable reads: confirmed by a quorum, served once the confirmed index is applied, asked for again when lost.

use super::io::Token;
use super::proposals::ANSWER_WITHIN;
use std::collections::BTreeMap;
use std::time::Duration;

/// A read that got no confirmation is asked for again after this; Raft may lose it.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(150);
/// Most reads waiting; beyond that they are refused as busy.
pub const READS_MAX: usize = 4096;

/// Who waits for a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A query.
    Query(Token),
    /// A write's answer that was decided without an entry.
    Answer(Token),
    /// The leases: leadership holds from here on.
    Leases,
}

#[derive(Debug)]
struct Waiting {
    reader: Reader,
    since: Duration,
    asked_at: Option<Duration>,
    confirmed: Option<u64>,
}

/// The reads that wait.
#[derive(Debug)]
pub struct Reads {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

impl Reads {
    /// No reads yet. Contexts are counted from `first`, drawn anew at each start: an answer to a read from before it
    /// that comes late must not confirm one of now.
    pub fn new(first: u64) -> Self {
        Self {
            next: first,
            waiting: BTreeMap::new(),
        }
    }

    /// Adds a read; false when too many wait.
    pub fn add(&mut self, reader: Reader, now: Duration) -> bool {
        if self.waiting.len() >= READS_MAX {
            return false;
        }
        self.next = self.next.wrapping_add(1);
        self.waiting.insert(
            self.next,
            Waiting {
                reader,
                since: now,
                asked_at: None,
                confirmed: None,
            },
        );
        true
    }

    /// Contexts to ask Raft for now.
    pub fn to_ask(&self, now: Duration) -> Vec<u64> {
        let due = |waiting: &Waiting| {
            waiting.confirmed.is_none()
                && waiting
                    .asked_at
                    .is_none_or(|at| now.saturating_sub(at) >= ASK_AGAIN_AFTER)
        };
        self.waiting
            .iter()
            .filter(|(_, waiting)| due(waiting))
            .map(|(context, _)| *context)
            .collect()
    }

    /// Raft was asked.
    pub fn asked(&mut self, context: u64, now: Duration) {
        if let Some(waiting) = self.waiting.get_mut(&context) {
            waiting.asked_at = Some(now);
        }
    }

    /// Raft confirmed: the read may be served once `index` is applied.
    pub fn confirmed(&mut self, context: u64, index: u64) {
        if let Some(waiting) = self.waiting.get_mut(&context) {
            waiting.confirmed = Some(index);
        }
    }

    /// Takes out the reads that may be served at this applied index, each with the time it began.
    pub fn ready(&mut self, applied: u64) -> Vec<(Reader, Duration)> {
        let ready = |waiting: &Waiting| waiting.confirmed.is_some_and(|index| index <= applied);
        let contexts: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| ready(waiting))
            .map(|(context, _)| *context)
            .collect();
        let taken = contexts.iter().filter_map(|context| self.waiting.remove(context));
        taken.map(|waiting| (waiting.reader, waiting.since)).collect()
    }

    /// Takes out the reads that waited too long.
    pub fn overdue(&mut self, now: Duration) -> Vec<Reader> {
        let overdue = |waiting: &Waiting| now.saturating_sub(waiting.since) >= ANSWER_WITHIN;
        let contexts: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| overdue(waiting))
            .map(|(context, _)| *context)
            .collect();
        let taken = contexts.iter().filter_map(|context| self.waiting.remove(context));
        taken.map(|waiting| waiting.reader).collect()
    }

    /// Whether a confirmation for the leases is under way.
    pub fn confirming_leases(&self) -> bool {
        self.waiting
            .values()
            .any(|waiting| waiting.reader == Reader::Leases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_read_is_served_once_its_index_is_applied() {
        let mut reads = Reads::new(0);
        assert!(reads.add(Reader::Query(7), ms(0)));
        let context = reads.to_ask(ms(0))[0];
        reads.asked(context, ms(0));
        assert!(reads.to_ask(ms(100)).is_empty());
        reads.confirmed(context, 9);
        assert!(reads.ready(8).is_empty());
        assert_eq!(reads.ready(9), [(Reader::Query(7), ms(0))]);
    }

    #[test]
    fn an_answer_from_before_a_restart_confirms_nothing() {
        let mut before = Reads::new(1_000);
        before.add(Reader::Query(1), ms(0));
        let old = before.to_ask(ms(0))[0];
        let mut reads = Reads::new(77);
        reads.add(Reader::Query(1), ms(0));
        reads.confirmed(old, 5);
        assert!(reads.ready(9).is_empty());
    }

    #[test]
    fn a_lost_read_is_asked_for_again_and_ends() {
        let mut reads = Reads::new(0);
        reads.add(Reader::Leases, ms(0));
        let context = reads.to_ask(ms(0))[0];
        reads.asked(context, ms(0));
        assert_eq!(reads.to_ask(ms(150)), [context]);
        assert_eq!(reads.overdue(ms(4500)), [Reader::Leases]);
        assert!(!reads.confirming_leases());
    }
}
