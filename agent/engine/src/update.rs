//! Changing a container's limits and its restart policy, whether it runs or not.

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::phase::Phase;
use crate::spec::{self, Purpose};
use crate::store::Table;
use muster_types::container::{EngineRestart, HostConfig};
use muster_types::container_update::ContainerUpdate;
use std::sync::Arc;

impl Inner {
    /// Changes a container; returns warnings. Where the kernel refuses, everything stays as it was known before.
    pub(crate) async fn update(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mut update: ContainerUpdate,
    ) -> Result<Vec<String>> {
        let mut warnings = spec::admit(&mut update.resources, &self.host.abilities, Purpose::Update)?;
        if update.pids.is_some_and(|pids| pids > 0) && !self.host.abilities.pids {
            warnings.push(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit \
                 discarded."
                    .to_owned(),
            );
            update.pids = None;
        }
        let _owned = container.operation.lock().await;
        let before = container.with(|cell| cell.record.config.host.clone());
        let after = self.changed(container, &before, &update)?;
        if container.phase().is_live() {
            let unlimited = update.pids.is_some_and(|pids| pids <= 0);
            self.tell_kernel(container, &after, unlimited).await?;
        }
        let record = container.with(|cell| {
            cell.record.config.host = after;
            cell.record.clone()
        });
        let stored = self
            .store
            .put(Table::Containers, record.id.as_str(), &record)
            .await;
        if let Err(error) = stored {
            container.with(|cell| cell.record.config.host = before);
            return Err(error);
        }
        self.container_event(container, "update", &[]);
        Ok(warnings)
    }

    fn changed(
        &self,
        container: &Container,
        before: &HostConfig,
        update: &ContainerUpdate,
    ) -> Result<HostConfig> {
        let refused =
            |why: &str| Error::wrong_state(format!("Cannot update container {}: {why}", container.id));
        match container.phase() {
            Phase::Removing | Phase::Dead | Phase::Removed => {
                return Err(refused(
                    "container is marked for removal and cannot be \"update\"",
                ));
            }
            Phase::Created
            | Phase::Starting
            | Phase::Running
            | Phase::Paused
            | Phase::Restarting
            | Phase::Exited => {}
        }
        let mut after = before.clone();
        after.resources = update
            .applied_to(&before.resources)
            .map_err(|conflict| refused(conflict.0))?;
        if let Some(restart) = update.restart {
            if before.auto_remove && restart != EngineRestart::No {
                return Err(refused(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            after.restart = restart;
        }
        Ok(after)
    }

    async fn tell_kernel(
        self: &Arc<Self>,
        container: &Container,
        after: &HostConfig,
        unlimited_processes: bool,
    ) -> Result<()> {
        let abilities = &self.host.abilities;
        let resources = spec::changed_limits(&after.resources, abilities, unlimited_processes)?;
        let update = self.with_cgroup(container, "update", move |group| group.update(&resources));
        match update.await {
            // It ended meanwhile; its next start has the limits.
            Err(Error::WrongState { .. }) => Ok(()),
            updated => updated,
        }
    }
}
