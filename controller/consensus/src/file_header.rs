//! The head of every segment and snapshot file: whose it is, and its wrapped data key.
//!
//! The head has two slots on different pages. A key rotation writes the slot that is not in use, so that a crash in
//! the middle of it leaves the other one valid.

use crate::codec::Fields;
use crate::disk::DiskFile;
use crate::error::{FatalError, OpenError};
use crate::keys::{DataKey, Entropy, KEY_BYTES, KeyRing, UnwrapError, WRAPPED_BYTES, wrapped_key_id};

const MAGIC: &[u8; 8] = b"MUSTRAFT";
/// The format that this version writes and the newest that it reads.
const FORMAT: u16 = 1;
const SLOT_BYTES: usize = 512;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
/// Where a file's contents begin.
pub(crate) const HEADER_BYTES: u64 = 8192;
const UID_BYTES: usize = 16;

/// Which controller of which cluster a directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster_id: u128,
    pub(crate) raft_id: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment,
    Snapshot,
}

impl FileKind {
    fn code(self) -> u8 {
        match self {
            FileKind::Segment => 1,
            FileKind::Snapshot => 2,
        }
    }
}

/// A decoded head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHeader {
    kind: FileKind,
    owner: Owner,
    /// Random, so that bytes of another file never fit this one.
    pub(crate) uid: [u8; UID_BYTES],
    /// Sequence number of a segment, index of a snapshot.
    pub(crate) number: u64,
    generation: u32,
    wrapped: [u8; WRAPPED_BYTES],
}

impl FileHeader {
    /// Makes the head of a new file, with a new data key.
    pub(crate) fn create(
        kind: FileKind,
        owner: Owner,
        number: u64,
        keys: &KeyRing,
        entropy: &dyn Entropy,
    ) -> Result<(FileHeader, DataKey), FatalError> {
        let mut uid = [0; UID_BYTES];
        entropy.fill(&mut uid)?;
        let mut data_key = [0; KEY_BYTES];
        entropy.fill(&mut data_key)?;
        let wrapped = keys.wrap(&data_key, &binding(kind, owner, &uid, number), entropy)?;
        let header = FileHeader {
            kind,
            owner,
            uid,
            number,
            generation: 0,
            wrapped,
        };
        Ok((header, DataKey::new(&data_key)))
    }

    /// Writes the head into a new or recycled file; nothing of an earlier head remains.
    pub(crate) fn write(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        let mut bytes = vec![0; HEADER_BYTES as usize];
        bytes[..SLOT_BYTES].copy_from_slice(&self.encode(0));
        file.write_at(0, &bytes)
    }

    /// Reads the head of a file and unwraps its data key.
    pub(crate) fn read(
        file: &dyn DiskFile,
        name: &str,
        kind: FileKind,
        owner: Owner,
        keys: &KeyRing,
    ) -> Result<(FileHeader, DataKey), OpenError> {
        let header = newest_slot(file, name, kind)?.1;
        if header.owner != owner {
            return Err(OpenError::WrongOwner {
                file: name.to_owned(),
                found: describe(header.owner),
                expected: describe(owner),
            });
        }
        let data_key = header.unwrap_key(name, keys)?;
        Ok((header, DataKey::new(&data_key)))
    }

    /// Wraps the data key of a file under the ring's current key, and then nowhere else; contents stay as they are. When
    /// this returns it survives a crash, and a crash before leaves the one or the other key of the ring.
    pub(crate) fn rotate(
        file: &dyn DiskFile,
        name: &str,
        kind: FileKind,
        keys: &KeyRing,
        entropy: &dyn Entropy,
    ) -> Result<(), OpenError> {
        let sync = || {
            file.sync_data()
                .map_err(|source| FatalError::disk("sync", name, source))
        };
        if FileHeader::rewrap(file, name, kind, keys, entropy)? == Rewrap::Written {
            sync()?;
        }
        if FileHeader::wipe_older(file, name, kind)? {
            sync()?;
        }
        Ok(())
    }

    /// Overwrites the slot that is not in use, if it holds anything. The caller syncs.
    fn wipe_older(file: &dyn DiskFile, name: &str, kind: FileKind) -> Result<bool, OpenError> {
        let offset = SLOT_OFFSETS[1 - newest_slot(file, name, kind)?.0];
        let mut bytes = [0; SLOT_BYTES];
        file.read_at(offset, &mut bytes)
            .map_err(|source| FatalError::disk("read", name, source))?;
        if bytes == [0; SLOT_BYTES] {
            return Ok(false);
        }
        file.write_at(offset, &[0; SLOT_BYTES])
            .map_err(|source| FatalError::disk("write the key of", name, source))?;
        Ok(true)
    }

    fn rewrap(
        file: &dyn DiskFile,
        name: &str,
        kind: FileKind,
        keys: &KeyRing,
        entropy: &dyn Entropy,
    ) -> Result<Rewrap, OpenError> {
        let (slot, mut header) = newest_slot(file, name, kind)?;
        if wrapped_key_id(&header.wrapped) == keys.current_id() {
            return Ok(Rewrap::AlreadyCurrent);
        }
        let data_key = header.unwrap_key(name, keys)?;
        header.wrapped = keys.wrap(&data_key, &header.binding(), entropy)?;
        header.generation += 1;
        let slot = 1 - slot;
        file.write_at(SLOT_OFFSETS[slot], &header.encode(slot))
            .map_err(|source| FatalError::disk("write the key of", name, source))?;
        Ok(Rewrap::Written)
    }

