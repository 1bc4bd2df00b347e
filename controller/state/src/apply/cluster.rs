//! Changes of the cluster's own row.

use crate::rejection::Counter;
use crate::{Change, ClusterState, ObjectKey, Rejection};
use muster_types::{Cluster, RaftId};
use std::sync::Arc;

impl ClusterState {
    pub(super) fn apply_cluster(&mut self, change: &Change) -> Result<(), Rejection> {
        if let Change::ClusterCreate(cluster) = change {
            return self.create_cluster(cluster);
        }
        let mut cluster = self.cluster_row()?;
        match change {
            Change::ClusterSpec(spec) => cluster.spec = spec.clone(),
            Change::ClusterTokens(tokens) => cluster.join_tokens = tokens.clone(),
            Change::ClusterRootCa(root_ca) => cluster.root_ca = root_ca.clone(),
            Change::ClusterRotationBegin(rotation) => {
                cluster.issuer = Some(rotation.issuer.clone());
                cluster.root_rotation = Some(rotation.clone());
            }
            Change::ClusterRotationEnd => {
                if let Some(rotation) = cluster.root_rotation.take() {
                    cluster.join_tokens.worker.root_digest = rotation.root_digest;
                    cluster.join_tokens.controller.root_digest = rotation.root_digest;
                    cluster.root_ca = rotation.root;
                }
            }
            Change::ClusterIncarnation(incarnation) => {
                rises(Counter::Incarnation, cluster.incarnation, *incarnation)?;
                cluster.incarnation = *incarnation;
            }
            Change::ClusterFeatureLevel(level) => {
                rises(
                    Counter::FeatureLevel,
                    cluster.feature_level.into(),
                    (*level).into(),
                )?;
                cluster.feature_level = *level;
            }
            other => unreachable!("apply_change sends only changes of the cluster here, not {other:?}"),
        }
        cluster.meta.spec_version = self.index;
        cluster.meta.updated_at = self.time;
        self.cluster = Some(Arc::new(cluster));
        Ok(())
    }

    /// Notes that a Raft id was given out; it is never given out again.
    pub(super) fn use_raft_id(&mut self, raft_id: RaftId) -> Result<(), Rejection> {
        let mut cluster = self.cluster_row()?;
        if raft_id.0 < cluster.next_raft_id || raft_id.0 == 0 {
            return Err(Rejection::RaftIdReused { raft_id });
        }
        cluster.next_raft_id = raft_id.0.saturating_add(1);
        cluster.meta.control_version = self.index;
        self.cluster = Some(Arc::new(cluster));
        Ok(())
    }

    fn cluster_row(&self) -> Result<Cluster, Rejection> {
        let missing = Rejection::NotFound {
            object: ObjectKey::Cluster,
        };
        self.cluster.as_deref().cloned().ok_or(missing)
    }

    fn create_cluster(&mut self, cluster: &Cluster) -> Result<(), Rejection> {
        if self.cluster.is_some() {
            return Err(Rejection::AlreadyExists {
                object: ObjectKey::Cluster,
            });
        }
        let mut cluster = cluster.clone();
        cluster.meta = self.new_meta();
        self.cluster = Some(Arc::new(cluster));
        Ok(())
    }
}

fn rises(name: Counter, from: u64, to: u64) -> Result<(), Rejection> {
    if to > from {
        return Ok(());
    }
    Err(Rejection::MovesBack { name, from, to })
}
