//! Attributes of a process that few containers set.

use super::{SysResult, check};
use crate::plan::SchedulerPlan;

/// An I/O priority of one process (linux/ioprio.h).
const IOPRIO_WHO_PROCESS: i32 = 1;

/// What `sched_setattr` takes (linux/sched/types.h), without the later utilisation clamps.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets this process's personality.
pub(crate) fn set_personality(personality: u64) -> SysResult<()> {
    // SAFETY: takes a number only.
    check(unsafe { libc::syscall(libc::SYS_personality, personality) }).map(drop)
}

/// Sets how this process is scheduled.
pub(crate) fn set_scheduler(plan: &SchedulerPlan) -> SysResult<()> {
    let attributes = SchedulerAttributes {
        size: std::mem::size_of::<SchedulerAttributes>() as u32,
        policy: plan.policy,
        flags: plan.flags,
        nice: plan.nice,
        priority: plan.priority,
        runtime: plan.runtime,
        deadline: plan.deadline,
        period: plan.period,
    };
    // SAFETY: the attributes are valid for the call and say their size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Sets this process's I/O priority, as the kernel encodes it.
pub(crate) fn set_io_priority(value: u32) -> SysResult<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// Lets this process run on these processors only.
pub(crate) fn set_affinity(processors: &[u64]) -> SysResult<()> {
    let bytes = std::mem::size_of_val(processors);
    // SAFETY: pointer and size are those of a live slice.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, processors.as_ptr()) }).map(drop)
}

/// A process's soft and hard limit of a resource.
pub(crate) fn limits_of(pid: i32, resource: u32) -> SysResult<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let unchanged = std::ptr::null::<libc::rlimit64>();
    // SAFETY: the limit is valid for the call, null changes nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, unchanged, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets one resource limit of a process, 0 for this one.
pub(crate) fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> SysResult<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let previous = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the limit is valid for the call, null asks for no previous one.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, previous) }).map(drop)
}
