//! What a node does with a disk that fails, fills up or was tampered with.

use crate::disk::Disk;
use crate::sim::{SeededEntropy, SimDisk};
use crate::{
    FatalError, KeyFile, KeyFileError, KeyRing, Membership, MembershipChange, NodeConfig, OpenError, Payload,
    RaftNode, RoleKind, SnapshotError, SnapshotPolicy,
};
use bytes::Bytes;
use std::sync::Arc;

const KEY: [u8; 32] = [6; 32];

fn config(disk_seed: u64) -> NodeConfig {
    let mut config = NodeConfig::new(1, 77, 3);
    config.segment_bytes = 64 * 1024;
    config.kept_entries = 5;
    config.entropy = Arc::new(SeededEntropy::new(disk_seed));
    config
}

fn open(disk: &SimDisk, keys: KeyRing, entropy: u64) -> Result<RaftNode, OpenError> {
    disk.power_on();
    RaftNode::open(config(entropy), Arc::new(disk.clone()), keys)
}

/// A cluster of one that leads.
fn leading(disk: &SimDisk) -> RaftNode {
    let mut node = open(disk, KeyRing::new(KEY), 1).expect("open");
    node.bootstrap(&[1], b"").expect("bootstrap");
    node.campaign().expect("campaign");
    drain(&mut node);
    assert!(node.status().leader_ready);
    node
}

/// Runs rounds until nothing is left, and gives the data that was applied.
fn drain(node: &mut RaftNode) -> Vec<Vec<u8>> {
    let mut applied = Vec::new();
    while node.has_ready() {
        for entry in node.ready().expect("ready").committed {
            node.applied(entry.index).expect("applied");
            if let Payload::Data(data) = entry.payload {
                applied.push(data.to_vec());
            }
        }
    }
    applied
}

fn write(node: &mut RaftNode, count: usize) {
    for number in 0..count {
        node.propose(format!("entry {number}").into()).expect("propose");
        assert_eq!(drain(node).len(), 1);
    }
}

fn log_names(disk: &SimDisk) -> Vec<String> {
    disk.list()
        .expect("list")
        .into_iter()
        .filter(|name| name.starts_with("log-"))
        .collect()
}

#[test]
fn writes_that_come_together_share_a_sync() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    let before = disk.syncs();
    for number in 0..100 {
        node.propose(format!("entry {number}").into()).expect("propose");
    }
    assert_eq!(drain(&mut node).len(), 100);
    let together = disk.syncs() - before;
    let before = disk.syncs();
    write(&mut node, 100);
    let one_by_one = disk.syncs() - before;
    assert!((1..=2).contains(&together), "{together}");
    assert!(one_by_one >= 100, "{one_by_one}");
}

#[test]
fn a_failed_sync_ends_the_node_for_good() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    disk.fail_syncs(true);
    node.propose("x".into()).expect("propose");
    let first = node.ready().expect_err("the sync failed");
    assert!(
        matches!(
            first,
            FatalError::Disk {
                operation: "sync",
                ..
            }
        ),
        "{first}"
    );
    disk.fail_syncs(false);
    assert!(matches!(node.ready(), Err(FatalError::Stopped { .. })));
    assert!(matches!(node.tick(), Err(FatalError::Stopped { .. })));
    assert!(node.propose("y".into()).is_err());
}

#[test]
fn a_failed_write_ends_the_node_for_good_and_what_it_left_is_cut_off() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut node = leading(&disk);
        write(&mut node, 3);
        let acknowledged = node.status().commit;
        let syncs = disk.syncs();
        disk.fail_writes(true);
        node.propose(vec![7; 5_000].into()).expect("propose");
        let first = node.ready().expect_err("the write failed");
        assert!(
            matches!(
                first,
                FatalError::Disk {
                    operation: "write",
                    ..
                }
            ),
            "{first}"
        );
        disk.fail_writes(false);
        assert!(matches!(node.ready(), Err(FatalError::Stopped { .. })));
        assert!(matches!(node.tick(), Err(FatalError::Stopped { .. })));
        assert!(node.propose("y".into()).is_err());
        assert_eq!(disk.syncs(), syncs, "nothing is synced after a failed write");
        drop(node);
        // A part of the frame is there, in no cache that a power loss has taken.
        let mut node = open(&disk, KeyRing::new(KEY), 2).expect("open");
        assert!(node.status().last_index >= acknowledged, "seed {seed}");
        node.campaign().expect("campaign");
        drain(&mut node);
        write(&mut node, 3);
    }
}

