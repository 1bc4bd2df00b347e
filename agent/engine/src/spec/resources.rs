//! Limits of a container, from Docker's units to those of the specification.

use super::{SpecInput, devices};
use crate::error::{Error, Result};
use muster_types::container::ContainerResources;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

/// Smallest memory limit; Docker's.
const MEMORY_BYTES_MIN: u64 = 6 << 20;
/// Period of a CPU quota made from a number of CPUs; Docker's.
const CPU_PERIOD_US: u64 = 100_000;
const NANOS_PER_CPU: u64 = 1_000_000_000;

/// What the host can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAbilities {
    /// CPUs that it has.
    pub cpus: u64,
    /// Swap can be limited.
    pub swap: bool,
    /// Swappiness can be set.
    pub swappiness: bool,
    /// The OOM killer can be switched off.
    pub oom_kill_disable: bool,
    /// The soft limit can be set.
    pub memory_reservation: bool,
    /// Block I/O weights can be set.
    pub block_weight: bool,
}

/// Refuses limits that make no sense, in Docker's words.
pub fn validate(resources: &ContainerResources, abilities: &HostAbilities) -> Result<()> {
    if resources.memory_bytes > 0 && resources.memory_bytes < MEMORY_BYTES_MIN {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    let swap = resources.memory_swap_bytes;
    if swap > 0 && resources.memory_bytes == 0 {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if swap > 0 && u64::try_from(swap).is_ok_and(|swap| swap < resources.memory_bytes) {
        return Err(Error::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if resources.memory_reservation_bytes > resources.memory_bytes && resources.memory_bytes > 0 {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if resources.memory_swappiness.is_some_and(|value| value > 100) {
        return Err(Error::invalid(
            "Invalid value for memory swappiness, valid range is 0-100",
        ));
    }
    let available = abilities.cpus * NANOS_PER_CPU;
    if resources.nano_cpus > available {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {:.2}, as there are only {} CPUs available",
            abilities.cpus as f64, abilities.cpus
        )));
    }
    if resources.nano_cpus > 0 && (resources.cpu_quota_us > 0 || resources.cpu_period_us > 0) {
        return Err(Error::invalid(
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ));
    }
    if resources.blkio_weight != 0 && !(10..=1000).contains(&resources.blkio_weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    Ok(())
}

/// The limits of a specification; what is not limited is absent, so that its control file is not touched.
pub fn of(input: &SpecInput<'_>) -> Result<LinuxResources> {
    let wanted = &input.config.host.resources;
    let abilities = &input.host.abilities;
    validate(wanted, abilities)?;
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices::rules(input.config)?));
    resources.set_memory(memory(wanted, abilities));
    resources.set_cpu(cpu(wanted));
    if wanted.pids > 0 {
        let mut pids = LinuxPids::default();
        pids.set_limit(wanted.pids);
        resources.set_pids(Some(pids));
    }
    if wanted.blkio_weight > 0 && abilities.block_weight {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(wanted.blkio_weight));
        resources.set_block_io(Some(block));
    }
    Ok(resources)
}

fn memory(wanted: &ContainerResources, abilities: &HostAbilities) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if wanted.memory_bytes > 0 {
        memory.set_limit(Some(bytes(wanted.memory_bytes)));
        if abilities.swap {
            // Docker: without a word about swap, as much swap as memory.
            memory.set_swap(Some(match wanted.memory_swap_bytes {
                0 => bytes(wanted.memory_bytes.saturating_mul(2)),
                given => given,
            }));
        }
    }
    if wanted.memory_reservation_bytes > 0 && abilities.memory_reservation {
        memory.set_reservation(Some(bytes(wanted.memory_reservation_bytes)));
    }
    if abilities.swappiness {
        memory.set_swappiness(wanted.memory_swappiness);
    }
    if wanted.oom_kill_disable && abilities.oom_kill_disable {
        memory.set_disable_oom_killer(Some(true));
    }
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(wanted: &ContainerResources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let text = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    cpu.set_shares(Some(wanted.cpu_shares).filter(|shares| *shares > 0));
    cpu.set_cpus(text(&wanted.cpuset_cpus));
    cpu.set_mems(text(&wanted.cpuset_mems));
    if wanted.nano_cpus > 0 {
        let quota = wanted.nano_cpus.saturating_mul(CPU_PERIOD_US) / NANOS_PER_CPU;
        cpu.set_period(Some(CPU_PERIOD_US));
        cpu.set_quota(Some(i64::try_from(quota).unwrap_or(i64::MAX)));
    } else {
        cpu.set_period(Some(wanted.cpu_period_us).filter(|period| *period > 0));
        cpu.set_quota(Some(wanted.cpu_quota_us).filter(|quota| *quota != 0));
    }
    (cpu != LinuxCpu::default()).then_some(cpu)
}
