//! Which limits make sense, and which the host can keep: Docker's rules, in Docker's words.
//!
//! What makes no sense is refused. What the host cannot keep is dropped with a warning, because a container without the
//! limit is of more use than none.

use super::cpu_list::CpuList;
use crate::error::{Error, Result};
use muster_types::container::ContainerResources;

/// Smallest memory limit; Docker's.
const MEMORY_BYTES_MIN: u64 = 6 << 20;
const NANOS_PER_CPU: u64 = 1_000_000_000;
/// Shortest and longest CFS period that the kernel takes.
const CPU_PERIOD_US: std::ops::RangeInclusive<u64> = 1000..=1_000_000;
/// Shortest CFS quota that the kernel takes.
const CPU_QUOTA_US_MIN: i64 = 1000;

/// What the host can limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAbilities {
    /// CPUs that it has.
    pub cpus: u64,
    /// The CPUs that are there, by number.
    pub cpu_list: CpuList,
    /// The memory nodes that are there, by number.
    pub memory_nodes: CpuList,
    /// Memory can be limited.
    pub memory: bool,
    /// Swap can be limited.
    pub swap: bool,
    /// Swappiness can be set.
    pub swappiness: bool,
    /// The OOM killer can be switched off.
    pub oom_kill_disable: bool,
    /// The soft limit can be set.
    pub memory_reservation: bool,
    /// Processes can be limited.
    pub pids: bool,
    /// CPU shares can be set.
    pub cpu_shares: bool,
    /// CPU quotas can be set.
    pub cpu_quota: bool,
    /// Real-time budgets can be set.
    pub cpu_realtime: bool,
    /// CPUs and memory nodes can be chosen.
    pub cpuset: bool,
    /// Block I/O weights can be set.
    pub block_weight: bool,
    /// Block I/O rates can be limited.
    pub block_throttle: bool,
}

/// What limits are admitted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new container.
    Create,
    /// A change of one; what is not given stays.
    Update,
}

/// Checks the limits, drops what the host cannot keep, and fills in what Docker fills in; returns warnings.
pub fn admit(wanted: &mut ContainerResources, host: &HostAbilities, purpose: Purpose) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    admit_memory(wanted, host, purpose, &mut warnings)?;
    admit_oom_killer(wanted, host, purpose, &mut warnings);
    if wanted.pids > 0 && !host.pids {
        wanted.pids = 0;
        warnings.push(discarded("PIDs limit capabilities", "PIDs limit discarded."));
    }
    admit_cpu(wanted, host, &mut warnings)?;
    admit_cpuset(wanted, host, &mut warnings)?;
    admit_block_io(wanted, host, &mut warnings)?;
    if purpose == Purpose::Create && wanted.memory_bytes > 0 && wanted.memory_swap_bytes == 0 {
        // Without a word about swap, as much swap as memory.
        wanted.memory_swap_bytes = i64::try_from(wanted.memory_bytes.saturating_mul(2)).unwrap_or(i64::MAX);
    }
    Ok(warnings)
}

fn discarded(what: &str, then: &str) -> String {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {then}")
}

