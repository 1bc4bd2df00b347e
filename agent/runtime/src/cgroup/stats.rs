//! What a group has used, in one form for both control group versions.

use std::collections::BTreeMap;

/// What a group has used since it was made. Parts whose controller a node lacks are zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// CPU time.
    pub cpu: CpuStats,
    /// Memory and swap.
    pub memory: MemoryStats,
    /// Number of processes and threads.
    pub pids: PidsStats,
    /// Block device traffic.
    pub blkio: BlockStats,
}

/// CPU time used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All CPU time.
    pub usage_ns: u64,
    /// Of this, outside of the kernel.
    pub user_ns: u64,
    /// Of this, in the kernel.
    pub system_ns: u64,
    /// All CPU time by CPU; v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// Periods of the CPU quota that passed.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_ns: u64,
}

/// Memory used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in use, page cache included.
    pub usage_bytes: u64,
    /// The most bytes that were in use; 0 where the kernel does not say.
    pub usage_bytes_max: u64,
    /// The limit; none where there is none.
    pub limit_bytes: Option<u64>,
    /// Swap in use.
    pub swap_bytes: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// How many processes the kernel killed for want of memory.
    pub oom_kills: u64,
    /// The lines of the kernel's `memory.stat`.
    pub detail: BTreeMap<String, u64>,
}

/// Number of processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; none where there is no limit.
    pub limit: Option<u64>,
}

/// Block device traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Bytes by device and operation.
    pub service_bytes: Vec<DeviceCount>,
    /// Operations by device and operation.
    pub serviced: Vec<DeviceCount>,
}

/// One count of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCount {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// `Read`, `Write`, `Discard`, …
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// The lines `name number` of a control file.
pub(super) fn parse_pairs(content: &str) -> impl Iterator<Item = (&str, u64)> {
    content.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.trim().parse().ok()?))
    })
}

/// A limit file: a number, or `max`.
pub(super) fn parse_limit(content: &str) -> Option<u64> {
    content.trim().parse().ok()
}

/// A `major:minor` pair.
pub(super) fn parse_device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
