//! A machine's containers: they outlive the daemon, and end with the machine.

use crate::random::Dice;
use muster_node_plan::Restored;
use muster_types::{ContainerId, TaskId};
use std::collections::BTreeMap;

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// It runs, with this process id.
    Running(i32),
    /// It ended.
    Ended {
        /// Exit code.
        exit_code: i32,
        /// It ended with the machine.
        by_reboot: bool,
    },
}

/// One container of a task.
#[derive(Debug, Clone)]
pub struct Container {
    /// The task it was made for.
    pub task: TaskId,
    /// Where it stands.
    pub state: ContainerState,
}

/// The containers of one machine.
#[derive(Debug)]
pub struct Engine {
    /// By id.
    pub containers: BTreeMap<ContainerId, Container>,
    dice: Dice,
}

impl Engine {
    /// An engine without containers.
    pub fn new(dice: Dice) -> Self {
        Self {
            containers: BTreeMap::new(),
            dice,
        }
    }

    /// Makes the container of a task, or finds the one made before.
    pub fn prepare(&mut self, task: TaskId) -> ContainerId {
        let found = self
            .containers
            .iter()
            .find(|(_, container)| container.task == task);
        if let Some((id, _)) = found {
            return id.clone();
        }
        let mut bytes = [0; 32];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.dice.draw().to_le_bytes());
        }
        let id = ContainerId::from_bytes(bytes);
        let state = ContainerState::Created;
        self.containers.insert(id.clone(), Container { task, state });
        id
    }

    /// Starts a container; one that runs already is a success, and one that ended runs again.
    pub fn start(&mut self, id: &ContainerId) -> Result<i32, String> {
        let pid = i32::try_from(self.dice.between(2, 30_000)).unwrap_or(2);
        let container = self.containers.get_mut(id).ok_or("no such container")?;
        if let ContainerState::Running(pid) = container.state {
            return Ok(pid);
        }
        container.state = ContainerState::Running(pid);
        Ok(pid)
    }

    /// A running container ends; returns its exit code, or the one that it ended with before.
    pub fn end(&mut self, id: &ContainerId, exit_code: i32) -> Option<i32> {
        let container = self.containers.get_mut(id)?;
        match container.state {
            ContainerState::Running(_) => {
                container.state = ContainerState::Ended {
                    exit_code,
                    by_reboot: false,
                };
                Some(exit_code)
            }
            ContainerState::Ended { exit_code, .. } => Some(exit_code),
            ContainerState::Created => None,
        }
    }

    /// True while the container runs as this process.
    pub fn runs_as(&self, id: &ContainerId, pid: i32) -> bool {
        let container = self.containers.get(id);
        container.is_some_and(|container| container.state == ContainerState::Running(pid))
    }

    /// The machine lost power: what ran has ended.
    pub fn lose_power(&mut self) {
        for container in self.containers.values_mut() {
            if let ContainerState::Running(_) = container.state {
                container.state = ContainerState::Ended {
                    exit_code: 137,
                    by_reboot: true,
                };
            }
        }
    }

    /// Containers that run, with their tasks.
    pub fn running(&self) -> impl Iterator<Item = (&ContainerId, TaskId, i32)> {
        self.containers
            .iter()
            .filter_map(|(id, container)| match container.state {
                ContainerState::Running(pid) => Some((id, container.task, pid)),
                ContainerState::Created | ContainerState::Ended { .. } => None,
            })
    }

    /// What a daemon finds when it starts.
    pub fn restored(&self) -> BTreeMap<TaskId, Restored> {
        let restored = |(id, container): (&ContainerId, &Container)| {
            let found = match container.state {
                ContainerState::Created => Restored::Prepared(id.clone()),
                ContainerState::Running(pid) => Restored::Running {
                    container: id.clone(),
                    pid,
                    health_checked: false,
                },
                ContainerState::Ended { exit_code, by_reboot } => Restored::Ended {
                    container: id.clone(),
                    exit_code,
                    by_reboot,
                },
            };
            (container.task, found)
        };
        self.containers.iter().map(restored).collect()
    }
}
