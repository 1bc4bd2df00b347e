//! Performs the engine operations that the core asks for, side by side within a bound, and answers each with exactly
//! one observation.

use crate::task_engine::TaskEngine;
use muster_node_plan::{Action, Observation};
use muster_types::{AssignedFile, AssignedTask, ContainerId, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// Engine operations at once. A start is mostly kernel work under a few global locks: on 2 cores more than this only
/// makes each slower.
const OPERATIONS_AT_ONCE: usize = 16;
/// First wait after a container could not be removed; doubled up to [`REMOVE_RETRY_MAX`].
const REMOVE_RETRY_MIN: Duration = Duration::from_millis(200);
/// Longest such wait.
const REMOVE_RETRY_MAX: Duration = Duration::from_secs(30);

/// The operations under way and the containers being watched.
pub struct Executor<E: ?Sized> {
    engine: Arc<E>,
    observations: mpsc::Sender<Observation>,
    slots: Arc<Semaphore>,
    operations: JoinSet<()>,
    watchers: BTreeMap<TaskId, AbortHandle>,
}

impl<E: TaskEngine + ?Sized> Executor<E> {
    /// Observations go to `observations`; the receiver must keep reading.
    pub fn new(engine: Arc<E>, observations: mpsc::Sender<Observation>) -> Self {
        Self {
            engine,
            observations,
            slots: Arc::new(Semaphore::new(OPERATIONS_AT_ONCE)),
            operations: JoinSet::new(),
            watchers: BTreeMap::new(),
        }
    }

    /// Begins an engine operation; reports and persistence are not its business.
    pub fn perform(&mut self, action: Action, peers: Vec<String>) {
        while self.operations.try_join_next().is_some() {}
        match action {
            Action::Prepare(task) => self.prepare(*task, peers),
            Action::Start {
                task,
                container,
                files,
            } => self.start(*task, container, files),
            Action::Stop { task, container } => self.stop(task, container),
            Action::Remove { task, container } => self.remove(task, container),
            Action::Report(_) | Action::AwaitSettled { .. } | Action::Persist => {}
        }
    }

    /// Watches a container that runs already, for its health where that is checked, and for its end.
    pub fn watch(&mut self, task: TaskId, container: ContainerId, health_checked: bool) {
        let (engine, observations) = (self.engine.clone(), self.observations.clone());
        let following = follow(engine, task, container, health_checked, observations);
        let watcher = self.operations.spawn(following);
        if let Some(old) = self.watchers.insert(task, watcher) {
            old.abort();
        }
    }

    /// Ends all watching and waits for the operations under way.
    pub async fn shutdown(mut self) {
        for watcher in std::mem::take(&mut self.watchers).into_values() {
            watcher.abort();
        }
        self.operations.shutdown().await;
    }

    fn prepare(&mut self, task: AssignedTask, peers: Vec<String>) {
        let (engine, observations, slots) = self.parts();
        self.operations.spawn(async move {
            let _slot = slots.acquire().await;
            let result = engine.prepare(&task, peers).await;
            let _ = observations
                .send(Observation::Prepared {
                    task: task.id,
                    result,
                })
                .await;
        });
    }

    fn start(&mut self, assigned: AssignedTask, container: ContainerId, files: Vec<AssignedFile>) {
        let (engine, observations, slots) = self.parts();
        let task = assigned.id;
        let watcher = self.operations.spawn(async move {
            let result = {
                let _slot = slots.acquire().await;
                engine.start(&assigned, &container, &files).await
            };
            drop((assigned, files));
            let health_checked = result.as_ref().is_ok_and(|started| started.health_checked);
            let runs = result.is_ok();
            let _ = observations.send(Observation::Started { task, result }).await;
            if runs {
                follow(engine, task, container, health_checked, observations).await;
            }
        });
        self.watchers.insert(task, watcher);
    }

    fn stop(&mut self, task: TaskId, container: ContainerId) {
        // The stop itself tells the end: two observations of one end would be one too many.
        if let Some(watcher) = self.watchers.remove(&task) {
            watcher.abort();
        }
        let (engine, observations, _) = self.parts();
        self.operations.spawn(async move {
            let ending = engine.stop(&container).await;
            let ended = Observation::Ended {
                task,
                exit_code: ending.exit_code,
                error: ending.error,
            };
            let _ = observations.send(ended).await;
        });
    }

    fn remove(&mut self, task: TaskId, container: ContainerId) {
        self.watchers.remove(&task);
        let (engine, observations, slots) = self.parts();
        self.operations.spawn(async move {
            let mut wait = REMOVE_RETRY_MIN;
            loop {
                let removed = {
                    let _slot = slots.acquire().await;
                    engine.remove(&container).await
                };
                match removed {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%task, container = container.short(), error, "cannot remove a container"),
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(REMOVE_RETRY_MAX);
            }
            let _ = observations.send(Observation::Removed { task }).await;
        });
    }

    fn parts(&self) -> (Arc<E>, mpsc::Sender<Observation>, Arc<Semaphore>) {
        (self.engine.clone(), self.observations.clone(), self.slots.clone())
    }
}

/// Reports the health of a started container until it ends, then the end.
async fn follow<E: TaskEngine + ?Sized>(
    engine: Arc<E>,
    task: TaskId,
    container: ContainerId,
    health_checked: bool,
    observations: mpsc::Sender<Observation>,
) {
    let mut ended = engine.wait(&container);
    let mut known = None;
    let ending = loop {
        if !health_checked {
            break ended.await;
        }
        tokio::select! {
            ending = &mut ended => break ending,
            healthy = engine.health(&container, known) => {
                known = Some(healthy);
                let _ = observations.send(Observation::Health { task, healthy }).await;
            }
        }
    };
    let observation = Observation::Ended {
        task,
        exit_code: ending.exit_code,
        error: ending.error,
    };
    // The receiver is gone only when the agent stops.
    let _ = observations.send(observation).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task_engine::{Ending, Healthy};
    use futures::FutureExt;
    use futures::future::{BoxFuture, pending, ready};
    use muster_node_plan::Restored;
    use muster_node_plan::agent_core::StartedContainer;
    use muster_types::{AssignedNetwork, DesiredState, ServiceId, Slot, TaskState};
    use tokio::sync::Notify;

    /// A container that is healthy from its start until it is told to end.
    #[derive(Default)]
    struct HealthyContainer {
        end: Notify,
    }

    impl TaskEngine for HealthyContainer {
        fn set_networks(&self, _: Vec<AssignedNetwork>, _: u64) {}

        fn networks_applied(&self) -> tokio::sync::watch::Receiver<u64> {
            tokio::sync::watch::channel(0).1
        }

        fn restored(&self) -> BoxFuture<'_, BTreeMap<TaskId, Restored>> {
            ready(BTreeMap::new()).boxed()
        }

        fn prepare<'a>(
            &'a self,
            _: &'a AssignedTask,
            _: Vec<String>,
        ) -> BoxFuture<'a, Result<ContainerId, String>> {
            ready(Err("not asked for".to_owned())).boxed()
        }

        fn start<'a>(
            &'a self,
            _: &'a AssignedTask,
            _: &'a ContainerId,
            _: &'a [AssignedFile],
        ) -> BoxFuture<'a, Result<StartedContainer, String>> {
            let health_checked = true;
            ready(Ok(StartedContainer {
                health_checked,
                ..StartedContainer::default()
            }))
            .boxed()
        }

        fn wait<'a>(&'a self, _: &'a ContainerId) -> BoxFuture<'a, Ending> {
            async {
                self.end.notified().await;
                Ending::default()
            }
            .boxed()
        }

        fn health<'a>(&'a self, _: &'a ContainerId, known: Option<Healthy>) -> BoxFuture<'a, Healthy> {
            match known {
                Some(true) => pending().boxed(),
                Some(false) | None => ready(true).boxed(),
            }
        }

        fn stop<'a>(&'a self, _: &'a ContainerId) -> BoxFuture<'a, Ending> {
            ready(Ending::default()).boxed()
        }

        fn remove<'a>(&'a self, _: &'a ContainerId) -> BoxFuture<'a, Result<(), String>> {
            ready(Ok(())).boxed()
        }
    }

    fn assigned(id: TaskId) -> AssignedTask {
        AssignedTask {
            id,
            service: ServiceId::from_u128(1),
            service_name: "web".to_owned(),
            service_labels: BTreeMap::new(),
            slot: Slot::Replica(1),
            template_version: 1,
            template: Arc::default(),
            ports: Vec::new(),
            desired: DesiredState::Running,
            start_after: None,
            recorded: (0, TaskState::Assigned),
            networks: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_health_of_a_container_that_runs_already_is_told() {
        let engine = Arc::new(HealthyContainer::default());
        let (sender, mut observations) = mpsc::channel(8);
        let mut executor = Executor::new(engine, sender);
        let (task, container) = (TaskId::from_u128(7), ContainerId::from_bytes([1; 32]));
        executor.watch(task, container, true);
        let health = tokio::time::timeout(Duration::from_secs(10), observations.recv()).await;
        assert_eq!(health, Ok(Some(Observation::Health { task, healthy: true })));
        executor.shutdown().await;
    }

    #[tokio::test]
    async fn health_is_told_once_and_then_only_when_it_changes() {
        let engine = Arc::new(HealthyContainer::default());
        let (sender, mut observations) = mpsc::channel(8);
        let mut executor = Executor::new(engine.clone(), sender);
        let (task, container) = (TaskId::from_u128(7), ContainerId::from_bytes([1; 32]));
        let start = Action::Start {
            task: Box::new(assigned(task)),
            container,
            files: Vec::new(),
        };
        executor.perform(start, Vec::new());
        let started = observations.recv().await;
        assert!(
            matches!(started, Some(Observation::Started { .. })),
            "{started:?}"
        );
        let health = observations.recv().await;
        assert_eq!(health, Some(Observation::Health { task, healthy: true }));
        engine.end.notify_one();
        let ended = observations.recv().await;
        assert!(matches!(ended, Some(Observation::Ended { .. })), "{ended:?}");
        executor.shutdown().await;
    }
}
