//! The leader's side of a snapshot: which followers fetch one, so that it stays on disk meanwhile, and so that Raft
//! hears of a transfer that has died.

use super::RaftNode;
use crate::error::FatalError;
use raft::{ProgressState, SnapshotStatus};
use std::collections::BTreeMap;

struct Transfer {
    index: u64,
    last_activity: u64,
}

/// Snapshots that followers fetch, by follower.
#[derive(Default)]
pub(super) struct Transfers(BTreeMap<u64, Transfer>);

impl Transfers {
    /// A snapshot was announced to a follower, or a follower asked for a part of one.
    pub(super) fn began(&mut self, to: u64, index: u64, now: u64) {
        self.0.insert(
            to,
            Transfer {
                index,
                last_activity: now,
            },
        );
    }

    /// The oldest snapshot that is being fetched.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.values().map(|transfer| transfer.index).min()
    }

    pub(super) fn needs(&self, index: u64) -> bool {
        self.0.values().any(|transfer| transfer.index == index)
    }
}

impl RaftNode {
    /// Ends transfers that are done or that ask for nothing any more.
    pub(super) fn tick_transfers(&mut self) -> Result<(), FatalError> {
        if self.transfers.0.is_empty() {
            return Ok(());
        }
        let (now, timeout) = (self.ticks, self.config.transfer_timeout_ticks);
        let mut died = Vec::new();
        let progress = self.raw.raft.prs();
        let leads = self.raw.raft.state == raft::StateRole::Leader;
        self.transfers.0.retain(|to, transfer| {
            let waits = progress
                .get(*to)
                .is_some_and(|peer| peer.state == ProgressState::Snapshot);
            let silent = now - transfer.last_activity > timeout;
            if leads && waits && silent {
                died.push(*to);
            }
            !silent
        });
        for to in died {
            self.counters.transfers_failed += 1;
            self.with_raft(|raw| raw.report_snapshot(to, SnapshotStatus::Failure))?;
        }
        self.remove_old_snapshots()
    }
}
