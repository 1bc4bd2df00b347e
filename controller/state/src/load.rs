//! What the tasks on a node take from it.

use muster_types::Resources;
use muster_types::service::{Protocol, PublishMode, PublishedPort};
use std::collections::BTreeMap;

/// What the tasks on a node take from it, counted from every task there that has not been seen to stop.
///
/// Sums are wide enough that no specification can overflow them, so that taking a task away is exact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeLoad {
    /// Tasks that have not stopped.
    pub tasks: u64,
    /// Those of them that shall run; what ranking counts, so that a task's successor may take its place.
    pub wanted: u64,
    /// Reserved billionths of a CPU.
    pub nano_cpus: u128,
    /// Reserved bytes of memory.
    pub memory_bytes: u128,
    /// Host-mode ports and how many tasks hold each.
    pub ports: BTreeMap<(Protocol, u16), u32>,
}

impl NodeLoad {
    /// Nothing runs there.
    pub fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    /// What `capacity` leaves free.
    pub fn free(&self, capacity: Resources) -> Resources {
        let left =
            |total: u64, taken: u128| u64::try_from(u128::from(total).saturating_sub(taken)).unwrap_or(0);
        Resources {
            nano_cpus: left(capacity.nano_cpus, self.nano_cpus),
            memory_bytes: left(capacity.memory_bytes, self.memory_bytes),
            pids: 0,
        }
    }

    /// More is reserved than there is.
    pub fn exceeds(&self, capacity: Resources) -> bool {
        self.nano_cpus > u128::from(capacity.nano_cpus)
            || self.memory_bytes > u128::from(capacity.memory_bytes)
    }

    /// Counts a task that reserves this, apart from whether it is wanted.
    pub fn add(&mut self, reservations: Resources, ports: &[PublishedPort]) {
        self.tasks += 1;
        self.nano_cpus += u128::from(reservations.nano_cpus);
        self.memory_bytes += u128::from(reservations.memory_bytes);
        for port in host_ports(ports) {
            *self.ports.entry(port).or_default() += 1;
        }
    }

    /// Takes back what [`NodeLoad::add`] counted.
    pub(crate) fn remove(&mut self, reservations: Resources, ports: &[PublishedPort]) {
        self.tasks = self.tasks.saturating_sub(1);
        self.nano_cpus = self.nano_cpus.saturating_sub(u128::from(reservations.nano_cpus));
        self.memory_bytes = self
            .memory_bytes
            .saturating_sub(u128::from(reservations.memory_bytes));
        for port in host_ports(ports) {
            if let Some(count) = self.ports.get_mut(&port) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.ports.remove(&port);
                }
            }
        }
    }
}

/// The fixed host-mode ports among these; port 0 is chosen by the node and never in the way.
pub fn host_ports(ports: &[PublishedPort]) -> impl Iterator<Item = (Protocol, u16)> {
    ports
        .iter()
        .filter(|port| port.mode == PublishMode::Host && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
}
