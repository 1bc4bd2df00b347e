//! Clusters under faults.

use super::cluster::{Checked, Cluster, Weather};
use crate::sim::PlantedBug;
use crate::{MembershipChange, MembershipError};
use bytes::Bytes;

const STORM: Weather = Weather {
    drop_percent: 10,
    repeat_percent: 5,
    delay_ticks: 3,
    crash_one_in: 80,
    chunk_drop_percent: 20,
};

/// Proposes and reads while the weather is bad and controllers are cut off, then heals and checks.
fn storm(seed: u64, ids: &[u64], ticks: u64, prepare: impl Fn(&mut Cluster)) -> Checked<Cluster> {
    let mut cluster = Cluster::new(seed, ids, STORM);
    prepare(&mut cluster);
    cluster.start(ids)?;
    for tick in 0..ticks {
        if cluster.source.below(3) == 0 {
            cluster.propose(tick);
        }
        if cluster.source.below(5) == 0 {
            let reader = ids[cluster.source.below(ids.len() as u64) as usize];
            cluster.read(reader, tick);
        }
        if cluster.source.below(60) == 0 {
            cluster.isolated.clear();
            for id in ids {
                if cluster.source.below(3) == 0 {
                    cluster.isolated.insert(*id);
                }
            }
        }
        cluster.tick()?;
    }
    cluster.heal_and_check()?;
    Ok(cluster)
}

#[test]
fn three_controllers_lose_no_acknowledged_write_in_a_storm() {
    let mut acknowledged = 0;
    let mut reads = 0;
    for seed in 0..25 {
        let cluster =
            storm(seed, &[1, 2, 3], 1_200, |_| {}).unwrap_or_else(|error| panic!("{seed}: {error}"));
        acknowledged += cluster.acknowledged.len();
        reads += cluster.reads_confirmed;
    }
    assert!(
        acknowledged > 1_000,
        "the storm let only {acknowledged} writes through"
    );
    assert!(reads > 200, "the storm let only {reads} reads through");
}

