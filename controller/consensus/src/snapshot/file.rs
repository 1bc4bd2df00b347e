//! A snapshot's file: head, sealed description, sealed blocks. It gets its name only when all of it is durable.

use super::{Descriptor, SnapshotId, digest};
use crate::codec::Fields;
use crate::disk::DiskFile;
use crate::error::{FatalError, OpenError, SnapshotError};
use crate::file_header::{FileHeader, FileKind, HEADER_BYTES};
use crate::keys::{DataKey, KeyRing, TAG_BYTES};
use crate::log::{FileContext, put_members, take_members};
use raft::eraftpb::{ConfState, Snapshot, SnapshotMetadata};
use std::io;

/// Data is sealed in blocks, so that a chunk is served without reading the whole file.
const BLOCK_BYTES: usize = 256 * 1024;
/// A snapshot whose name ends so is not complete and is removed at start.
const UNFINISHED_SUFFIX: &str = ".tmp";
/// The description's number in its file; blocks count from 1.
const DESCRIPTION_NUMBER: u64 = 0;
/// A description is some hundred bytes; this bounds what a damaged length can ask for.
const DESCRIPTION_BYTES_MAX: u32 = 1024 * 1024;

fn snapshot_name(index: u64, term: u64) -> String {
    format!("snap-{index:016x}-{term:016x}")
}

/// A durable snapshot.
pub(crate) struct StoredSnapshot {
    pub(crate) id: SnapshotId,
    pub(crate) members: ConfState,
    pub(crate) length: u64,
    name: String,
    file: Box<dyn DiskFile>,
    key: DataKey,
    blocks_offset: u64,
}

impl StoredSnapshot {
    /// What Raft sends of it.
    pub(crate) fn announcement(&self) -> Snapshot {
        let descriptor = Descriptor {
            digest: self.id.digest,
            length: self.length,
        };
        let mut metadata = SnapshotMetadata {
            index: self.id.index,
            term: self.id.term,
            ..Default::default()
        };
        metadata.set_conf_state(self.members.clone());
        let mut snapshot = Snapshot {
            data: descriptor.encode().into(),
            ..Snapshot::default()
        };
        snapshot.set_metadata(metadata);
        snapshot
    }

    /// Bytes from `offset`, at most `bytes_max` of them.
    pub(crate) fn read(&self, offset: u64, bytes_max: usize) -> Result<Vec<u8>, OpenError> {
        let end = self.length.min(offset.saturating_add(bytes_max as u64));
        let mut data = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_BYTES as u64;
            let within = (at % BLOCK_BYTES as u64) as usize;
            let plain = self.read_block(block)?;
            let until = plain.len().min(within + (end - at) as usize);
            let part = plain.get(within..until).unwrap_or_default();
            data.extend_from_slice(part);
            at += part.len() as u64;
        }
        Ok(data)
    }

    /// The whole, checked against its digest.
    pub(crate) fn read_all(&self) -> Result<Vec<u8>, OpenError> {
        let data = self.read(0, self.length as usize)?;
        if digest(&data) != self.id.digest {
            return Err(damaged(
                &self.name,
                self.blocks_offset,
                "its data has another digest",
            ));
        }
        Ok(data)
    }

    fn read_block(&self, block: u64) -> Result<Vec<u8>, OpenError> {
        let start = block * BLOCK_BYTES as u64;
        let plain_bytes = (self.length - start).min(BLOCK_BYTES as u64) as usize;
        let offset = self.blocks_offset + block * (BLOCK_BYTES + TAG_BYTES) as u64;
        let mut sealed = vec![0; plain_bytes + TAG_BYTES];
        self.file
            .read_at(offset, &mut sealed)
            .map_err(|source| FatalError::disk("read", &self.name, source))?;
        self.key
            .open(block + 1, b"block", &mut sealed)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| damaged(&self.name, offset, "a block does not decrypt"))
    }
}

/// Makes, finds and removes snapshot files.
#[derive(Clone)]
pub(crate) struct SnapshotFiles {
    context: FileContext,
}

impl SnapshotFiles {
    pub(crate) fn new(context: FileContext) -> SnapshotFiles {
        SnapshotFiles { context }
    }

    /// Removes unfinished files and opens all others, oldest first.
    pub(crate) fn recover(&self) -> Result<Vec<StoredSnapshot>, OpenError> {
        let names = self
            .context
            .disk
            .list()
            .map_err(|source| FatalError::disk("list", "", source))?;
        let mut found = Vec::new();
        for name in names {
            if !name.starts_with("snap-") {
                continue;
            }
            if name.ends_with(UNFINISHED_SUFFIX) {
                self.remove_file(&name)?;
            } else {
                found.push(self.open(&name)?);
            }
        }
        found.sort_by_key(|snapshot| snapshot.id);
        Ok(found)
    }

    fn open(&self, name: &str) -> Result<StoredSnapshot, OpenError> {
        let failed = |source| FatalError::disk("read", name, source);
        let file = self.context.disk.open(name).map_err(failed)?;
        let owner = self.context.owner;
        let (_, key) = FileHeader::read(file.as_ref(), name, FileKind::Snapshot, owner, &self.context.keys)?;
        let mut length = [0; 4];
        file.read_at(HEADER_BYTES, &mut length).map_err(failed)?;
        let length = u32::from_le_bytes(length);
        if length > DESCRIPTION_BYTES_MAX {
            return Err(damaged(name, HEADER_BYTES, "its description is too long"));
        }
        let mut sealed = vec![0; length as usize];
        file.read_at(HEADER_BYTES + 4, &mut sealed).map_err(failed)?;
        let (id, members, data_length) = key
            .open(DESCRIPTION_NUMBER, b"description", &mut sealed)
            .and_then(decode_description)
            .filter(|(id, ..)| snapshot_name(id.index, id.term) == name)
            .ok_or_else(|| damaged(name, HEADER_BYTES, "its description does not decrypt"))?;
        Ok(StoredSnapshot {
            id,
            members,
            length: data_length,
            name: name.to_owned(),
            file,
            key,
            blocks_offset: HEADER_BYTES + 4 + u64::from(length),
        })
    }

