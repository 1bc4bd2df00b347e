//! What the executor needs of the local engine, in terms of tasks.

use futures::future::BoxFuture;
use muster_node_plan::Restored;
use muster_node_plan::agent_core::StartedContainer;
use muster_types::{AssignedFile, AssignedNetwork, AssignedTask, ContainerId, TaskId};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// Exit code, when it ever ran.
    pub exit_code: Option<i32>,
    /// Why it ended, when the exit code does not say it.
    pub error: Option<String>,
}

/// Whether a health check passed or failed for good.
pub type Healthy = bool;

/// The engine as the executor uses it. Errors are texts for the user: they become the task's error.
///
/// Futures may be dropped only when the daemon stops; the engine then carries the operation to its end or undoes it at
/// its next start.
pub trait TaskEngine: Send + Sync + 'static {
    /// The containers of tasks that exist, by the task they were made for.
    fn restored(&self) -> BoxFuture<'_, BTreeMap<TaskId, Restored>>;
    /// Tells of the cluster's networks that the node has a part in, all of them, each time before the tasks that need
    /// them are made or started. Returns at once; an operation that needs one waits until it stands. `index` is the
    /// applied index of the assignments that say so.
    fn set_networks(&self, networks: Vec<AssignedNetwork>, index: u64);
    /// The index of the newest networks that stand as they should, with all connections led by them.
    fn networks_applied(&self) -> watch::Receiver<u64>;
    /// Makes the container of a task, fetching its image from `peers` (addresses) when it is not here. A container
    /// that was made for the task before is returned.
    fn prepare<'a>(
        &'a self,
        task: &'a AssignedTask,
        peers: Vec<String>,
    ) -> BoxFuture<'a, Result<ContainerId, String>>;
    /// Starts it with the secrets and configs that the node was given for it. One that runs already is a success.
    fn start<'a>(
        &'a self,
        task: &'a AssignedTask,
        container: &'a ContainerId,
        files: &'a [AssignedFile],
    ) -> BoxFuture<'a, Result<StartedContainer, String>>;
    /// Resolves at its end, at once when it has ended.
    fn wait<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Ending>;
    /// Resolves once its health check has passed, or failed for good, and that is not `known` already. Never resolves
    /// for a container without one.
    fn health<'a>(&'a self, container: &'a ContainerId, known: Option<Healthy>) -> BoxFuture<'a, Healthy>;
    /// Stops it with its stop signal and grace and waits for the end; a container that does not run has ended.
    fn stop<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Ending>;
    /// Removes it with its anonymous volumes. One that is gone is a success.
    fn remove<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), String>>;
}
