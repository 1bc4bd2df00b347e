//! `events`: what a container uses, and when the kernel ended something in it for want of memory.

use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

use super::Context;
use super::arguments::Flags;
use super::error::{OciError, Result};
use super::record::ContainerDirectory;
use crate::cgroup::{Cgroup, CgroupStats, DeviceCount};
use crate::error::RuntimeError;

/// How often statistics are shown unless `--interval` says otherwise, as in runc.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// How often the kernel's count of ended processes is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Shows statistics once, or again and again until the container ends.
pub(super) fn events(context: &Context, flags: &Flags, id: &str) -> Result<()> {
    let interval = match flags.value("interval") {
        None => INTERVAL_DEFAULT,
        Some(text) => parse_duration(text)?,
    };
    let directory = ContainerDirectory::open(&context.root, id)?;
    let record = directory.read(id)?;
    if !record.is_alive() {
        return Err(OciError::NotRunning);
    }
    let group = record.group()?;
    if flags.is_set("stats") {
        return show_stats(id, &group);
    }
    let mut seen = oom_kills(&group)?;
    loop {
        let mut left = interval;
        while !left.is_zero() {
            let pause = LOOK_AGAIN.min(left);
            std::thread::sleep(pause);
            left -= pause;
            if !record.is_alive() {
                return Ok(());
            }
            let now = oom_kills(&group)?;
            for _ in seen..now {
                show(&json!({ "type": "oom", "id": id }))?;
            }
            seen = now;
        }
        match show_stats(id, &group) {
            // It ended, and its group went, between the look and now.
            Err(_) if !record.is_alive() => return Ok(()),
            result => result?,
        }
    }
}

fn oom_kills(group: &Cgroup) -> Result<u64> {
    let kills = group.oom_kills();
    kills.map_err(|source| RuntimeError::cgroup("read the statistics of", source).into())
}

fn show_stats(id: &str, group: &Cgroup) -> Result<()> {
    let stats = group
        .stats()
        .map_err(|source| RuntimeError::cgroup("read the statistics of", source))?;
    show(&json!({ "type": "stats", "id": id, "data": data_of(&stats) }))
}

fn show(event: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{event}").map_err(|error| OciError::io("show an event", error))
}

/// Statistics in runc's form.
fn data_of(stats: &CgroupStats) -> Value {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let devices = |counts: &[DeviceCount]| {
        let entries = counts.iter().map(|count| {
            json!({ "major": count.major, "minor": count.minor, "op": count.operation, "value": count.value })
        });
        Value::from(entries.collect::<Vec<_>>())
    };
    json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_ns,
                "percpu": cpu.per_cpu_ns,
                "kernel": cpu.system_ns,
                "user": cpu.user_ns,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        },
        "memory": {
            "cache": memory.detail.get("cache").or(memory.detail.get("file")).copied().unwrap_or(0),
            "usage": {
                // No limit is the greatest number there.
                "limit": memory.limit_bytes.unwrap_or(u64::MAX),
                "usage": memory.usage_bytes,
                "max": memory.usage_bytes_max,
                "failcnt": memory.limit_hits,
            },
            "swap": { "limit": 0, "usage": memory.swap_bytes, "failcnt": 0 },
            "kernel": { "limit": 0, "failcnt": 0 },
            "kernelTCP": { "limit": 0, "failcnt": 0 },
            "raw": memory.detail,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": devices(&stats.blkio.service_bytes),
            "ioServicedRecursive": devices(&stats.blkio.serviced),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// A duration as Go writes it, in one unit: `5s`, `200ms`, `1m`.
fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || OciError::usage(format!("--interval {text:?}: write it like 5s, 200ms or 1m"));
    let at = text
        .find(|letter: char| !letter.is_ascii_digit())
        .ok_or_else(bad)?;
    let number: u64 = text[..at].parse().map_err(|_| bad())?;
    let unit_ms = match &text[at..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    match number.checked_mul(unit_ms) {
        Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_go_writes_them() {
        assert_eq!(parse_duration("5s").expect("it is valid"), Duration::from_secs(5));
        assert_eq!(
            parse_duration("200ms").expect("it is valid"),
            Duration::from_millis(200)
        );
        for bad in ["", "5", "s", "0s", "5 s", "99999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
