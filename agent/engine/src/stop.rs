//! Ending, freezing and renaming a container.

use crate::container::{Container, Run};
use crate::engine::{Inner, StopOptions};
use crate::error::{Error, Result};
use crate::phase::{Phase, Step};
use crate::signal;
use crate::store::Table;
use muster_runtime::RuntimeError;
use muster_runtime::cgroup::Cgroup;
use muster_types::container::EngineRestart;
use std::sync::Arc;
use std::time::Duration;

/// How long the kernel may take to end a killed container: a process in uninterruptible sleep holds it up.
const KILL_WAIT: Duration = Duration::from_secs(10);

impl Inner {
    /// The run of a container that must be running.
    pub(crate) fn running(&self, container: &Container) -> Result<Run> {
        container
            .run()
            .ok_or_else(|| Error::wrong_state(format!("container {} is not running", container.id)))
    }

    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<()> {
        let own = container.with(|cell| (cell.record.stop_signal, cell.record.stop_grace));
        let signal = match &options.signal {
            Some(name) if !name.is_empty() => signal::parse(name)?,
            _ => own.0,
        };
        let before = self.mark_stopped(container).await;
        self.no_start_waits(container).await?;
        match container.run() {
            Some(run) => {
                self.end_with(container, &run, signal, options.grace.unwrap_or(own.1))
                    .await?;
            }
            // It ended by itself meanwhile, or waited for its restart.
            None if before.goes_on() => {}
            None => {
                return Err(Error::NotModified {
                    message: format!("Container {} is already stopped", container.id),
                });
            }
        }
        self.container_event(container, "stop", &[]);
        Ok(())
    }

    pub(crate) async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<()> {
        match self.stop(container, options).await {
            Ok(()) | Err(Error::NotModified { .. }) => {}
            Err(error) => return Err(error),
        }
        self.start(container).await?;
        self.container_event(container, "restart", &[]);
        Ok(())
    }

