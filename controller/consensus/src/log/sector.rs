//! Frames on sectors: how one batch of records lies in a segment, and how a reader tells apart a frame that was
//! written completely, one that a crash cut off, and one that was damaged later.
//!
//! A frame is written once, with one write and one sync, and nothing follows it before that sync returned. It takes
//! whole sectors. Each sector carries a tag that only this sector of this segment has, a checksum, and the sector at
//! which its frame begins. After a crash a sector of the last frame is either as written or as it was before (the tag
//! is not ours: zeros, or bytes of the segment's earlier life). Hence:
//!
//! * a sector that is ours with a wrong checksum was damaged: refuse;
//! * a frame that lacks a sector, with nothing of a later frame behind it, was never acknowledged: cut it off;
//! * a frame that lacks a sector, with a later frame behind it, was acknowledged and damaged: refuse.

use crate::error::FatalError;
use crate::keys::{DataKey, TAG_BYTES};

/// The unit in which disks write atomically.
pub(crate) const SECTOR_BYTES: usize = 512;
const SECTOR_HEAD: usize = 8 + 4 + 4;
/// Bytes of a frame in one sector.
const SECTOR_BODY: usize = SECTOR_BYTES - SECTOR_HEAD;
const FRAME_HEAD: usize = 4;
/// A tag this close to ours is ours with flipped bits; foreign bytes come this close once in 10^13 sectors.
const TAG_FLIPPED_BITS_MAX: u32 = 4;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// What the tag and encryption of a segment's sectors are bound to.
pub(crate) struct SegmentIdentity {
    pub(crate) uid: [u8; 16],
    pub(crate) key: DataKey,
}

impl SegmentIdentity {
    fn tag(&self, sector: u64) -> u64 {
        let mut salt = [0; 8];
        salt.copy_from_slice(&self.uid[..8]);
        u64::from_le_bytes(salt) ^ sector.wrapping_mul(GOLDEN)
    }

    fn binding(&self, sector: u64, sealed_bytes: u32) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..16].copy_from_slice(&self.uid);
        bytes[16..24].copy_from_slice(&sector.to_le_bytes());
        bytes[24..].copy_from_slice(&sealed_bytes.to_le_bytes());
        bytes
    }
}

/// What one sector holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SectorState {
    /// Not written since the segment was made.
    Foreign,
    /// Written, and not as it was written.
    Damaged,
    /// Part of the frame that begins at this sector.
    Intact { frame_start: u64 },
}

/// Sectors that a frame with this many bytes of records takes.
pub(crate) fn frame_sectors(plain_bytes: usize) -> u64 {
    (FRAME_HEAD + plain_bytes + TAG_BYTES).div_ceil(SECTOR_BODY) as u64
}

/// Encrypts the records in `plain` and lays them out as the frame that begins at `start`.
///
/// The sector number is the nonce: no sector of a segment begins a frame twice, because a failed write ends the node
/// and every start of it opens a new segment with a new key.
pub(crate) fn encode_frame(
    identity: &SegmentIdentity,
    start: u64,
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), FatalError> {
    let sealed_bytes = (plain.len() + TAG_BYTES) as u32;
    plain.splice(..0, sealed_bytes.to_le_bytes());
    identity
        .key
        .seal(start, &identity.binding(start, sealed_bytes), plain, FRAME_HEAD)?;
    out.clear();
    for (sector, body) in (start..).zip(plain.chunks(SECTOR_BODY)) {
        let at = out.len();
        out.resize(at + SECTOR_BYTES, 0);
        let bytes = &mut out[at..];
        bytes[..8].copy_from_slice(&identity.tag(sector).to_le_bytes());
        bytes[12..16].copy_from_slice(&(start as u32).to_le_bytes());
        bytes[SECTOR_HEAD..SECTOR_HEAD + body.len()].copy_from_slice(body);
        let checksum = checksum(bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(())
}

/// Tells what a sector holds.
pub(crate) fn classify(identity: &SegmentIdentity, sector: u64, bytes: &[u8]) -> SectorState {
    let foreign_bits = (read_u64(bytes) ^ identity.tag(sector)).count_ones();
    if foreign_bits > TAG_FLIPPED_BITS_MAX {
        return SectorState::Foreign;
    }
    if foreign_bits > 0 || read_u32(&bytes[8..]) != checksum(bytes) {
        return SectorState::Damaged;
    }
    SectorState::Intact {
        frame_start: u64::from(read_u32(&bytes[12..])),
    }
}

/// Sectors of the frame whose first sector this is; the sector must be intact.
pub(crate) fn frame_sectors_of_head(bytes: &[u8]) -> u64 {
    let sealed_bytes = read_u32(&bytes[SECTOR_HEAD..]) as usize;
    (FRAME_HEAD + sealed_bytes).div_ceil(SECTOR_BODY) as u64
}

/// Decrypts a frame of which every sector is intact; `None` when it is not what was sealed here.
pub(crate) fn decode_frame(identity: &SegmentIdentity, start: u64, sectors: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(sectors.len());
    for sector in sectors.chunks_exact(SECTOR_BYTES) {
        body.extend_from_slice(&sector[SECTOR_HEAD..]);
    }
    let sealed_bytes = read_u32(&body);
    let sealed = body.get_mut(FRAME_HEAD..FRAME_HEAD.checked_add(sealed_bytes as usize)?)?;
    identity
        .key
        .open(start, &identity.binding(start, sealed_bytes), sealed)
        .map(<[u8]>::to_vec)
}

/// Covers tag, frame start and body: everything but itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..8]);
    hasher.update(&bytes[12..SECTOR_BYTES]);
    hasher.finalize()
}

fn read_u64(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)
        .unwrap_or_default()
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8) -> SegmentIdentity {
        SegmentIdentity {
            uid: [seed; 16],
            key: DataKey::new(&[seed; 32]),
        }
    }

    fn frame(identity: &SegmentIdentity, start: u64, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(identity, start, &mut plain.to_vec(), &mut out).expect("encode");
        out
    }

    #[test]
    fn a_frame_reads_back_and_takes_the_sectors_it_announces() {
        let identity = identity(3);
        for bytes in [0, 1, 475, 476, 477, 5_000] {
            let plain = vec![0xAB; bytes];
            let out = frame(&identity, 20, &plain);
            assert_eq!(out.len() as u64, frame_sectors(bytes) * SECTOR_BYTES as u64);
            assert_eq!(frame_sectors_of_head(&out), frame_sectors(bytes));
            assert_eq!(decode_frame(&identity, 20, &out), Some(plain));
        }
    }

    #[test]
    fn a_sector_is_ours_only_in_its_segment_and_place() {
        let ours = identity(3);
        let out = frame(&ours, 20, &[1; 600]);
        assert_eq!(classify(&ours, 20, &out), SectorState::Intact { frame_start: 20 });
        assert_eq!(
            classify(&ours, 21, &out[SECTOR_BYTES..]),
            SectorState::Intact { frame_start: 20 }
        );
        assert_eq!(classify(&ours, 21, &out), SectorState::Foreign);
        assert_eq!(classify(&identity(4), 20, &out), SectorState::Foreign);
        assert_eq!(classify(&ours, 20, &[0; SECTOR_BYTES]), SectorState::Foreign);
    }

    #[test]
    fn every_flipped_bit_of_a_sector_is_damage() {
        let identity = identity(3);
        let out = frame(&identity, 20, b"a record");
        for bit in 0..SECTOR_BYTES * 8 {
            let mut flipped = out.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                classify(&identity, 20, &flipped),
                SectorState::Damaged,
                "bit {bit}"
            );
        }
    }
}
