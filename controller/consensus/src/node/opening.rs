//! Starting a node from its disk, and beginning a cluster.

use super::election::ElectionTimeouts;
use super::transfers::Transfers;
use super::{Counters, RaftNode};
use crate::config::{ENTRY_BYTES_MAX, NodeConfig};
use crate::disk::Disk;
use crate::error::{BootstrapError, FatalError, OpenError, SnapshotError};
use crate::file_header::Owner;
use crate::keys::KeyRing;
use crate::log::{Batch, FileContext, RecoveredLog, SegmentLog, recover};
use crate::membership::Membership;
use crate::raft_logger::raft_logger;
use crate::ready::{InstalledSnapshot, Role};
use crate::snapshot::{SnapshotFiles, StoredSnapshot};
use crate::store::LogStore;
use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};
use raft::{Config, RawNode, ReadOnlyOption};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Bytes of entries in one message to a follower.
const APPEND_BYTES_MAX: u64 = 1024 * 1024;
/// Messages to one follower that are not answered yet.
const APPENDS_IN_FLIGHT_MAX: usize = 256;
/// Bytes proposed and not committed; beyond this proposals are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes of committed entries in one round, so that ticks are never far apart.
const COMMITTED_BYTES_PER_ROUND_MAX: u64 = 4 * 1024 * 1024;
/// A new cluster's log begins after a snapshot at this index, so that a joining controller, whose log is empty, always
/// receives the members with a snapshot first.
const BOOTSTRAP_INDEX: u64 = 1;
const BOOTSTRAP_TERM: u64 = 1;

impl RaftNode {
    /// Opens a node on its disk. The first rounds of `ready` give out what must be applied again: the newest snapshot,
    /// then the committed entries after it. On an empty disk it waits for a leader or for `bootstrap`.
    pub fn open(config: NodeConfig, disk: Arc<dyn Disk>, keys: KeyRing) -> Result<RaftNode, OpenError> {
        check(&config)?;
        let owner = Owner {
            cluster_id: config.cluster_id,
            raft_id: config.raft_id,
        };
        let context = FileContext {
            disk,
            owner,
            keys,
            entropy: Arc::clone(&config.entropy),
        };
        let files = SnapshotFiles::new(context.clone());
        let snapshots = files.recover()?;
        let mut recovered = recover(&context)?;
        // Older ones stay until the next snapshot is taken: how many are wanted is not known yet.
        let newest = snapshots.last();
        join_snapshot_and_log(newest, &mut recovered)?;
        if config.force_new_cluster {
            make_only_voter(config.raft_id, &mut recovered)?;
        }
        let log = SegmentLog::open(context, config.segment_bytes, &mut recovered)?;
        let initial_snapshot = newest.map(read_for_caller).transpose()?;
        let start = Start {
            store: LogStore::new(
                recovered.base,
                recovered.entries,
                recovered.hard_state.clone(),
                recovered
                    .members
                    .last()
                    .map(|(_, members)| members.clone())
                    .unwrap_or_default(),
                newest.map(StoredSnapshot::announcement),
            ),
            applied: newest.map_or(0, |snapshot| snapshot.id.index),
        };
        let raw = start_raft(&config, start)?;
        let mut seed = [0; 8];
        config.entropy.fill(&mut seed)?;
        let mut node = RaftNode {
            raw,
            log,
            files,
            snapshots,
            members: recovered.members,
            written_hard_state: recovered.hard_state.clone(),
            hard_state: recovered.hard_state,
            initial_snapshot,
            download: None,
            transfers: Transfers::default(),
            timeouts: ElectionTimeouts::new(config.seed, config.raft_id, config.election_ticks),
            ticks: 0,
            heard: BTreeMap::new(),
            reads_begun: u64::from_le_bytes(seed),
            last_role: Role::default(),
            writer: Weak::new(),
            counters: Counters::default(),
            stopped: None,
            config,
        };
        node.timeouts.enforce(&mut node.raw.raft, true);
        Ok(node)
    }

    /// Begins a cluster with these voters. Every one of them must be given the same voters and the same state; a
    /// single voter is the usual case, others join it.
    pub fn bootstrap(&mut self, voters: &[u64], initial_state: &[u8]) -> Result<(), BootstrapError> {
        self.check_running()?;
        let raft = &self.raw.raft;
        if self.is_initialized() || raft.term > 0 || raft.raft_log.last_index() > 0 {
            return Err(BootstrapError::AlreadyInitialized);
        }
        if !voters.contains(&self.config.raft_id) || voters.contains(&0) {
            return Err(BootstrapError::BadVoters);
        }
        let begun = self.begin_cluster(voters, initial_state);
        self.stop(begun)?;
        Ok(())
    }

