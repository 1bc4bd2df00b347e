//! One call of the reconcile function.

use crate::dirty::Look;
use crate::draft::{Draft, Scope};
use crate::{CHANGES_MAX, Dirty, Plan, changes, pass};
use muster_state::{ClusterState, Entry, Outcome};
use muster_types::{IdSource, ServiceId, Timestamp};

/// Least share of one service's turn, in changes and in slots, so that many dirty services do not leave each without
/// progress: room for one replacement with its history several times over.
const TURN_MIN: usize = 50;

/// How much one call does. What does not fit is left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most changes.
    pub changes: usize,
    /// Most slots that are looked at because they changed or because all are to be looked at.
    pub slots: usize,
}

impl Default for Limits {
    /// A thousand slots at some microseconds each are what a call may take of the leader's thread.
    fn default() -> Self {
        Self {
            changes: CHANGES_MAX,
            slots: 1000,
        }
    }
}

/// What should change, given the state, the time and fresh ids.
///
/// Pure: equal arguments give equal plans. The state must include the leader's changesets in flight; their
/// preconditions reject a plan that was made without them. An empty plan with everything dirty, and nothing left over
/// that is due, means that nothing is left to do before `wake_at`.
pub fn reconcile(state: &ClusterState, dirty: &Dirty, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
    reconcile_within(Limits::default(), state, dirty, now, ids)
}

/// [`reconcile`], which tells the name of each pass when it has run over a service, so that a caller with a clock can
/// measure them.
pub fn reconcile_observed(
    state: &ClusterState,
    dirty: &Dirty,
    now: Timestamp,
    ids: &mut dyn IdSource,
    pass_ended: &mut dyn FnMut(&'static str),
) -> Plan {
    call(Limits::default(), state, dirty, now, ids, pass_ended)
}

/// [`reconcile`] with other limits.
pub fn reconcile_within(
    limits: Limits,
    state: &ClusterState,
    dirty: &Dirty,
    now: Timestamp,
    ids: &mut dyn IdSource,
) -> Plan {
    call(limits, state, dirty, now, ids, &mut |_| {})
}

fn call(
    limits: Limits,
    state: &ClusterState,
    dirty: &Dirty,
    now: Timestamp,
    ids: &mut dyn IdSource,
    pass_ended: &mut dyn FnMut(&'static str),
) -> Plan {
    let now = now.max(state.time());
    let mut looks = dirty.looks(state, now);
    let order = dirty.in_turn(&looks);
    let mut call = Call {
        working: state.clone(),
        now,
        ids,
        pass_ended,
        plan: Plan {
            leftover: Dirty {
                due: dirty.due.clone(),
                ..Dirty::default()
            },
            ..Plan::default()
        },
        left: limits,
        behind: false,
    };
    let mut served = None;
    for (turn, id) in order.iter().enumerate() {
        let Some(look) = looks.remove(id) else { continue };
        let share = |left: usize, most: usize| (left / (order.len() - turn)).max(TURN_MIN.min(most));
        let turn = Limits {
            changes: share(call.left.changes, limits.changes),
            slots: share(call.left.slots, limits.slots),
        };
        if turn.changes > call.left.changes || turn.slots > call.left.slots {
            call.plan.leftover.services.insert(*id, look);
            continue;
        }
        if call.serve(*id, look, turn) {
            served = Some(*id);
        }
    }
    if cfg!(debug_assertions) {
        call.catch_up();
    }
    let mut plan = call.plan;
    plan.wake_at = if plan.leftover.services.is_empty() {
        plan.leftover.wake_at()
    } else {
        plan.leftover.served = served;
        Some(now)
    };
    plan
}

/// A call under way.
struct Call<'a> {
    /// The state with what this call decided so far, but for the last changeset while `behind`.
    working: ClusterState,
    behind: bool,
    now: Timestamp,
    ids: &'a mut dyn IdSource,
    pass_ended: &'a mut dyn FnMut(&'static str),
    plan: Plan,
    /// What still fits.
    left: Limits,
}

impl Call<'_> {
    /// Gives one service its turn; false when it is gone.
    fn serve(&mut self, id: ServiceId, mut look: Look, turn: Limits) -> bool {
        self.catch_up();
        let leftover = &mut self.plan.leftover;
        let looked = look.take_slots(&self.working, id, turn.slots);
        let due = leftover.due.clone();
        let scope = Scope {
            slots: &looked,
            nodes: look.nodes,
            whole: look.has_no_slots(),
            due: &due,
        };
        let Some(mut draft) = Draft::new(&self.working, id, self.now, turn.changes, self.ids, scope) else {
            leftover.due.remove_service(id);
            return false;
        };
        pass::run(&mut draft, self.pass_ended);
        self.plan.placed += draft.drafts().filter(|task| task.is_placed()).count();
        self.plan.pending.extend(draft.pending());
        self.left.slots = self.left.slots.saturating_sub(looked.len());
        for slot in &looked {
            leftover.due.remove(id, *slot);
        }
        for (slot, at) in &draft.wakes {
            leftover.due.add(id, *slot, *at);
        }
        if draft.slots_unfinished {
            look.slots.extend(looked.iter().copied());
        }
        look.nodes &= draft.unfinished;
        if draft.unfinished || !look.has_no_slots() {
            leftover.services.insert(id, look);
        }
        if let Some(changeset) = changes::of(draft) {
            self.left.changes = self.left.changes.saturating_sub(changeset.changes.len());
            self.plan.changesets.push(changeset);
            self.behind = true;
        }
        true
    }

    /// Later services see what the last one takes of the nodes. Nobody looks after the last service, whose changeset is
    /// often the only one.
    fn catch_up(&mut self) {
        if !std::mem::take(&mut self.behind) {
            return;
        }
        let Some(changeset) = self.plan.changesets.pop() else {
            return;
        };
        let entry = Entry::new(self.now, changeset);
        let applied = self.working.apply(self.working.index() + 1, &entry);
        debug_assert_eq!(
            applied.outcome,
            Outcome::Applied,
            "a plan must apply to the state it was made from"
        );
        self.plan.changesets.push(entry.changeset);
    }
}
