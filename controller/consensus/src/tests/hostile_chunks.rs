//! Pieces of snapshots that no honest controller sends or asks for.

use super::hostile::{follower, message, rounds, step};
use crate::snapshot::{Descriptor, digest};
use crate::{RaftNode, SnapshotChunk, SnapshotId, SnapshotRequest};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};

const MIB: usize = 1024 * 1024;
/// Three pieces, the last of which is short.
const LENGTH: usize = 2 * MIB + 1000;

fn data() -> Vec<u8> {
    (0..LENGTH).map(|at| (at / 251) as u8).collect()
}

fn id() -> SnapshotId {
    SnapshotId {
        index: 100,
        term: 2,
        digest: digest(&data()),
    }
}

/// The leader's announcement of a snapshot of so many bytes.
fn announcement(length: u64) -> Message {
    let mut metadata = SnapshotMetadata {
        index: id().index,
        term: id().term,
        ..SnapshotMetadata::default()
    };
    metadata.set_conf_state(ConfState {
        voters: vec![1, 2, 3],
        ..ConfState::default()
    });
    let descriptor = Descriptor {
        digest: id().digest,
        length,
    };
    let mut snapshot = Snapshot {
        data: descriptor.encode().into(),
        ..Snapshot::default()
    };
    snapshot.set_metadata(metadata);
    let mut message = message(MessageType::MsgSnapshot, 2);
    message.set_snapshot(snapshot);
    message
}

/// The piece of the whole from there.
fn piece(offset: usize, bytes: usize) -> SnapshotChunk {
    SnapshotChunk {
        id: id(),
        offset: offset as u64,
        total: LENGTH as u64,
        data: Bytes::copy_from_slice(&data()[offset..offset + bytes]),
    }
}

/// What the node asks for now.
fn request(node: &mut RaftNode) -> Option<SnapshotRequest> {
    let ready = node.has_ready().then(|| node.ready().expect("ready"));
    ready.and_then(|ready| ready.snapshot_requests.first().copied())
}

/// A follower that has begun to fetch the snapshot from controller 2.
fn fetching() -> RaftNode {
    let mut node = follower();
    step(&mut node, announcement(LENGTH as u64)).expect("an announcement");
    let asked = request(&mut node).expect("a request");
    assert_eq!((asked.to, asked.id, asked.offset), (2, id(), 0));
    assert_eq!(asked.bytes_max, MIB);
    node
}

#[track_caller]
fn refuse(node: &mut RaftNode, from: u64, chunk: SnapshotChunk, reason: &str) {
    let error = node.install_chunk(from, chunk).expect_err("refused").to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn pieces_that_were_not_asked_for_are_refused_and_harm_nothing() {
    let mut node = follower();
    refuse(&mut node, 2, piece(0, MIB), "not being fetched");
    let mut node = fetching();
    let other = SnapshotChunk {
        id: SnapshotId { index: 101, ..id() },
        ..piece(0, MIB)
    };
    refuse(&mut node, 2, other, "not being fetched");
    refuse(&mut node, 3, piece(0, MIB), "was not asked");
    refuse(&mut node, 2, piece(MIB, MIB), "not the next one");
    refuse(&mut node, 2, piece(0, 0), "wrong length");
    refuse(&mut node, 2, piece(0, MIB + 1), "wrong length");
    let beyond = SnapshotChunk {
        offset: u64::MAX,
        ..piece(0, MIB)
    };
    refuse(&mut node, 2, beyond, "not the next one");

    node.install_chunk(2, piece(0, MIB)).expect("the first piece");
    assert_eq!(request(&mut node).expect("the next").offset, MIB as u64);
    refuse(&mut node, 2, piece(0, MIB), "not the next one");
    node.install_chunk(2, piece(MIB, MIB)).expect("the second piece");
    let mut longer = piece(2 * MIB, 1000);
    longer.data = vec![0; 1001].into();
    refuse(&mut node, 2, longer, "wrong length");
    node.install_chunk(2, piece(2 * MIB, 1000))
        .expect("the last piece");
    refuse(&mut node, 2, piece(2 * MIB, 1000), "not the next one");
    let installed = node.ready().expect("ready").snapshot.expect("the snapshot");
    assert_eq!((installed.index, installed.data.len()), (100, LENGTH));
    assert!(installed.data == data(), "the data of the announcement");
    refuse(&mut node, 2, piece(0, MIB), "not being fetched");
}

#[test]
fn a_whole_with_another_digest_is_not_installed_and_is_fetched_anew() {
    let mut node = fetching();
    for offset in [0, MIB] {
        node.install_chunk(2, piece(offset, MIB)).expect("a piece");
    }
    let mut changed = piece(2 * MIB, 1000);
    let mut bytes = changed.data.to_vec();
    bytes[500] ^= 1;
    changed.data = bytes.into();
    refuse(&mut node, 2, changed, "another digest");
    assert_eq!(node.status().counters.snapshots_refused, 1);
    rounds(&mut node).expect("the node goes on");
    assert_eq!(node.status().counters.snapshots_installed, 0);
    // The next announcement begins from the first byte.
    step(&mut node, announcement(LENGTH as u64)).expect("an announcement");
    assert_eq!(request(&mut node).expect("a request").offset, 0);
}

#[test]
fn an_announcement_of_more_than_a_controller_can_hold_asks_for_nothing() {
    for length in [u64::MAX, 17 << 30] {
        let mut node = follower();
        step(&mut node, announcement(length)).expect("it is ignored");
        assert_eq!(request(&mut node), None);
        refuse(&mut node, 2, piece(0, MIB), "not being fetched");
    }
}

#[test]
fn a_piece_that_is_served_is_within_the_snapshot_and_never_longer_than_a_mebibyte() {
    let mut node = follower();
    let large = vec![5; 3 * MIB];
    let index = node.status().applied;
    node.create_snapshot(index, &large).expect("snapshot");
    let stored = SnapshotId {
        index,
        term: 2,
        digest: digest(&large),
    };
    let served = node.snapshot_chunk(2, &stored, 100, usize::MAX).expect("a piece");
    assert_eq!((served.offset, served.data.len()), (100, MIB));
    for offset in [large.len() as u64, u64::MAX] {
        let beyond = node.snapshot_chunk(2, &stored, offset, MIB).expect_err("refused");
        assert!(beyond.to_string().contains("behind the end"), "{beyond}");
    }
    let other = SnapshotId {
        digest: [0; 32],
        ..stored
    };
    assert!(node.snapshot_chunk(2, &other, 0, MIB).is_err());
    assert!(node.snapshot_chunk(2, &stored, 0, 0).is_err());
}
