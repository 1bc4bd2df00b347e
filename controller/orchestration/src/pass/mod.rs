//! The passes over one service, each a rule of its own.

mod addresses;
mod global;
mod jobs;
mod liveness;
mod placement;
mod ports;
mod reaping;
mod removal;
mod replicated;
mod restart;
mod slots;
mod start;
mod update;

use crate::draft::Draft;

/// One rule: looks at the draft and changes it.
type Pass = fn(&mut Draft<'_>);

/// Name of the pass that asks the scheduler.
pub const PLACEMENT: &str = "placement";

/// Every pass, in the order in which they run. Earlier passes say which tasks are no longer wanted, the middle ones
/// which are missing, the last ones where they go and which records nobody needs.
pub(crate) const PASSES: &[(&str, Pass)] = &[
    ("removal", removal::remove_tasks_of_removed_service),
    ("liveness", liveness::leave_nodes),
    ("job runs", jobs::leave_earlier_runs),
    ("job completions", jobs::settle_completed_slots),
    ("restart", restart::follow_ended_tasks),
    ("update", update::replace_stale_tasks),
    ("replicated", replicated::keep_replicas),
    ("global", global::keep_one_per_node),
    ("jobs", jobs::run_slots),
    ("start", start::let_tasks_run),
    ("ports", ports::allocate_ports),
    ("addresses", addresses::allocate_virtual_addresses),
    (PLACEMENT, placement::place_tasks),
    ("reaping", reaping::forget_records),
];

/// Runs every pass over the draft.
pub(crate) fn run(draft: &mut Draft<'_>, ended: &mut dyn FnMut(&'static str)) {
    for (name, pass) in PASSES {
        pass(draft);
        ended(name);
    }
}
