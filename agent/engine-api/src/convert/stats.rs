//! Counters of containers.

use super::container::{NEVER, time};
use crate::backend::{BlockCount, ContainerStats, CpuStats};
use crate::wire::stats::Stats;
use muster_types::Timestamp;
use muster_types::container::ContainerInfo;
use serde_json::{Map, Value, json};

/// One reading, with the one before it where there is one.
pub(crate) fn write(info: &ContainerInfo, now: &ContainerStats, before: Option<&ContainerStats>) -> Stats {
    Stats {
        name: format!("/{}", info.name),
        id: info.id.to_string(),
        read: time(now.at),
        preread: before.map_or_else(|| NEVER.to_owned(), |before| time(before.at)),
        pids_stats: optional([("current", now.pids.current), ("limit", now.pids.limit)]),
        blkio_stats: block_io(now),
        num_procs: 0,
        storage_stats: json!({}),
        cpu_stats: cpu(&now.cpu),
        precpu_stats: cpu(&before.map(|before| before.cpu.clone()).unwrap_or_default()),
        memory_stats: memory(now),
        networks: now
            .networks
            .iter()
            .map(|(name, counters)| {
                let counters = json!({
                    "rx_bytes": counters.rx_bytes,
                    "rx_packets": counters.rx_packets,
                    "rx_errors": counters.rx_errors,
                    "rx_dropped": counters.rx_dropped,
                    "tx_bytes": counters.tx_bytes,
                    "tx_packets": counters.tx_packets,
                    "tx_errors": counters.tx_errors,
                    "tx_dropped": counters.tx_dropped,
                });
                (name.clone(), counters)
            })
            .collect(),
    }
}

/// An object of those numbers that are not zero.
fn optional<const N: usize>(numbers: [(&str, u64); N]) -> Value {
    let members: Map<String, Value> = numbers
        .into_iter()
        .filter(|(_, number)| *number != 0)
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect();
    Value::Object(members)
}

fn cpu(cpu: &CpuStats) -> Value {
    let mut value = optional([
        ("system_cpu_usage", cpu.host_ns),
        ("online_cpus", cpu.cpus.into()),
    ]);
    value["cpu_usage"] = json!({
        "total_usage": cpu.total_ns,
        "usage_in_kernelmode": cpu.kernel_ns,
        "usage_in_usermode": cpu.user_ns,
    });
    if !cpu.by_cpu_ns.is_empty() {
        value["cpu_usage"]["percpu_usage"] = json!(cpu.by_cpu_ns);
    }
    value["throttling_data"] = json!({
        "periods": cpu.periods,
        "throttled_periods": cpu.throttled_periods,
        "throttled_time": cpu.throttled_ns,
    });
    value
}

fn memory(now: &ContainerStats) -> Value {
    let memory = &now.memory;
    let mut value = optional([
        ("usage", memory.usage_bytes),
        ("max_usage", memory.usage_bytes_max),
        ("failcnt", memory.failures),
        ("limit", memory.limit_bytes),
    ]);
    if let Value::Object(members) = &mut value
        && !memory.detail.is_empty()
    {
        members.insert("stats".to_owned(), json!(memory.detail));
    }
    value
}

/// Control groups v1 have a list of each kind, v2 the bytes only.
fn block_io(now: &ContainerStats) -> Value {
    let rows = |counts: &[BlockCount]| -> Vec<Value> {
        let row = |count: &BlockCount| json!({"major": count.major, "minor": count.minor, "op": count.operation, "value": count.value});
        counts.iter().map(row).collect()
    };
    let runs = now.at != Timestamp::ZERO;
    let of_v1 = |counts| (!now.cpu.by_cpu_ns.is_empty()).then(|| rows(counts));
    json!({
        "io_service_bytes_recursive": runs.then(|| rows(&now.block_bytes)),
        "io_serviced_recursive": of_v1(&now.block_operations),
        "io_queue_recursive": of_v1(&[]),
        "io_service_time_recursive": of_v1(&[]),
        "io_wait_time_recursive": of_v1(&[]),
        "io_merged_recursive": of_v1(&[]),
        "io_time_recursive": of_v1(&[]),
        "sectors_recursive": of_v1(&[]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_run_has_no_counters() {
        let (now, before) = (ContainerStats::default(), None);
        assert_eq!(time(now.at), NEVER);
        assert_eq!(memory(&now), json!({}));
        let cpu = cpu(&before.unwrap_or_default());
        assert!(cpu.get("system_cpu_usage").is_none() && cpu.get("online_cpus").is_none());
        assert_eq!(cpu["cpu_usage"]["total_usage"], 0);
        assert!(block_io(&now).as_object().unwrap().values().all(Value::is_null));
    }

    #[test]
    fn each_control_group_version_has_its_own_lists() {
        let count = BlockCount {
            major: 8,
            minor: 0,
            operation: "Read".to_owned(),
            value: 7,
        };
        let mut now = ContainerStats {
            at: Timestamp::from_secs(1),
            block_bytes: vec![count.clone()],
            block_operations: vec![count],
            ..ContainerStats::default()
        };
        let row = json!([{"major": 8, "minor": 0, "op": "Read", "value": 7}]);
        let second = block_io(&now);
        assert_eq!(second["io_service_bytes_recursive"], row);
        assert_eq!(second["io_serviced_recursive"], Value::Null);
        assert!(cpu(&now.cpu)["cpu_usage"].get("percpu_usage").is_none());
        now.cpu.by_cpu_ns = vec![1, 2];
        let first = block_io(&now);
        assert_eq!(first["io_serviced_recursive"], row);
        assert_eq!(first["io_queue_recursive"], json!([]));
        assert_eq!(cpu(&now.cpu)["cpu_usage"]["percpu_usage"], json!([1, 2]));
    }
}
