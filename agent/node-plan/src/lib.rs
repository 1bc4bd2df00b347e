//! What this node should do next, decided as data: assignment sets, the state machine of each task, status reports.
//!
//! The crate is for the agent's decisions only. It must never touch the engine, a socket, a disk or a clock: time and
//! observations come in as arguments, actions go out as values. Start reading at [`AgentCore`]; [`task_record`] holds
//! the state machine of one task, [`report`] the coalescing of statuses and [`overlay`] what networks of the cluster need.

pub mod agent_core;
mod leaving;
pub mod overlay;
pub mod policy;
pub mod report;
mod restored;
pub mod task_record;

pub use agent_core::{Action, AgentCore, Observation, Taken};
pub use leaving::LEAVE_WITHIN;
pub use overlay::{MeshPlan, NetworkPlan, PortPlan, network_plan, places_to_release};
pub use policy::GuardPlan;
pub use restored::Restored;
pub use task_record::{Phase, TaskRecord};

#[cfg(test)]
mod tests;
