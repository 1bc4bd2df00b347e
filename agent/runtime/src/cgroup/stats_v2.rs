//! Statistics of control groups v2.

use super::directory::Directory;
use super::error::Result;
use super::stats::{
    BlockStats, CgroupStats, CpuStats, DeviceCount, MemoryStats, PidsStats, parse_device, parse_limit,
    parse_pairs,
};

pub(super) fn read(group: &Directory) -> Result<CgroupStats> {
    Ok(CgroupStats {
        cpu: cpu(&text(group, "cpu.stat")?),
        memory: memory(group)?,
        pids: PidsStats {
            current: number(group, "pids.current")?,
            limit: parse_limit(&text(group, "pids.max")?),
        },
        blkio: block(&text(group, "io.stat")?),
    })
}

pub(super) fn oom_kills(group: &Directory) -> Result<u64> {
    Ok(event(&text(group, "memory.events")?, "oom_kill"))
}

fn text(group: &Directory, file: &str) -> Result<String> {
    Ok(group.read_if_there(file)?.unwrap_or_default())
}

fn number(group: &Directory, file: &str) -> Result<u64> {
    Ok(text(group, file)?.trim().parse().unwrap_or(0))
}

fn event(content: &str, wanted: &str) -> u64 {
    parse_pairs(content)
        .find(|(name, _)| *name == wanted)
        .map_or(0, |(_, count)| count)
}

fn cpu(content: &str) -> CpuStats {
    let mut stats = CpuStats::default();
    for (name, value) in parse_pairs(content) {
        match name {
            "usage_usec" => stats.usage_ns = value * 1000,
            "user_usec" => stats.user_ns = value * 1000,
            "system_usec" => stats.system_ns = value * 1000,
            "nr_periods" => stats.periods = value,
            "nr_throttled" => stats.throttled_periods = value,
            "throttled_usec" => stats.throttled_ns = value * 1000,
            _ => {}
        }
    }
    stats
}

fn memory(group: &Directory) -> Result<MemoryStats> {
    let events = text(group, "memory.events")?;
    let detail = text(group, "memory.stat")?;
    Ok(MemoryStats {
        usage_bytes: number(group, "memory.current")?,
        usage_bytes_max: number(group, "memory.peak")?,
        limit_bytes: parse_limit(&text(group, "memory.max")?),
        swap_bytes: number(group, "memory.swap.current")?,
        limit_hits: event(&events, "max"),
        oom_kills: event(&events, "oom_kill"),
        detail: parse_pairs(&detail)
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn block(content: &str) -> BlockStats {
    let mut stats = BlockStats::default();
    for line in content.lines() {
        let mut fields = line.split_whitespace();
        let Some((major, minor)) = fields.next().and_then(parse_device) else {
            continue;
        };
        for (name, value) in fields.filter_map(|field| field.split_once('=')) {
            let (list, operation) = match name {
                "rbytes" => (&mut stats.service_bytes, "Read"),
                "wbytes" => (&mut stats.service_bytes, "Write"),
                "dbytes" => (&mut stats.service_bytes, "Discard"),
                "rios" => (&mut stats.serviced, "Read"),
                "wios" => (&mut stats.serviced, "Write"),
                "dios" => (&mut stats.serviced, "Discard"),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            list.push(DeviceCount {
                major,
                minor,
                operation: operation.to_owned(),
                value,
            });
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_stat_is_split_by_operation() {
        let stats = block("8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0 cost.usage=7\nbroken\n");
        assert_eq!(stats.service_bytes.len(), 3);
        assert_eq!(stats.serviced[1].value, 2);
        assert_eq!(stats.serviced[1].operation, "Write");
    }

    #[test]
    fn cpu_time_is_in_nanoseconds() {
        let stats =
            cpu("usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nnr_throttled 1\nthrottled_usec 9\n");
        assert_eq!(
            (stats.usage_ns, stats.user_ns, stats.throttled_ns),
            (5000, 3000, 9000)
        );
    }
}
