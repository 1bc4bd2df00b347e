//! One call of the reconcile function.

use crate::draft::Draft;
use crate::{CHANGES_MAX, Dirty, Plan, changes, pass};
use muster_state::{ClusterState, Entry, Outcome};
use muster_types::{IdSource, Timestamp};

/// Least budget of one service's turn, so that many dirty services do not leave each without progress: room for
/// one replacement with its history several times over.
const TURN_MIN: usize = 50;

/// What should change, given the state, the time and fresh ids.
///
/// Pure: equal arguments give equal plans. The state must include the leader's changesets in flight; their
/// preconditions reject a plan that was made without them. An empty plan with everything dirty means that nothing is
/// left to do before `wake_at`.
pub fn reconcile(state: &ClusterState, dirty: &Dirty, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
    let now = now.max(state.time());
    let services = dirty.services_in_turn(state, now);
    let mut working = state.clone();
    let mut plan = Plan {
        leftover: Dirty {
            due: dirty.due.clone(),
            ..Dirty::default()
        },
        ..Plan::default()
    };
    plan.leftover.due.retain(|id, _| state.service(*id).is_some());
    let mut budget = CHANGES_MAX;
    let mut served = None;
    for (turn, id) in services.iter().enumerate() {
        let share = (budget / (services.len() - turn)).max(TURN_MIN);
        if share > budget {
            plan.leftover.services.insert(*id);
            continue;
        }
        let Some(mut draft) = Draft::new(&working, *id, now, share, ids) else {
            continue;
        };
        pass::run(&mut draft);
        plan.pending.extend(draft.pending());
        plan.leftover.due.remove(id);
        if let Some(at) = draft.wake_at {
            plan.leftover.due.insert(*id, at);
        }
        if draft.unfinished {
            plan.leftover.services.insert(*id);
        }
        served = Some(*id);
        let Some(changeset) = changes::of(draft) else {
            continue;
        };
        budget = budget.saturating_sub(changeset.changes.len());
        // Later services see what this one takes of the nodes.
        let entry = Entry::new(now, changeset);
        let applied = working.apply(working.index() + 1, &entry);
        debug_assert_eq!(
            applied.outcome,
            Outcome::Applied,
            "a plan must apply to the state it was made from"
        );
        plan.changesets.push(entry.changeset);
    }
    plan.wake_at = if plan.leftover.services.is_empty() {
        plan.leftover.wake_at()
    } else {
        plan.leftover.served = served;
        Some(now)
    };
    plan
}
