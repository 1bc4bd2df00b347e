//! Limits of a container, from Docker's units to those of the specification.

use super::{HostAbilities, SpecInput, devices};
use crate::error::{Error, Result};
use muster_types::block_io::DeviceRate;
use muster_types::container::ContainerResources;
use nix::sys::stat::{major, minor, stat};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

/// Period of a CPU quota made from a number of CPUs; Docker's.
const CPU_PERIOD_US: u64 = 100_000;
const NANOS_PER_CPU: u64 = 1_000_000_000;

/// The limits of a specification; what is not limited is absent, so that its control file is not touched.
pub fn of(input: &SpecInput<'_>) -> Result<LinuxResources> {
    let mut resources = limits(&input.config.host.resources, &input.host.abilities)?;
    resources.set_devices(Some(devices::rules(input.config)?));
    Ok(resources)
}

/// The limits alone, without the rules of devices.
fn limits(wanted: &ContainerResources, abilities: &HostAbilities) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    resources.set_memory(memory(wanted, abilities));
    resources.set_cpu(cpu(wanted, abilities));
    if wanted.pids > 0 && abilities.pids {
        resources.set_pids(Some(processes(wanted.pids)));
    }
    resources.set_block_io(block_io(wanted, abilities)?);
    Ok(resources)
}

/// What a running container is told when its limits become these. `unlimited_processes` takes away a limit that it had.
pub fn changed(
    after: &ContainerResources,
    abilities: &HostAbilities,
    unlimited_processes: bool,
) -> Result<LinuxResources> {
    let mut resources = limits(after, abilities)?;
    if unlimited_processes && abilities.pids {
        resources.set_pids(Some(processes(-1)));
    }
    Ok(resources)
}

fn processes(limit: i64) -> LinuxPids {
    let mut pids = LinuxPids::default();
    pids.set_limit(limit);
    pids
}

fn memory(wanted: &ContainerResources, abilities: &HostAbilities) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if wanted.memory_bytes > 0 && abilities.memory {
        memory.set_limit(Some(bytes(wanted.memory_bytes)));
        if abilities.swap {
            // Containers of earlier versions have no word about swap: as much swap as memory.
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
    if wanted.oom_kill_disable == Some(true) && abilities.oom_kill_disable {
        memory.set_disable_oom_killer(Some(true));
    }
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(wanted: &ContainerResources, abilities: &HostAbilities) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let text = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    if abilities.cpu_shares {
        cpu.set_shares(Some(wanted.cpu_shares).filter(|shares| *shares > 0));
    }
    if abilities.cpuset {
        cpu.set_cpus(text(&wanted.cpuset_cpus));
        cpu.set_mems(text(&wanted.cpuset_mems));
    }
    if wanted.nano_cpus > 0 {
        let quota = wanted.nano_cpus.saturating_mul(CPU_PERIOD_US) / NANOS_PER_CPU;
        cpu.set_period(Some(CPU_PERIOD_US));
        cpu.set_quota(Some(i64::try_from(quota).unwrap_or(i64::MAX)));
    } else if abilities.cpu_quota {
        cpu.set_period(Some(wanted.cpu_period_us).filter(|period| *period > 0));
        cpu.set_quota(Some(wanted.cpu_quota_us).filter(|quota| *quota != 0));
    }
    cpu.set_realtime_period(Some(wanted.cpu_realtime_period_us).filter(|period| *period != 0));
    cpu.set_realtime_runtime(Some(wanted.cpu_realtime_runtime_us).filter(|runtime| *runtime != 0));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn block_io(wanted: &ContainerResources, abilities: &HostAbilities) -> Result<Option<LinuxBlockIo>> {
    let mut block = LinuxBlockIo::default();
    let devices = &wanted.devices;
    if abilities.block_weight {
        block.set_weight(Some(wanted.blkio_weight).filter(|weight| *weight > 0));
        let weights = devices.weights.iter();
        let weights = weights.map(|device| weight(&device.path, device.weight));
        block.set_weight_device(some(weights.collect::<Result<_>>()?));
    }
    if abilities.block_throttle {
        block.set_throttle_read_bps_device(some(rates(&devices.read_bytes)?));
        block.set_throttle_write_bps_device(some(rates(&devices.write_bytes)?));
        block.set_throttle_read_iops_device(some(rates(&devices.reads)?));
        block.set_throttle_write_iops_device(some(rates(&devices.writes)?));
    }
    Ok((block != LinuxBlockIo::default()).then_some(block))
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn weight(path: &str, weight: u16) -> Result<LinuxWeightDevice> {
    let (major, minor) = device_numbers(path)?;
    LinuxWeightDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .weight(weight)
        .build()
        .map_err(|error| Error::invalid(format!("invalid weight of {path}: {error}")))
}

fn rates(rates: &[DeviceRate]) -> Result<Vec<LinuxThrottleDevice>> {
    let rate = |device: &DeviceRate| {
        let (major, minor) = device_numbers(&device.path)?;
        LinuxThrottleDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .rate(device.rate)
            .build()
            .map_err(|error| Error::invalid(format!("invalid rate of {}: {error}", device.path)))
    };
    rates.iter().map(rate).collect()
}

fn device_numbers(path: &str) -> Result<(i64, i64)> {
    let found = stat(path).map_err(|error| Error::invalid(format!("stat {path}: {}", error.desc())))?;
    let number = |value: u64| i64::try_from(value).unwrap_or_default();
    Ok((number(major(found.st_rdev)), number(minor(found.st_rdev))))
}
