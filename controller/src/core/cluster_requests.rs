//! Writes that concern the cluster's settings: from the request to the changeset.

use crate::control::{ControlError, RefusalKind};
use muster_state::{
    Change, Changeset, ClusterState, LEVEL_OF_ROTATION, ObjectKey, Part, Precondition,
    needs_level_of_rotation,
};
use muster_types::{ClusterSpec, IdSource, JoinToken, Reason};

/// Most default address pools: each is searched for a free subnet.
const ADDRESS_POOLS_MAX: usize = 16;

pub(super) fn update(
    state: &ClusterState,
    version: u64,
    spec: &ClusterSpec,
    (rotate_worker, rotate_controller): (bool, bool),
    ids: &mut dyn IdSource,
) -> Result<Changeset, ControlError> {
    let cluster = state
        .cluster()
        .ok_or_else(|| ControlError::refused(RefusalKind::NotFound, "no cluster"))?;
    check_cluster_spec(spec)?;
    let fixed = |spec: &ClusterSpec| {
        (
            spec.address_pools.clone(),
            spec.subnet_prefix_len,
            spec.data_path_port,
        )
    };
    if fixed(spec) != fixed(&cluster.spec) {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            "address pools and the data path port are fixed when the cluster is made",
        ));
    }
    if cluster.feature_level < LEVEL_OF_ROTATION && needs_level_of_rotation(spec) {
        return Err(ControlError::refused(
            RefusalKind::Unavailable,
            "some controllers run a version of Muster that keeps no older snapshots and cannot replace the root \
             certificate: update them first, or remove them",
        ));
    }
    let mut tokens = cluster.join_tokens.clone();
    let mut fresh = |token: &mut JoinToken| token.secret = ids.next_u128();
    if rotate_worker {
        fresh(&mut tokens.worker);
    }
    if rotate_controller {
        fresh(&mut tokens.controller);
    }
    let mut changes = vec![Change::ClusterSpec(spec.clone())];
    if rotate_worker || rotate_controller {
        changes.push(Change::ClusterTokens(tokens));
    }
    let precondition = Precondition::Version {
        object: ObjectKey::Cluster,
        part: Part::Spec,
        version,
    };
    Ok(Changeset::new(Reason::UserRequest, changes).when(precondition))
}

/// Checks settings that a user gave.
pub fn check_cluster_spec(spec: &ClusterSpec) -> Result<(), ControlError> {
    let refuse = |message: &str| Err(ControlError::refused(RefusalKind::Invalid, message));
    if spec.name != "default" {
        return refuse("swarm spec must be named \"default\"");
    }
    if spec.heartbeat_period < std::time::Duration::from_millis(100) {
        return refuse("heartbeat period must be at least 100 ms");
    }
    if spec.certificate_expiry < std::time::Duration::from_secs(3600) {
        return refuse("minimum certificate expiry time is 1h0m0s");
    }
    if spec.subnet_prefix_len < 8 || spec.subnet_prefix_len > 29 {
        return refuse("the mask length of the default address pool must be between 8 and 29");
    }
    if spec.address_pools.is_empty() || spec.address_pools.len() > ADDRESS_POOLS_MAX {
        return refuse("there must be between one and 16 default address pools");
    }
    if !(1024..=49151).contains(&spec.data_path_port) {
        return refuse("data path port must be between 1024 and 49151");
    }
    if spec.snapshot_interval == 0 {
        return refuse("the snapshot interval must be at least one log entry");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::single_of_level;

    struct NoIds;

    impl IdSource for NoIds {
        fn next_u128(&mut self) -> u128 {
            unreachable!("no token is replaced")
        }
    }

    #[test]
    fn settings_wait_for_controllers_that_know_them() {
        let updated = |level: u32, change: fn(&mut ClusterSpec)| {
            let mut spec = ClusterSpec::default();
            change(&mut spec);
            update(&single_of_level(level), 1, &spec, (false, false), &mut NoIds)
        };
        let older = LEVEL_OF_ROTATION - 1;
        let newer: [fn(&mut ClusterSpec); 2] =
            [|spec| spec.old_snapshots_kept = 1, |spec| spec.root_rotations = 1];
        for change in newer {
            let refused = updated(older, change).unwrap_err();
            assert!(refused.to_string().contains("update them first"), "{refused}");
            assert!(updated(LEVEL_OF_ROTATION, change).is_ok());
        }
        assert!(updated(older, |spec| spec.task_history_limit = 9).is_ok());
    }
}
