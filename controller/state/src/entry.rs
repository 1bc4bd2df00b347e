//! The bytes of a log entry: one format byte, then MessagePack with field names.

use crate::{Change, Changeset};
use muster_types::{ClusterSpec, Reason, Timestamp};
use serde::{Deserialize, Serialize};

/// The highest feature level whose entries this binary can apply.
pub const SUPPORTED_FEATURE_LEVEL: u32 = LEVEL_OF_ROTATION;

/// The level from which on there are networks of the cluster.
pub const LEVEL_OF_NETWORKS: u32 = 2;

/// The level from which on there are secrets and configs.
pub const LEVEL_OF_FILES: u32 = 3;

/// The level from which on networks have policies.
pub const LEVEL_OF_POLICIES: u32 = 4;

/// The level from which on there are jobs.
pub const LEVEL_OF_JOBS: u32 = 5;

/// The level from which on the root certificate can be replaced: nodes show the certificates between theirs and the root.
pub const LEVEL_OF_ROTATION: u32 = 6;

/// First byte of an entry: MessagePack with named fields.
const FORMAT_NAMED: u8 = 1;

/// What one log entry carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Cluster time of the decision.
    pub time: Timestamp,
    /// The feature level that is needed to apply it.
    pub feature_level: u32,
    /// What changes.
    pub changeset: Changeset,
}

/// Why bytes are not an entry that this binary can apply. The controller must stop: it never skips one.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// There are no bytes.
    #[error("the log entry is empty")]
    Empty,
    /// The format byte is unknown.
    #[error("log entry format {found} is unknown to this version of Muster; install a newer one")]
    UnknownFormat {
        /// The byte.
        found: u8,
    },
    /// The entry needs a newer binary.
    #[error(
        "a log entry needs feature level {found}, this version of Muster has {SUPPORTED_FEATURE_LEVEL}; install a newer one"
    )]
    NewerFeatureLevel {
        /// The level it needs.
        found: u32,
    },
    /// The bytes do not read as an entry.
    #[error("cannot read a log entry")]
    Malformed(#[source] rmp_serde::decode::Error),
    /// The entry cannot be written.
    #[error("cannot write a log entry")]
    Unwritable(#[source] rmp_serde::encode::Error),
}

impl Entry {
    /// An entry of the lowest feature level that has all of its changes.
    pub fn new(time: Timestamp, changeset: Changeset) -> Self {
        let level = changeset.changes.iter().map(feature_level).max();
        Self {
            time,
            feature_level: level.unwrap_or(1),
            changeset,
        }
    }

    /// The bytes for the log.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut bytes = vec![FORMAT_NAMED];
        rmp_serde::encode::write_named(&mut bytes, self).map_err(EntryError::Unwritable)?;
        Ok(bytes)
    }

    /// Reads bytes from the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let (format, body) = bytes.split_first().ok_or(EntryError::Empty)?;
        if *format != FORMAT_NAMED {
            return Err(EntryError::UnknownFormat { found: *format });
        }
        // The level is read on its own first: what a newer level contains may not parse at all.
        let Level { feature_level } = rmp_serde::from_slice(body).map_err(EntryError::Malformed)?;
        if feature_level > SUPPORTED_FEATURE_LEVEL {
            return Err(EntryError::NewerFeatureLevel { found: feature_level });
        }
        rmp_serde::from_slice(body).map_err(EntryError::Malformed)
    }
}

/// The level that a change needs, so that an older controller stops at it instead of leaving a part of it out.
fn feature_level(change: &Change) -> u32 {
    let when = |needs: bool, level: u32| if needs { level } else { 1 };
    match change {
        Change::NetworkCreate(network) if network.policy.is_some() => LEVEL_OF_POLICIES,
        Change::NetworkPolicy { .. } => LEVEL_OF_POLICIES,
        Change::NetworkCreate(_)
        | Change::NetworkRemove { .. }
        | Change::AttachmentCreate(_)
        | Change::AttachmentRemove { .. }
        | Change::NodeAddresses { .. } => LEVEL_OF_NETWORKS,
        Change::FileCreate(_) | Change::FileLabels { .. } | Change::FileRemove { .. } => LEVEL_OF_FILES,
        Change::ClusterRotationBegin(_) | Change::ClusterRotationEnd => LEVEL_OF_ROTATION,
        Change::ServiceControl { vips, .. } => when(!vips.is_empty(), LEVEL_OF_NETWORKS),
        Change::TaskCreate(task) => when(!task.addresses.is_empty(), LEVEL_OF_NETWORKS),
        Change::TaskControl {
            addresses, reason, ..
        } => when(*reason == Reason::Completed, LEVEL_OF_JOBS)
            .max(when(!addresses.is_empty(), LEVEL_OF_NETWORKS)),
        Change::ServiceCreate { spec, .. } | Change::ServiceSpec { spec, .. } => {
            when(spec.mode.is_job(), LEVEL_OF_JOBS)
                .max(when(spec.template.files().next().is_some(), LEVEL_OF_FILES))
        }
        Change::ClusterSpec(spec) => when(needs_level_of_rotation(spec), LEVEL_OF_ROTATION),
        Change::ClusterCreate(_)
        | Change::ClusterTokens(_)
        | Change::ClusterRootCa(_)
        | Change::ClusterIncarnation(_)
        | Change::ClusterFeatureLevel(_)
        | Change::NodeCreate { .. }
        | Change::NodeSpec { .. }
        | Change::NodeDescription { .. }
        | Change::NodeStatus { .. }
        | Change::NodeRestarting { .. }
        | Change::NodeController { .. }
        | Change::NodeRemove { .. }
        | Change::ServiceRemoving { .. }
        | Change::ServiceRemove { .. }
        | Change::TemplateRemove { .. }
        | Change::TaskStatus { .. }
        | Change::TaskRemove { .. } => 1,
    }
}

