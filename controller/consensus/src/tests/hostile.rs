//! Messages that no honest controller sends: refused with a reason, and the node goes on.

use crate::sim::{SeededEntropy, SimDisk};
use crate::{FatalError, KeyRing, MESSAGE_BYTES_MAX, NodeConfig, RaftNode, StepError};
use proptest::prelude::*;
use protobuf::{Message as _, ProtobufEnum};
use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use std::sync::Arc;

const ALL_TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Controller 1 of three, which follows controller 2 in term 2.
pub(super) fn follower() -> RaftNode {
    let mut config = NodeConfig::new(1, 5, 1);
    config.segment_bytes = 64 * 1024;
    config.entropy = Arc::new(SeededEntropy::new(1));
    let disk = Arc::new(SimDisk::new(1));
    let mut node = RaftNode::open(config, disk, KeyRing::new([1; 32])).expect("open");
    node.bootstrap(&[1, 2, 3], b"").expect("bootstrap");
    step(&mut node, append(2, 1, &[(2, 2), (3, 2), (4, 2)], 3)).expect("a leader's entries");
    rounds(&mut node).expect("rounds");
    node
}

/// The same controller as the leader of term 3.
fn leader() -> RaftNode {
    let mut node = follower();
    node.campaign().expect("campaign");
    rounds(&mut node).expect("rounds");
    for kind in [
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgRequestVoteResponse,
    ] {
        step(&mut node, message(kind, 3)).expect("a vote");
        rounds(&mut node).expect("rounds");
    }
    assert!(node.role().is_leader());
    node
}

pub(super) fn rounds(node: &mut RaftNode) -> Result<(), FatalError> {
    while node.has_ready() {
        for entry in node.ready()?.committed {
            node.applied(entry.index)?;
        }
    }
    Ok(())
}

pub(super) fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message {
        from: 2,
        to: 1,
        term,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message
}

fn append(term: u64, after: u64, entries: &[(u64, u64)], commit: u64) -> Message {
    let mut message = message(MessageType::MsgAppend, term);
    message.index = after;
    message.log_term = 1;
    message.commit = commit;
    let entry = |(index, term): &(u64, u64)| Entry {
        index: *index,
        term: *term,
        ..Entry::default()
    };
    message.set_entries(entries.iter().map(entry).collect::<Vec<_>>().into());
    message
}

pub(super) fn step(node: &mut RaftNode, message: Message) -> Result<(), StepError> {
    node.step(2, &message.write_to_bytes().expect("encode"))
}

#[track_caller]
fn assert_refused(node: &mut RaftNode, message: Message, reason: &str) {
    let error = step(node, message).expect_err("refused").to_string();
    assert!(error.contains(reason), "{error}");
    rounds(node).expect("the node goes on");
}

#[test]
fn a_message_must_be_from_and_for_whom_the_connection_says() {
    let mut node = follower();
    let other = Message {
        from: 3,
        ..message(MessageType::MsgHeartbeat, 2)
    };
    assert_refused(&mut node, other, "sender of this connection");
    let other = Message {
        to: 9,
        ..message(MessageType::MsgHeartbeat, 2)
    };
    assert_refused(&mut node, other, "for another controller");
    assert!(node.step(2, &vec![0; MESSAGE_BYTES_MAX + 1]).is_err());
    assert!(node.step(2, b"\xFF\xFF").is_err());
}

#[test]
fn local_messages_and_forwarded_proposals_are_refused() {
    let mut node = follower();
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgCheckQuorum,
    ] {
        assert_refused(&mut node, message(kind, 2), "local to a node");
    }
    assert_refused(
        &mut node,
        message(MessageType::MsgPropose, 2),
        "proposals are not forwarded",
    );
    assert_refused(
        &mut node,
        message(MessageType::MsgTransferLeader, 2),
        "not forwarded",
    );
}

#[test]
fn a_term_has_one_leader_and_its_entries_are_in_order() {
    let mut node = follower();
    let second = Message {
        from: 3,
        ..message(MessageType::MsgHeartbeat, 2)
    };
    let error = node
        .step(3, &second.write_to_bytes().expect("encode"))
        .expect_err("refused");
    assert!(error.to_string().contains("another controller leads"), "{error}");
    assert_refused(&mut node, append(2, 4, &[(6, 2)], 4), "not in order");
    assert_refused(&mut node, append(2, 4, &[(5, 3)], 4), "not in order");
    assert_refused(&mut node, append(2, u64::MAX, &[(0, 2)], 4), "not in order");
    let refused = Message {
        from: 3,
        ..message(MessageType::MsgTimeoutNow, 2)
    };
    assert!(node.step(3, &refused.write_to_bytes().expect("encode")).is_err());
}