fn admit_memory(
    wanted: &mut ContainerResources,
    host: &HostAbilities,
    purpose: Purpose,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if wanted.memory_bytes > 0 && wanted.memory_bytes < MEMORY_BYTES_MIN {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if wanted.memory_bytes > 0 && !host.memory {
        warnings.push(discarded("memory limit capabilities", "Limitation discarded."));
        (wanted.memory_bytes, wanted.memory_swap_bytes) = (0, -1);
    }
    if wanted.memory_bytes > 0 && wanted.memory_swap_bytes != -1 && !host.swap {
        warnings.push(discarded(
            "swap limit capabilities",
            "Memory limited without swap.",
        ));
        wanted.memory_swap_bytes = -1;
    }
    let swap = u64::try_from(wanted.memory_swap_bytes)
        .ok()
        .filter(|swap| *swap > 0);
    if wanted.memory_bytes > 0 && swap.is_some_and(|swap| swap < wanted.memory_bytes) {
        return Err(Error::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if wanted.memory_bytes == 0 && swap.is_some() && purpose == Purpose::Create {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if wanted.memory_swappiness.is_some() && !host.swappiness {
        warnings.push(discarded(
            "memory swappiness capabilities",
            "Memory swappiness discarded.",
        ));
        wanted.memory_swappiness = None;
    }
    if let Some(value) = wanted.memory_swappiness.filter(|value| *value > 100) {
        return Err(Error::invalid(format!(
            "Invalid value: {value}, valid memory swappiness range is 0-100"
        )));
    }
    if wanted.memory_reservation_bytes > 0 && !host.memory_reservation {
        warnings.push(discarded(
            "memory soft limit capabilities",
            "Limitation discarded.",
        ));
        wanted.memory_reservation_bytes = 0;
    }
    if wanted.memory_reservation_bytes > 0 && wanted.memory_reservation_bytes < MEMORY_BYTES_MIN {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if wanted.memory_bytes > 0 && wanted.memory_reservation_bytes > wanted.memory_bytes {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if wanted.kernel_memory_bytes > 0 {
        // Kernels since 5.4 take no such limit any more.
        warnings.push(discarded(
            "kernel memory limit capabilities",
            "Limitation discarded.",
        ));
        wanted.kernel_memory_bytes = 0;
    }
    Ok(())
}

fn admit_oom_killer(
    wanted: &mut ContainerResources,
    host: &HostAbilities,
    purpose: Purpose,
    warnings: &mut Vec<String>,
) {
    let disabled = wanted.oom_kill_disable == Some(true);
    if !host.oom_kill_disable {
        if disabled {
            warnings
                .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        wanted.oom_kill_disable = None;
    } else if disabled && wanted.memory_bytes == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    } else if purpose == Purpose::Create {
        wanted.oom_kill_disable = Some(disabled);
    }
}

fn admit_cpu(
    wanted: &mut ContainerResources,
    host: &HostAbilities,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let refused = |text: &str| Err(Error::invalid(text));
    if wanted.nano_cpus > 0 && wanted.cpu_period_us > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if wanted.nano_cpus > 0 && wanted.cpu_quota_us > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if wanted.nano_cpus > 0 && !host.cpu_quota {
        return refused(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if wanted.nano_cpus > host.cpus.saturating_mul(NANOS_PER_CPU) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
            host.cpus
        )));
    }
    if wanted.cpu_shares > 0 && !host.cpu_shares {
        warnings.push(discarded("CPU shares", "Shares discarded."));
        wanted.cpu_shares = 0;
    }
    if (wanted.cpu_period_us, wanted.cpu_quota_us) != (0, 0) && !host.cpu_quota {
        warnings
            .push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".to_owned());
        (wanted.cpu_period_us, wanted.cpu_quota_us) = (0, 0);
    }
    if wanted.cpu_period_us != 0 && !CPU_PERIOD_US.contains(&wanted.cpu_period_us) {
        return refused(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if (1..CPU_QUOTA_US_MIN).contains(&wanted.cpu_quota_us) {
        return refused("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let (period, runtime) = (wanted.cpu_realtime_period_us, wanted.cpu_realtime_runtime_us);
    if (period, runtime) != (0, 0) && !host.cpu_realtime {
        return refused("kernel does not support CPU real-time scheduler");
    }
    if period != 0 && u64::try_from(runtime).is_ok_and(|runtime| runtime > period) {
        return refused("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    Ok(())
}

fn admit_cpuset(
    wanted: &mut ContainerResources,
    host: &HostAbilities,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let asked = !wanted.cpuset_cpus.is_empty() || !wanted.cpuset_mems.is_empty();
    if asked && !host.cpuset {
        warnings.push(discarded("cpuset", "Cpuset discarded."));
        wanted.cpuset_cpus.clear();
        wanted.cpuset_mems.clear();
    }
    available("CPUs", "cpus", &wanted.cpuset_cpus, &host.cpu_list)?;
    available("memory nodes", "mems", &wanted.cpuset_mems, &host.memory_nodes)
}

fn available(what: &str, short: &str, wanted: &str, there: &CpuList) -> Result<()> {
    let list = CpuList::parse(wanted)
        .map_err(|error| Error::invalid(format!("Invalid value {wanted} for cpuset {short}: {error}")))?;
    if list.is_within(there) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Requested {what} are not available - requested {wanted}, available: {there}"
    )))
}

fn admit_block_io(
    wanted: &mut ContainerResources,
    host: &HostAbilities,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if wanted.blkio_weight > 0 && !host.block_weight {
        warnings.push(discarded("Block I/O weight", "Weight discarded."));
        wanted.blkio_weight = 0;
    }
    let devices = &mut wanted.devices;
    if !devices.weights.is_empty() && !host.block_weight {
        warnings.push(discarded("Block I/O weight_device", "Weight-device discarded."));
        devices.weights.clear();
    }
    let mut weights = devices.weights.iter().map(|device| device.weight);
    let bad = |weight: u16| weight != 0 && !(10..=1000).contains(&weight);
    if bad(wanted.blkio_weight) || weights.any(bad) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    for (rates, what, then) in [
        (
            &mut devices.read_bytes,
            "BPS Block I/O read limit",
            "Block I/O BPS read limit discarded.",
        ),
        (
            &mut devices.write_bytes,
            "BPS Block I/O write limit",
            "Block I/O BPS write limit discarded.",
        ),
        (
            &mut devices.reads,
            "IOPS Block read limit",
            "Block I/O IOPS read limit discarded.",
        ),
        (
            &mut devices.writes,
            "IOPS Block write limit",
            "Block I/O IOPS write limit discarded.",
        ),
    ] {
        if !rates.is_empty() && !host.block_throttle {
            warnings.push(discarded(what, then));
            rates.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
