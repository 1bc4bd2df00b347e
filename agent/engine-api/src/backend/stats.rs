//! One reading of a container's counters.

use muster_types::Timestamp;
use std::collections::BTreeMap;

/// One reading of a container's counters. Everything is zero for a container that does not run, the time, too.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerStats {
    /// When it was read.
    pub at: Timestamp,
    /// CPU.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes.
    pub pids: PidsStats,
    /// Bytes moved from and to block devices.
    pub block_bytes: Vec<BlockCount>,
    /// Operations of block devices.
    pub block_operations: Vec<BlockCount>,
    /// Network interfaces by name.
    pub networks: BTreeMap<String, InterfaceStats>,
}

/// CPU counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuStats {
    /// Nanoseconds used.
    pub total_ns: u64,
    /// The same by CPU; empty where the kernel does not say (control groups v2).
    pub by_cpu_ns: Vec<u64>,
    /// Of them in user mode.
    pub user_ns: u64,
    /// Of them in the kernel.
    pub kernel_ns: u64,
    /// Nanoseconds of all CPUs of the host, busy or idle excluded: the sum in `/proc/stat`.
    pub host_ns: u64,
    /// CPUs that the host has on line.
    pub cpus: u32,
    /// Periods in which a limit was in force.
    pub periods: u64,
    /// Of them throttled.
    pub throttled_periods: u64,
    /// Nanoseconds throttled.
    pub throttled_ns: u64,
}

/// Memory counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// Bytes in use, page cache included.
    pub usage_bytes: u64,
    /// Highest use so far; 0 where the kernel does not say.
    pub usage_bytes_max: u64,
    /// The limit; the host's memory where there is none.
    pub limit_bytes: u64,
    /// Failures to allocate; 0 where the kernel does not say.
    pub failures: u64,
    /// The kernel's `memory.stat`.
    pub detail: BTreeMap<String, u64>,
}

/// Process counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PidsStats {
    /// Processes and threads now.
    pub current: u64,
    /// Limit; 0 when there is none.
    pub limit: u64,
}

/// One count of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockCount {
    /// Device numbers.
    pub major: u64,
    /// Device numbers.
    pub minor: u64,
    /// In the kernel's words: `Read`, `Write`, `Sync`, `Total`, …; of control groups v2 `read` and `write`.
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// Counters of one network interface, seen from inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceStats {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Sent packets dropped.
    pub tx_dropped: u64,
}
