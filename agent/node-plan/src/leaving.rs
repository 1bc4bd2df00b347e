//! Tasks that are to stop: their containers get the stop signal once nobody leads new connections to them any more.

use muster_types::{TaskId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a task waits at most: a node that has not heard of it by then is taken to be out of reach.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Which tasks wait, and what is known of the other nodes.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// There is a session, and the leader tells when every node has applied what it was told of networks.
    answered: bool,
    /// The applied index of which the leader said so.
    settled: u64,
    /// The applied index that it was asked about.
    asked: u64,
    waiting: BTreeMap<TaskId, Wait>,
}

/// A task that waits.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// Applied index as of which it is an endpoint no more.
    index: u64,
    since: Timestamp,
}

impl Leaving {
    /// A session began; whether its leader answers.
    pub fn session_opened(&mut self, answered: bool) {
        (self.answered, self.settled, self.asked) = (answered, 0, 0);
    }

    /// The session ended: nobody can say that the others know, until the next one begins. What waits goes on to do so.
    pub fn session_lost(&mut self) {
        self.answered = false;
    }

    /// Every node that can be reached has applied what it was told up to this index.
    pub fn settled(&mut self, index: u64) {
        self.settled = self.settled.max(index);
    }

    /// Whether a task's container may get the stop signal. `index` is that of the assignments that say so now.
    pub fn may_stop(&mut self, task: TaskId, index: u64, now: Timestamp) -> bool {
        if !self.answered && !self.waiting.contains_key(&task) {
            return true;
        }
        let new = Wait { index, since: now };
        let wait = self.waiting.entry(task).or_insert(new);
        if now < wait.since {
            // The clock was set back.
            wait.since = now;
        }
        let over = self.settled >= wait.index || now >= wait.since.after(LEAVE_WITHIN);
        if over {
            self.waiting.remove(&task);
        }
        over
    }

    /// The index to ask the leader about, once each.
    pub fn question(&mut self) -> Option<u64> {
        let newest = self.waiting.values().map(|wait| wait.index).max()?;
        if newest <= self.asked {
            return None;
        }
        self.asked = newest;
        Some(newest)
    }

    /// When the first wait is over.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let since = self.waiting.values().map(|wait| wait.since).min()?;
        Some(since.after(LEAVE_WITHIN))
    }

    /// The task is gone, or ended by itself.
    pub fn forget(&mut self, task: &TaskId) {
        self.waiting.remove(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId::from_u128(1);

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::from_secs(100).after(Duration::from_millis(milliseconds))
    }

    fn asked() -> Leaving {
        let mut leaving = Leaving::default();
        leaving.session_opened(true);
        assert!(!leaving.may_stop(TASK, 7, at(0)));
        assert_eq!(leaving.question(), Some(7));
        assert_eq!(leaving.question(), None, "it asks once");
        leaving
    }

    #[test]
    fn a_task_stops_once_every_node_knows() {
        let mut leaving = asked();
        leaving.settled(6);
        assert!(!leaving.may_stop(TASK, 8, at(10)));
        leaving.settled(7);
        assert!(leaving.may_stop(TASK, 9, at(20)));
        assert_eq!(leaving.wake_at(), None);
    }

    #[test]
    fn a_node_out_of_reach_delays_nobody_for_long() {
        let mut leaving = asked();
        assert_eq!(leaving.wake_at(), Some(at(2000)));
        assert!(!leaving.may_stop(TASK, 7, at(1999)));
        assert!(leaving.may_stop(TASK, 7, at(2000)));
        // Nor does a clock that is set back.
        let mut leaving = asked();
        let earlier = Timestamp::from_secs(50);
        assert!(!leaving.may_stop(TASK, 7, earlier));
        assert!(leaving.may_stop(TASK, 7, earlier.after(LEAVE_WITHIN)));
    }

    #[test]
    fn nobody_begins_to_wait_without_a_leader_that_answers() {
        let mut leaving = asked();
        leaving.session_lost();
        assert!(leaving.may_stop(TaskId::from_u128(2), 7, at(1)));
        leaving.session_opened(false);
        assert!(leaving.may_stop(TaskId::from_u128(3), 9, at(2)));
    }

    #[test]
    fn a_wait_outlasts_a_change_of_the_leader() {
        let mut leaving = asked();
        leaving.session_lost();
        assert!(!leaving.may_stop(TASK, 7, at(10)));
        leaving.session_opened(true);
        assert!(!leaving.may_stop(TASK, 7, at(20)));
        assert_eq!(leaving.question(), Some(7), "the next one is asked anew");
        leaving.session_lost();
        assert!(leaving.may_stop(TASK, 7, at(2000)));
    }

    #[test]
    fn what_one_leader_said_means_nothing_with_the_next() {
        let mut leaving = asked();
        leaving.settled(7);
        leaving.session_opened(true);
        assert!(!leaving.may_stop(TASK, 7, at(10)));
        assert_eq!(leaving.question(), Some(7));
    }
}
