//! What follows the end of a container: its record, its network, its restart, its removal.

use crate::clock;
use crate::container::{Container, Ending, Run};
use crate::engine::{Inner, RemoveOptions};
use crate::layout;
use crate::network::Places;
use crate::phase::Phase;
use crate::record::Record;
use crate::start::has_ports;
use crate::store::Table;
use muster_runtime::{ExitStatus, Monitor, RuntimeError, read_exit_file};
use muster_types::container::EngineRestart;
use std::sync::Arc;
use std::time::Duration;

/// Wait before a monitor that does not answer is asked again.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// Exit code of a container whose status got lost: as if killed.
const CODE_LOST: i32 = 137;

impl Inner {
    /// Waits for the container's end in the background.
    pub(crate) fn watch_end(self: &Arc<Self>, container: &Arc<Container>, monitor: Monitor) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.spawn(async move {
            let ending = tokio::select! {
                ending = inner.end_of(&container, &monitor) => ending,
                () = inner.stopping.cancelled() => return,
            };
            let _owned = container.operation.lock().await;
            inner.ended(&container, &ending).await;
        });
    }

    async fn end_of(&self, container: &Container, monitor: &Monitor) -> Ending {
        loop {
            match monitor.wait().await {
                Ok(status) => return Ending::from(status),
                Err(RuntimeError::Gone) => return self.recorded_end(container),
                Err(error) => {
                    let error = muster_runtime::describe(&error);
                    tracing::warn!(
                        container = container.id.short(),
                        error,
                        "the monitor does not answer"
                    );
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
    }

    /// What the exit file says, or that the status is lost.
    pub(crate) fn recorded_end(&self, container: &Container) -> Ending {
        match read_exit_file(&self.layout.exit_file(&container.id)) {
            Ok(Some(status)) => Ending::from(status),
            Ok(None) => Ending::lost("its exit status was not recorded: the host or its monitor ended"),
            Err(error) => Ending::lost(&muster_runtime::describe(&error)),
        }
    }

    /// Carries out what follows an end. The caller holds the operation. Waiters learn of it once it is recorded; the
    /// operation is given back once nothing of the run is left.
    pub(crate) async fn ended(self: &Arc<Self>, container: &Arc<Container>, ending: &Ending) {
        let (restart_after, mut recorded) = container.with(|cell| {
            let restart = !self.stopping.is_cancelled() && should_restart(&cell.record, ending.code);
            let length = ending.finished_at.since(cell.record.started_at);
            let wait = restart.then(|| cell.backoff.next(length));
            (wait, cell.record.clone())
        });
        // Only a live container has a run to end.
        let _ = recorded.end(ending, restart_after.is_some());
        let removes = recorded.config.host.auto_remove && restart_after.is_none();
        if !removes {
            self.record_end(&recorded).await;
        }
        let (restart_after, run) = container.with(|cell| {
            // Somebody may have stopped it meanwhile.
            let wait = restart_after.filter(|_| !cell.record.stopped_by_user);
            (wait, cell.end(ending, wait.is_some()))
        });
        if ending.oom_killed {
            self.container_event(container, "oom", &[]);
        }
        self.container_event(container, "die", &[("exitCode", ending.code.to_string())]);
        self.clear_run(container, run.as_ref()).await;
        if removes {
            self.remove_ended(container).await;
            return;
        }
        let record = container.record();
        if record != recorded {
            self.record_end(&record).await;
        }
        if let Some(wait) = restart_after {
            self.restart_later(container, wait);
        }
    }

    /// Makes an end durable.
    async fn record_end(&self, record: &Record) {
        if let Err(error) = self
            .store
            .put(Table::Containers, record.id.as_str(), record)
            .await
        {
            tracing::warn!(
                container = record.id.short(),
                error = error.chain(),
                "the end is recorded in its exit file only"
            );
        }
    }

    /// Takes away what only a running container has. Idempotent.
    pub(crate) async fn clear_run(self: &Arc<Self>, container: &Container, run: Option<&Run>) {
        let record = container.record();
        let published = has_ports(&record) || run.is_some_and(|run| !run.ports.is_empty());
        let none = Places::new();
        let places = run.map_or(&none, |run| &run.places);
        self.networking.disconnect(&record.id, published, places).await;
        self.places_event("disconnect", container, places);
        if run.is_some() {
            self.unmounted_event(&record);
        }
        self.clear_shm(&record.id);
        self.clear_given(&record.id);
        self.release_mounts(container).await;
        let for_images = record.clone();
        // Only a shutdown takes the thread away; the next opening detaches them then.
        let _ = self
            .blocking(move |inner| {
                inner.detach_images(&for_images);
                Ok(())
            })
            .await;
        if let Err(error) = layout::remove_directory(&self.layout.run(&record.id)) {
            tracing::warn!(
                container = record.id.short(),
                error = error.chain(),
                "the run directory stays"
            );
        }
        self.end_execs(&record.id);
    }

    /// Removes a container that ended and is to be removed by itself. The caller holds its operation.
    pub(crate) async fn remove_ended(self: &Arc<Self>, container: &Arc<Container>) {
        let options = RemoveOptions {
            force: false,
            volumes: true,
        };
        if let Err(error) = self.remove_owned(container, options).await {
            tracing::error!(
                container = container.id.short(),
                error = error.chain(),
                "cannot remove it after its end"
            );
        }
    }

    /// Starts it again after a wait, unless somebody stops or removes it meanwhile.
    pub(crate) fn restart_later(self: &Arc<Self>, container: &Arc<Container>, wait: Duration) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.spawn(async move {
            let mut watch = container.watch();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = inner.stopping.cancelled() => return,
                _ = watch.wait_for(|observed| observed.phase != Phase::Restarting) => return,
            }
            let _owned = container.operation.lock().await;
            if container.phase() != Phase::Restarting || inner.stopping.is_cancelled() {
                return;
            }
            container.with(|cell| cell.record.restart_count += 1);
            if let Err(error) = inner.start_owned(&container).await {
                tracing::warn!(
                    container = container.id.short(),
                    error = error.chain(),
                    "a restart failed"
                );
                inner.restart_failed(&container);
            }
        });
    }

    fn restart_failed(self: &Arc<Self>, container: &Arc<Container>) {
        let wait = container.with(|cell| {
            let again =
                should_restart(&cell.record, cell.record.exit_code) && cell.record.phase == Phase::Exited;
            // It counts as another short run.
            again.then(|| {
                cell.record.phase = Phase::Restarting;
                cell.backoff.next(Duration::ZERO)
            })
        });
        if let Some(wait) = wait {
            self.restart_later(container, wait);
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        Self {
            code: status.code,
            oom_killed: status.oom_killed,
            finished_at: clock::from_runtime(status.finished_at_ns),
            error: status.reason.unwrap_or_default(),
        }
    }
}

impl Ending {
    pub(crate) fn lost(why: &str) -> Self {
        Self {
            code: CODE_LOST,
            oom_killed: false,
            finished_at: clock::now(),
            error: why.to_owned(),
        }
    }
}

/// Whether the container's own policy wants it to run again.
pub(crate) fn should_restart(record: &Record, code: i32) -> bool {
    if record.stopped_by_user {
        return false;
    }
    match record.config.host.restart {
        EngineRestart::No => false,
        EngineRestart::Always | EngineRestart::UnlessStopped => true,
        EngineRestart::OnFailure { retries_max } => {
            code != 0 && (retries_max == 0 || record.restart_count < retries_max)
        }
    }
}
