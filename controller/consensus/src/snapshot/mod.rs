//! Snapshots: their files, the follower's download and the leader's serving of chunks.

mod file;

pub(crate) use file::{SnapshotFiles, StoredSnapshot};

use crate::codec::Fields;
use bytes::Bytes;
use std::fmt;

/// Bytes of a SHA-256 digest.
pub const DIGEST_BYTES: usize = 32;
/// A chunk never carries more than this, so that Raft's own messages never wait long behind one.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Names a snapshot by what is in it: equal ids mean equal bytes, from whichever controller they come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId {
    /// The last applied index in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// SHA-256 of the data.
    pub digest: [u8; DIGEST_BYTES],
}

impl SnapshotId {
    /// The form for the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + DIGEST_BYTES);
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.term.to_le_bytes());
        bytes.extend_from_slice(&self.digest);
        bytes
    }

    /// Reads the form for the wire; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<SnapshotId> {
        let mut fields = Fields::new(bytes);
        let id = SnapshotId {
            index: fields.u64()?,
            term: fields.u64()?,
            digest: fields.array()?,
        };
        fields.is_empty().then_some(id)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}.{}-{}",
            self.term,
            self.index,
            hex::encode(&self.digest[..6])
        )
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SnapshotId({self})")
    }
}

/// A part of a snapshot's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Where the part begins.
    pub offset: u64,
    /// Length of the whole.
    pub total: u64,
    /// The part.
    pub data: Bytes,
}

/// A follower's wish for a part of a snapshot, to be sent to `to`, apart from Raft's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The controller that has it.
    pub to: u64,
    /// Which snapshot.
    pub id: SnapshotId,
    /// From where.
    pub offset: u64,
    /// At most so many bytes.
    pub bytes_max: usize,
}

/// What a leader's MsgSnapshot carries in place of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) digest: [u8; DIGEST_BYTES],
    pub(crate) length: u64,
}

impl Descriptor {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.digest.to_vec();
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Descriptor> {
        let mut fields = Fields::new(bytes);
        let descriptor = Descriptor {
            digest: fields.array()?,
            length: fields.u64()?,
        };
        fields.is_empty().then_some(descriptor)
    }
}

/// SHA-256 of a snapshot's data.
pub(crate) fn digest(data: &[u8]) -> [u8; DIGEST_BYTES] {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}