    pub(crate) async fn kill(self: &Arc<Self>, container: &Arc<Container>, signal: &str) -> Result<()> {
        let number = if signal.is_empty() {
            signal::KILL
        } else {
            signal::parse(signal)?
        };
        let run = container.run().ok_or_else(|| {
            Error::wrong_state(format!(
                "cannot kill container: {}: container {} is not running",
                container.id, container.id
            ))
        })?;
        let stop_signal = container.with(|cell| cell.record.stop_signal);
        if number == signal::KILL || number == stop_signal {
            self.mark_stopped(container).await;
        }
        if number == signal::KILL {
            // Nothing outlives it, and clients ask for the exit code next.
            return self.end_with(container, &run, number, KILL_WAIT).await;
        }
        self.send(container, &run, number).await?;
        self.container_event(container, "kill", &[("signal", number.to_string())]);
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill_and_wait(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        self.mark_stopped(container).await;
        self.no_start_waits(container).await?;
        match container.run() {
            Some(run) => self.end_with(container, &run, signal::KILL, KILL_WAIT).await,
            None => Ok(()),
        }
    }

    async fn end_with(
        self: &Arc<Self>,
        container: &Container,
        run: &Run,
        signal: i32,
        grace: Duration,
    ) -> Result<()> {
        let mut watch = container.watch();
        let ends = watch.borrow_and_update().ends;
        if !container.phase().is_live() {
            return Ok(());
        }
        self.send(container, run, signal).await?;
        self.container_event(container, "kill", &[("signal", signal.to_string())]);
        let ended = watch.wait_for(|observed| observed.ends > ends);
        // A grace that no clock can express is one without end.
        let grace = grace.min(Duration::from_secs(u64::from(u32::MAX)));
        let in_time = tokio::select! {
            in_time = tokio::time::timeout(grace, ended) => in_time.is_ok(),
            // Nobody watches for its end any more; the container keeps its signal.
            () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
        };
        if in_time {
            return Ok(());
        }
        self.send(container, run, signal::KILL).await?;
        self.container_event(container, "kill", &[("signal", signal::KILL.to_string())]);
        let ended = watch.wait_for(|observed| observed.ends > ends);
        let killed = tokio::select! {
            killed = tokio::time::timeout(KILL_WAIT, ended) => killed.is_ok(),
            () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
        };
        match killed {
            true => Ok(()),
            false => Err(Error::Unkillable {
                id: container.id.to_string(),
                seconds: KILL_WAIT.as_secs(),
            }),
        }
    }

    /// Sends a signal; a frozen container is thawed for SIGKILL, which it could not take otherwise.
    async fn send(self: &Arc<Self>, container: &Container, run: &Run, signal: i32) -> Result<()> {
        match run.monitor.signal(signal, false).await {
            // It ended by itself meanwhile.
            Ok(()) | Err(RuntimeError::Gone) => {}
            Err(error) => return Err(error.into()),
        }
        if container.phase() == Phase::Paused {
            match self.with_cgroup(container, "thaw", |group| group.thaw()).await {
                // It ended meanwhile.
                Ok(()) | Err(Error::WrongState { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Records that nobody wants it to run any more; returns where it was at that moment.
    async fn mark_stopped(&self, container: &Container) -> Phase {
        let record = container.with(|cell| {
            cell.record.stopped_by_user = true;
            cell.record.clone()
        });
        let (table, key) = (Table::Containers, record.id.as_str());
        // Only a restart policy asks for it after a crash.
        let recorded = match record.config.host.restart {
            EngineRestart::No => self.store.put_behind(table, key, &record).await,
            _ => self.store.put(table, key, &record).await,
        };
        if let Err(error) = recorded {
            tracing::warn!(
                container = record.id.short(),
                error = error.chain(),
                "the stop is not recorded"
            );
        }
        record.phase
    }

    /// Lets a start that is under way come to its end, so that what follows is never lost on it, and gives up a restart
    /// that waits. A container that is marked as stopped begins no other run afterwards but by a user's start.
    async fn no_start_waits(&self, container: &Container) -> Result<()> {
        if !matches!(container.phase(), Phase::Starting | Phase::Restarting) {
            return Ok(());
        }
        let _owned = container.operation.lock().await;
        if container.phase() == Phase::Restarting {
            container
                .step(Step::GiveUp)
                .map_err(|error| Error::wrong_state(error.to_string()))?;
        }
        Ok(())
    }

    pub(crate) async fn pause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _owned = container.operation.lock().await;
        self.pause_owned(container).await
    }

    /// Freezes a container. The caller holds its operation.
    pub(crate) async fn pause_owned(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        match container.phase() {
            Phase::Running => {}
            Phase::Paused => {
                return Err(Error::wrong_state(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
            _ => {
                return Err(Error::wrong_state(format!(
                    "Container {} is not running",
                    container.id
                )));
            }
        }
        self.with_cgroup(container, "freeze", |group| group.freeze())
            .await?;
        // The container may have ended just now; then its end follows, and being frozen is no matter.
        if container.step(Step::Pause).is_ok() {
            self.container_event(container, "pause", &[]);
        }
        Ok(())
    }

    pub(crate) async fn unpause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _owned = container.operation.lock().await;
        self.unpause_owned(container).await
    }

    /// Thaws a container. The caller holds its operation.
    pub(crate) async fn unpause_owned(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.phase() != Phase::Paused {
            return Err(Error::wrong_state(format!(
                "Container {} is not paused",
                container.id
            )));
        }
        self.with_cgroup(container, "thaw", |group| group.thaw()).await?;
        if container.step(Step::Unpause).is_ok() {
            self.container_event(container, "unpause", &[]);
        }
        Ok(())
    }

    /// Works on the container's control group, which may block. Fails with [`Error::WrongState`] when the container
    /// ended: its groups go before its end is known here.
    pub(crate) async fn with_cgroup<T: Send + 'static>(
        self: &Arc<Self>,
        container: &Container,
        operation: &'static str,
        work: impl FnOnce(&Cgroup) -> muster_runtime::cgroup::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = container.with(|cell| self.cgroup_path(&cell.record));
        let id = container.id.clone();
        self.blocking(move |inner| {
            let worked = Cgroup::open(&inner.cgroup, &path).and_then(|group| work(&group));
            worked.map_err(|source| match Cgroup::is_whole(&inner.cgroup, &path) {
                true => Error::Cgroup {
                    operation,
                    source: Box::new(source),
                },
                false => Error::wrong_state(format!("Container {id} is not running")),
            })
        })
        .await
    }

    pub(crate) async fn rename(self: &Arc<Self>, container: &Arc<Container>, name: &str) -> Result<()> {
        let _owned = container.operation.lock().await;
        let old = container.with(|cell| cell.record.name.clone());
        if name.trim_start_matches('/') == old {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        let name = self.containers().rename(&container.id, name)?;
        let record = container.with(|cell| {
            cell.record.name = name;
            cell.record.clone()
        });
        if let Some(run) = container.run() {
            let places = self.networking.rename(&record, &run.places);
            self.networking.rename_shared(&record, &places).await;
            container.with(|cell| {
                if let Some(run) = &mut cell.run {
                    run.places = places;
                }
            });
        }
        self.store
            .put(Table::Containers, record.id.as_str(), &record)
            .await?;
        self.container_event(container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
