//! Counters of containers.

use super::container::{NEVER, time};
use crate::backend::{ContainerStats, CpuStats};
use crate::wire::stats::Stats;
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
    json!({
        "cpu_usage": {
            "total_usage": cpu.total_ns,
            "usage_in_kernelmode": cpu.kernel_ns,
            "usage_in_usermode": cpu.user_ns,
        },
        "system_cpu_usage": cpu.host_ns,
        "online_cpus": cpu.cpus,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled_ns,
        },
    })
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

fn block_io(now: &ContainerStats) -> Value {
    let rows: Vec<Value> = now
        .block_io
        .iter()
        .flat_map(|device| {
            [("read", device.read_bytes), ("write", device.write_bytes)].map(
                |(op, bytes)| json!({"major": device.major, "minor": device.minor, "op": op, "value": bytes}),
            )
        })
        .collect();
    json!({
        "io_service_bytes_recursive": rows,
        "io_serviced_recursive": null,
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}