    /// Writes a snapshot; when this returns it survives a crash.
    pub(crate) fn write(
        &self,
        index: u64,
        term: u64,
        members: &ConfState,
        data: &[u8],
    ) -> Result<StoredSnapshot, SnapshotError> {
        let id = SnapshotId {
            index,
            term,
            digest: digest(data),
        };
        let context = &self.context;
        let (header, key) = FileHeader::create(
            FileKind::Snapshot,
            context.owner,
            index,
            &context.keys,
            context.entropy.as_ref(),
        )?;
        let mut description = encode_description(&id, members, data.len() as u64);
        key.seal(DESCRIPTION_NUMBER, b"description", &mut description, 0)?;
        let blocks_offset = HEADER_BYTES + 4 + description.len() as u64;
        let blocks = data.len().div_ceil(BLOCK_BYTES);
        let bytes = blocks_offset + (data.len() + blocks * TAG_BYTES) as u64;
        let name = snapshot_name(index, term);
        let unfinished = format!("{name}{UNFINISHED_SUFFIX}");
        let file = context
            .disk
            .create(&unfinished, bytes)
            .and_then(|file| fill(file.as_ref(), &header, &key, &description, data).map(|()| file))
            .map_err(|error| self.unfinished(&unfinished, error))?;
        let failed = |source| FatalError::disk("finish", &name, source);
        file.sync_data().map_err(failed)?;
        context.disk.rename(&unfinished, &name).map_err(failed)?;
        context.disk.sync_directory().map_err(failed)?;
        let members = members.clone();
        Ok(StoredSnapshot {
            id,
            members,
            length: data.len() as u64,
            name,
            file,
            key,
            blocks_offset,
        })
    }

    /// A full disk stops the snapshot only, because nothing refers to the unfinished file; all else ends the node.
    fn unfinished(&self, name: &str, source: io::Error) -> SnapshotError {
        match FatalError::disk("write", name, source) {
            FatalError::DiskFull { source, .. } => match self.context.disk.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    FatalError::disk("remove", name, error).into()
                }
                _ => SnapshotError::DiskFull { source },
            },
            error => error.into(),
        }
    }

    pub(crate) fn remove(&self, snapshot: &StoredSnapshot) -> Result<(), FatalError> {
        self.remove_file(&snapshot.name)
    }

    fn remove_file(&self, name: &str) -> Result<(), FatalError> {
        self.context
            .disk
            .remove(name)
            .map_err(|source| FatalError::disk("remove", name, source))
    }

    /// Wraps the data keys of these snapshots under the current key of the new ring.
    pub(crate) fn rotate_keys<'a>(
        &mut self,
        keys: &KeyRing,
        snapshots: impl IntoIterator<Item = &'a StoredSnapshot>,
    ) -> Result<(), OpenError> {
        self.context.keys = keys.clone();
        snapshots
            .into_iter()
            .try_for_each(|snapshot| self.rewrap(snapshot))
    }

    /// Wraps the data key of a snapshot under the current key, if it is not.
    pub(crate) fn rewrap(&self, snapshot: &StoredSnapshot) -> Result<(), OpenError> {
        let (name, file) = (&snapshot.name, snapshot.file.as_ref());
        let (keys, entropy) = (&self.context.keys, self.context.entropy.as_ref());
        FileHeader::rotate(file, name, FileKind::Snapshot, keys, entropy)
    }
}

fn fill(
    file: &dyn DiskFile,
    header: &FileHeader,
    key: &DataKey,
    description: &[u8],
    data: &[u8],
) -> io::Result<()> {
    header.write(file)?;
    file.write_at(HEADER_BYTES, &(description.len() as u32).to_le_bytes())?;
    file.write_at(HEADER_BYTES + 4, description)?;
    let mut offset = HEADER_BYTES + 4 + description.len() as u64;
    let mut sealed = Vec::with_capacity(BLOCK_BYTES + TAG_BYTES);
    for (number, block) in (DESCRIPTION_NUMBER + 1..).zip(data.chunks(BLOCK_BYTES)) {
        sealed.clear();
        sealed.extend_from_slice(block);
        key.seal(number, b"block", &mut sealed, 0)
            .map_err(io::Error::other)?;
        file.write_at(offset, &sealed)?;
        offset += sealed.len() as u64;
    }
    Ok(())
}

fn encode_description(id: &SnapshotId, members: &ConfState, length: u64) -> Vec<u8> {
    let mut bytes = id.encode();
    bytes.extend_from_slice(&length.to_le_bytes());
    put_members(&mut bytes, members);
    bytes
}

fn decode_description(bytes: &[u8]) -> Option<(SnapshotId, ConfState, u64)> {
    let mut fields = Fields::new(bytes);
    let id = SnapshotId {
        index: fields.u64()?,
        term: fields.u64()?,
        digest: fields.array()?,
    };
    let length = fields.u64()?;
    let members = take_members(&mut fields)?;
    fields.is_empty().then_some((id, members, length))
}

fn damaged(name: &str, offset: u64, problem: &str) -> OpenError {
    OpenError::Damaged {
        file: name.to_owned(),
        offset,
        problem: problem.to_owned(),
    }
}
