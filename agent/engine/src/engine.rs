//! The engine itself: what it holds, and the operations in one list.

use crate::attach::AttachSession;
use crate::build::StepCaches;
use crate::config::EngineConfig;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::{EventBus, EventFeed};
use crate::exec::{Exec, ExecConfig, ExecInfo};
use crate::image_config;
use crate::layout::Layout;
use crate::log_forward::Forwarding;
use crate::metrics::EngineMetrics;
use crate::names::Registry;
use crate::neighbours::Neighbours;
use crate::network::Networking;
use crate::spec::HostFacts;
use crate::store::Store;
use crate::user_namespace::Remap;
use crate::volume_mounts::VolumeMounts;
use crate::volumes::Volumes;
use crate::wait::{WaitCondition, WaitResult};
use futures::future::BoxFuture;
use muster_images::ImageStore;
use muster_runtime::cgroup::CgroupRoot;
use muster_runtime::{AttachRequest, Launcher};
use muster_types::container::{ContainerConfig, ContainerInfo};
use muster_types::container_update::ContainerUpdate;
use muster_types::event::EventKind;
use muster_types::service::{DnsSpec, Labels, LogDriver};
use muster_types::{ContainerId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A node's container engine. Clones share it.
///
/// An operation that was begun is carried to its end even if its future is dropped.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub layout: Layout,
    pub launcher: Launcher,
    pub cgroup: CgroupRoot,
    pub images: ImageStore,
    pub networking: Networking,
    pub neighbours: Neighbours,
    pub store: Store,
    pub volumes: Volumes,
    pub volume_mounts: VolumeMounts,
    pub step_caches: StepCaches,
    pub events: EventBus,
    pub metrics: EngineMetrics,
    pub host: HostFacts,
    /// Whose users those of containers are; the host's where `None`.
    pub remap: Option<Arc<Remap>>,
    pub identity: Identity,
    pub dns: DnsSpec,
    pub log: LogDriver,
    /// Bounds starts that are under way at once.
    pub starts: Semaphore,
    /// Who compresses a log.
    pub packing: Semaphore,
    /// Every task of the engine.
    pub tasks: TaskTracker,
    /// Ends every task that waits.
    pub stopping: CancellationToken,
    /// Held while something is chosen that no other container may get.
    pub reserving: Mutex<()>,
    pub execs: Mutex<HashMap<String, Arc<Exec>>>,
    pub forwarding: Forwarding,
    pub(crate) containers: Mutex<Registry<Arc<Container>>>,
}

/// Who the engine is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub id: String,
    pub name: String,
    pub labels: Labels,
    pub started_at: Timestamp,
}

/// A container was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// For the user.
    pub warnings: Vec<String>,
}

/// How to stop a container; what is not given comes from the container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOptions {
    /// Signal.
    pub signal: Option<String>,
    /// Wait until SIGKILL; `Duration::MAX` means for ever.
    pub grace: Option<Duration>,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

