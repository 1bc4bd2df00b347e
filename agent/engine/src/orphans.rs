//! What belongs to no container: left by starts, removals and creates that a crash cut short.

use crate::engine::Inner;
use crate::error::Result;
use crate::layout::{self, names};
use crate::network::Places;
use crate::signal;
use muster_runtime::{Monitor, recover_lost};
use muster_types::ContainerId;
use std::collections::HashSet;
use std::sync::Arc;

impl Inner {
    /// Removes it. Errors are logged, and the next opening tries again.
    pub(crate) async fn clear_orphans(self: &Arc<Self>) {
        let containers = self.containers().all();
        let known: HashSet<String> = containers
            .iter()
            .map(|container| container.id.to_string())
            .collect();
        let running: HashSet<String> = containers
            .iter()
            .filter(|container| container.phase().is_live())
            .map(|container| container.id.to_string())
            .collect();
        self.kill_unknown_runs(&known).await;
        let network = &self.networking.network;
        let sandboxes = network.sandboxes().await.unwrap_or_default();
        let published = network.published().await.unwrap_or_default();
        let stale: HashSet<String> = sandboxes
            .into_iter()
            .chain(published.into_iter().map(|(id, _)| id))
            .filter(|id| !running.contains(id))
            .collect();
        for id in stale.iter().filter_map(|id| ContainerId::parse(id)) {
            self.networking.disconnect(&id, true, &Places::new()).await;
        }
        let cleared = self
            .blocking(move |inner| {
                let shared = names(&inner.layout.shms());
                let mounted = shared.into_iter().chain(names(&inner.layout.givens()));
                let stale = mounted.filter(|id| !running.contains(id));
                for id in stale.filter_map(|id| ContainerId::parse(&id)) {
                    inner.clear_shm(&id);
                    inner.clear_given(&id);
                }
                inner.clear_unknown_files(&known)
            })
            .await;
        if let Err(error) = cleared {
            tracing::warn!(error = error.chain(), "files of unknown containers are left over");
        }
    }

    async fn kill_unknown_runs(self: &Arc<Self>, known: &HashSet<String>) {
        for id in names(&self.layout.runs()) {
            let Some(id) = ContainerId::parse(&id).filter(|id| !known.contains(id.as_str())) else {
                continue;
            };
            let state_dir = self.layout.run(&id);
            if let Ok(monitor) = Monitor::connect(&state_dir).await {
                tracing::warn!(
                    container = id.short(),
                    "a container that is not in the metadata is killed"
                );
                // It may end by itself meanwhile; what counts is that it ends.
                let _ = monitor.signal(signal::KILL, true).await;
                let _ = monitor.wait().await;
            } else {
                let for_recovery = state_dir.clone();
                let _ = self.blocking(move |_| Ok(recover_lost(&for_recovery)?)).await;
            }
            if let Err(error) = layout::remove_directory(&state_dir) {
                tracing::warn!(
                    container = id.short(),
                    error = error.chain(),
                    "the run directory stays"
                );
            }
        }
    }

    fn clear_unknown_files(&self, known: &HashSet<String>) -> Result<()> {
        for id in self.images.prepared()? {
            if ContainerId::parse(&id).is_some() && !known.contains(&id) {
                self.images.release(&id)?;
            }
        }
        for id in names(&self.layout.containers()) {
            if let Some(id) = ContainerId::parse(&id).filter(|id| !known.contains(id.as_str())) {
                layout::remove_directory(&self.layout.container(&id))?;
            }
        }
        Ok(())
    }
}