    fn unwrap_key(&self, name: &str, keys: &KeyRing) -> Result<[u8; KEY_BYTES], OpenError> {
        keys.unwrap(&self.wrapped, &self.binding())
            .map_err(|error| match error {
                UnwrapError::UnknownKey(id) => OpenError::UnknownKey {
                    file: name.to_owned(),
                    key_id: id.to_string(),
                },
                UnwrapError::Damaged => OpenError::Damaged {
                    file: name.to_owned(),
                    offset: 0,
                    problem: "its data key does not unwrap".to_owned(),
                },
            })
    }

    fn binding(&self) -> Vec<u8> {
        binding(self.kind, self.owner, &self.uid, self.number)
    }

    fn encode(&self, slot: usize) -> [u8; SLOT_BYTES] {
        let mut fields = Vec::with_capacity(SLOT_BYTES);
        fields.extend_from_slice(MAGIC);
        fields.extend_from_slice(&FORMAT.to_le_bytes());
        fields.push(self.kind.code());
        fields.push(slot as u8);
        fields.extend_from_slice(&self.generation.to_le_bytes());
        fields.extend_from_slice(&self.owner.cluster_id.to_le_bytes());
        fields.extend_from_slice(&self.owner.raft_id.to_le_bytes());
        fields.extend_from_slice(&self.uid);
        fields.extend_from_slice(&self.number.to_le_bytes());
        fields.extend_from_slice(&self.wrapped);
        let checksum = crc32fast::hash(&fields);
        fields.extend_from_slice(&checksum.to_le_bytes());
        let mut bytes = [0; SLOT_BYTES];
        bytes[..fields.len()].copy_from_slice(&fields);
        bytes
    }
}

/// What a rotation did to one file.
#[derive(Debug, PartialEq, Eq)]
enum Rewrap {
    AlreadyCurrent,
    Written,
}

fn binding(kind: FileKind, owner: Owner, uid: &[u8; UID_BYTES], number: u64) -> Vec<u8> {
    let mut bytes = vec![kind.code()];
    bytes.extend_from_slice(&owner.cluster_id.to_le_bytes());
    bytes.extend_from_slice(&owner.raft_id.to_le_bytes());
    bytes.extend_from_slice(uid);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

fn describe(owner: Owner) -> String {
    format!(
        "controller {} of cluster {:032x}",
        owner.raft_id, owner.cluster_id
    )
}

/// The valid slot of the highest generation.
fn newest_slot(file: &dyn DiskFile, name: &str, kind: FileKind) -> Result<(usize, FileHeader), OpenError> {
    let damaged = |problem: &str| OpenError::Damaged {
        file: name.to_owned(),
        offset: 0,
        problem: problem.to_owned(),
    };
    let length = file
        .len()
        .map_err(|source| FatalError::disk("read", name, source))?;
    if length < HEADER_BYTES {
        return Err(damaged("it is shorter than its head"));
    }
    let mut newest: Option<(usize, FileHeader)> = None;
    for (slot, offset) in SLOT_OFFSETS.into_iter().enumerate() {
        let mut bytes = [0; SLOT_BYTES];
        file.read_at(offset, &mut bytes)
            .map_err(|source| FatalError::disk("read", name, source))?;
        let Some(header) = decode(&bytes, slot, name, kind)? else {
            continue;
        };
        if newest
            .as_ref()
            .is_none_or(|(_, other)| other.generation < header.generation)
        {
            newest = Some((slot, header));
        }
    }
    newest.ok_or_else(|| damaged("neither copy of its head is intact"))
}

/// `None` for a slot that is not in use or not intact.
fn decode(
    bytes: &[u8; SLOT_BYTES],
    slot: usize,
    name: &str,
    kind: FileKind,
) -> Result<Option<FileHeader>, OpenError> {
    let mut fields = Fields::new(bytes);
    if fields.array::<8>().as_ref() != Some(MAGIC) {
        return Ok(None);
    }
    let format = fields.u16().unwrap_or_default();
    if format > FORMAT {
        return Err(OpenError::Format {
            file: name.to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    Ok(decode_fields(fields, bytes, slot, kind))
}

fn decode_fields(
    mut fields: Fields<'_>,
    bytes: &[u8; SLOT_BYTES],
    slot: usize,
    kind: FileKind,
) -> Option<FileHeader> {
    if fields.u8()? != kind.code() || usize::from(fields.u8()?) != slot {
        return None;
    }
    let generation = fields.u32()?;
    let owner = Owner {
        cluster_id: fields.u128()?,
        raft_id: fields.u64()?,
    };
    let uid = fields.array()?;
    let number = fields.u64()?;
    let wrapped = fields.array()?;
    let checked = MAGIC.len() + 2 + 2 + 4 + 16 + 8 + UID_BYTES + 8 + WRAPPED_BYTES;
    (fields.u32()? == crc32fast::hash(&bytes[..checked])).then_some(FileHeader {
        kind,
        owner,
        uid,
        number,
        generation,
        wrapped,
    })
}
