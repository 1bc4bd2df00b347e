//! What the engine holds of tasks when the daemon starts, and what their records become by it.

use crate::task_record::{Phase, TaskRecord};
use muster_types::{ContainerId, TaskState, Timestamp};

/// A task's container as the engine found it when the daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It runs.
    Running {
        /// Its container.
        container: ContainerId,
        /// First process.
        pid: i32,
        /// It has a health check, whose outcome is observed again from now on.
        health_checked: bool,
    },
    /// It was made, and never started.
    Prepared(ContainerId),
    /// It ended.
    Ended {
        /// Its container.
        container: ContainerId,
        /// Exit code.
        exit_code: i32,
        /// It ended with the machine.
        by_reboot: bool,
    },
}

/// Brings a record in line with what the engine found of its container.
pub(crate) fn reconcile_found(record: &mut TaskRecord, restored: &Restored, now: Timestamp) {
    match restored {
        Restored::Running {
            container,
            pid,
            health_checked,
        } => {
            if record.container() != Some(container) {
                record.prepared(container.clone(), now);
            }
            let ports = record
                .status
                .container
                .as_ref()
                .map(|known| known.ports.clone())
                .unwrap_or_default();
            let awaits_health = *health_checked && record.status.state < TaskState::Running;
            record.started(*pid, ports, awaits_health, now);
        }
        Restored::Prepared(container) => record.prepared(container.clone(), now),
        Restored::Ended {
            container,
            exit_code,
            by_reboot,
        } => {
            if record.container() != Some(container) {
                record.prepared(container.clone(), now);
            }
            record.phase = Phase::Ended;
            if !record.status.state.is_terminal() {
                record.lost_by_reboot = *by_reboot;
                let error = by_reboot.then(|| "task: the node restarted".to_owned());
                record.ended(Some(*exit_code), error, now);
            }
        }
    }
}

/// A record whose container the engine does not have.
pub(crate) fn reconcile_missing(record: &mut TaskRecord, now: Timestamp) {
    match record.phase {
        // Making it had not finished; it is made again.
        Phase::Absent | Phase::Preparing => {
            record.phase = Phase::Absent;
            record.status.container = None;
        }
        Phase::Prepared
        | Phase::Starting
        | Phase::AwaitingHealth
        | Phase::Running
        | Phase::Stopping
        | Phase::Ended
        | Phase::Removing => {
            record.ended(None, Some("task: its container is gone".to_owned()), now);
            record.status.container = None;
            record.phase = Phase::Ended;
        }
    }
}
