//! Limits of a container, in creations, changes and answers. What the host can limit, the engine knows.

use super::{Read, host, non_negative, signed};
use crate::http::Failure;
use crate::wire::container as wire;
use muster_types::block_io::{DeviceLimits, DeviceRate, DeviceWeight};
use muster_types::container::ContainerResources;
use muster_types::container_update::ContainerUpdate;

/// Reads the limits.
pub(crate) fn read(host: &wire::HostConfig) -> Read<ContainerResources> {
    refuse_windows(host)?;
    if host.cpu_shares < 0 {
        return Err(Failure::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    // Older clients send -1 for "the kernel's default".
    let memory_swappiness = match host.memory_swappiness {
        None | Some(-1) => None,
        Some(value @ 0..=100) => Some(non_negative("MemorySwappiness", value)?),
        Some(value) => {
            return Err(Failure::invalid(format!(
                "Invalid value: {value}, valid memory swappiness range is 0-100"
            )));
        }
    };
    Ok(ContainerResources {
        nano_cpus: non_negative("NanoCpus", host.nano_cpus)?,
        cpu_shares: non_negative("CpuShares", host.cpu_shares)?,
        cpu_period_us: non_negative("CpuPeriod", host.cpu_period)?,
        cpu_quota_us: host.cpu_quota,
        cpu_realtime_period_us: non_negative("CpuRealtimePeriod", host.cpu_realtime_period)?,
        cpu_realtime_runtime_us: host.cpu_realtime_runtime,
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        memory_bytes: non_negative("Memory", host.memory)?,
        memory_reservation_bytes: non_negative("MemoryReservation", host.memory_reservation)?,
        memory_swap_bytes: host.memory_swap,
        memory_swappiness,
        oom_kill_disable: host.oom_kill_disable,
        kernel_memory_bytes: u64::try_from(host.kernel_memory).unwrap_or(0),
        pids: host.pids_limit.unwrap_or(0).max(0),
        blkio_weight: host.blkio_weight,
        devices: DeviceLimits {
            weights: host.blkio_weight_device.iter().map(read_weight).collect(),
            read_bytes: read_rates(&host.blkio_device_read_bps),
            write_bytes: read_rates(&host.blkio_device_write_bps),
            reads: read_rates(&host.blkio_device_read_iops),
            writes: read_rates(&host.blkio_device_write_iops),
        },
    })
}

fn refuse_windows(host: &wire::HostConfig) -> Read<()> {
    let asked = [
        ("CPU count", host.cpu_count != 0),
        ("CPU percent", host.cpu_percent != 0),
        ("QoS maximum bandwidth", host.io_maximum_bandwidth != 0),
        ("QoS maximum IOPs", host.io_maximum_iops != 0),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((option, _)) => Err(Failure::invalid(format!(
            "invalid option: {option} configuration is not supported on linux"
        ))),
        None => Ok(()),
    }
}

/// Reads the body of `update`, which names limits as `create` does.
pub(crate) fn read_update(body: &wire::HostConfig) -> Read<ContainerUpdate> {
    let restart = match body.restart_policy.name.as_str() {
        "" => None,
        _ => Some(host::read_restart(&body.restart_policy)?),
    };
    Ok(ContainerUpdate {
        resources: read(body)?,
        pids: body.pids_limit,
        restart,
    })
}

/// Writes the limits into an answer.
pub(crate) fn write(resources: &ContainerResources, answer: &mut wire::HostConfig) {
    answer.nano_cpus = signed(resources.nano_cpus);
    answer.cpu_shares = signed(resources.cpu_shares);
    answer.cpu_period = signed(resources.cpu_period_us);
    answer.cpu_quota = resources.cpu_quota_us;
    answer.cpu_realtime_period = signed(resources.cpu_realtime_period_us);
    answer.cpu_realtime_runtime = resources.cpu_realtime_runtime_us;
    answer.cpuset_cpus.clone_from(&resources.cpuset_cpus);
    answer.cpuset_mems.clone_from(&resources.cpuset_mems);
    answer.memory = signed(resources.memory_bytes);
    answer.memory_reservation = signed(resources.memory_reservation_bytes);
    answer.memory_swap = resources.memory_swap_bytes;
    answer.memory_swappiness = resources.memory_swappiness.map(signed);
    answer.oom_kill_disable = resources.oom_kill_disable;
    answer.pids_limit = (resources.pids != 0).then_some(resources.pids);
    answer.blkio_weight = resources.blkio_weight;
    let devices = &resources.devices;
    answer.blkio_weight_device = devices.weights.iter().map(write_weight).collect();
    answer.blkio_device_read_bps = write_rates(&devices.read_bytes);
    answer.blkio_device_write_bps = write_rates(&devices.write_bytes);
    answer.blkio_device_read_iops = write_rates(&devices.reads);
    answer.blkio_device_write_iops = write_rates(&devices.writes);
}

fn read_weight(wire: &wire::WeightDevice) -> DeviceWeight {
    DeviceWeight {
        path: wire.path.clone(),
        weight: wire.weight,
    }
}

fn write_weight(weight: &DeviceWeight) -> wire::WeightDevice {
    wire::WeightDevice {
        path: weight.path.clone(),
        weight: weight.weight,
    }
}

fn read_rates(wire: &[wire::ThrottleDevice]) -> Vec<DeviceRate> {
    let rate = |wire: &wire::ThrottleDevice| DeviceRate {
        path: wire.path.clone(),
        rate: wire.rate,
    };
    wire.iter().map(rate).collect()
}

fn write_rates(rates: &[DeviceRate]) -> Vec<wire::ThrottleDevice> {
    let rate = |rate: &DeviceRate| wire::ThrottleDevice {
        path: rate.path.clone(),
        rate: rate.rate,
    };
    rates.iter().map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(body: serde_json::Value) -> Read<ContainerUpdate> {
        read_update(&serde_json::from_value(body).unwrap())
    }

    #[test]
    fn limits_come_back_as_they_were_asked_for() {
        let asked = json!({
            "NanoCpus": 5, "CpuShares": 6, "CpuPeriod": 7, "CpuQuota": -1, "CpuRealtimePeriod": 8,
            "CpuRealtimeRuntime": 9, "CpusetCpus": "0", "CpusetMems": "1", "Memory": 10, "MemoryReservation": 11,
            "MemorySwap": -1, "MemorySwappiness": 12, "OomKillDisable": true, "PidsLimit": 13, "BlkioWeight": 14,
            "BlkioWeightDevice": [{"Path": "/dev/a", "Weight": 15}],
            "BlkioDeviceReadBps": [{"Path": "/dev/b", "Rate": 16}],
            "BlkioDeviceWriteBps": [{"Path": "/dev/c", "Rate": 17}],
            "BlkioDeviceReadIOps": [{"Path": "/dev/d", "Rate": 18}],
            "BlkioDeviceWriteIOps": [{"Path": "/dev/e", "Rate": 19}],
        });
        let body: wire::HostConfig = serde_json::from_value(asked.clone()).unwrap();
        let mut answer = wire::HostConfig::default();
        write(&read(&body).unwrap(), &mut answer);
        let answer = serde_json::to_value(&answer).unwrap();
        for (field, value) in asked.as_object().unwrap() {
            assert_eq!(&answer[field], value, "{field}");
        }
    }

    #[test]
    fn an_update_says_what_is_to_change() {
        let update =
            asked(json!({"PidsLimit": 0, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}));
        let update = update.unwrap();
        assert_eq!(update.pids, Some(0));
        assert!(update.restart.is_some());
        assert_eq!(asked(json!({})).unwrap(), ContainerUpdate::default());
        assert!(asked(json!({"RestartPolicy": {"Name": "sometimes"}})).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            json!({"CpuShares": -1}),
            json!({"MemorySwappiness": 101}),
            json!({"CpuPercent": 5}),
            json!({"IOMaximumIOps": 5}),
        ] {
            assert!(asked(bad.clone()).is_err(), "{bad}");
        }
    }
}
