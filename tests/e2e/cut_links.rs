//! Nodes whose link is cut before they die: nobody is told, no connection is reset.

use crate::support::{LONG, Lab, eventually};
use std::time::{Duration, Instant};

/// From the cut of the leader's link until a survivor accepts a write. The benchmarks measure how long it really takes.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_worker_and_the_leader_are_cut_off_and_die() {
    let lab = Lab::with_image("e2ecut", 4, 3);
    lab.create_web(8);
    lab.await_running("node-1", "web", 8, |_| true);
    assert_eq!(lab.leader("node-1"), "node-1");

    lab.command(&["partition", "node-4", "node-1,node-2,node-3"]);
    lab.kill("node-4");
    lab.await_running("node-1", "web", 8, |tasks| {
        tasks.values().all(|node| node != "node-4")
    });

    lab.command(&["partition", "node-1", "node-2,node-3"]);
    let cut = Instant::now();
    lab.kill("node-1");
    let update = ["service", "update", "-d", "--label-add", "a=b", "web"];
    eventually("a write", WRITE_WITHIN, || {
        let output = lab.docker("node-2").try_run(&update);
        if output.code == 0 { Ok(()) } else { Err(output) }
    });
    eprintln!("write accepted {:?} after the cut", cut.elapsed());
    let moved = lab.await_running("node-3", "web", 8, |tasks| {
        tasks.values().all(|node| node == "node-2" || node == "node-3")
    });

    lab.command(&["heal"]);
    lab.start("node-1");
    lab.start("node-4");
    lab.await_listed("node-2", "node-1", "Ready Active Reachable");
    lab.await_listed("node-2", "node-4", "Ready Active");
    for node in ["node-1", "node-4"] {
        lab.await_daemon(node);
        eventually(&format!("{node} to be empty"), LONG, || {
            let left = lab.docker(node).run(&["ps", "-q"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
    lab.await_running("node-1", "web", 8, |now| *now == moved);
    let label = "{{.Spec.Labels.a}}";
    assert_eq!(
        lab.docker("node-1")
            .run(&["service", "inspect", "--format", label, "web"]),
        "b"
    );
}
