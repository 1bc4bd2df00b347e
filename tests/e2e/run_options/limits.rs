//! Limits and devices, as the control groups have them.

use super::{control, detached, inspect, output, refusal};
use crate::support::{Docker, IMAGE};

pub(super) fn devices(docker: &Docker) {
    let open = "exec 3< /dev/mine && echo open";
    assert_eq!(
        output(docker, &["--device", "/dev/zero:/dev/mine:r"], open),
        "open"
    );
    let write = "exec 3> /dev/mine";
    let refused = docker.try_run(&[
        "run",
        "--rm",
        "--device",
        "/dev/loop-control:/dev/mine:r",
        IMAGE,
        "sh",
        "-c",
        write,
    ]);
    assert_ne!(refused.code, 0, "{refused:?}");
    let ruled = ["--device-cgroup-rule", "c 10:237 rwm", "--cap-add", "MKNOD"];
    let made = "busybox mknod /tmp/loop c 10 237 && exec 3< /tmp/loop && echo open";
    let made = format!("mkdir -p /tmp; {made}");
    assert_eq!(output(docker, &ruled, &made), "open");
    let without = docker.try_run(&["run", "--rm", IMAGE, "sh", "-c", &made]);
    assert_ne!(without.code, 0, "{without:?}");
    let bad = refusal(docker, &["--device", "/dev/absent"]);
    assert!(
        bad.contains("error gathering device information while adding custom device"),
        "{bad}"
    );
    let gpus = refusal(docker, &["--gpus", "all"]);
    assert!(
        gpus.contains("could not select device driver \"\" with capabilities: [[gpu]]"),
        "{gpus}"
    );
}

pub(super) fn limits(docker: &Docker) {
    let options = [
        "--memory=64m",
        "--memory-swap=96m",
        "--memory-reservation=32m",
        "--cpus=0.5",
        "--cpu-shares=512",
        "--cpuset-cpus=0",
        "--pids-limit=40",
        "--ulimit",
        "nofile=64:64",
        "--ulimit",
        "core=0",
        "--oom-score-adj=500",
        "--shm-size=2m",
    ];
    detached(docker, "limited", &options);
    assert_eq!(
        control(docker, "limited", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert!(control(docker, "limited", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    assert_eq!(control(docker, "limited", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(control(docker, "limited", "pids.max", "pids.max"), "40");
    assert_eq!(docker.run(&["exec", "limited", "sh", "-c", "ulimit -n"]), "64");
    assert_eq!(
        docker.run(&["exec", "limited", "cat", "/proc/1/oom_score_adj"]),
        "500"
    );
    assert!(
        docker
            .run(&["exec", "limited", "grep", " /dev/shm ", "/proc/mounts"])
            .contains("size=2048k")
    );

    docker.run(&[
        "update",
        "--memory=48m",
        "--memory-swap=64m",
        "--pids-limit=50",
        "--cpu-shares=256",
        "limited",
    ]);
    assert_eq!(
        control(docker, "limited", "memory.limit_in_bytes", "memory.max"),
        (48 << 20).to_string()
    );
    assert_eq!(control(docker, "limited", "pids.max", "pids.max"), "50");
    assert_eq!(
        inspect(
            docker,
            "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}",
            "limited"
        ),
        "50331648 50"
    );
    let conflict = docker.refuse(&["update", "--memory=128m", "limited"]);
    assert!(
        conflict.contains("Memory limit should be smaller than already set memoryswap limit"),
        "{conflict}"
    );
    let quota = docker.refuse(&["update", "--cpu-quota=20000", "limited"]);
    assert!(
        quota.contains("CPU Quota cannot be updated as NanoCPUs has already been set"),
        "{quota}"
    );
    docker.run(&["stop", "-t", "0", "limited"]);
    docker.run(&["update", "--pids-limit=60", "--restart=unless-stopped", "limited"]);
    docker.run(&["start", "limited"]);
    assert_eq!(control(docker, "limited", "pids.max", "pids.max"), "60");
    assert_eq!(
        inspect(docker, "{{.HostConfig.RestartPolicy.Name}}", "limited"),
        "unless-stopped"
    );
    docker.run(&["rm", "-f", "limited"]);
}

/// Limits that no host keeps.
pub(super) fn refusals(docker: &Docker) {
    for (options, text) in [
        (&["--memory=1m"][..], "Minimum memory limit allowed is 6MB"),
        (&["--cpus=999"], "as there are only"),
        (
            &["--cpuset-cpus=999"],
            "Requested CPUs are not available - requested 999",
        ),
        (&["--cpu-period=10"], "CPU cfs period can not be less than 1ms"),
        (&["--blkio-weight=5"], "Range of blkio weight is from 10 to 1000"),
        (
            &["--oom-score-adj=2000"],
            "range for oom score adj is [-1000, 1000]",
        ),
        (&["--storage-opt", "size=1g"], "--storage-opt is supported only"),
        (&["--runtime=nosuch"], "unknown or invalid runtime name: nosuch"),
        (&["--restart=always"], "--restart and --rm"),
    ] {
        let refused = refusal(docker, options);
        assert!(
            refused.to_lowercase().contains(&text.to_lowercase()),
            "{options:?}: {refused}"
        );
    }
    let kernel = docker.try_run(&["run", "--rm", "--oom-kill-disable", IMAGE, "true"]);
    assert!(
        kernel.stderr.contains("OOM killer is disabled")
            || kernel.stderr.contains("OomKillDisable discarded")
    );
}
