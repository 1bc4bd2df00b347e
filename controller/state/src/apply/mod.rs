//! Applying one entry: total, deterministic, without a decision of its own.

mod cluster;
mod file;
mod network;
mod node;
mod service;
mod task;

use crate::rejection::Counter;
use crate::{
    Change, Changeset, ClusterState, Entry, ObjectKey, Precondition, Rejection, RequestOutcome, Touched,
};
use muster_types::Meta;

/// What became of an entry, and which rows it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// What became of it.
    pub outcome: Outcome,
    /// Which rows it changed; empty unless it applied.
    pub touched: Touched,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every change was made.
    Applied,
    /// The request had been applied before; nothing was changed.
    Duplicate(RequestOutcome),
    /// Nothing was changed.
    Rejected(Rejection),
}

impl ClusterState {
    /// Applies the entry at `index`. The index and the cluster time move on whatever becomes of it.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Application {
        if index <= self.index {
            return Application::unchanged(Outcome::Rejected(Rejection::MovesBack {
                name: Counter::Index,
                from: self.index,
                to: index,
            }));
        }
        self.index = index;
        self.time = self.time.max(entry.time);
        let changeset = &entry.changeset;
        if let Some(outcome) = changeset.request.and_then(|request| self.requests.get(request)) {
            return Application::unchanged(Outcome::Duplicate(outcome));
        }
        // A clone is cheap, and dropping it undoes a changeset that fails half-way.
        let mut next = self.clone();
        let mut touched = Touched::default();
        match next.apply_changeset(changeset, &mut touched) {
            Ok(()) => {
                *self = next;
                Application {
                    outcome: Outcome::Applied,
                    touched,
                }
            }
            Err(rejection) => {
                self.rejections += 1;
                Application::unchanged(Outcome::Rejected(rejection))
            }
        }
    }

    /// Moves on past an entry that carries no changeset (a membership change, a new leader's first entry).
    pub fn advance(&mut self, index: u64) {
        self.index = self.index.max(index);
    }

    fn apply_changeset(&mut self, changeset: &Changeset, touched: &mut Touched) -> Result<(), Rejection> {
        for precondition in &changeset.preconditions {
            self.check(precondition)?;
        }
        for change in &changeset.changes {
            self.apply_change(change, touched)?;
        }
        self.drop_removed_networks(touched);
        if let Some(request) = changeset.request {
            let outcome = RequestOutcome {
                index: self.index,
                object: changeset.changes.first().map(Change::object),
            };
            self.requests.record(request, outcome);
        }
        Ok(())
    }

    fn check(&self, precondition: &Precondition) -> Result<(), Rejection> {
        match precondition {
            Precondition::Version {
                object,
                part,
                version,
            } => {
                let found = self
                    .version(*object, *part)
                    .ok_or(Rejection::NotFound { object: *object })?;
                if found == *version {
                    return Ok(());
                }
                Err(Rejection::OutOfSequence {
                    object: *object,
                    part: *part,
                    expected: *version,
                    found,
                })
            }
            Precondition::Exists(object) => match self.exists(*object) {
                true => Ok(()),
                false => Err(Rejection::NotFound { object: *object }),
            },
            Precondition::Absent(object) => match self.exists(*object) {
                true => Err(Rejection::AlreadyExists { object: *object }),
                false => Ok(()),
            },
            Precondition::ServiceNameFree(name) => self.check_name_free(name),
        }
    }

    fn check_name_free(&self, name: &str) -> Result<(), Rejection> {
        match self.service_by_name(name) {
            Some(_) => Err(Rejection::NameConflict {
                name: name.to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn exists(&self, object: ObjectKey) -> bool {
        self.version(object, crate::Part::Spec).is_some()
    }

    fn apply_change(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        match change {
            Change::ClusterCreate(_)
            | Change::ClusterSpec(_)
            | Change::ClusterTokens(_)
            | Change::ClusterRootCa(_)
            | Change::ClusterRotationBegin(_)
            | Change::ClusterRotationEnd
            | Change::ClusterIncarnation(_)
            | Change::ClusterFeatureLevel(_) => {
                touched.cluster = true;
                self.apply_cluster(change)
            }
            Change::NodeCreate { .. }
            | Change::NodeSpec { .. }
            | Change::NodeDescription { .. }
            | Change::NodeStatus { .. }
            | Change::NodeRestarting { .. }
            | Change::NodeController { .. }
            | Change::NodeAddresses { .. }
            | Change::NodeRemove { .. } => self.apply_node(change, touched),
            Change::ServiceCreate { .. }
            | Change::ServiceSpec { .. }
            | Change::ServiceControl { .. }
            | Change::ServiceRemoving { .. }
            | Change::ServiceRemove { .. }
            | Change::TemplateRemove { .. } => self.apply_service(change, touched),
            Change::TaskCreate(_)
            | Change::TaskControl { .. }
            | Change::TaskStatus { .. }
            | Change::TaskRemove { .. } => self.apply_task(change, touched),
            Change::NetworkCreate(_)
            | Change::NetworkRemove { .. }
            | Change::NetworkPolicy { .. }
            | Change::AttachmentCreate(_)
            | Change::AttachmentRemove { .. } => self.apply_network(change, touched),
            Change::FileCreate(_) | Change::FileLabels { .. } | Change::FileRemove { .. } => {
                self.apply_file(change)
            }
        }
    }

    /// Times and versions of an object that begins now.
    fn new_meta(&self) -> Meta {
        Meta {
            created_at: self.time,
            updated_at: self.time,
            spec_version: self.index,
            control_version: self.index,
            status_version: self.index,
            observed_at: self.time,
        }
    }
}

impl Application {
    fn unchanged(outcome: Outcome) -> Self {
        Self {
            outcome,
            touched: Touched::default(),
        }
    }
}

impl Change {
    /// The object that it changes.
    pub fn object(&self) -> ObjectKey {
        match self {
            Self::ClusterCreate(_)
            | Self::ClusterSpec(_)
            | Self::ClusterTokens(_)
            | Self::ClusterRootCa(_)
            | Self::ClusterRotationBegin(_)
            | Self::ClusterRotationEnd
            | Self::ClusterIncarnation(_)
            | Self::ClusterFeatureLevel(_) => ObjectKey::Cluster,
            Self::NodeCreate { node, .. }
            | Self::NodeSpec { node, .. }
            | Self::NodeDescription { node, .. }
            | Self::NodeStatus { node, .. }
            | Self::NodeRestarting { node, .. }
            | Self::NodeController { node, .. }
            | Self::NodeAddresses { node, .. }
            | Self::NodeRemove { node } => ObjectKey::Node(*node),
            Self::ServiceCreate { service, .. }
            | Self::ServiceSpec { service, .. }
            | Self::ServiceControl { service, .. }
            | Self::ServiceRemoving { service }
            | Self::ServiceRemove { service } => ObjectKey::Service(*service),
            Self::TemplateRemove { service, version } => ObjectKey::Template(*service, *version),
            Self::TaskCreate(task) => ObjectKey::Task(task.id),
            Self::TaskControl { task, .. } | Self::TaskStatus { task, .. } | Self::TaskRemove { task } => {
                ObjectKey::Task(*task)
            }
            Self::NetworkCreate(network) => ObjectKey::Network(network.id),
            Self::NetworkRemove { network } | Self::NetworkPolicy { network, .. } => {
                ObjectKey::Network(*network)
            }
            Self::AttachmentCreate(attachment) => ObjectKey::Attachment(attachment.id),
            Self::AttachmentRemove { attachment } => ObjectKey::Attachment(*attachment),
            Self::FileCreate(file) => ObjectKey::File(file.id),
            Self::FileLabels { file, .. } | Self::FileRemove { file } => ObjectKey::File(*file),
        }
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod invariant_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
pub(crate) mod tests;
