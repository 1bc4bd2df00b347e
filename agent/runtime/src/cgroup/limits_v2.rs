//! Limits in control groups v2.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::error::{CgroupError, Result};
use super::limits::{
    ControlWrite, checked_block_weight, checked_list, checked_page_size, checked_shares, device_numbers,
    plan_rdma, swap_alone,
};
use super::root::Controller;

/// The period when only a quota is given, as in the kernel.
const CPU_PERIOD_US_DEFAULT: u64 = 100_000;

/// The writes that give a group its limits, without the device rules.
pub(super) fn plan(resources: &LinuxResources) -> Result<Vec<ControlWrite>> {
    let mut writes = Vec::new();
    if let Some(cpu) = resources.cpu() {
        plan_cpu(cpu, &mut writes)?;
    }
    if let Some(memory) = resources.memory() {
        plan_memory(memory, &mut writes)?;
    }
    if let Some(pids) = resources.pids() {
        let value = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        writes.push(ControlWrite::new(
            Controller::Pids,
            "process limit",
            "pids.max",
            value,
        ));
    }
    if let Some(block_io) = resources.block_io() {
        plan_block_io(block_io, &mut writes)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let size = checked_page_size(page.page_size())?;
        let file = format!("hugetlb.{size}.max");
        writes.push(ControlWrite::new(
            Controller::Hugetlb,
            "huge page limit",
            file,
            page.limit(),
        ));
    }
    plan_rdma(resources, &mut writes)?;
    if resources
        .network()
        .as_ref()
        .is_some_and(|network| network.class_id().is_some_and(|class| class != 0))
    {
        return unsupported(
            "network class",
            "control groups v2 have no such limit; mark traffic with nftables",
        );
    }
    plan_unified(resources, &mut writes)?;
    Ok(writes)
}

/// CPU shares (v1, 2 to 262144, default 1024) as a weight (v2, 1 to 10000, default 100).
///
/// The quadratic function through minimum, default and maximum that runc has used since 1.3.2; the linear one before
/// it gave a container with default shares 39 instead of 100, less than any other group.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            let weight = 10f64.powf(exponent);
            // Rounded up as there, except where the fraction is only the arithmetic's error.
            (weight - 1e-9).ceil() as u64
        }
    }
}

fn unsupported<T>(limit: &str, reason: &'static str) -> Result<T> {
    Err(CgroupError::Unsupported {
        limit: limit.to_owned(),
        reason,
    })
}

fn plan_cpu(cpu: &LinuxCpu, writes: &mut Vec<ControlWrite>) -> Result<()> {
    if cpu.realtime_period().is_some_and(|period| period != 0)
        || cpu.realtime_runtime().is_some_and(|time| time != 0)
    {
        return unsupported(
            "CPU real-time budget",
            "control groups v2 have no such limit; leave it out",
        );
    }
    let mut add = |limit, file, value: Option<String>| {
        writes.extend(value.map(|value| ControlWrite::new(Controller::Cpu, limit, file, value)));
    };
    let weight = checked_shares(cpu.shares())?.map(weight_of_shares);
    add(
        "CPU shares",
        "cpu.weight",
        weight.map(|weight| weight.to_string()),
    );
    add("CPU idle", "cpu.idle", cpu.idle().map(|idle| idle.to_string()));
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let maximum = match (quota, period) {
        (None, None) => None,
        (quota, period) => {
            let quota = quota
                .filter(|quota| *quota > 0)
                .map_or("max".to_owned(), |quota| quota.to_string());
            Some(format!("{quota} {}", period.unwrap_or(CPU_PERIOD_US_DEFAULT)))
        }
    };
    add("CPU quota", "cpu.max", maximum);
    add(
        "CPU burst",
        "cpu.max.burst",
        cpu.burst().map(|burst| burst.to_string()),
    );
    for (limit, file, list) in [
        ("CPU set", "cpuset.cpus", cpu.cpus()),
        ("memory nodes", "cpuset.mems", cpu.mems()),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            writes.push(ControlWrite::new(
                Controller::Cpuset,
                limit,
                file,
                checked_list(limit, list)?,
            ));
        }
    }
    Ok(())
}

fn plan_memory(memory: &LinuxMemory, writes: &mut Vec<ControlWrite>) -> Result<()> {
    if memory.disable_oom_killer() == Some(true) {
        return unsupported(
            "disabling the OOM killer",
            "control groups v2 have no such switch; leave it out",
        );
    }
    if memory.swappiness().is_some() {
        return unsupported(
            "memory swappiness",
            "control groups v2 have no such limit; leave it out",
        );
    }
    let mut add = |limit, file, bytes: Option<i64>| {
        writes.extend(
            bytes.map(|bytes| ControlWrite::new(Controller::Memory, limit, file, bytes_or_max(bytes))),
        );
    };
    // Swap first: when both shrink, pages that leave memory must not fill more swap than is allowed afterwards.
    add(
        "memory and swap limit",
        "memory.swap.max",
        swap_alone(memory.limit(), memory.swap())?,
    );
    add(
        "memory limit",
        "memory.max",
        memory.limit().filter(|limit| *limit != 0),
    );
    add(
        "memory reservation",
        "memory.low",
        memory.reservation().filter(|reservation| *reservation != 0),
    );
    Ok(())
}