/// Whether settings have what versions before [`LEVEL_OF_ROTATION`] leave out.
pub fn needs_level_of_rotation(spec: &ClusterSpec) -> bool {
    let defaults = ClusterSpec::default();
    (spec.old_snapshots_kept, spec.root_rotations) != (defaults.old_snapshots_kept, defaults.root_rotations)
}

#[derive(Deserialize)]
struct Level {
    feature_level: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::NodeId;

    fn entry() -> Entry {
        let node = NodeId::from_u128(7);
        Entry::new(
            Timestamp::from_secs(9),
            Changeset::new(Reason::UserRequest, vec![Change::NodeRemove { node }]),
        )
    }

    #[test]
    fn entries_round_trip() {
        let bytes = entry().encode().unwrap();
        assert_eq!(Entry::decode(&bytes).unwrap(), entry());
    }

    #[test]
    fn jobs_need_their_level() {
        let spec = |mode| muster_types::ServiceSpec {
            mode,
            ..Default::default()
        };
        let create = |mode| Change::ServiceCreate {
            service: muster_types::ServiceId::from_u128(1),
            spec: std::sync::Arc::new(spec(mode)),
        };
        let level = |change| {
            Entry::new(Timestamp::ZERO, Changeset::new(Reason::UserRequest, vec![change])).feature_level
        };
        assert_eq!(level(create(muster_types::ServiceMode::GlobalJob)), LEVEL_OF_JOBS);
        assert_eq!(level(create(muster_types::ServiceMode::Global)), 1);
        let ends = |reason| Change::TaskControl {
            task: muster_types::TaskId::from_u128(1),
            node: None,
            desired: muster_types::DesiredState::Shutdown,
            start_after: None,
            reason,
            addresses: Vec::new(),
        };
        assert_eq!(level(ends(Reason::Completed)), LEVEL_OF_JOBS);
        assert_eq!(level(ends(Reason::RestartPolicyEnds)), 1);
    }

    #[test]
    fn settings_need_the_level_that_knows_them() {
        let level = |change: fn(&mut ClusterSpec)| {
            let mut spec = ClusterSpec::default();
            change(&mut spec);
            let changes = vec![Change::ClusterSpec(spec)];
            Entry::new(Timestamp::ZERO, Changeset::new(Reason::UserRequest, changes)).feature_level
        };
        assert_eq!(level(|spec| spec.task_history_limit = 9), 1);
        assert_eq!(level(|spec| spec.old_snapshots_kept = 1), LEVEL_OF_ROTATION);
        assert_eq!(level(|spec| spec.root_rotations = 1), LEVEL_OF_ROTATION);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(matches!(Entry::decode(&[]), Err(EntryError::Empty)));
        assert!(matches!(
            Entry::decode(&[9, 1]),
            Err(EntryError::UnknownFormat { found: 9 })
        ));
        let bytes = entry().encode().unwrap();
        assert!(matches!(
            Entry::decode(&bytes[..bytes.len() - 1]),
            Err(EntryError::Malformed(_))
        ));
    }

    #[test]
    fn a_newer_level_is_named_even_when_its_changes_do_not_parse() {
        #[derive(Serialize)]
        struct Newer {
            time: Timestamp,
            feature_level: u32,
            changeset: &'static str,
        }
        let mut bytes = vec![FORMAT_NAMED];
        let newer = Newer {
            time: Timestamp::ZERO,
            feature_level: SUPPORTED_FEATURE_LEVEL + 1,
            changeset: "something else",
        };
        rmp_serde::encode::write_named(&mut bytes, &newer).unwrap();
        assert!(matches!(
            Entry::decode(&bytes),
            Err(EntryError::NewerFeatureLevel { found }) if found == SUPPORTED_FEATURE_LEVEL + 1
        ));
    }
}
