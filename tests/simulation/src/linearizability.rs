//! Is there one order of the operations that agrees with what every client was told, and with real time? The search
//! is Wing and Gong's, with Lowe's memory of configurations already visited.

use crate::history::{Key, Operation, Register, Told};
use std::collections::{BTreeMap, HashSet};

/// Configurations after which the search gives up; histories of a run need a small part of it.
const CONFIGURATIONS_MAX: usize = 2_000_000;

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none; the operations that could be ordered the furthest, and the next that could not.
    Violated(String),
    /// The search gave up.
    Undecided,
}

/// Checks a history, key by key. `first` is what a key holds in the beginning.
pub fn check(history: &[Operation], first: &dyn Fn(&Key) -> Register) -> Verdict {
    let mut keys: BTreeMap<&Key, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        match check_key(&operations, first(key)) {
            Verdict::Linearizable => {}
            other => return other,
        }
    }
    Verdict::Linearizable
}

/// The set of ordered operations, as bits.
type Ordered = Vec<u64>;

struct Search<'a> {
    operations: Vec<&'a Operation>,
    visited: HashSet<(Ordered, Register)>,
    furthest: usize,
    stuck_at: Option<usize>,
}

fn check_key(operations: &[&Operation], first: Register) -> Verdict {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.begun_us);
    let words = operations.len().div_ceil(64);
    let mut search = Search {
        operations,
        visited: HashSet::new(),
        furthest: 0,
        stuck_at: None,
    };
    match search.run(vec![0; words], first) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Violated(search.explain()),
        None => Verdict::Undecided,
    }
}

impl Search<'_> {
    /// Depth first, with a stack of its own.
    fn run(&mut self, ordered: Ordered, register: Register) -> Option<bool> {
        let mut stack = vec![(ordered, register)];
        while let Some((ordered, register)) = stack.pop() {
            if !self.visited.insert((ordered.clone(), register)) {
                continue;
            }
            if self.visited.len() > CONFIGURATIONS_MAX {
                return None;
            }
            let candidates = self.candidates(&ordered);
            if candidates.is_empty() {
                return Some(true);
            }
            let before = stack.len();
            for at in candidates.iter().rev() {
                if let Some(after) = self.operations[*at].apply(register) {
                    let mut next = ordered.clone();
                    next[at / 64] |= 1 << (at % 64);
                    stack.push((next, after));
                }
            }
            let depth = ordered.iter().map(|word| word.count_ones() as usize).sum();
            if stack.len() == before && depth >= self.furthest {
                self.furthest = depth;
                self.stuck_at = candidates
                    .into_iter()
                    .find(|at| self.operations[*at].told_us.is_some());
            }
        }
        Some(false)
    }

    /// Operations that may be next: not ordered yet, and begun before any other that is not ordered yet was told.
    /// Empty when only such are left as may never have happened.
    fn candidates(&self, ordered: &Ordered) -> Vec<usize> {
        let left = |at: &usize| ordered[at / 64] & (1 << (at % 64)) == 0;
        let open: Vec<usize> = (0..self.operations.len()).filter(left).collect();
        let first_told = open
            .iter()
            .filter(|at| self.operations[**at].told != Told::Unknown)
            .filter_map(|at| self.operations[*at].told_us)
            .min();
        let Some(first_told) = first_told else {
            return Vec::new();
        };
        open.into_iter()
            .filter(|at| self.operations[*at].begun_us <= first_told)
            .collect()
    }

    fn explain(&self) -> String {
        let stuck = self.stuck_at.map(|at| self.operations[at]);
        match stuck {
            Some(operation) => {
                let end = operation.told_us.map_or(0.0, |told| told as f64 / 1e6);
                format!(
                    "no order explains {:?} of {:?}, begun at {:.6} s and told {:?} at {end:.6} s",
                    operation.action,
                    operation.key,
                    operation.begun_us as f64 / 1e6,
                    operation.told,
                )
            }
            None => "no order explains the history".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Action;
    use muster_types::ServiceId;

    const WEB: ServiceId = ServiceId::from_u128(1);

    fn operation(action: Action, begun_us: u64, told_us: u64, told: Told) -> Operation {
        Operation {
            key: Key::Service("web".to_owned()),
            action,
            begun_us,
            told_us: (told != Told::Unknown).then_some(told_us),
            told,
        }
    }

    fn verdict(history: &[Operation]) -> bool {
        check(history, &|_| None) == Verdict::Linearizable
    }

    #[test]
    fn a_read_that_began_after_a_write_was_told_sees_it() {
        let create = operation(Action::Create(WEB, 1), 0, 10, Told::Done);
        let fresh = operation(Action::Read, 20, 30, Told::Saw(Some((WEB, 1))));
        let stale = operation(Action::Read, 20, 30, Told::Saw(None));
        assert!(verdict(&[create.clone(), fresh]));
        assert!(!verdict(&[create, stale]));
    }

    #[test]
    fn a_read_during_a_write_may_see_either() {
        let create = operation(Action::Create(WEB, 1), 0, 10, Told::Done);
        for seen in [None, Some((WEB, 1))] {
            let read = operation(Action::Read, 5, 30, Told::Saw(seen));
            assert!(verdict(&[create.clone(), read]));
        }
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_be_undone() {
        let create = operation(Action::Create(WEB, 1), 0, 0, Told::Unknown);
        let none = operation(Action::Read, 20, 30, Told::Saw(None));
        let some = operation(Action::Read, 40, 50, Told::Saw(Some((WEB, 1))));
        let again = operation(Action::Read, 60, 70, Told::Saw(None));
        assert!(verdict(&[create.clone(), none.clone()]));
        assert!(verdict(&[create.clone(), none.clone(), some.clone()]));
        assert!(!verdict(&[create, none, some, again]));
    }

    #[test]
    fn a_stale_update_must_not_succeed() {
        let create = operation(Action::Create(WEB, 1), 0, 10, Told::Done);
        let update = operation(Action::Update(WEB, 1, 2), 20, 30, Told::Done);
        let late = |told| operation(Action::Update(WEB, 1, 3), 40, 50, told);
        assert!(verdict(&[create.clone(), update.clone(), late(Told::Stale)]));
        assert!(!verdict(&[create, update, late(Told::Done)]));
    }

    #[test]
    fn a_refused_create_needs_a_holder_of_the_name() {
        let refused = operation(Action::Create(WEB, 1), 0, 10, Told::Refused);
        assert!(!verdict(&[refused]));
    }
}
