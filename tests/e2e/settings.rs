//! `swarm update`: every setting is kept, told again, and takes effect.

use crate::support::{LONG, Lab, eventually};
use serde_json::Value;

#[test]
fn settings_of_the_cluster_are_kept_and_take_effect() {
    let lab = Lab::up("e2eset", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&[
        "swarm",
        "update",
        "--task-history-limit",
        "2",
        "--dispatcher-heartbeat",
        "2s",
        "--cert-expiry",
        "48h",
        "--snapshot-interval",
        "5",
        "--max-snapshots",
        "2",
    ]);
    let text = docker.run(&["info", "--format", "{{json .Swarm.Cluster.Spec}}"]);
    let spec: Value = serde_json::from_str(&text).expect("the CLI prints JSON");
    assert_eq!(spec["Orchestration"]["TaskHistoryRetentionLimit"], 2);
    assert_eq!(spec["Dispatcher"]["HeartbeatPeriod"], 2_000_000_000u64);
    assert_eq!(spec["CAConfig"]["NodeCertExpiry"], 48 * 3_600_000_000_000u64);
    assert_eq!(spec["Raft"]["SnapshotInterval"], 5);
    assert_eq!(spec["Raft"]["KeepOldSnapshots"], 2);

    // A setting that is left out stays.
    let mut labels = 0;
    let raft = lab.node_directory("node-1");
    eventually("three snapshots", LONG, || {
        labels += 1;
        docker.run(&["node", "update", "--label-add", &format!("n={labels}"), "node-1"]);
        let found = std::process::Command::new("find")
            .arg(&raft)
            .args(["-path", "*/raft/snap-*"])
            .output()
            .map_err(|error| error.to_string())?;
        let snapshots = String::from_utf8_lossy(&found.stdout).lines().count();
        if snapshots == 3 {
            Ok(())
        } else {
            Err(format!("{snapshots} snapshots"))
        }
    });

    let refused = docker.refuse(&["swarm", "update", "--autolock"]);
    assert!(
        refused.contains("autolock of managers is not implemented yet"),
        "{refused}"
    );
    let external = "protocol=cfssl,url=https://ca.example/sign";
    let refused = docker.refuse(&["swarm", "update", "--external-ca", external]);
    assert!(
        refused.contains("an external certificate authority is not implemented yet"),
        "{refused}"
    );
    let refused = docker.refuse(&["swarm", "update", "--cert-expiry", "1m"]);
    assert!(
        refused.contains("minimum certificate expiry time is: 1h0m0s"),
        "{refused}"
    );
}