#[test]
fn five_controllers_lose_no_acknowledged_write_in_a_storm() {
    for seed in 100..110 {
        storm(seed, &[1, 2, 3, 4, 5], 1_000, |_| {}).unwrap_or_else(|error| panic!("{seed}: {error}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| storm(seed, &[1, 2, 3], 600, |_| {}).expect("storm").trace;
    let trace = run(7);
    assert_eq!(trace, run(7));
    assert_ne!(trace, run(8));
}

fn is_found(prepare: impl Fn(&mut Cluster) + Copy) -> bool {
    (0..60).any(|seed| storm(seed, &[1, 2, 3], 1_200, prepare).is_err())
}

#[test]
fn skipped_syncs_are_found() {
    assert!(is_found(|cluster| {
        for machine in cluster.machines.values() {
            machine.disk.skip_syncs(true);
        }
    }));
}

#[test]
fn stale_reads_are_found() {
    assert!(is_found(|cluster| cluster.planted_bug = PlantedBug::StaleReads));
}

#[test]
fn double_votes_are_found() {
    assert!(is_found(|cluster| cluster.planted_bug = PlantedBug::DoubleVote));
}

#[test]
fn a_follower_far_behind_is_served_by_snapshot_though_chunks_are_lost() {
    let weather = Weather {
        chunk_drop_percent: 30,
        delay_ticks: 1,
        ..Weather::default()
    };
    let mut cluster = Cluster::new(5, &[1, 2, 3], weather);
    // Several chunks.
    cluster.padding = 5 * 1024 * 1024 / 2;
    cluster.start(&[1, 2, 3]).expect("start");
    cluster
        .run_until("leader", 200, |cluster| cluster.leader().is_some())
        .expect("leader");
    let leader = cluster.leader().expect("leader");
    let behind = if leader == 1 { 2 } else { 1 };
    cluster.isolated.insert(behind);
    for value in 0..150 {
        cluster.propose(value);
        cluster.tick().expect("tick");
    }
    cluster.isolated.clear();
    cluster
        .run_until("caught up", 1_000, |cluster| {
            let applied = cluster.leader().map(|leader| cluster.machine(leader).applied);
            applied == Some(cluster.machine(behind).applied)
        })
        .expect("caught up");
    assert_eq!(cluster.node(behind).status().counters.snapshots_installed, 1);
    assert_eq!(cluster.machine(behind).values.len(), 150);
    let report = cluster.arrivals.report(behind);
    assert!(report.pieces.len() >= 3 && report.is_one_whole(), "{report:?}");
    cluster.heal_and_check().expect("check");
}

#[test]
fn a_follower_goes_on_with_another_leader_where_its_download_stood() {
    let mut cluster = Cluster::new(5, &[1, 2, 3], Weather::default());
    // Three chunks.
    cluster.padding = 5 * 1024 * 1024 / 2;
    cluster.start(&[1, 2, 3]).expect("start");
    cluster
        .run_until("leader", 200, |cluster| cluster.leader().is_some())
        .expect("leader");
    let leader = cluster.leader().expect("leader");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (behind, heir) = (others[0], others[1]);
    cluster.isolated.insert(behind);
    for value in 0..150 {
        cluster.propose(value);
        cluster.tick().expect("tick");
    }
    cluster
        .run_until("the same snapshot", 50, |cluster| {
            let index = |cluster: &mut Cluster, id| cluster.node(id).status().snapshot_index;
            let (one, other) = (index(cluster, leader), index(cluster, heir));
            one == other && cluster.machine(leader).applied == cluster.machine(heir).applied
        })
        .expect("the same snapshot");
    cluster.isolated.clear();
    cluster
        .run_until("a part", 400, |cluster| {
            !cluster.arrivals.report(behind).pieces.is_empty()
        })
        .expect("a part");
    assert_eq!(cluster.arrivals.report(behind).pieces.len(), 1);
    cluster.crash(leader, u64::MAX / 2);
    cluster
        .run_until("caught up", 1_000, |cluster| {
            let applied = cluster.leader().map(|leader| cluster.machine(leader).applied);
            applied == Some(cluster.machine(behind).applied)
        })
        .expect("caught up");
    assert_eq!(cluster.leader(), Some(heir));
    let report = cluster.arrivals.report(behind);
    assert!(report.is_one_whole(), "{report:?}");
    assert_eq!(report.sources, [leader, heir].into());
    assert_eq!(cluster.machine(behind).values.len(), 150);
}

#[test]
fn a_cluster_grows_from_one_to_five_and_shrinks_again_in_bad_weather() {
    let weather = Weather {
        drop_percent: 5,
        repeat_percent: 5,
        delay_ticks: 2,
        chunk_drop_percent: 10,
        crash_one_in: 400,
    };
    let mut cluster = Cluster::new(11, &[1, 2, 3, 4, 5], weather);
    cluster.start(&[1]).expect("start");
    for id in 2..=5 {
        change(&mut cluster, MembershipChange::AddLearner(id));
        change(&mut cluster, MembershipChange::Promote(id));
        cluster.propose(id);
    }
    for id in [1, 4] {
        change(&mut cluster, MembershipChange::Remove(id));
        cluster.propose(id * 10);
    }
    let leader = cluster.leader().expect("leader");
    assert_eq!(cluster.node(leader).membership().voters, [2, 3, 5]);
    cluster.heal_and_check().expect("check");
}

#[test]
fn a_dead_leader_is_replaced_within_a_second() {
    /// 10 ms each, which is also what every message takes.
    const TICKS_MAX: u64 = 100;
    let mut slowest = 0;
    for seed in 0..60 {
        let ids = if seed % 2 == 0 {
            &[1, 2, 3][..]
        } else {
            &[1, 2, 3, 4, 5]
        };
        let mut cluster = Cluster::new(
            seed,
            ids,
            Weather {
                delay_ticks: 0,
                ..Weather::default()
            },
        );
        cluster.tick_ms = 10;
        cluster.start(ids).expect("start");
        cluster
            .run_until("leader", 200, |cluster| cluster.leader().is_some())
            .expect("leader");
        let until = cluster.source.below(20);
        for _ in 0..until {
            cluster.tick().expect("tick");
        }
        let leader = cluster.leader().expect("leader");
        cluster.crash(leader, u64::MAX / 2);
        let died = cluster.now;
        cluster
            .run_until("heir", 200, |cluster| cluster.leader().is_some())
            .expect("heir");
        slowest = slowest.max(cluster.now - died);
    }
    assert!(slowest <= TICKS_MAX, "it took {slowest} ticks once");
}

/// Proposes a change, again when it was lost, until the leader has it applied.
fn change(cluster: &mut Cluster, change: MembershipChange) {
    let id = change.raft_id();
    cluster
        .run_until(&format!("{change:?}"), 3_000, |cluster| {
            let Some(leader) = cluster.leader() else {
                return false;
            };
            let members = cluster.node(leader).membership();
            let done = match change {
                MembershipChange::AddLearner(_) => members.learners.contains(&id),
                MembershipChange::Promote(_) => members.voters.contains(&id),
                MembershipChange::Remove(_) => !members.contains(id),
            };
            if !done
                && let Err(MembershipError::IsLeader { .. }) =
                    cluster.node(leader).propose_membership(change, Bytes::new())
            {
                let heir = members
                    .voters
                    .iter()
                    .find(|voter| **voter != leader)
                    .expect("another voter");
                cluster.node(leader).transfer_leader(*heir).expect("transfer");
            }
            done
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::new(3, &[1, 2, 3], Weather::default());
    cluster.start(&[1, 2, 3]).expect("start");
    cluster
        .run_until("leader", 200, |cluster| cluster.leader().is_some())
        .expect("leader");
    let leader = cluster.leader().expect("leader");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster
        .run_until("a settled leader", 50, move |cluster| {
            cluster
                .node(leader)
                .status()
                .peers
                .iter()
                .all(|peer| peer.recent_active)
        })
        .expect("settled");
    // One follower is dead: removing the other would leave the leader and a dead voter.
    cluster.crash(others[0], u64::MAX / 2);
    for _ in 0..10 {
        cluster.tick().expect("tick");
    }
    let removal = MembershipChange::Remove(others[1]);
    let refused = cluster.node(leader).propose_membership(removal, Bytes::new());
    assert!(
        matches!(
            refused,
            Err(MembershipError::WouldLoseQuorum { reachable: 1, .. })
        ),
        "{refused:?}"
    );
    let removal = MembershipChange::Remove(others[0]);
    cluster
        .node(leader)
        .propose_membership(removal, Bytes::new())
        .expect("the dead one can go");
}

/// Members that do not know yet that a controller was removed can elect it; it then finishes its own removal.
#[test]
fn a_leader_that_is_out_of_its_group_can_hand_over() {
    let mut cluster = Cluster::new(3, &[1, 2, 3, 4], Weather::default());
    cluster.start(&[1, 2, 3, 4]).expect("start");
    cluster
        .run_until("leader", 200, |cluster| cluster.leader().is_some())
        .expect("leader");
    let leader = cluster.leader().expect("leader");
    let removed = if leader == 1 { 2 } else { 1 };
    let others: Vec<u64> = cluster
        .ids()
        .into_iter()
        .filter(|id| ![leader, removed].contains(id))
        .collect();
    let holds =
        |id: u64, index: u64| move |cluster: &mut Cluster| cluster.node(id).status().last_index >= index;
    // The removal reaches its subject alone, which cannot make it count.
    cluster.isolated.extend(&others);
    let removal = MembershipChange::Remove(removed);
    let ticket = cluster
        .node(leader)
        .propose_membership(removal, Bytes::new())
        .expect("removal");
    cluster
        .run_until("the removal is there", 5, holds(removed, ticket.index))
        .expect("sent");
    // Its log is longer than those of the others, and they elect it.
    cluster.isolated = [leader].into();
    let out = move |cluster: &mut Cluster| {
        let status = cluster.node(removed).status();
        status.role.is_leader() && !status.membership.contains(removed)
    };
    cluster
        .run_until("it removed itself", 400, out)
        .expect("it removed itself");
    assert!(
        cluster
            .node(removed)
            .propose(Bytes::from_static(b"late"))
            .is_err(),
        "who is out of the group proposes nothing"
    );
    let heir = others[0];
    cluster
        .run_until("it handed over", 100, |cluster| {
            let status = cluster.node(removed).status();
            let caught_up = |peer: &crate::PeerStatus| peer.raft_id == heir && peer.caught_up;
            if status.role.is_leader()
                && status.transferring_to.is_none()
                && status.peers.iter().any(caught_up)
            {
                cluster.node(removed).transfer_leader(heir).expect("transfer");
            }
            cluster.node(heir).status().leader_ready && !status.role.is_leader()
        })
        .unwrap_or_else(|error| panic!("{error}"));
    cluster.propose(7);
    cluster
        .run_until("a write", 20, |cluster| cluster.machine(heir).values.contains(&7))
        .expect("a write");
}
