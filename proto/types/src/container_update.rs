//! Changes of a container that was made, whether it runs or not.

use crate::block_io::DeviceLimits;
use crate::container::{ContainerResources, EngineRestart};

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerUpdate {
    /// Limits; zero and empty ones stay as they are. Those of processes do not count here.
    pub resources: ContainerResources,
    /// Most processes; 0 or negative takes the limit away.
    pub pids: Option<i64>,
    /// Restart by the engine.
    pub restart: Option<EngineRestart>,
}

/// A change that contradicts what the container has; the text is Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UpdateConflict(pub &'static str);

impl ContainerUpdate {
    /// The limits after the change.
    pub fn applied_to(&self, present: &ContainerResources) -> Result<ContainerResources, UpdateConflict> {
        let asked = &self.resources;
        conflict(present, asked)?;
        let mut after = present.clone();
        set(&mut after.nano_cpus, asked.nano_cpus);
        set(&mut after.cpu_shares, asked.cpu_shares);
        set(&mut after.cpu_period_us, asked.cpu_period_us);
        set(&mut after.cpu_quota_us, asked.cpu_quota_us);
        set(&mut after.cpu_realtime_period_us, asked.cpu_realtime_period_us);
        set(&mut after.cpu_realtime_runtime_us, asked.cpu_realtime_runtime_us);
        set(&mut after.memory_bytes, asked.memory_bytes);
        set(
            &mut after.memory_reservation_bytes,
            asked.memory_reservation_bytes,
        );
        set(&mut after.memory_swap_bytes, asked.memory_swap_bytes);
        set(&mut after.blkio_weight, asked.blkio_weight);
        set_text(&mut after.cpuset_cpus, &asked.cpuset_cpus);
        set_text(&mut after.cpuset_mems, &asked.cpuset_mems);
        set_devices(&mut after.devices, &asked.devices);
        if let Some(pids) = self.pids {
            after.pids = pids.max(0);
        }
        Ok(after)
    }
}

fn conflict(present: &ContainerResources, asked: &ContainerResources) -> Result<(), UpdateConflict> {
    let text = match () {
        () if asked.nano_cpus > 0 && present.cpu_period_us > 0 => {
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
        }
        () if asked.nano_cpus > 0 && present.cpu_quota_us > 0 => {
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"
        }
        () if asked.cpu_period_us > 0 && present.nano_cpus > 0 => {
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"
        }
        () if asked.cpu_quota_us > 0 && present.nano_cpus > 0 => {
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
        }
        () if asked.memory_bytes > 0
            && asked.memory_swap_bytes == 0
            && i64::try_from(asked.memory_bytes).is_ok_and(|bytes| bytes > present.memory_swap_bytes) =>
        {
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        }
        () => return Ok(()),
    };
    Err(UpdateConflict(text))
}

fn set<T: Copy + Default + PartialEq>(present: &mut T, asked: T) {
    if asked != T::default() {
        *present = asked;
    }
}

fn set_text(present: &mut String, asked: &str) {
    if !asked.is_empty() {
        asked.clone_into(present);
    }
}

fn set_devices(present: &mut DeviceLimits, asked: &DeviceLimits) {
    fn set<T: Clone>(present: &mut Vec<T>, asked: &[T]) {
        if !asked.is_empty() {
            *present = asked.to_vec();
        }
    }
    set(&mut present.weights, &asked.weights);
    set(&mut present.read_bytes, &asked.read_bytes);
    set(&mut present.write_bytes, &asked.write_bytes);
    set(&mut present.reads, &asked.reads);
    set(&mut present.writes, &asked.writes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(
        present: impl FnOnce(&mut ContainerResources),
        change: impl FnOnce(&mut ContainerUpdate),
    ) -> Result<ContainerResources, UpdateConflict> {
        let mut resources = ContainerResources::default();
        present(&mut resources);
        let mut update = ContainerUpdate::default();
        change(&mut update);
        update.applied_to(&resources)
    }

    #[test]
    fn what_is_not_given_stays() {
        let present = |resources: &mut ContainerResources| {
            resources.memory_bytes = 64;
            resources.memory_swap_bytes = 128;
            resources.pids = 7;
            resources.cpuset_cpus = "0".into();
        };
        let kept = after(present, |_| {}).unwrap();
        assert_eq!(
            (kept.memory_bytes, kept.pids, kept.cpuset_cpus.as_str()),
            (64, 7, "0")
        );
        let changed = after(present, |update| {
            update.resources.memory_bytes = 100;
            update.resources.cpu_shares = 512;
            update.pids = Some(-1);
        });
        let changed = changed.unwrap();
        assert_eq!(
            (
                changed.memory_bytes,
                changed.memory_swap_bytes,
                changed.pids,
                changed.cpu_shares
            ),
            (100, 128, 0, 512)
        );
    }

    #[test]
    fn contradictions_are_refused_as_docker_does() {
        let more_memory = |update: &mut ContainerUpdate| update.resources.memory_bytes = 200;
        let refused = after(|resources| resources.memory_swap_bytes = 128, more_memory).unwrap_err();
        assert!(refused.0.contains("already set memoryswap limit"));
        let both = after(
            |resources| resources.memory_swap_bytes = 128,
            |update| {
                update.resources.memory_bytes = 200;
                update.resources.memory_swap_bytes = 400;
            },
        );
        assert_eq!(both.unwrap().memory_swap_bytes, 400);
        let nano = |update: &mut ContainerUpdate| update.resources.nano_cpus = 1;
        assert!(after(|resources| resources.cpu_quota_us = 5000, nano).is_err());
        assert!(after(|resources| resources.cpu_period_us = 5000, nano).is_err());
        let quota = |update: &mut ContainerUpdate| update.resources.cpu_quota_us = 5000;
        assert!(after(|resources| resources.nano_cpus = 1, quota).is_err());
        let period = |update: &mut ContainerUpdate| update.resources.cpu_period_us = 5000;
        assert!(after(|resources| resources.nano_cpus = 1, period).is_err());
    }
}
