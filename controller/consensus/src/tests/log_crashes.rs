//! The log alone on a disk that loses power at any operation: what was acknowledged is there, and nothing else.

use crate::disk::Disk;
use crate::error::{FatalError, OpenError};
use crate::file_header::Owner;
use crate::keys::{KeyRing, nonces};
use crate::log::{Batch, FileContext, RecoveredLog, SegmentLog, recover};
use crate::seeded::SeededSource;
use crate::sim::{SeededEntropy, SimDisk};
use proptest::prelude::*;
use raft::eraftpb::{ConfState, Entry, HardState};
use std::sync::Arc;

const SEGMENT_BYTES: u64 = 64 * 1024;

/// What the log must hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    base: u64,
    entries: Vec<Entry>,
    hard_state: HardState,
    members: Option<(u64, ConfState)>,
    /// Entries up to here are never replaced.
    committed: u64,
}

impl Model {
    fn last_index(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// A batch as a follower writes it: sometimes it replaces the tail.
    fn next(&self, source: &mut SeededSource) -> (Model, Vec<Entry>) {
        let mut next = self.clone();
        let open = self.last_index() - self.committed;
        let replaced = if source.below(4) == 0 {
            source.below(4).min(open)
        } else {
            0
        };
        next.entries.truncate(self.entries.len() - replaced as usize);
        next.hard_state.term += source.below(2);
        let mut added = Vec::new();
        for _ in 0..replaced.max(source.below(6)) {
            let bytes = [source.below(40), source.below(700), source.below(9_000)][source.below(3) as usize];
            let entry = Entry {
                index: next.last_index() + 1,
                term: next.hard_state.term,
                data: vec![source.draw() as u8; bytes as usize].into(),
                ..Entry::default()
            };
            next.entries.push(entry.clone());
            added.push(entry);
        }
        if source.below(5) == 0 {
            let voters = vec![source.below(9) + 1];
            let index = self.members.as_ref().map_or(0, |(index, _)| *index) + 1;
            next.members = Some((
                index,
                ConfState {
                    voters,
                    ..ConfState::default()
                },
            ));
        }
        (next, added)
    }

    fn matches(&self, recovered: &RecoveredLog) -> bool {
        let skipped = recovered.base.0.saturating_sub(self.base) as usize;
        self.base <= recovered.base.0
            && self.entries.get(skipped..) == Some(&recovered.entries[..])
            && self.hard_state == recovered.hard_state
            && self.members.as_ref().is_none_or(|(_, members)| {
                recovered
                    .members
                    .last()
                    .is_some_and(|(_, found)| found == members)
            })
    }
}

struct Run {
    disk: SimDisk,
    context: FileContext,
    source: SeededSource,
    /// Everything acknowledged, and the batch in flight when the power went.
    acknowledged: Model,
    in_flight: Option<Model>,
}

impl Run {
    fn new(seed: u64) -> Run {
        nonces::watch();
        let disk = SimDisk::new(seed);
        let context = FileContext {
            disk: Arc::new(disk.clone()),
            owner: Owner {
                cluster_id: 1,
                raft_id: 2,
            },
            keys: KeyRing::new([3; 32]),
            entropy: Arc::new(SeededEntropy::new(seed)),
        };
        let source = SeededSource::new(!seed);
        Run {
            disk,
            context,
            source,
            acknowledged: Model::default(),
            in_flight: None,
        }
    }

    /// Opens the log; what it holds is what was acknowledged, or that and the batch in flight.
    fn recover(&mut self) -> Result<RecoveredLog, FatalError> {
        let recovered = match recover(&self.context) {
            Err(OpenError::Fatal(error)) if !self.disk.is_powered() => return Err(error),
            recovered => recovered.expect("a crash never damages the log"),
        };
        let unacknowledged = self.in_flight.take().filter(|model| model.matches(&recovered));
        if let Some(model) = unacknowledged {
            self.acknowledged = model;
        }
        assert!(
            self.acknowledged.matches(&recovered),
            "expected entries up to {}, found {} to {}; {:?}, found {:?}",
            self.acknowledged.last_index(),
            recovered.base.0,
            recovered.last_index(),
            self.acknowledged.hard_state,
            recovered.hard_state,
        );
        Ok(recovered)
    }

    fn write_until_the_power_goes(&mut self) -> Result<(), FatalError> {
        let mut recovered = self.recover()?;
        let mut log = SegmentLog::open(self.context.clone(), SEGMENT_BYTES, &mut recovered)?;
        loop {
            let (next, added) = self.acknowledged.next(&mut self.source);
            let members = next
                .members
                .clone()
                .filter(|_| next.members != self.acknowledged.members);
            self.in_flight = Some(next.clone());
            log.append(&Batch {
                members: members.as_ref().map(|(index, members)| (*index, members)),
                entries: &added,
                hard_state: Some(&next.hard_state),
                ..Batch::default()
            })?;
            self.acknowledged = next;
            self.in_flight = None;
            if self.source.below(8) == 0 {
                self.acknowledged.committed = self.acknowledged.last_index().saturating_sub(10);
                log.compact(self.acknowledged.committed)?;
            }
        }
    }
}

fn crash_again_and_again(seed: u64, crashes: u64) {
    let mut run = Run::new(seed);
    for _ in 0..crashes {
        let operations = 1 + run.source.below(120);
        run.disk.crash_after(operations);
        run.write_until_the_power_goes().expect_err("the power goes");
        run.disk.power_on();
    }
    run.recover().expect("recover");
    // Nothing that was sealed shared a key and a nonce with anything else, or it had panicked.
    assert!(nonces::watched() > 0);
}

#[test]
fn a_long_life_of_crashes_loses_nothing() {
    for seed in 0..20 {
        crash_again_and_again(seed, 40);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_batches_survive_and_nothing_else_parses(seed: u64, crashes in 1u64..12) {
        crash_again_and_again(seed, crashes);
    }

    #[test]
    fn a_flipped_bit_is_found_or_harmless(seed: u64, position: u64, bit in 0u8..8) {
        let mut run = Run::new(seed);
        run.disk.crash_after(60);
        run.write_until_the_power_goes().expect_err("the power goes");
        run.disk.power_on();
        let logs: Vec<String> =
            run.disk.list().expect("list").into_iter().filter(|name| name.starts_with("log-")).collect();
        prop_assume!(!logs.is_empty());
        run.recover().expect("recover");
        let name = &logs[position as usize % logs.len()];
        let bytes = run.disk.open(name).expect("open").len().expect("length");
        run.disk.damage(name, position % bytes, 1 << bit);
        if let Ok(recovered) = recover(&run.context) {
            prop_assert!(run.acknowledged.matches(&recovered));
        }
    }
}
