//! A look at an encoded message before it is decoded.
//!
//! The protobuf library skips unknown groups by recursion, without a limit on depth (RUSTSEC-2024-0437). Raft's
//! messages have no groups, so a message with one is refused before the library sees it.

/// Nesting of `Message`: snapshot, metadata, conf_state.
const DEPTH_MAX: usize = 3;
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const SIZED: u64 = 2;
const FIXED32: u64 = 5;

/// Fields of `Message` and below that hold messages.
fn holds_message(path: &[u64], field: u64) -> bool {
    matches!((path, field), ([], 7 | 9) | ([9], 2) | ([9, 2], 1))
}

/// True when the bytes are well-formed and hold no group at any place that a decoder looks into.
pub(super) fn is_free_of_groups(bytes: &[u8]) -> bool {
    check(bytes, &mut Vec::with_capacity(DEPTH_MAX)).is_some()
}

fn check(mut bytes: &[u8], path: &mut Vec<u64>) -> Option<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let (field, wire_type) = (key >> 3, key & 7);
        match wire_type {
            VARINT => {
                varint(&mut bytes)?;
            }
            FIXED64 => bytes = bytes.get(8..)?,
            FIXED32 => bytes = bytes.get(4..)?,
            SIZED => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                if path.len() < DEPTH_MAX && holds_message(path, field) {
                    path.push(field);
                    check(value, path)?;
                    path.pop();
                }
            }
            _ => return None,
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;
    use raft::eraftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};

    fn full_message() -> Message {
        let mut metadata = SnapshotMetadata {
            index: 9,
            ..SnapshotMetadata::default()
        };
        metadata.set_conf_state(ConfState {
            voters: vec![1, 2],
            ..ConfState::default()
        });
        let mut snapshot = Snapshot {
            data: "data".into(),
            ..Snapshot::default()
        };
        snapshot.set_metadata(metadata);
        let mut message = Message {
            from: 1,
            to: 2,
            term: 3,
            ..Message::default()
        };
        message.set_snapshot(snapshot);
        message.set_entries(
            vec![Entry {
                data: vec![0xFF; 50].into(),
                ..Entry::default()
            }]
            .into(),
        );
        message
    }

    #[test]
    fn messages_of_raft_pass() {
        assert!(is_free_of_groups(
            &full_message().write_to_bytes().expect("encode")
        ));
        assert!(is_free_of_groups(&[]));
    }

    #[test]
    fn groups_are_refused_at_every_level() {
        let open_group = [(100 << 3 | 3) as u8, 6];
        let mut top = full_message().write_to_bytes().expect("encode");
        top.extend_from_slice(&open_group);
        assert!(!is_free_of_groups(&top));
        for path in [vec![7u8], vec![9], vec![9, 2], vec![9, 2, 1]] {
            let mut bytes = open_group.to_vec();
            for field in path.iter().rev() {
                let mut outer = vec![field << 3 | 2, bytes.len() as u8];
                outer.append(&mut bytes);
                bytes = outer;
            }
            assert!(!is_free_of_groups(&bytes), "{path:?}");
        }
    }

    #[test]
    fn cut_messages_are_refused() {
        let bytes = full_message().write_to_bytes().expect("encode");
        assert!(!is_free_of_groups(&bytes[..bytes.len() - 1]));
        assert!(!is_free_of_groups(&[0x80; 11]));
    }
}