#[test]
fn what_is_read_back_after_a_failed_sync_survives_a_power_loss() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut node = leading(&disk);
        write(&mut node, 3);
        disk.fail_syncs(true);
        node.propose("x".into()).expect("propose");
        node.ready().expect_err("the sync failed");
        // The first daemon that comes back cannot sync either, the next one finds nothing to cut.
        open(&disk, KeyRing::new(KEY), 2).err().expect("the sync failed");
        disk.fail_syncs(false);
        let read_back = open(&disk, KeyRing::new(KEY), 3)
            .expect("open")
            .status()
            .last_index;
        disk.crash();
        let node = open(&disk, KeyRing::new(KEY), 4).expect("open");
        assert!(node.status().last_index >= read_back, "seed {seed}");
    }
}

#[test]
fn a_full_disk_is_named_and_the_log_stays_whole() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    write(&mut node, 10);
    disk.set_capacity(Some(disk.used_bytes()));
    let index = node.status().applied;
    let refused = node.create_snapshot(index, &[0; 100_000]);
    assert!(
        matches!(refused, Err(SnapshotError::DiskFull { .. })),
        "{refused:?}"
    );
    let full = loop {
        node.propose(vec![1; 5_000].into()).expect("propose");
        match node.ready() {
            Ok(ready) => {
                let last = ready.committed.last().expect("committed").index;
                node.applied(last).expect("applied");
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(full, FatalError::DiskFull { .. }), "{full}");
    assert!(full.to_string().contains("disk is full; free space"));
    disk.set_capacity(None);
    let mut node = open(&disk, KeyRing::new(KEY), 2).expect("open");
    node.campaign().expect("campaign");
    assert!(drain(&mut node).len() >= 10);
}

#[test]
fn a_changed_byte_in_the_middle_refuses_to_start_and_a_cut_tail_does_not() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    write(&mut node, 30);
    drop(node);
    let name = log_names(&disk).pop().expect("a segment");
    disk.damage(&name, 8192 + 10 * 512 + 100, 0x10);
    let error = open(&disk, KeyRing::new(KEY), 2).err().expect("refused");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore a backup"));
    disk.damage(&name, 8192 + 10 * 512 + 100, 0x10);

    let mut end = 8192 + 34 * 512;
    let file = disk.open(&name).expect("open the segment");
    let mut sector = [0; 512];
    while file.read_at(end, &mut sector).is_ok() && sector.iter().any(|byte| *byte != 0) {
        end += 512;
    }
    disk.cut(&name, end - 512);
    let mut node = open(&disk, KeyRing::new(KEY), 3).expect("open");
    node.campaign().expect("campaign");
    assert!(drain(&mut node).len() >= 28);
}

#[test]
fn a_missing_segment_or_snapshot_refuses_to_start() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    while node.status().segments < 4 {
        write(&mut node, 10);
    }
    drop(node);
    disk.rename(&log_names(&disk)[1], "elsewhere").expect("rename");
    let error = open(&disk, KeyRing::new(KEY), 2).err().expect("refused");
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");

    let disk = SimDisk::new(2);
    drop(leading(&disk));
    let snapshot = disk
        .list()
        .expect("list")
        .into_iter()
        .find(|name| name.starts_with("snap-"));
    disk.remove(&snapshot.expect("a snapshot")).expect("remove");
    let error = open(&disk, KeyRing::new(KEY), 2).err().expect("refused");
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");

    let disk = SimDisk::new(3);
    drop(leading(&disk));
    for name in log_names(&disk) {
        disk.remove(&name).expect("remove");
    }
    let error = open(&disk, KeyRing::new(KEY), 2).err().expect("refused");
    assert!(
        error.to_string().contains("lacks every segment of the log"),
        "{error}"
    );
}

