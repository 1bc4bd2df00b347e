//! The keys that wrap the data keys of the Raft log, replaced while the controller runs.

use super::cluster::{Served, certificate, node, start_controller};
use muster_consensus::KeyRing;
use muster_state::ClusterState;
use muster_types::NodeRole;
use std::time::Duration;

const OLD: [u8; 32] = [7; 32];
const NEW: [u8; 32] = [8; 32];

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_the_new_key_alone_opens_the_log() {
    let served = Served::start().await;
    let before = served.handle().state();
    let both = KeyRing::new(NEW).with_previous(OLD);
    assert!(served.handle().rotate_keys(both).await);
    let (disk, root) = served.stop().await;
    disk.power_on();
    let own = certificate(&root, node(1), NodeRole::Controller, Duration::from_secs(3600));
    let running = start_controller(&disk, KeyRing::new(NEW), &own, None).expect("it has its log");
    let mut members = running.handle.members();
    members.wait_for(|members| members.leading).await.unwrap();
    let state = running.handle.read().await.unwrap().state;
    let roles = |state: &ClusterState| -> Vec<_> {
        let roles = state.nodes().map(|node| (node.id, node.spec.role));
        roles.collect()
    };
    assert_eq!(roles(&state), roles(&before));
    // And again, while it leads, over the handle of this start.
    assert!(
        running
            .handle
            .rotate_keys(KeyRing::new(OLD).with_previous(NEW))
            .await
    );
    let handle = running.handle.clone();
    running.stop().await;
    assert!(!handle.rotate_keys(KeyRing::new(NEW)).await, "it has ended");
    disk.power_on();
    let running = start_controller(&disk, KeyRing::new(OLD), &own, None).expect("it has its log");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_its_log_does_not_run_under_its_old_id() {
    let served = Served::start().await;
    let (_, root) = served.stop().await;
    let own = certificate(&root, node(1), NodeRole::Controller, Duration::from_secs(3600));
    let empty = muster_consensus::sim::SimDisk::new(2);
    for _ in 0..2 {
        assert!(start_controller(&empty, KeyRing::new(OLD), &own, None).is_none());
        empty.power_on();
    }
}
