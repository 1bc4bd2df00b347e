//! Virtual time: what happens next.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

struct Scheduled<E> {
    at_us: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// Events by time; those of one time in the order in which they were put in.
pub struct Queue<E> {
    events: BinaryHeap<Reverse<Scheduled<E>>>,
    next_number: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            events: BinaryHeap::new(),
            next_number: 0,
        }
    }
}

impl<E> Queue<E> {
    /// Puts in an event.
    pub fn push(&mut self, at_us: u64, event: E) {
        self.next_number += 1;
        self.events.push(Reverse(Scheduled {
            at_us,
            number: self.next_number,
            event,
        }));
    }

    /// Takes out the next event with its time.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        self.events
            .pop()
            .map(|Reverse(scheduled)| (scheduled.at_us, scheduled.event))
    }
}
