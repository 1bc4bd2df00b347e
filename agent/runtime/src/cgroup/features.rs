//! What a node's control groups can limit.

use super::root::{CgroupRoot, CgroupVersion, Controller};

/// What can be limited here. Each field says whether the limit of that name can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Features {
    pub memory: bool,
    pub swap: bool,
    pub memory_reservation: bool,
    pub swappiness: bool,
    pub oom_kill_disable: bool,
    pub cpu_shares: bool,
    pub cpu_quota: bool,
    pub cpu_realtime: bool,
    pub cpuset: bool,
    pub pids: bool,
    pub block_weight: bool,
    pub block_throttle: bool,
    pub hugetlb: bool,
}

/// Looks at which control files there are.
pub(super) fn probe(root: &CgroupRoot) -> Features {
    let has_file = |controller: Controller, names: &[&str]| {
        let hierarchy = root
            .hierarchies
            .iter()
            .find(|hierarchy| hierarchy.controllers.contains(&controller));
        hierarchy.is_some_and(|hierarchy| names.iter().any(|name| hierarchy.directory.join(name).exists()))
    };
    match root.version {
        CgroupVersion::V1 => Features {
            memory: root.has(Controller::Memory),
            swap: has_file(Controller::Memory, &["memory.memsw.limit_in_bytes"]),
            memory_reservation: has_file(Controller::Memory, &["memory.soft_limit_in_bytes"]),
            swappiness: has_file(Controller::Memory, &["memory.swappiness"]),
            oom_kill_disable: has_file(Controller::Memory, &["memory.oom_control"]),
            cpu_shares: has_file(Controller::Cpu, &["cpu.shares"]),
            cpu_quota: has_file(Controller::Cpu, &["cpu.cfs_quota_us"]),
            cpu_realtime: has_file(Controller::Cpu, &["cpu.rt_runtime_us"]),
            cpuset: root.has(Controller::Cpuset),
            pids: root.has(Controller::Pids),
            block_weight: has_file(Controller::Blkio, &["blkio.weight", "blkio.bfq.io_serviced"]),
            block_throttle: has_file(Controller::Blkio, &["blkio.throttle.read_bps_device"]),
            hugetlb: root.has(Controller::Hugetlb),
        },
        // The real root of v2 has no limit files to look at, so only the controllers count.
        CgroupVersion::V2 => Features {
            memory: root.has(Controller::Memory),
            swap: root.has(Controller::Memory) && std::path::Path::new("/proc/swaps").exists(),
            memory_reservation: root.has(Controller::Memory),
            swappiness: false,
            oom_kill_disable: false,
            cpu_shares: root.has(Controller::Cpu),
            cpu_quota: root.has(Controller::Cpu),
            cpu_realtime: false,
            cpuset: root.has(Controller::Cpuset),
            pids: root.has(Controller::Pids),
            block_weight: root.has(Controller::Blkio),
            block_throttle: root.has(Controller::Blkio),
            hugetlb: root.has(Controller::Hugetlb),
        },
    }
}