#[test]
fn after_a_rotation_the_previous_key_is_not_needed() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    write(&mut node, 10);
    let new_key = [7; 32];
    node.rotate_keys(KeyRing::new(new_key).with_previous(KEY))
        .expect("rotate");
    write(&mut node, 10);
    drop(node);
    for name in disk.list().expect("list") {
        let file = disk.open(&name).expect("open");
        let slots = [0, 4096].map(|offset| {
            let mut bytes = [0; 512];
            file.read_at(offset, &mut bytes).expect("read");
            bytes != [0; 512]
        });
        assert_ne!(slots[0], slots[1], "{name} has its data key under one key only");
    }
    let error = open(&disk, KeyRing::new(KEY), 2)
        .err()
        .expect("the old key alone");
    assert!(matches!(error, OpenError::UnknownKey { .. }), "{error}");
    let mut node = open(&disk, KeyRing::new(new_key), 3).expect("the new key alone");
    node.campaign().expect("campaign");
    assert_eq!(drain(&mut node).len(), 20);
}

#[test]
fn another_clusters_directory_is_refused() {
    let disk = SimDisk::new(1);
    drop(leading(&disk));
    disk.power_on();
    let mut other = config(2);
    other.cluster_id = 78;
    let error = RaftNode::open(other, Arc::new(disk), KeyRing::new(KEY))
        .err()
        .expect("refused");
    assert!(matches!(error, OpenError::WrongOwner { .. }), "{error}");
}

#[test]
fn no_plain_text_reaches_the_disk() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    let secret = b"correct horse battery staple";
    node.propose(secret.to_vec().into()).expect("propose");
    drain(&mut node);
    let index = node.status().applied;
    node.create_snapshot(index, secret).expect("snapshot");
    for name in disk.list().expect("list") {
        let file = disk.open(&name).expect("open");
        let mut bytes = vec![0; file.len().expect("length") as usize];
        file.read_at(0, &mut bytes).expect("read");
        assert!(!bytes.windows(8).any(|window| window == &secret[..8]), "{name}");
    }
}

#[test]
fn a_survivor_forces_a_new_cluster_and_keeps_it_over_restarts() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    write(&mut node, 10);
    node.propose_membership(MembershipChange::AddLearner(2), Bytes::new())
        .expect("add");
    drain(&mut node);
    drop(node);
    for force in [true, false] {
        disk.power_on();
        let mut config = config(2 + u64::from(force));
        config.force_new_cluster = force;
        let mut node = RaftNode::open(config, Arc::new(disk.clone()), KeyRing::new(KEY)).expect("open");
        drain(&mut node);
        assert_eq!(
            node.membership(),
            Membership {
                voters: vec![1],
                learners: vec![]
            }
        );
        node.campaign().expect("campaign");
        drain(&mut node);
        write(&mut node, 1);
    }
}

#[test]
fn as_many_old_snapshots_stay_as_are_wanted_also_over_a_restart() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    let files = || {
        let names = disk.list().expect("list");
        names.iter().filter(|name| name.starts_with("snap-")).count()
    };
    let policy = |old_snapshots| SnapshotPolicy {
        interval_entries: 1000,
        kept_entries: 5,
        old_snapshots,
    };
    let snapshot = |node: &mut RaftNode| {
        write(node, 1);
        let index = node.status().applied;
        node.create_snapshot(index, b"state").expect("snapshot");
    };
    node.set_snapshot_policy(policy(2));
    for _ in 0..5 {
        snapshot(&mut node);
    }
    assert_eq!(files(), 3);
    drop(node);
    let mut node = open(&disk, KeyRing::new(KEY), 5).expect("open");
    node.campaign().expect("campaign");
    drain(&mut node);
    assert_eq!(files(), 3);
    node.set_snapshot_policy(policy(0));
    snapshot(&mut node);
    assert_eq!(files(), 1);
}

#[test]
fn a_node_without_a_log_never_elects_itself() {
    let disk = SimDisk::new(1);
    let mut node = open(&disk, KeyRing::new(KEY), 1).expect("open");
    node.campaign().expect("campaign");
    for _ in 0..100 {
        node.tick().expect("tick");
        drain(&mut node);
    }
    assert_eq!((node.role().kind, node.role().term), (RoleKind::Follower, 0));
}

#[test]
fn a_crash_in_the_middle_of_a_rotation_leaves_every_file_readable() {
    let new_key = [7; 32];
    for operations in 1..8 {
        let disk = SimDisk::new(operations);
        let mut node = leading(&disk);
        while node.status().segments < 3 {
            write(&mut node, 10);
        }
        let written = node.status().commit;
        disk.crash_after(operations);
        let both = KeyRing::new(new_key).with_previous(KEY);
        let rotated = node.rotate_keys(both.clone());
        drop(node);
        let reopened = if rotated.is_ok() {
            KeyRing::new(new_key)
        } else {
            both
        };
        let mut node = open(&disk, reopened, 5).expect("open");
        node.campaign().expect("campaign");
        drain(&mut node);
        assert!(node.status().commit >= written);
    }
}

