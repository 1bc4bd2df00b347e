//! Snapshots of the state, as often as the cluster's settings say.

use super::{Controller, ControllerError};
use muster_consensus::{SnapshotError, SnapshotPolicy};
use muster_types::ClusterSpec;

/// Most snapshots kept beside the newest, whatever the settings say: each is a whole state on every controller's disk.
const OLD_SNAPSHOTS_MAX: usize = 100;

/// What the settings say of snapshots.
fn policy(spec: &ClusterSpec) -> SnapshotPolicy {
    SnapshotPolicy {
        interval_entries: spec.snapshot_interval,
        kept_entries: spec.log_entries_kept,
        old_snapshots: usize::try_from(spec.old_snapshots_kept)
            .unwrap_or(OLD_SNAPSHOTS_MAX)
            .min(OLD_SNAPSHOTS_MAX),
    }
}

impl Controller {
    pub(super) fn snapshot_if_due(&mut self) -> Result<(), ControllerError> {
        if let Some(cluster) = self.state.cluster() {
            self.raft.set_snapshot_policy(policy(&cluster.spec));
        }
        if !self.raft.snapshot_due() {
            return Ok(());
        }
        let data = self.state.snapshot().map_err(ControllerError::State)?;
        match self.raft.create_snapshot(self.state.index(), &data) {
            Ok(()) => Ok(()),
            // The log is kept until there is room; a full disk for the log itself ends the controller.
            Err(SnapshotError::DiskFull { source }) => {
                tracing::error!(error = %source, "no room for a snapshot of the cluster's state");
                Ok(())
            }
            Err(error) => Err(ControllerError::Snapshot(error)),
        }
    }
}
