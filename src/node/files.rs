//! What a node keeps of its membership: certificate, keys, Raft id. Everything lies below one directory, which goes
//! when the node leaves its cluster.

use anyhow::Context;
use muster_consensus::{KeyFile, RealDisk};
use muster_types::{ClusterId, NodeId, RaftId};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MEMBERSHIP: &str = "membership.json";
const ROOT_CERTIFICATE: &str = "root.crt";
/// Certificate and key in one file, so that a crash in a renewal never leaves one without the other.
const IDENTITY: &str = "node.pem";
const RAFT_KEY: &str = "raft.key";
const RAFT: &str = "raft";

/// The directory.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    directory: PathBuf,
}

/// Who the node is, beside its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its Raft id; `None` on workers.
    pub raft_id: Option<RaftId>,
    /// Where its cluster server listens.
    pub listen: SocketAddr,
    /// Where other nodes reach it.
    pub advertise: SocketAddr,
    /// Where other nodes send what containers send; the advertised address when `None`.
    #[serde(default)]
    pub data_path: Option<IpAddr>,
    /// Controllers that it knew when it joined.
    pub controllers: Vec<String>,
    /// The cluster shall begin anew with this controller alone, and has not yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins_anew: bool,
}

/// Certificate and key as PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The cluster's root certificate.
    pub root_pem: String,
    /// The node's certificate.
    pub certificate_pem: String,
    /// The node's key.
    pub key_pem: String,
}

impl NodeFiles {
    /// The files below the daemon's data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join("cluster"),
        }
    }

    /// Where the agent keeps its state.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the Raft log lies.
    pub fn raft_directory(&self) -> PathBuf {
        self.directory.join(RAFT)
    }

    /// Whether anything is left of the Raft log.
    pub fn has_raft_log(&self) -> bool {
        std::fs::read_dir(self.raft_directory()).is_ok_and(|mut found| found.next().is_some())
    }

    /// The membership, when there is one.
    pub fn load(&self) -> anyhow::Result<Option<(Membership, Credentials)>> {
        let path = self.directory.join(MEMBERSHIP);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let membership =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let read = |name: &str| {
            let path = self.directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        // Readers of PEM take the section that they look for.
        let identity = read(IDENTITY)?;
        let credentials = Credentials {
            root_pem: read(ROOT_CERTIFICATE)?,
            certificate_pem: identity.clone(),
            key_pem: identity,
        };
        Ok(Some((membership, credentials)))
    }

    /// Keeps certificate and key. They are there before the membership names them.
    pub fn save_credentials(&self, credentials: &Credentials) -> anyhow::Result<()> {
        self.make_directory()?;
        self.write(ROOT_CERTIFICATE, credentials.root_pem.as_bytes())?;
        let identity = format!("{}\n{}", credentials.certificate_pem.trim(), credentials.key_pem);
        self.write(IDENTITY, identity.as_bytes())
    }

    /// Keeps another root certificate.
    pub fn save_root(&self, root_pem: &str) -> anyhow::Result<()> {
        self.write(ROOT_CERTIFICATE, root_pem.as_bytes())
    }

    /// Keeps the membership; from now on a restart comes back as this node.
    pub fn save_membership(&self, membership: &Membership) -> anyhow::Result<()> {
        self.make_directory()?;
        self.write(MEMBERSHIP, &serde_json::to_vec_pretty(membership)?)
    }

    /// The file of the keys that wrap the Raft log's data keys. It lies beside the node's TLS key.
    pub fn raft_keys(&self) -> anyhow::Result<KeyFile> {
        self.make_directory()?;
        let disk = RealDisk::open(&self.directory)
            .with_context(|| format!("cannot open {}", self.directory.display()))?;
        Ok(KeyFile::new(Arc::new(disk), RAFT_KEY))
    }

    /// Removes the Raft log and its key: the node is no controller any more.
    pub fn remove_raft(&self) -> anyhow::Result<()> {
        remove_all(&self.raft_directory())?;
        match fs::remove_file(self.directory.join(RAFT_KEY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes everything: the node left its cluster. The membership goes first, so that a crash leaves no half of it.
    pub fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.directory.join(MEMBERSHIP)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        remove_all(&self.directory)
    }

    fn make_directory(&self) -> anyhow::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))
    }

    /// Written beside, synced and renamed: a crash leaves the old or the new content.
    fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        let beside = self.directory.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&beside)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            fs::File::open(&self.directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn remove_all(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::address::MemberAddresses;
    use crate::node::join;
    use muster_proto::transport::NodeCertificate;
    use muster_types::{Availability, ClusterSpec, NodeDescription};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_membership_comes_back_with_its_key_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let files = NodeFiles::new(directory.path());
        assert!(files.load().unwrap().is_none());
        let address = "127.0.0.1:2377".parse().unwrap();
        let addresses = MemberAddresses {
            listen: address,
            advertise: address,
            data_path: Some("10.1.0.3".parse().unwrap()),
        };
        let description = NodeDescription::default();
        let spec = ClusterSpec::default();
        let new = join::make_cluster(addresses, spec, Availability::Active, description).unwrap();
        files.save_credentials(&new.credentials).unwrap();
        files.save_membership(&new.membership).unwrap();
        let (membership, credentials) = files.load().unwrap().unwrap();
        assert_eq!(membership, new.membership);
        let (root, certificate, key) = (
            &credentials.root_pem,
            &credentials.certificate_pem,
            &credentials.key_pem,
        );
        let read = NodeCertificate::new(root, certificate, key).unwrap();
        assert_eq!(read.identity().node, new.membership.node);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(files.directory().to_owned()), 0o700);
        assert_eq!(mode(files.directory().join(IDENTITY)), 0o600);
        // What was read can be kept again, as after a renewal that only changes the root.
        files.save_credentials(&credentials).unwrap();
        let again = files.load().unwrap().unwrap().1;
        assert!(NodeCertificate::new(&again.root_pem, &again.certificate_pem, &again.key_pem).is_ok());
    }
}
