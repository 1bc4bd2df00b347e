//! Which limits are refused, dropped and kept.

use super::*;
use muster_types::block_io::{DeviceRate, DeviceWeight};

fn everything() -> HostAbilities {
    HostAbilities {
        cpus: 2,
        cpu_list: CpuList::parse("0-1").unwrap(),
        memory_nodes: CpuList::parse("0").unwrap(),
        memory: true,
        swap: true,
        swappiness: true,
        oom_kill_disable: true,
        memory_reservation: true,
        pids: true,
        cpu_shares: true,
        cpu_quota: true,
        cpu_realtime: true,
        cpuset: true,
        block_weight: true,
        block_throttle: true,
    }
}

fn nothing() -> HostAbilities {
    HostAbilities {
        memory: false,
        swap: false,
        swappiness: false,
        oom_kill_disable: false,
        memory_reservation: false,
        pids: false,
        cpu_shares: false,
        cpu_quota: false,
        cpu_realtime: false,
        cpuset: false,
        block_weight: false,
        block_throttle: false,
        ..everything()
    }
}

fn refusal(change: impl FnOnce(&mut ContainerResources)) -> String {
    let mut wanted = ContainerResources::default();
    change(&mut wanted);
    admit(&mut wanted, &everything(), Purpose::Create)
        .unwrap_err()
        .to_string()
}

#[test]
fn nonsense_is_refused_in_dockers_words() {
    type Change = fn(&mut ContainerResources);
    let cases: [(Change, &str); 14] = [
        (|r| r.memory_bytes = 1, "Minimum memory limit allowed is 6MB"),
        (
            |r| r.memory_swap_bytes = 10,
            "You should always set the Memory limit",
        ),
        (
            |r| (r.memory_bytes, r.memory_swap_bytes) = (8 << 20, 7 << 20),
            "Minimum memoryswap limit",
        ),
        (
            |r| r.memory_swappiness = Some(101),
            "valid memory swappiness range is 0-100",
        ),
        (
            |r| r.memory_reservation_bytes = 1,
            "Minimum memory reservation allowed is 6MB",
        ),
        (
            |r| (r.memory_bytes, r.memory_reservation_bytes) = (8 << 20, 9 << 20),
            "Minimum memory limit can not be less than memory reservation limit",
        ),
        (
            |r| r.nano_cpus = 3_000_000_000,
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs",
        ),
        (
            |r| (r.nano_cpus, r.cpu_quota_us) = (1, 5000),
            "Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            |r| r.cpu_period_us = 10,
            "CPU cfs period can not be less than 1ms",
        ),
        (|r| r.cpu_quota_us = 10, "CPU cfs quota can not be less than 1ms"),
        (
            |r| (r.cpu_realtime_period_us, r.cpu_realtime_runtime_us) = (5, 6),
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
        (
            |r| r.cpuset_cpus = "0-2".into(),
            "Requested CPUs are not available - requested 0-2, available: 0-1",
        ),
        (|r| r.cpuset_mems = "x".into(), "Invalid value x for cpuset mems"),
        (|r| r.blkio_weight = 5, "Range of blkio weight is from 10 to 1000"),
    ];
    for (change, text) in cases {
        let refusal = refusal(change);
        assert!(refusal.contains(text), "{refusal}");
    }
}

fn full() -> ContainerResources {
    let rate = || {
        vec![DeviceRate {
            path: "/dev/a".into(),
            rate: 1,
        }]
    };
    let mut wanted = ContainerResources {
        memory_bytes: 64 << 20,
        memory_reservation_bytes: 32 << 20,
        memory_swappiness: Some(5),
        oom_kill_disable: Some(true),
        pids: 5,
        cpu_shares: 512,
        cpu_quota_us: 5000,
        cpuset_cpus: "0".into(),
        blkio_weight: 100,
        ..ContainerResources::default()
    };
    wanted.devices.weights = vec![DeviceWeight {
        path: "/dev/a".into(),
        weight: 100,
    }];
    wanted.devices.read_bytes = rate();
    wanted.devices.write_bytes = rate();
    wanted.devices.reads = rate();
    wanted.devices.writes = rate();
    wanted
}

#[test]
fn what_the_host_cannot_keep_is_dropped_with_a_warning() {
    let mut wanted = full();
    let warnings = admit(&mut wanted, &nothing(), Purpose::Create).unwrap();
    assert_eq!(warnings.len(), 14, "{warnings:#?}");
    assert!(
        warnings
            .iter()
            .all(|warning| warning.starts_with("Your kernel does not support "))
    );
    let left = ContainerResources {
        memory_swap_bytes: -1,
        ..ContainerResources::default()
    };
    assert_eq!(wanted, left);
}

#[test]
fn what_the_host_can_keep_stays_without_a_word() {
    let mut wanted = full();
    assert_eq!(
        admit(&mut wanted, &everything(), Purpose::Create).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(
        wanted,
        ContainerResources {
            memory_swap_bytes: 128 << 20,
            ..full()
        }
    );
    // A change fills nothing in.
    let mut update = full();
    admit(&mut update, &everything(), Purpose::Update).unwrap();
    assert_eq!(update, full());
}

#[test]
fn dangerous_and_forgotten_limits_are_told() {
    let mut wanted = ContainerResources {
        oom_kill_disable: Some(true),
        kernel_memory_bytes: 1,
        ..ContainerResources::default()
    };
    let warnings = admit(&mut wanted, &everything(), Purpose::Create).unwrap();
    assert!(
        warnings[0].contains("kernel memory limit capabilities"),
        "{warnings:?}"
    );
    assert!(warnings[1].starts_with("OOM killer is disabled"), "{warnings:?}");
    assert_eq!(
        (wanted.oom_kill_disable, wanted.kernel_memory_bytes),
        (Some(true), 0)
    );
    let mut realtime = ContainerResources {
        cpu_realtime_period_us: 5,
        ..ContainerResources::default()
    };
    let refused = admit(&mut realtime, &nothing(), Purpose::Create).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "kernel does not support CPU real-time scheduler"
    );
}
