//! The whole state as bytes: a format byte, then MessagePack with field names. Equal states give equal bytes.

use crate::request::RequestOutcome;
use crate::state::TemplateRevision;
use crate::{ClusterState, LEVEL_OF_FILES, Rejection, SUPPORTED_FEATURE_LEVEL};
use muster_types::overlay::Attachment;
use muster_types::{
    Cluster, ClusterFile, ClusterNetwork, NetworkId, Node, NodeId, RequestId, Service, ServiceId, Task,
    Timestamp,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;

/// First byte of a snapshot: MessagePack with named fields.
const FORMAT_NAMED: u8 = 1;
/// The same, of a cluster with secrets and configs: versions before them do not look at the feature level, and would lose
/// them.
const FORMAT_WITH_FILES: u8 = 2;

/// Why bytes are not a snapshot that this binary can restore.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There are no bytes.
    #[error("the snapshot is empty")]
    Empty,
    /// The format byte is unknown.
    #[error("snapshot format {found} is unknown to this version of Muster; install a newer one")]
    UnknownFormat {
        /// The byte.
        found: u8,
    },
    /// The cluster is of a newer binary.
    #[error(
        "the snapshot is of feature level {found}, this version of Muster has {SUPPORTED_FEATURE_LEVEL}; install a newer one"
    )]
    NewerFeatureLevel {
        /// The cluster's level.
        found: u32,
    },
    /// The bytes do not read as a snapshot.
    #[error("cannot read a snapshot")]
    Malformed(#[source] rmp_serde::decode::Error),
    /// The rows cannot be written.
    #[error("cannot write a snapshot")]
    Unwritable(#[source] rmp_serde::encode::Error),
    /// A row points at something that is not there.
    #[error("the snapshot contradicts itself")]
    Inconsistent(#[source] Rejection),
}

#[derive(Serialize, Deserialize)]
struct Rows {
    index: u64,
    time: Timestamp,
    rejections: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: Vec<Arc<Node>>,
    removed_nodes: Vec<(NodeId, Timestamp)>,
    services: Vec<Arc<Service>>,
    templates: Vec<((ServiceId, u64), Arc<TemplateRevision>)>,
    tasks: Vec<Arc<Task>>,
    #[serde(default)]
    networks: Vec<Arc<ClusterNetwork>>,
    #[serde(default)]
    attachments: Vec<Arc<Attachment>>,
    #[serde(default)]
    last_given: Vec<((NetworkId, u128), u128)>,
    #[serde(default)]
    files: Vec<Arc<ClusterFile>>,
    requests: Vec<(RequestId, RequestOutcome)>,
}

/// What tells whether this version reads the rest.
#[derive(Deserialize)]
struct Level {
    cluster: Option<ClusterLevel>,
}

#[derive(Deserialize)]
struct ClusterLevel {
    feature_level: u32,
}

impl ClusterState {
    /// The bytes of the whole state.
    pub fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        self.write_snapshot(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the whole state, without holding its bytes in memory at once.
    pub fn write_snapshot(&self, output: &mut dyn io::Write) -> Result<(), SnapshotError> {
        let rows = Rows {
            index: self.index,
            time: self.time,
            rejections: self.rejections,
            cluster: self.cluster.clone(),
            nodes: self.nodes.values().cloned().collect(),
            removed_nodes: self.removed_nodes.iter().map(|(id, at)| (*id, *at)).collect(),
            services: self.services.values().cloned().collect(),
            templates: self
                .templates
                .iter()
                .map(|(key, row)| (*key, row.clone()))
                .collect(),
            tasks: self.tasks.values().cloned().collect(),
            networks: self.networks.values().cloned().collect(),
            attachments: self.attachments.values().cloned().collect(),
            last_given: self.last_given.iter().map(|(key, last)| (*key, *last)).collect(),
            files: self.files.values().cloned().collect(),
            requests: self.requests.iter().collect(),
        };
        let unwritable =
            |error| SnapshotError::Unwritable(rmp_serde::encode::Error::Syntax(format!("{error}")));
        let level = self.cluster.as_ref().map_or(1, |cluster| cluster.feature_level);
        let format = match level >= LEVEL_OF_FILES {
            true => FORMAT_WITH_FILES,
            false => FORMAT_NAMED,
        };
        output.write_all(&[format]).map_err(unwritable)?;
        let mut output = output;
        rmp_serde::encode::write_named(&mut output, &rows).map_err(SnapshotError::Unwritable)
    }

    /// The state whose [`ClusterState::snapshot`] these bytes are.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (format, body) = bytes.split_first().ok_or(SnapshotError::Empty)?;
        if ![FORMAT_NAMED, FORMAT_WITH_FILES].contains(format) {
            return Err(SnapshotError::UnknownFormat { found: *format });
        }
        // On its own first: rows of a newer level may not read.
        let Level { cluster } = rmp_serde::from_slice(body).map_err(SnapshotError::Malformed)?;
        let level = cluster.map_or(1, |cluster| cluster.feature_level);
        if level > SUPPORTED_FEATURE_LEVEL {
            return Err(SnapshotError::NewerFeatureLevel { found: level });
        }
        let rows: Rows = rmp_serde::from_slice(body).map_err(SnapshotError::Malformed)?;
        let mut state = Self {
            index: rows.index,
            time: rows.time,
            rejections: rows.rejections,
            cluster: rows.cluster,
            removed_nodes: rows.removed_nodes.into_iter().collect(),
            templates: rows.templates.into_iter().collect(),
            last_given: rows.last_given.into_iter().collect(),
            ..Self::default()
        };
        for network in rows.networks {
            state.put_network(Arc::unwrap_or_clone(network));
        }
        for node in rows.nodes {
            state.put_node(Arc::unwrap_or_clone(node));
        }
        for service in rows.services {
            state.put_service(Arc::unwrap_or_clone(service));
        }
        for task in rows.tasks {
            let object = crate::ObjectKey::Template(task.service, task.template_version);
            if state.template(task.service, task.template_version).is_none() {
                return Err(SnapshotError::Inconsistent(Rejection::NotFound { object }));
            }
            state.put_task(Arc::unwrap_or_clone(task));
        }
        for attachment in rows.attachments {
            state.put_attachment(Arc::unwrap_or_clone(attachment));
        }
        for file in rows.files {
            state.put_file(Arc::unwrap_or_clone(file));
        }
        for (request, outcome) in rows.requests {
            state.requests.record(request, outcome);
        }
        Ok(state)
    }

    /// SHA-256 of the snapshot: equal index means equal fingerprint on every controller.
    pub fn fingerprint(&self) -> Result<[u8; 32], SnapshotError> {
        struct Hasher(Sha256);
        impl io::Write for Hasher {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut hasher = Hasher(Sha256::new());
        self.write_snapshot(&mut hasher)?;
        Ok(hasher.0.finalize().into())
    }
}

/// Equal rows; the indexes follow from them.
impl PartialEq for ClusterState {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
            && self.time == other.time
            && self.rejections == other.rejections
            && self.cluster == other.cluster
            && self.nodes == other.nodes
            && self.removed_nodes == other.removed_nodes
            && self.services == other.services
            && self.templates == other.templates
            && self.tasks == other.tasks
            && self.networks == other.networks
            && self.attachments == other.attachments
            && self.last_given == other.last_given
            && self.files == other.files
            && self.requests == other.requests
    }
}
