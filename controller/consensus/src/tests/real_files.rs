//! A node, and three, on the files of this machine.

use crate::{KeyRing, MembershipChange, NodeConfig, Payload, RaftNode, Ready, RealDisk};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const ROUNDS_MAX: usize = 2_000;

struct Member {
    node: RaftNode,
    applied: Vec<Bytes>,
    applied_index: u64,
}

impl Member {
    fn open(directory: &Path, raft_id: u64) -> Member {
        let mut config = NodeConfig::new(raft_id, 7, 1);
        config.segment_bytes = 1024 * 1024;
        let disk = RealDisk::open(&directory.join(raft_id.to_string())).expect("open the disk");
        let node = RaftNode::open(config, Arc::new(disk), KeyRing::new([5; 32])).expect("open the node");
        Member {
            node,
            applied: Vec::new(),
            applied_index: 0,
        }
    }

    fn round(&mut self) -> Ready {
        let ready = self.node.ready().expect("ready");
        for entry in &ready.committed {
            if let Payload::Data(data) = &entry.payload {
                self.applied.push(data.clone());
            }
            self.applied_index = entry.index;
        }
        self.node.applied(self.applied_index).expect("applied");
        if self.node.snapshot_due() {
            // The tests look at entries after the snapshot only.
            self.node
                .create_snapshot(self.applied_index, b"state")
                .expect("snapshot");
        }
        ready
    }
}

struct Group(BTreeMap<u64, Member>);

impl Group {
    fn run_until(&mut self, what: &str, done: impl Fn(&mut Group) -> bool) {
        for _ in 0..ROUNDS_MAX {
            for id in self.0.keys().copied().collect::<Vec<_>>() {
                self.deliver(id);
            }
            if done(self) {
                return;
            }
            for member in self.0.values_mut() {
                member.node.tick().expect("tick");
            }
        }
        let states: Vec<_> = self.0.values().map(|member| member.node.status()).collect();
        panic!("not reached: {what}; {states:#?}");
    }

    fn deliver(&mut self, id: u64) {
        let member = self.0.get_mut(&id).expect("member");
        if !member.node.has_ready() {
            return;
        }
        let ready = member.round();
        for message in ready.messages {
            if let Some(receiver) = self.0.get_mut(&message.to) {
                receiver.node.step(id, &message.bytes).expect("step");
            }
        }
        for request in ready.snapshot_requests {
            let source = self.0.get_mut(&request.to).expect("source");
            let chunk = source
                .node
                .snapshot_chunk(id, &request.id, request.offset, request.bytes_max);
            let member = self.0.get_mut(&id).expect("member");
            member
                .node
                .install_chunk(request.to, chunk.expect("chunk"))
                .expect("install");
        }
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.0.get_mut(&id).expect("member")
    }
}

#[test]
fn a_single_node_keeps_its_entries_over_a_restart() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut group = Group(BTreeMap::from([(1, Member::open(directory.path(), 1))]));
    group
        .member(1)
        .node
        .bootstrap(&[1], b"beginning")
        .expect("bootstrap");
    assert_eq!(
        group.member(1).round().snapshot.expect("initial state").data,
        b"beginning"[..]
    );
    group.run_until("leader", |group| group.member(1).node.status().leader_ready);
    for number in 0..100u64 {
        group
            .member(1)
            .node
            .propose(number.to_le_bytes().to_vec().into())
            .expect("propose");
    }
    group.run_until("applied", |group| group.member(1).applied.len() == 100);
    drop(group);

    let mut group = Group(BTreeMap::from([(1, Member::open(directory.path(), 1))]));
    assert_eq!(
        group.member(1).round().snapshot.expect("stored state").data,
        b"beginning"[..]
    );
    group.run_until("applied again", |group| group.member(1).applied.len() == 100);
    assert_eq!(group.member(1).applied[99], 99u64.to_le_bytes()[..]);
}

#[test]
fn controllers_join_as_learners_and_vote_when_they_have_caught_up() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let members = (1..=3)
        .map(|id| (id, Member::open(directory.path(), id)))
        .collect();
    let mut group = Group(members);
    group
        .member(1)
        .node
        .bootstrap(&[1], b"beginning")
        .expect("bootstrap");
    group.run_until("leader", |group| group.member(1).node.status().leader_ready);
    for id in [2, 3] {
        let change = MembershipChange::AddLearner(id);
        group
            .member(1)
            .node
            .propose_membership(change, Bytes::new())
            .expect("add");
        group.run_until("caught up", move |group| {
            group
                .member(1)
                .node
                .status()
                .peers
                .iter()
                .any(|peer| peer.raft_id == id && peer.caught_up)
        });
        let change = MembershipChange::Promote(id);
        group
            .member(1)
            .node
            .propose_membership(change, Bytes::new())
            .expect("promote");
        group.run_until("voter", move |group| {
            !group.member(1).node.status().membership_changing
                && group.member(id).node.membership().voters.contains(&id)
        });
    }
    let ticket = group.member(1).node.propose("hello".into()).expect("propose");
    assert!(ticket.index > 1);
    group.run_until("everywhere", |group| {
        group.0.values().all(|member| member.applied == ["hello"])
    });
    group.member(1).node.transfer_leader(3).expect("transfer");
    group.run_until("new leader", |group| group.member(3).node.status().leader_ready);
    assert!(group.member(1).node.propose("late".into()).is_err());
}
