//! What differs between two states, for watchers and events.

use crate::{ClusterState, ObjectKey};
use imbl::ordmap::DiffItem;

/// How an object differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Only in the newer state.
    Created,
    /// In both, and not the same.
    Updated,
    /// Only in the older state.
    Removed,
}

impl ClusterState {
    /// Objects that differ from `older` to this state. Costs time only for what differs.
    pub fn differences(&self, older: &Self) -> Vec<(ObjectKey, Difference)> {
        let mut found = Vec::new();
        match (&older.cluster, &self.cluster) {
            (None, Some(_)) => found.push((ObjectKey::Cluster, Difference::Created)),
            (Some(_), None) => found.push((ObjectKey::Cluster, Difference::Removed)),
            (Some(before), Some(after)) if before != after => {
                found.push((ObjectKey::Cluster, Difference::Updated));
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        found.extend(older.nodes.diff(&self.nodes).map(|item| {
            let (id, kind) = kind(item);
            (ObjectKey::Node(id), kind)
        }));
        found.extend(older.services.diff(&self.services).map(|item| {
            let (id, kind) = kind(item);
            (ObjectKey::Service(id), kind)
        }));
        found.extend(older.tasks.diff(&self.tasks).map(|item| {
            let (id, kind) = kind(item);
            (ObjectKey::Task(id), kind)
        }));
        found.extend(older.networks.diff(&self.networks).map(|item| {
            let (id, kind) = kind(item);
            (ObjectKey::Network(id), kind)
        }));
        found.extend(older.files.diff(&self.files).map(|item| {
            let (id, kind) = kind(item);
            (ObjectKey::File(id), kind)
        }));
        found
    }
}

fn kind<K: Copy, V>(item: DiffItem<'_, '_, K, V>) -> (K, Difference) {
    match item {
        DiffItem::Add(key, _) => (*key, Difference::Created),
        DiffItem::Update { old: (key, _), .. } => (*key, Difference::Updated),
        DiffItem::Remove(key, _) => (*key, Difference::Removed),
    }
}
