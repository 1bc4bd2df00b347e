//! What few processes ask for: scheduling, personality, and how it is tied to its parent.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
    Scheduler,
};
use serde::{Deserialize, Serialize};

use crate::error::{Result, RuntimeError};

/// The personality of 32-bit programs (linux/personality.h).
const PERSONALITY_LINUX32: u64 = 8;
const PERSONALITY_LINUX: u64 = 0;

/// How far the class is shifted in an I/O priority (linux/ioprio.h), and the lowest priority in a class.
const IO_CLASS_SHIFT: u32 = 13;
const IO_PRIORITY_LOWEST: i64 = 7;

/// The highest processor number that an affinity may name; the kernel's own limit is 8192.
const PROCESSORS_MAX: usize = 8192;

/// Everything beyond [`super::ProcessPlan`]: the default asks for nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ProcessExtras {
    pub personality: Option<u64>,
    pub scheduler: Option<SchedulerPlan>,
    pub io_priority: Option<u32>,
    /// The processors that it may use, as bits, from before it joins its control group.
    pub first_affinity: Option<Vec<u64>>,
    /// Those from then on.
    pub affinity: Option<Vec<u64>>,
    /// Descriptors after the standard streams that the program gets too.
    pub preserved: u32,
    /// The process lives on when its parent ends.
    pub outlives_parent: bool,
    /// Make the inherited standard streams the process's user's.
    pub owns_streams: bool,
    /// Stay in the parent's session keyring.
    pub keeps_keyring: bool,
}

/// Numbers of `sched_setattr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchedulerPlan {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

impl ProcessExtras {
    /// Adds what the specification says.
    pub(super) fn with_spec(self, process: &Process, linux: &Linux) -> Result<ProcessExtras> {
        let personality = linux.personality().as_ref().map(|personality| {
            if personality
                .flags()
                .as_ref()
                .is_some_and(|flags| !flags.is_empty())
            {
                return Err(RuntimeError::spec("flags of a personality are not supported"));
            }
            Ok(match personality.domain() {
                LinuxPersonalityDomain::PerLinux => PERSONALITY_LINUX,
                LinuxPersonalityDomain::PerLinux32 => PERSONALITY_LINUX32,
            })
        });
        Ok(ProcessExtras {
            personality: personality.transpose()?,
            ..self.with_process(process)?
        })
    }

    /// Adds what the specification says of any process.
    pub(crate) fn with_process(self, process: &Process) -> Result<ProcessExtras> {
        Ok(ProcessExtras {
            scheduler: process.scheduler().as_ref().map(SchedulerPlan::new).transpose()?,
            io_priority: io_priority(process)?,
            ..self
        })
    }

    /// Adds the processors of an exec'ed process.
    pub(crate) fn with_affinity(self, process: &Process) -> Result<ProcessExtras> {
        let affinity = process.exec_cpu_affinity().as_ref();
        let bits = |list: Option<&String>| list.map(|list| processor_bits(list)).transpose();
        Ok(ProcessExtras {
            first_affinity: bits(affinity.and_then(|affinity| affinity.initial().as_ref()))?,
            affinity: bits(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref()))?,
            ..self
        })
    }
}

impl SchedulerPlan {
    fn new(scheduler: &Scheduler) -> Result<SchedulerPlan> {
        let number = |value: Option<i32>| {
            u32::try_from(value.unwrap_or(0))
                .map_err(|_| RuntimeError::spec("a scheduling priority is not negative"))
        };
        let flags = scheduler.flags().iter().flatten();
        Ok(SchedulerPlan {
            policy: policy_number(*scheduler.policy()),
            flags: flags.fold(0, |bits, flag| bits | flag_bit(*flag)),
            nice: scheduler.nice().unwrap_or(0),
            priority: number(*scheduler.priority())?,
            runtime: scheduler.runtime().unwrap_or(0),
            deadline: scheduler.deadline().unwrap_or(0),
            period: scheduler.period().unwrap_or(0),
        })
    }
}

fn policy_number(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    }
}

fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn io_priority(process: &Process) -> Result<Option<u32>> {
    let Some(asked) = process.io_priority() else {
        return Ok(None);
    };
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(asked.priority()) {
        Ok(priority) if asked.priority() <= IO_PRIORITY_LOWEST => {
            Ok(Some(class << IO_CLASS_SHIFT | priority))
        }
        _ => Err(RuntimeError::spec(format!(
            "I/O priority {} is not in 0..=7",
            asked.priority()
        ))),
    }
}

/// A list such as `0-3,7` as bits.
fn processor_bits(list: &str) -> Result<Vec<u64>> {
    let bad = || {
        RuntimeError::spec(format!(
            "bad list of processors {list:?}: write numbers and ranges, such as 0-3,7"
        ))
    };
    let number = |text: &str| {
        let number = text.trim().parse::<usize>().ok();
        number.filter(|number| *number < PROCESSORS_MAX).ok_or_else(bad)
    };
    let mut bits = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        for processor in first..=last {
            let word = processor / 64;
            bits.resize(bits.len().max(word + 1), 0);
            bits[word] |= 1u64 << (processor % 64);
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_become_bits() {
        assert_eq!(processor_bits("0-2,4").unwrap(), [0b10111]);
        assert_eq!(processor_bits("64").unwrap(), [0, 1]);
        for bad in ["", "a", "3-1", "0-", "99999999"] {
            assert!(processor_bits(bad).is_err(), "{bad:?}");
        }
    }
}