impl Engine {
    /// Opens the engine and finds what an earlier one left: running containers are connected to again, ended ones are
    /// settled, and what nobody needs any more is removed.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let inner = crate::open::open(config).await?;
        Ok(Self { inner })
    }

    /// Ends every task of the engine and closes its metadata. Containers run on. Idempotent.
    pub async fn shutdown(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let (store, images) = (self.inner.store.clone(), self.inner.images.clone());
        // The writer's thread has only bounded work left.
        let _ = tokio::task::spawn_blocking(move || {
            store.close();
            images.close();
        })
        .await;
    }

    /// Makes a container, under a random name when none is given.
    pub async fn create(&self, name: Option<&str>, config: ContainerConfig) -> Result<Created> {
        let (inner, name) = (Arc::clone(&self.inner), name.unwrap_or_default().to_owned());
        // What is asked of a container is large; callers would carry it in their own futures.
        self.carry(
            "create",
            Box::pin(async move { inner.create(&name, config).await }),
        )
        .await
    }

    /// Starts a container and returns once its program runs.
    pub async fn start(&self, reference: &str) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        // A start is the largest of all operations; callers would carry it in their own futures.
        self.carry("start", Box::pin(async move { inner.start(&container).await }))
            .await
    }

    /// Stops a container and returns once it has ended.
    pub async fn stop(&self, reference: &str, options: StopOptions) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        self.carry("stop", async move { inner.stop(&container, &options).await })
            .await
    }

    /// Stops a container if it runs, then starts it.
    pub async fn restart(&self, reference: &str, options: StopOptions) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        self.carry(
            "restart",
            async move { inner.restart(&container, &options).await },
        )
        .await
    }

    /// Sends a signal; SIGKILL when empty.
    pub async fn kill(&self, reference: &str, signal: &str) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        let signal = signal.to_owned();
        self.carry("kill", async move { inner.kill(&container, &signal).await })
            .await
    }

    /// Freezes a container.
    pub async fn pause(&self, reference: &str) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        self.carry("pause", async move { inner.pause(&container).await })
            .await
    }

    /// Thaws a container.
    pub async fn unpause(&self, reference: &str) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        self.carry("unpause", async move { inner.unpause(&container).await })
            .await
    }

    /// Gives a container another name.
    pub async fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        let name = name.to_owned();
        self.carry("rename", async move { inner.rename(&container, &name).await })
            .await
    }

    /// Takes away a link of a container; it keeps what it was told of the other one until its next start.
    pub async fn unlink(&self, reference: &str, alias: &str) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        let alias = alias.to_owned();
        self.carry("unlink", async move { inner.unlink(&container, &alias).await })
            .await
    }

    /// Changes a container's limits and its restart policy, also while it runs; returns warnings.
    pub async fn update(&self, reference: &str, update: ContainerUpdate) -> Result<Vec<String>> {
        let (inner, container) = self.found(reference)?;
        self.carry("update", async move { inner.update(&container, update).await })
            .await
    }

    /// Removes a container.
    pub async fn remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        self.carry("remove", async move { inner.remove(&container, options).await })
            .await
    }

    /// Registers a wait at once; the returned future resolves at the end that was asked for.
    pub fn wait(
        &self,
        reference: &str,
        condition: WaitCondition,
    ) -> Result<BoxFuture<'static, Result<WaitResult>>> {
        let (inner, container) = self.found(reference)?;
        Ok(inner.wait(&container, condition))
    }

    /// All containers, newest first.
    pub fn list(&self) -> Vec<ContainerInfo> {
        let containers = self.inner.containers().all();
        let mut infos: Vec<_> = containers
            .iter()
            .map(|container| container.info(&self.inner.layout, |record| self.inner.places_at_rest(record)))
            .collect();
        infos.sort_by_key(|info| std::cmp::Reverse(info.created));
        infos
    }

    /// One container; with `size`, the size of its writable layer is measured.
    pub async fn inspect(&self, reference: &str, size: bool) -> Result<ContainerInfo> {
        let (inner, container) = self.found(reference)?;
        let mut info = container.info(&inner.layout, |record| inner.places_at_rest(record));
        inner.add_confinement(&mut info, container.with(|cell| cell.record.level()))?;
        let id = info.id.to_string();
        let (directories, measured) = inner
            .blocking(move |inner| {
                // One that is being removed has none any more.
                let directories = inner.images.directories(&id).ok();
                let measured = size.then(|| inner.images.rootfs_size(&id)).transpose()?;
                Ok((directories, measured))
            })
            .await?;
        info.directories = directories.map(image_config::directories);
        info.size_rw = measured.map(|size| size.written_bytes);
        info.size_root = measured.map(|size| size.total_bytes);
        Ok(info)
    }

    /// Connects to a container's streams, at once or as soon as it starts.
    pub async fn attach(&self, reference: &str, request: AttachRequest) -> Result<AttachSession> {
        let (inner, container) = self.found(reference)?;
        inner.attach(&container, request).await
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        let (inner, container) = self.found(reference)?;
        let run = inner.running(&container)?;
        // Without a terminal there is nothing to resize, which Docker's clients may not know.
        if container.with(|cell| cell.record.config.tty) {
            run.monitor.resize(rows, columns).await?;
        }
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        inner.container_event(&container, "resize", &size);
        Ok(())
    }

    /// Prepares a process in a running container.
    pub async fn exec_create(&self, reference: &str, config: ExecConfig) -> Result<String> {
        let (inner, container) = self.found(reference)?;
        inner.exec_create(&container, config)
    }

    /// Starts a prepared process, with a session on its streams or without.
    pub async fn exec_start(
        &self,
        id: &str,
        attach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>> {
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        self.carry("exec", async move { inner.exec_start(&id, attach, size).await })
            .await
    }

    /// A prepared, running or ended process.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        Ok(self.inner.exec(id)?.info())
    }

    /// Sets the size of an exec'ed process's terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        self.inner.exec(id)?.resize(rows, columns).await
    }

    /// Events of local objects; `since` replays those still remembered.
    pub fn events(&self, since: Option<Timestamp>) -> EventFeed {
        self.inner.events.subscribe(since)
    }

    /// Images, for what this engine does not wrap (transfer between nodes).
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    fn found(&self, reference: &str) -> Result<(Arc<Inner>, Arc<Container>)> {
        Ok((Arc::clone(&self.inner), self.inner.find(reference)?))
    }

    /// Runs an operation to its end, whatever becomes of the caller, and measures it.
    pub(crate) async fn carry<T: Send + 'static>(
        &self,
        name: &'static str,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.inner.stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let metrics = self.inner.metrics.clone();
        let measured = async move {
            let began = Instant::now();
            let result = operation.await;
            metrics.observe(name, began, result.is_ok());
            result
        };
        match self.inner.tasks.spawn(Box::pin(measured)).await {
            Ok(result) => result,
            Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

impl Inner {
    pub fn containers(&self) -> MutexGuard<'_, Registry<Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, reference: &str) -> Result<Arc<Container>> {
        self.containers().find(reference)
    }

    /// Runs blocking work on a thread for it.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            Err(_) => Err(Error::ShuttingDown),
        }
    }

    /// Publishes an event of a container, with its image, name and labels as attributes.
    pub fn container_event(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let mut attributes: BTreeMap<String, String> = container.with(|cell| {
            let mut attributes = cell.record.config.labels.clone();
            attributes.insert("image".to_owned(), cell.record.config.image.clone());
            attributes.insert("name".to_owned(), cell.record.name.clone());
            attributes
        });
        for (key, value) in more {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.events
            .publish(EventKind::Container, action, container.id.as_str(), attributes);
    }
}
