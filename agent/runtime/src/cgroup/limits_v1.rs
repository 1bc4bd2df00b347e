//! Limits in control groups v1.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::error::{CgroupError, Result};
use super::limits::{
    ControlWrite, checked_block_weight, checked_list, checked_page_size, checked_shares, device_numbers,
};
use super::root::Controller;

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
        let file = format!("hugetlb.{size}.limit_in_bytes");
        writes.push(ControlWrite::new(
            Controller::Hugetlb,
            "huge page limit",
            file,
            page.limit(),
        ));
    }
    plan_network(resources, &mut writes)?;
    if resources
        .unified()
        .as_ref()
        .is_some_and(|unified| !unified.is_empty())
    {
        return Err(CgroupError::Unsupported {
            limit: "unified resources".to_owned(),
            reason: "this node has control groups v1; use the limits by name",
        });
    }
    Ok(writes)
}

fn plan_cpu(cpu: &LinuxCpu, writes: &mut Vec<ControlWrite>) -> Result<()> {
    let mut add = |limit, file, value: Option<String>| {
        writes.extend(value.map(|value| ControlWrite::new(Controller::Cpu, limit, file, value)));
    };
    add(
        "CPU shares",
        "cpu.shares",
        checked_shares(cpu.shares())?.map(|shares| shares.to_string()),
    );
    add("CPU idle", "cpu.idle", cpu.idle().map(|idle| idle.to_string()));
    add(
        "CPU period",
        "cpu.cfs_period_us",
        cpu.period().filter(|period| *period != 0).map(|p| p.to_string()),
    );
    add(
        "CPU quota",
        "cpu.cfs_quota_us",
        cpu.quota()
            .filter(|quota| *quota != 0)
            .map(|quota| quota.to_string()),
    );
    add(
        "CPU burst",
        "cpu.cfs_burst_us",
        cpu.burst().map(|burst| burst.to_string()),
    );
    let period = cpu.realtime_period().filter(|period| *period != 0);
    add(
        "CPU real-time period",
        "cpu.rt_period_us",
        period.map(|period| period.to_string()),
    );
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    add(
        "CPU real-time runtime",
        "cpu.rt_runtime_us",
        runtime.map(|runtime| runtime.to_string()),
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
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap != -1
        && swap < limit
    {
        return Err(CgroupError::InvalidLimit {
            limit: "memory and swap limit",
            value: swap.to_string(),
            reason: format!("it counts memory too and is below the memory limit of {limit}"),
        });
    }
    // Without a memory limit there is no sense in an old limit of both.
    let swap = if limit == Some(-1) && swap.is_none() {
        Some(-1)
    } else {
        swap
    };
    let mut add = |limit, file, value: Option<String>| {
        writes.extend(value.map(|value| ControlWrite::new(Controller::Memory, limit, file, value)));
    };
    add(
        "memory limit",
        "memory.limit_in_bytes",
        limit.map(|limit| limit.to_string()),
    );
    add(
        "memory and swap limit",
        "memory.memsw.limit_in_bytes",
        swap.map(|swap| swap.to_string()),
    );
    let reservation = memory.reservation().filter(|reservation| *reservation != 0);
    add(
        "memory reservation",
        "memory.soft_limit_in_bytes",
        reservation.map(|bytes| bytes.to_string()),
    );
    add(
        "TCP memory limit",
        "memory.kmem.tcp.limit_in_bytes",
        memory.kernel_tcp().map(|bytes| bytes.to_string()),
    );
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(CgroupError::InvalidLimit {
                limit: "memory swappiness",
                value: swappiness.to_string(),
                reason: "it is between 0 and 100".to_owned(),
            });
        }
        add(
            "memory swappiness",
            "memory.swappiness",
            Some(swappiness.to_string()),
        );
    }
    let disable = memory.disable_oom_killer().filter(|disable| *disable);
    add(
        "disabling the OOM killer",
        "memory.oom_control",
        disable.map(|_| "1".to_owned()),
    );
    Ok(())
}

fn plan_block_io(block_io: &LinuxBlockIo, writes: &mut Vec<ControlWrite>) -> Result<()> {
    let weight_file = |value: String| {
        ControlWrite::new(Controller::Blkio, "block I/O weight", "blkio.weight", &value)
            .or("blkio.bfq.weight", value)
    };
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        writes.push(weight_file(checked_block_weight(weight)?.to_string()));
    }
    for device in block_io.weight_device().iter().flatten() {
        let numbers = device_numbers("block I/O weight", device.major(), device.minor())?;
        if let Some(weight) = device.weight() {
            let value = format!("{numbers} {}", checked_block_weight(weight)?);
            let write = ControlWrite::new(
                Controller::Blkio,
                "block I/O weight",
                "blkio.weight_device",
                &value,
            );
            writes.push(write.or("blkio.bfq.weight_device", value));
        }
    }
    let throttles: [(&'static str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (
            "blkio.throttle.read_bps_device",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            block_io.throttle_write_iops_device(),
        ),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            let numbers = device_numbers("block I/O rate", device.major(), device.minor())?;
            let value = format!("{numbers} {}", device.rate());
            writes.push(ControlWrite::new(
                Controller::Blkio,
                "block I/O rate",
                file,
                value,
            ));
        }
    }
    Ok(())
}

fn plan_network(resources: &LinuxResources, writes: &mut Vec<ControlWrite>) -> Result<()> {
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            writes.push(ControlWrite::new(
                Controller::NetCls,
                "network class",
                "net_cls.classid",
                class,
            ));
        }
        for priority in network.priorities().iter().flatten() {
            let name = priority.name();
            if name.is_empty() || name.len() > 15 || name.contains(char::is_whitespace) {
                return Err(CgroupError::InvalidLimit {
                    limit: "network priority",
                    value: format!("{name:?}"),
                    reason: "this is no interface name".to_owned(),
                });
            }
            let value = format!("{name} {}", priority.priority());
            writes.push(ControlWrite::new(
                Controller::NetPrio,
                "network priority",
                "net_prio.ifpriomap",
                value,
            ));
        }
    }
    super::limits::plan_rdma(resources, writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder};

    #[test]
    fn unlimited_memory_lifts_the_limit_of_both() {
        let memory = LinuxMemoryBuilder::default().limit(-1).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        let files: Vec<_> = plan(&resources)
            .unwrap()
            .into_iter()
            .map(|w| (w.file.into_owned(), w.value))
            .collect();
        let expected = [
            ("memory.limit_in_bytes", "-1"),
            ("memory.memsw.limit_in_bytes", "-1"),
        ];
        assert_eq!(
            files,
            expected.map(|(file, value)| (file.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let memory = LinuxMemoryBuilder::default().limit(100).swap(50).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        assert!(
            plan(&resources)
                .unwrap_err()
                .to_string()
                .contains("below the memory limit")
        );
    }
}