#[test]
fn a_leader_counts_no_acknowledgement_of_what_it_never_sent() {
    let mut node = leader();
    let mut answer = message(MessageType::MsgAppendResponse, 3);
    answer.index = 1_000;
    assert_refused(&mut node, answer, "never sent");
    let mut rejection = message(MessageType::MsgAppendResponse, 3);
    (rejection.reject, rejection.reject_hint) = (true, u64::MAX);
    rejection.index = node.status().last_index;
    assert_refused(&mut node, rejection, "beyond any log");
    let mut stranger = message(MessageType::MsgHeartbeatResponse, 3);
    stranger.from = 8;
    let error = node
        .step(8, &stranger.write_to_bytes().expect("encode"))
        .expect_err("refused");
    assert!(error.to_string().contains("not a member"), "{error}");
}

#[test]
fn lost_acknowledged_entries_end_the_node_with_the_reason() {
    let mut node = follower();
    let mut heartbeat = message(MessageType::MsgHeartbeat, 2);
    heartbeat.commit = 50;
    let error = step(&mut node, heartbeat).expect_err("fatal");
    assert!(
        matches!(error, StepError::Fatal(FatalError::AcknowledgedLost { .. })),
        "{error}"
    );
    assert!(matches!(node.tick(), Err(FatalError::Stopped { .. })));

    let mut node = follower();
    let error = step(&mut node, append(3, 1, &[(2, 3)], 2)).expect_err("fatal");
    assert!(
        matches!(error, StepError::Fatal(FatalError::Diverged { index: 2, .. })),
        "{error}"
    );
}

fn any_message() -> impl Strategy<Value = Message> {
    let small = 0u64..8;
    let number = prop_oneof![8 => small, 1 => Just(u64::MAX), 1 => any::<u64>()];
    let numbers = proptest::collection::vec(number, 9);
    let entries = proptest::collection::vec((0u64..8, 0u64..4, 0usize..3, 0usize..20), 0..4);
    (
        0..ALL_TYPES.len(),
        2u64..5,
        numbers,
        entries,
        any::<(bool, bool)>(),
    )
        .prop_map(|(kind, from, numbers, entries, (reject, snapshot))| {
            let mut message = message(ALL_TYPES[kind], numbers[0]);
            message.from = from;
            message.log_term = numbers[1];
            message.index = numbers[2];
            message.commit = numbers[3];
            message.commit_term = numbers[4];
            message.reject = reject;
            message.reject_hint = numbers[5];
            message.request_snapshot = numbers[6] % 2 * numbers[7];
            if snapshot {
                let mut metadata = SnapshotMetadata {
                    index: numbers[7],
                    term: numbers[8],
                    ..SnapshotMetadata::default()
                };
                metadata.set_conf_state(ConfState {
                    voters: vec![1, 2],
                    ..ConfState::default()
                });
                let mut snapshot = Snapshot {
                    data: vec![0; 40].into(),
                    ..Snapshot::default()
                };
                snapshot.set_metadata(metadata);
                message.set_snapshot(snapshot);
            }
            let entry = |(index, term, kind, bytes): (u64, u64, usize, usize)| {
                let mut entry = Entry {
                    index,
                    term,
                    data: vec![3; bytes].into(),
                    ..Entry::default()
                };
                entry.set_entry_type(raft::eraftpb::EntryType::from_i32(kind as i32).unwrap_or_default());
                entry
            };
            message.set_entries(entries.into_iter().map(entry).collect::<Vec<_>>().into());
            message
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_messages_makes_raft_panic(
        leads: bool,
        messages in proptest::collection::vec(any_message(), 1..20),
    ) {
        let mut node = if leads { leader() } else { follower() };
        for message in messages {
            let from = message.from;
            let stepped = node.step(from, &message.write_to_bytes().expect("encode"));
            if let Err(StepError::Fatal(FatalError::Inconsistent { reason })) = &stepped {
                // A membership entry that does not decode is found when it is committed, not here.
                prop_assert!(false, "{message:?}: {reason}");
            }
            if let Err(FatalError::Inconsistent { reason }) = rounds(&mut node) {
                prop_assert!(reason.contains("no membership change"), "{message:?}: {reason}");
                return Ok(());
            }
            if matches!(stepped, Err(StepError::Fatal(_))) || node.tick().is_err() {
                return Ok(());
            }
        }
    }

    #[test]
    fn no_bytes_make_a_node_stop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut node = follower();
        prop_assert!(!matches!(node.step(2, &bytes), Err(StepError::Fatal(_))));
    }
}