    fn begin_cluster(&mut self, voters: &[u64], initial_state: &[u8]) -> Result<(), FatalError> {
        let members = ConfState {
            voters: voters.to_vec(),
            ..ConfState::default()
        };
        let stored = self
            .files
            .write(BOOTSTRAP_INDEX, BOOTSTRAP_TERM, &members, initial_state)
            .map_err(fatal_snapshot_error)?;
        let hard_state = HardState {
            term: BOOTSTRAP_TERM,
            commit: BOOTSTRAP_INDEX,
            ..HardState::default()
        };
        self.log.append(&Batch {
            snapshot_mark: Some((BOOTSTRAP_INDEX, BOOTSTRAP_TERM)),
            members: Some((BOOTSTRAP_INDEX, &members)),
            hard_state: Some(&hard_state),
            ..Batch::default()
        })?;
        let base = (BOOTSTRAP_INDEX, BOOTSTRAP_TERM);
        let announcement = Some(stored.announcement());
        let store = LogStore::new(
            base,
            Vec::new(),
            hard_state.clone(),
            members.clone(),
            announcement,
        );
        self.raw = start_raft(
            &self.config,
            Start {
                store,
                applied: BOOTSTRAP_INDEX,
            },
        )
        .map_err(|error| FatalError::Inconsistent {
            reason: error.to_string(),
        })?;
        self.timeouts.enforce(&mut self.raw.raft, true);
        self.initial_snapshot = Some(InstalledSnapshot {
            index: BOOTSTRAP_INDEX,
            term: BOOTSTRAP_TERM,
            membership: Membership::from(&members),
            data: Bytes::copy_from_slice(initial_state),
        });
        self.members = vec![(BOOTSTRAP_INDEX, members)];
        self.snapshots = vec![stored];
        self.written_hard_state = hard_state.clone();
        self.hard_state = hard_state;
        Ok(())
    }
}

/// In places where a snapshot must succeed, a full disk is as fatal as anything else.
pub(super) fn fatal_snapshot_error(error: SnapshotError) -> FatalError {
    match error {
        SnapshotError::Fatal(error) => error,
        SnapshotError::DiskFull { source } => FatalError::disk("write", "snapshot", source),
        other => FatalError::Inconsistent {
            reason: other.to_string(),
        },
    }
}

fn check(config: &NodeConfig) -> Result<(), OpenError> {
    let problem = if config.raft_id == 0 {
        "a Raft id must not be 0"
    } else if config.heartbeat_ticks == 0 || config.election_ticks <= config.heartbeat_ticks {
        "the election takes more ticks than a heartbeat, and a heartbeat at least one"
    } else if config.segment_bytes < 64 * 1024 || !config.segment_bytes.is_multiple_of(512) {
        "a segment has at least 64 KiB and whole sectors of 512 bytes"
    } else if config.snapshot_interval_entries == 0 {
        "the snapshot interval must not be 0"
    } else {
        return Ok(());
    };
    Err(OpenError::Configuration(problem.to_owned()))
}

struct Start {
    store: LogStore,
    applied: u64,
}

fn start_raft(config: &NodeConfig, start: Start) -> Result<RawNode<LogStore>, OpenError> {
    const { assert!(ENTRY_BYTES_MAX as u64 <= UNCOMMITTED_BYTES_MAX) };
    let raft_config = Config {
        id: config.raft_id,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        applied: start.applied,
        max_size_per_msg: APPEND_BYTES_MAX,
        max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        batch_append: true,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_ROUND_MAX,
        ..Config::default()
    };
    RawNode::new(&raft_config, start.store, &raft_logger())
        .map_err(|error| OpenError::Configuration(error.to_string()))
}

fn read_for_caller(stored: &StoredSnapshot) -> Result<InstalledSnapshot, OpenError> {
    Ok(InstalledSnapshot {
        index: stored.id.index,
        term: stored.id.term,
        membership: Membership::from(&stored.members),
        data: stored.read_all()?.into(),
    })
}

/// Makes one state of the newest snapshot and the log, or says why they do not fit.
fn join_snapshot_and_log(snapshot: Option<&StoredSnapshot>, log: &mut RecoveredLog) -> Result<(), OpenError> {
    let index = snapshot.map_or(0, |snapshot| snapshot.id.index);
    let needed = log
        .snapshot_mark
        .map_or(0, |(marked, _)| marked)
        .max(log.base.0.min(log.last_index()));
    if index < log.base.0 || (snapshot.is_none() && needed > 0) {
        return Err(OpenError::Missing {
            missing: format!("the snapshot at index {needed} or later"),
        });
    }
    let Some(snapshot) = snapshot else {
        return check_hard_state(log);
    };
    if log.segments.is_empty() {
        // A node begins a segment before anything else. Without one its vote is lost, whatever the snapshot says.
        let missing = "every segment of the log".to_owned();
        return Err(OpenError::Missing { missing });
    }
    if log.term(index) != Some(snapshot.id.term) {
        // A crash came between the installation of a leader's snapshot and the record of it.
        log.begin_after(index, snapshot.id.term);
        log.anew = true;
    }
    log.members.retain(|(at, _)| *at > index);
    log.members.insert(0, (index, snapshot.members.clone()));
    let committed = log.members.last().map_or(index, |(at, _)| *at);
    log.hard_state.commit = log.hard_state.commit.max(committed);
    log.hard_state.term = log.hard_state.term.max(snapshot.id.term);
    check_hard_state(log)
}

fn make_only_voter(raft_id: u64, log: &mut RecoveredLog) -> Result<(), OpenError> {
    if log.members.is_empty() {
        let problem = "a controller without a log cannot force a new cluster";
        return Err(OpenError::Configuration(problem.to_owned()));
    }
    let last_index = log.last_index();
    log.hard_state.commit = last_index;
    log.members.retain(|(index, _)| *index < last_index);
    log.members.push((
        last_index,
        ConfState {
            voters: vec![raft_id],
            ..ConfState::default()
        },
    ));
    Ok(())
}

fn check_hard_state(log: &RecoveredLog) -> Result<(), OpenError> {
    if log.hard_state.commit > log.last_index() {
        let missing = format!("log entries up to the committed index {}", log.hard_state.commit);
        return Err(OpenError::Missing { missing });
    }
    if log.hard_state.term < log.last_term() {
        return Err(OpenError::Missing {
            missing: format!("the vote of term {}", log.last_term()),
        });
    }
    Ok(())
}
