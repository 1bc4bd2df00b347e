//! Removing a container.

use crate::container::Container;
use crate::engine::{Inner, RemoveOptions};
use crate::error::{Error, Result};
use crate::layout::remove_directory;
use crate::phase::{Phase, Step};
use crate::record::Unfinished;
use crate::store::Table;
use std::sync::Arc;

impl Inner {
    pub(crate) async fn remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: RemoveOptions,
    ) -> Result<()> {
        if options.force {
            self.kill_and_wait(container).await?;
        }
        let _owned = container.operation.lock().await;
        self.remove_owned(container, options).await
    }

    /// Removes a container. The caller holds its operation.
    ///
    /// Its directory goes first and its row last, without a sync: a row without a directory is what recovery finds of a
    /// removal that a crash cut short, and it then removes the rest; what it is to take along is in the row before.
    pub(crate) async fn remove_owned(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: RemoveOptions,
    ) -> Result<()> {
        let (phase, name) = container.with(|cell| (cell.record.phase, cell.record.name.clone()));
        match phase {
            Phase::Removed => {
                return Err(Error::NoSuchContainer {
                    reference: container.id.to_string(),
                });
            }
            Phase::Running | Phase::Paused | Phase::Restarting
                if !(options.force && phase == Phase::Restarting) =>
            {
                let state = phase.state().name();
                return Err(Error::wrong_state(format!(
                    "cannot remove container \"/{name}\": container is {state}: stop the container before removing or \
                     force remove"
                )));
            }
            _ => {}
        }
        container.step(Step::Remove).map_err(|error| {
            Error::wrong_state(format!(
                "removal of container {} is already in progress: {error}",
                container.id
            ))
        })?;
        if let Err(error) = self.clear_away(container, options.volumes).await {
            container.with(|cell| {
                cell.record.error = error.chain();
                // From `Removing`, which this removal holds, it is always legal.
                let _ = cell.step(Step::FailRemove);
            });
            return Err(error);
        }
        self.container_event(container, "destroy", &[]);
        // From `Removing` it is always legal; waiters for the removal wake up.
        let _ = container.step(Step::Vanish);
        Ok(())
    }

    /// Takes away everything of a container. Idempotent.
    pub(crate) async fn clear_away(
        self: &Arc<Self>,
        container: &Arc<Container>,
        volumes: bool,
    ) -> Result<()> {
        self.log_is_sent(&container.id).await;
        let record = container.record();
        let id = record.id.clone();
        let takes_volumes = volumes && !record.anonymous_volumes.is_empty();
        if takes_volumes && record.unfinished != Unfinished::Removal {
            self.record_as(container, Unfinished::Removal).await?;
        }
        let discarded = self.blocking(move |inner| {
            let discarded = inner.layout.discard_container(&id)?;
            remove_directory(&inner.layout.run(&id))?;
            inner.images.release(id.as_str())?;
            Ok(discarded)
        });
        let discarded = discarded.await?;
        // Freeing files takes milliseconds; what a crash leaves of them, the next opening removes.
        self.tasks.spawn_blocking(move || {
            if let Err(error) = remove_directory(&discarded) {
                tracing::warn!(error = error.chain(), "a removed container's directory stays");
            }
        });
        if volumes {
            for volume in &record.anonymous_volumes {
                self.remove_unused_volume(volume).await?;
            }
        }
        self.containers().remove(&record.id);
        self.forget_execs(&record.id);
        self.store
            .remove_behind(Table::Containers, record.id.as_str())
            .await
    }

    /// Removes a volume unless another container has it. Idempotent.
    pub(crate) async fn remove_unused_volume(self: &Arc<Self>, name: &str) -> Result<()> {
        match self.remove_volume(name).await {
            Ok(()) | Err(Error::NoSuchVolume { .. } | Error::VolumeInUse { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a volume that no container has.
    pub(crate) async fn remove_volume(self: &Arc<Self>, name: &str) -> Result<()> {
        let containers = self.containers().all();
        let users: Vec<String> = containers
            .iter()
            .filter(|container| {
                container.with(|cell| {
                    cell.record.phase != Phase::Removing
                        && cell.record.mounts.iter().any(|mount| mount.name == name)
                })
            })
            .map(|container| container.id.to_string())
            .collect();
        if users.is_empty() {
            self.volumes.remove(name).await?;
            self.volume_event("destroy", name);
            return Ok(());
        }
        Err(Error::VolumeInUse {
            name: name.to_owned(),
            users: users.join(", "),
        })
    }
}