/// The key's file lies on the same disk here, so that one crash hits both.
#[test]
fn a_crash_at_any_write_of_a_rotation_leaves_keys_that_open_the_log() {
    let mut finished = false;
    for operations in 1..60 {
        let disk = SimDisk::new(operations);
        let file = KeyFile::new(Arc::new(disk.clone()), "raft.key");
        let first = file.load(&SeededEntropy::new(90)).expect("a first key");
        let mut node = open(&disk, first.ring(), 1).expect("open");
        node.bootstrap(&[1], b"").expect("bootstrap");
        node.campaign().expect("campaign");
        drain(&mut node);
        while node.status().segments < 3 {
            write(&mut node, 10);
        }
        let written = node.status().commit;
        disk.crash_after(operations);
        let rotated = rotate(&file, &mut node, 91);
        drop(node);
        disk.power_on();
        disk.crash_after(u64::MAX);
        let kept = file.load(&SeededEntropy::new(92)).expect("keys after the crash");
        let mut node = open(&disk, kept.ring(), 5).expect("they open the log");
        node.campaign().expect("campaign");
        drain(&mut node);
        assert!(node.status().commit >= written);
        rotate(&file, &mut node, 93).expect("what was begun is ended, or begun again");
        drop(node);
        let alone = file.load(&SeededEntropy::new(94)).expect("one key");
        assert!(!alone.is_rotating());
        assert_ne!(alone.ring().current_id(), first.ring().current_id());
        drop(open(&disk, alone.ring(), 6).expect("the new key alone"));
        assert!(
            open(&disk, first.ring(), 7).is_err(),
            "the first key is worth nothing"
        );
        finished |= rotated.is_ok();
    }
    assert!(finished, "the last crashes come after the whole rotation");
}

fn rotate(file: &KeyFile, node: &mut RaftNode, entropy: u64) -> Result<(), Box<dyn std::error::Error>> {
    let keys = file.begin_rotation(&SeededEntropy::new(entropy))?;
    node.rotate_keys(keys.ring())?;
    Ok(file.finish_rotation(keys)?)
}

#[test]
fn a_key_file_of_another_length_is_refused() {
    let disk = SimDisk::new(1);
    let file = disk.create("raft.key", 0).expect("create");
    file.write_at(0, &[1; 31]).expect("write");
    let keys = KeyFile::new(Arc::new(disk.clone()), "raft.key");
    let error = keys.load(&SeededEntropy::new(1)).err().expect("refused");
    assert!(
        matches!(error, KeyFileError::Damaged { bytes: 31, .. }),
        "{error}"
    );
}

#[test]
fn a_snapshot_is_written_beside_the_node_even_while_keys_rotate() {
    let disk = SimDisk::new(1);
    let mut node = leading(&disk);
    write(&mut node, 30);
    let index = node.status().applied;
    let writer = node.snapshot_writer(index).expect("writer");
    assert!(matches!(
        node.snapshot_writer(index),
        Err(SnapshotError::BadIndex { .. })
    ));
    write(&mut node, 5);
    let new_key = [7; 32];
    node.rotate_keys(KeyRing::new(new_key).with_previous(KEY))
        .expect("rotate");
    let finished = writer.write(b"state at thirty").expect("write");
    node.finish_snapshot(finished).expect("finish");
    assert_eq!(node.status().snapshot_index, index);
    assert_eq!(node.status().first_index, index - 5 + 1);
    drop(node);

    let mut node = open(&disk, KeyRing::new(new_key), 3).expect("the new key alone");
    let ready = node.ready().expect("ready");
    let snapshot = ready.snapshot.expect("the snapshot");
    assert_eq!(snapshot.index, index);
    assert_eq!(snapshot.data, b"state at thirty"[..]);
    let given_out = ready.committed.len();
    node.applied(index + given_out as u64).expect("applied");
    node.campaign().expect("campaign");
    assert_eq!(given_out + drain(&mut node).len(), 5);
}