fn bytes_or_max(bytes: i64) -> String {
    if bytes < 0 {
        "max".to_owned()
    } else {
        bytes.to_string()
    }
}

fn plan_block_io(block_io: &LinuxBlockIo, writes: &mut Vec<ControlWrite>) -> Result<()> {
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        let weight = u64::from(checked_block_weight(weight)?);
        // BFQ takes the value as it is; the default weight file runs from 1 to 10000.
        let write = ControlWrite::new(Controller::Blkio, "block I/O weight", "io.bfq.weight", weight);
        writes.push(write.or("io.weight", format!("default {}", 1 + (weight - 10) * 9999 / 990)));
    }
    for device in block_io.weight_device().iter().flatten() {
        let numbers = device_numbers("block I/O weight", device.major(), device.minor())?;
        if let Some(weight) = device.weight() {
            let value = format!("{numbers} {}", checked_block_weight(weight)?);
            writes.push(ControlWrite::new(
                Controller::Blkio,
                "block I/O weight",
                "io.bfq.weight",
                value,
            ));
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ];
    let mut by_device: BTreeMap<String, String> = BTreeMap::new();
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let numbers = device_numbers("block I/O rate", device.major(), device.minor())?;
            let rate = if device.rate() == 0 {
                "max".to_owned()
            } else {
                device.rate().to_string()
            };
            by_device
                .entry(numbers)
                .or_default()
                .push_str(&format!(" {key}={rate}"));
        }
    }
    writes.extend(by_device.into_iter().map(|(numbers, rates)| {
        ControlWrite::new(
            Controller::Blkio,
            "block I/O rate",
            "io.max",
            format!("{numbers}{rates}"),
        )
    }));
    Ok(())
}

/// Limits by the kernel's own file names. Only limits: nothing of the group's life (`cgroup.*`) can be reached.
fn plan_unified(resources: &LinuxResources, writes: &mut Vec<ControlWrite>) -> Result<()> {
    let entries: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in entries {
        let controller = file
            .split_once('.')
            .and_then(|(name, _)| Controller::from_kernel_name(name));
        let plain = file
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
        match controller {
            Some(controller) if plain => {
                writes.push(ControlWrite::new(
                    controller,
                    "unified resource",
                    file.clone(),
                    value,
                ));
            }
            _ => {
                return Err(CgroupError::InvalidLimit {
                    limit: "unified resource",
                    value: format!("{file:?}"),
                    reason: "it is named as the kernel names limits, such as memory.high".to_owned(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResourcesBuilder};

    #[test]
    fn shares_become_weights_as_in_runc() {
        for (shares, weight) in [
            (0, 1),
            (1, 1),
            (2, 1),
            (1024, 100),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
        let weights: Vec<_> = (2..=262_144).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
    }

    fn written(resources: &LinuxResources) -> Vec<(String, String)> {
        plan(resources)
            .unwrap()
            .into_iter()
            .map(|write| (write.file.into_owned(), write.value))
            .collect()
    }

    #[test]
    fn quota_and_period_share_a_file() {
        let with = |cpu| LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
        let cpu = LinuxCpuBuilder::default().quota(5000i64).build().unwrap();
        assert_eq!(
            written(&with(cpu)),
            [("cpu.max".to_owned(), "5000 100000".to_owned())]
        );
        let cpu = LinuxCpuBuilder::default()
            .quota(-1i64)
            .period(20_000u64)
            .build()
            .unwrap();
        assert_eq!(
            written(&with(cpu)),
            [("cpu.max".to_owned(), "max 20000".to_owned())]
        );
    }

    #[test]
    fn swap_leaves_memory_out() {
        let memory = LinuxMemoryBuilder::default()
            .limit(1000)
            .swap(1500)
            .build()
            .unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        let expected = [("memory.swap.max", "500"), ("memory.max", "1000")];
        assert_eq!(
            written(&resources),
            expected.map(|(file, value)| (file.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn unified_reaches_limits_only() {
        let with = |file: &str| {
            let unified = [(file.to_owned(), "1".to_owned())]
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>();
            LinuxResourcesBuilder::default().unified(unified).build().unwrap()
        };
        assert!(plan(&with("memory.high")).is_ok());
        for bad in [
            "cgroup.kill",
            "cgroup.subtree_control",
            "../memory.max",
            "memory/../../x",
            "memory",
        ] {
            assert!(plan(&with(bad)).is_err(), "{bad} was accepted");
        }
    }
}
