//! Statistics of control groups v1.

use super::directory::Directory;
use super::error::Result;
use super::root::Controller;
use super::stats::{
    BlockStats, CgroupStats, CpuStats, DeviceCount, MemoryStats, PidsStats, parse_device, parse_limit,
    parse_pairs,
};
use super::v1::GroupV1;

/// The kernel reports `cpuacct.stat` in ticks of 1/100 s on every architecture that Linux runs on today.
const NS_PER_TICK: u64 = 10_000_000;

/// A memory limit at or above this is the kernel's way to say that there is none (the page-aligned i64::MAX).
const MEMORY_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

pub(super) fn read(group: &GroupV1) -> Result<CgroupStats> {
    Ok(CgroupStats {
        cpu: cpu(group)?,
        memory: memory(group)?,
        pids: pids(group)?,
        blkio: BlockStats {
            service_bytes: block(
                group,
                [
                    "blkio.throttle.io_service_bytes_recursive",
                    "blkio.bfq.io_service_bytes_recursive",
                ],
            )?,
            serviced: block(
                group,
                [
                    "blkio.throttle.io_serviced_recursive",
                    "blkio.bfq.io_serviced_recursive",
                ],
            )?,
        },
    })
}

pub(super) fn oom_kills(group: &GroupV1) -> Result<u64> {
    let content = text(group.directory_of(Controller::Memory), "memory.oom_control")?;
    Ok(parse_pairs(&content)
        .find(|(name, _)| *name == "oom_kill")
        .map_or(0, |(_, count)| count))
}

fn text(directory: Option<&Directory>, file: &str) -> Result<String> {
    match directory {
        Some(directory) => Ok(directory.read_if_there(file)?.unwrap_or_default()),
        None => Ok(String::new()),
    }
}

fn number(directory: Option<&Directory>, file: &str) -> Result<u64> {
    Ok(text(directory, file)?.trim().parse().unwrap_or(0))
}

fn cpu(group: &GroupV1) -> Result<CpuStats> {
    let accounting = group.directory_of(Controller::Cpuacct);
    let mut stats = CpuStats {
        usage_ns: number(accounting, "cpuacct.usage")?,
        ..CpuStats::default()
    };
    for (name, ticks) in parse_pairs(&text(accounting, "cpuacct.stat")?) {
        match name {
            "user" => stats.user_ns = ticks * NS_PER_TICK,
            "system" => stats.system_ns = ticks * NS_PER_TICK,
            _ => {}
        }
    }
    let per_cpu = text(accounting, "cpuacct.usage_percpu")?;
    stats.per_cpu_ns = per_cpu
        .split_whitespace()
        .filter_map(|value| value.parse().ok())
        .collect();
    for (name, value) in parse_pairs(&text(group.directory_of(Controller::Cpu), "cpu.stat")?) {
        match name {
            "nr_periods" => stats.periods = value,
            "nr_throttled" => stats.throttled_periods = value,
            "throttled_time" => stats.throttled_ns = value,
            _ => {}
        }
    }
    Ok(stats)
}

fn memory(group: &GroupV1) -> Result<MemoryStats> {
    let directory = group.directory_of(Controller::Memory);
    let usage_bytes = number(directory, "memory.usage_in_bytes")?;
    let both = number(directory, "memory.memsw.usage_in_bytes")?;
    let limit = parse_limit(&text(directory, "memory.limit_in_bytes")?);
    let detail = text(directory, "memory.stat")?;
    Ok(MemoryStats {
        usage_bytes,
        usage_bytes_max: number(directory, "memory.max_usage_in_bytes")?,
        limit_bytes: limit.filter(|limit| *limit < MEMORY_UNLIMITED),
        swap_bytes: both.saturating_sub(usage_bytes),
        limit_hits: number(directory, "memory.failcnt")?,
        oom_kills: oom_kills(group)?,
        detail: parse_pairs(&detail)
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

fn pids(group: &GroupV1) -> Result<PidsStats> {
    let directory = group.directory_of(Controller::Pids);
    Ok(PidsStats {
        current: number(directory, "pids.current")?,
        limit: parse_limit(&text(directory, "pids.max")?),
    })
}

/// The first of two files that has counts: throttling counts every request, BFQ only those it scheduled.
fn block(group: &GroupV1, files: [&str; 2]) -> Result<Vec<DeviceCount>> {
    for file in files {
        let counts = parse_counts(&text(group.directory_of(Controller::Blkio), file)?);
        if !counts.is_empty() {
            return Ok(counts);
        }
    }
    Ok(Vec::new())
}

/// Lines such as `8:0 Read 4096`; the last line `Total 4096` has no device.
fn parse_counts(content: &str) -> Vec<DeviceCount> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = parse_device(fields.next()?)?;
        let operation = fields.next()?.to_owned();
        Some(DeviceCount {
            major,
            minor,
            operation,
            value: fields.next()?.parse().ok()?,
        })
    };
    content.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_counts_leave_out_the_grand_total() {
        let counts = parse_counts("8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n");
        assert_eq!(counts.len(), 3);
        assert_eq!(
            counts[0],
            DeviceCount {
                major: 8,
                minor: 0,
                operation: "Read".into(),
                value: 4096
            }
        );
    }
}
