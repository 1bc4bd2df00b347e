//! Starting a container.

use crate::clock;
use crate::container::{Container, Run, WaitingClient};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::files;
use crate::given_files::GivenFile;
use crate::layout::{self, make_directory, write_file};
use crate::mount_sources::relabel_sources;
use crate::network::{self, HostsEntries, Leases, Linked, Networking, Places};
use crate::phase::{Phase, Step};
use crate::record::Record;
use crate::spec::{self, JoinedNamespaces, SpecInput};
use crate::store::Table;
use crate::user;
use crate::user_namespace::{as_root_of, give_to_root_of};
use crate::working_dir;
use muster_runtime::label::selinux::label_file;
use muster_runtime::{LogConfig, Monitor, RuntimeError, StartRequest, Started};
use muster_types::container::{NetworkEndpoint, NetworkMode, PortBinding};
use muster_types::id_map::IdMaps;
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Starts that are under way at once. A start is mostly work of the kernel on one processor; more at once only make
/// each of them slower, and a burst of 100 would hold 100 half-made containers.
pub(crate) const STARTS_MAX: u32 = 8;
/// Exit code of a container that could not be started for other reasons than its command; Docker's.
const CODE_NOT_STARTED: i32 = 128;

/// What a later daemon must know of a run. It lies in the run directory, so that it survives the daemon but not the
/// host's boot, and costs no sync.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunFacts {
    pub boot_id: String,
    /// Its places in networks, by name.
    #[serde(default)]
    pub places: Places,
    /// Its place in the default bridge, as earlier versions wrote it.
    #[serde(default, skip_serializing)]
    endpoint: Option<NetworkEndpoint>,
    pub ports: Vec<PortBinding>,
    pub process: Process,
    /// Whose users its own are; `None` where they are the host's.
    #[serde(default)]
    pub ids: Option<IdMaps>,
}

impl RunFacts {
    /// The places, also those that an earlier version wrote.
    pub fn places(&self) -> Places {
        match &self.endpoint {
            Some(endpoint) if self.places.is_empty() => {
                let mut endpoint = endpoint.clone();
                if endpoint.interface.is_empty() {
                    "eth0".clone_into(&mut endpoint.interface);
                }
                Places::from([("bridge".to_owned(), endpoint)])
            }
            _ => self.places.clone(),
        }
    }
}

/// What a start needs, made in parallel.
struct Prepared {
    rootfs: OwnedFd,
    spec: Spec,
}

impl Inner {
    /// Starts a container that a user asked for.
    pub(crate) async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _owned = container.operation.lock().await;
        container.with(|cell| {
            cell.backoff.reset();
            cell.record.restart_count = 0;
            cell.record.stopped_by_user = false;
        });
        self.start_owned(container).await
    }

    /// Starts a container. The caller holds its operation.
    pub(crate) async fn start_owned(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        match container.phase() {
            Phase::Running => {
                return Err(Error::NotModified {
                    message: format!("Container {} is already started", container.id),
                });
            }
            Phase::Paused => {
                return Err(Error::wrong_state(
                    "cannot start a paused container, try unpause instead",
                ));
            }
            Phase::Removing | Phase::Dead | Phase::Removed => {
                return Err(Error::wrong_state(
                    "container is marked for removal and cannot be started",
                ));
            }
            Phase::Created | Phase::Exited | Phase::Restarting | Phase::Starting => {}
        }
        container
            .step(Step::Start)
            .map_err(|error| Error::wrong_state(error.to_string()))?;
        match self.lease_and_launch(container).await {
            Ok((run, started_at_ns)) => {
                self.began(container, run, started_at_ns).await;
                Ok(())
            }
            Err(error) => Err(self.not_started(container, error).await),
        }
    }

    async fn began(self: &Arc<Self>, container: &Arc<Container>, run: Run, started_at_ns: i128) {
        let monitor = run.monitor.clone();
        let (record, late_clients) = container.with(|cell| {
            cell.run = Some(run);
            cell.record.begin(clock::from_runtime(started_at_ns));
            // From `Starting`, which this start holds, running is always legal.
            let _ = cell.step(Step::Run);
            (cell.record.clone(), std::mem::take(&mut cell.waiting_clients))
        });
        // They came while the start was under way, after the first ones were connected.
        self.connect_clients(late_clients, &monitor).await;
        if let Some(run) = container.run() {
            self.places_event("connect", container, &run.places);
        }
        self.mounted_event(&record);
        self.container_event(container, "start", &[]);
        self.tell_linked(&record).await;
        self.forward_log(container);
        self.pack_log(container);
        self.watch_end(container, monitor);
        self.watch_health(container);
        if let Err(error) = self
            .store
            .put_behind(Table::Containers, record.id.as_str(), &record)
            .await
        {
            tracing::error!(
                container = record.id.short(),
                error = error.chain(),
                "the start is not recorded"
            );
        }
    }

    /// Records that a start failed, and returns the error as users see it.
    async fn not_started(self: &Arc<Self>, container: &Arc<Container>, error: Error) -> Error {
        let (code, message) = described(&error);
        let (record, waiting) = container.with(|cell| {
            cell.record.error.clone_from(&message);
            cell.record.exit_code = code;
            let step = if cell.record.was_started() {
                Step::FailAgain
            } else {
                Step::FailFirst
            };
            // From `Starting`, which this start holds, both are legal.
            let _ = cell.step(step);
            (cell.record.clone(), std::mem::take(&mut cell.waiting_clients))
        });
        // Their sessions end with them.
        drop(waiting);
        if let Err(error) = self
            .store
            .put_behind(Table::Containers, record.id.as_str(), &record)
            .await
        {
            tracing::error!(
                container = record.id.short(),
                error = error.chain(),
                "a failed start is not recorded"
            );
        }
        if record.config.host.auto_remove {
            self.remove_ended(container).await;
        }
        match error {
            Error::Endpoint { .. }
            | Error::NoSuchContainer { .. }
            | Error::NoSuchNetwork { .. }
            | Error::Forbidden { .. }
            | Error::Unavailable { .. }
            | Error::InvalidConfig { .. } => error,
            error => Error::StartFailed {
                code,
                message,
                invalid: matches!(error, Error::Runtime(RuntimeError::Start { code: 126 | 127, .. })),
            },
        }
    }

    async fn lease_and_launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<(Run, i128)> {
        let record = container.record();
        // Before the permit, because it may take seconds, in which containers that need none are started.
        let leases = self.networking.lease(&record).await?;
        self.networking.await_shared(&record, &leases).await?;
        let Ok(_permit) = self.starts.acquire().await else {
            return Err(Error::ShuttingDown);
        };
        // The largest part of all operations.
        Box::pin(self.launch(container, leases)).await
    }

    async fn launch(self: &Arc<Self>, container: &Arc<Container>, leases: Leases) -> Result<(Run, i128)> {
        let record = container.record();
        let join = || self.networking.join(&record, &leases);
        let places = self.networking.join_standing(&record, &leases, join).await?;
        leases.keep();
        let launched = self.launch_at(container, &record, places.clone()).await;
        let for_images = record.clone();
        // Only a shutdown takes the thread away; the next opening detaches them then.
        let _ = self
            .blocking(move |inner| {
                inner.detach_images(&for_images);
                Ok(())
            })
            .await;
        if launched.is_err() {
            self.release_mounts(container).await;
            let published = !record.config.host.ports.is_empty() || record.config.host.publish_all;
            self.networking.disconnect(&record.id, published, &places).await;
            self.clear_shm(&record.id);
            self.clear_given(&record.id);
            if let Err(error) = layout::remove_directory(&self.layout.run(&record.id)) {
                tracing::warn!(
                    container = record.id.short(),
                    error = error.chain(),
                    "a failed start left something"
                );
            }
        }
        launched
    }

    async fn launch_at(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
        places: Places,
    ) -> Result<(Run, i128)> {
        // Held until the container's process has joined.
        let mut joined = self.join(record)?;
        let netns = self.enter_users(record, &mut joined).await?;
        let linked = self.linked(record)?;
        let (for_prepare, at, paths) = (record.clone(), places.clone(), joined.paths.clone());
        let given = container.with(|cell| std::mem::take(&mut cell.given_files));
        let prepared =
            self.blocking(move |inner| inner.prepare(&for_prepare, &at, &linked, (&paths, &given)));
        let choice = self.resolver_choice(&record.config);
        let connected = self.networking.connect(record, &places, &choice, netns);
        let (prepared, netns) = tokio::join!(prepared, connected);
        let (Prepared { rootfs, spec }, netns) = (prepared?, netns?);
        let ports = self.networking.publish(record, &places).await?;
        let process = spec.process().clone().unwrap_or_default();
        let ids = self.maps_of(&record.config.host).cloned();
        self.write_facts(record, &places, &ports, &process, ids.as_ref())?;
        let waiting = container.with(|cell| std::mem::take(&mut cell.waiting_clients));
        let request = StartRequest {
            id: record.id.to_string(),
            spec,
            state_dir: self.layout.run(&record.id),
            exit_file: self.layout.exit_file(&record.id),
            log: self.log_config(record)?,
            stdin_open: record.config.open_stdin,
            // The input of a terminal stays open for the next client, as Docker's does.
            stdin_once: record.config.stdin_once && !record.config.tty,
            init: record.config.host.init,
            rootfs: Some(rootfs),
            netns,
            cgroup_path: self.cgroup_path(record),
            console_size: Some(record.config.host.console_size)
                .filter(|(rows, columns)| (*rows, *columns) != (0, 0)),
            hold: !waiting.is_empty(),
        };
        let started = self.launcher.start(request).await?;
        drop(joined);
        self.release_held(waiting, &started).await?;
        let run = Run {
            monitor: started.monitor,
            places,
            ports,
            process,
            ids,
        };
        Ok((run, started.started_at_ns))
    }

    /// Lets clients that came before the start see its first byte, then lets it run.
    async fn release_held(self: &Arc<Self>, waiting: Vec<WaitingClient>, started: &Started) -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        self.connect_clients(waiting, &started.monitor).await;
        Ok(started.monitor.release().await?)
    }

    async fn connect_clients(self: &Arc<Self>, clients: Vec<WaitingClient>, monitor: &Monitor) {
        for client in clients {
            if let Err(error) = self.connect_client(monitor, client).await {
                tracing::warn!(
                    error = error.chain(),
                    "a client could not be attached to a starting container"
                );
            }
        }
    }

    /// Mounts the root file system, and says everything about the container to the runtime. Blocks.
    fn prepare(
        &self,
        record: &Record,
        places: &Places,
        linked: &[Linked],
        (joined, given): (&JoinedNamespaces, &[GivenFile]),
    ) -> Result<Prepared> {
        self.check_destination(record)?;
        make_directory(&self.layout.run(&record.id))?;
        // The last run's status must not be taken for this one's.
        layout::remove_file(&self.layout.exit_file(&record.id))?;
        let labels = spec::selinux_labels(self.host.selinux.as_ref(), record.level(), &record.config.host)?;
        let mount_label = labels.as_ref().map(|labels| labels.mount.as_str());
        self.make_shm(record, mount_label)?;
        let given = self.place_given(record, given, mount_label)?;
        let maps = self.maps_of(&record.config.host);
        let rootfs = as_root_of(maps, || {
            let rootfs = self.mount_rootfs(record)?;
            working_dir::make(rootfs.as_fd(), &record.working_dir);
            Ok(rootfs)
        })?;
        let user = user::resolve(rootfs.as_fd(), &record.user, &record.config.groups)?;
        let own = (self.layout.container(&record.id), record.host_name.clone());
        let (files, host_name) = joined.host.as_ref().unwrap_or(&own);
        if joined.host.is_none() {
            self.write_files(record, places, linked, mount_label)?;
        }
        let env = record.env_with(linked);
        let mounts = self.ready_sources(record)?;
        if let Some(label) = mount_label {
            relabel_sources(record, label)?;
        }
        let translations = self.translations(&mounts, maps);
        let spec = spec::build(&SpecInput {
            config: &record.config,
            command: &record.command,
            env: &env,
            working_dir: &record.working_dir,
            host_name,
            user: &user,
            mounts: &mounts,
            translations: &translations,
            files,
            given: &given,
            joined,
            labels: labels.as_ref(),
            host: &self.host,
        })?;
        Ok(Prepared { rootfs, spec })
    }

    fn write_files(
        &self,
        record: &Record,
        places: &Places,
        linked: &[Linked],
        label: Option<&str>,
    ) -> Result<()> {
        let path = |name: &str| self.layout.file(&record.id, name);
        let entries = HostsEntries {
            own: network::own_addresses(places),
            links: linked
                .iter()
                .map(|linked| (linked.address.into(), linked.names()))
                .collect(),
            host_gateway: vec![self.networking.gateway().into()],
        };
        let hosts = files::hosts(&record.config, &record.host_name, &entries);
        let resolver = self.resolver_file(record, Networking::resolves_names(places));
        write_file(&path(files::HOSTS), hosts)?;
        write_file(&path(files::HOSTNAME), files::hostname(&record.host_name))?;
        write_file(&path(files::RESOLV_CONF), resolver)?;
        for name in [files::HOSTS, files::HOSTNAME, files::RESOLV_CONF] {
            let path = path(name);
            give_to_root_of(self.maps_of(&record.config.host), &path)?;
            if let Some(label) = label {
                label_file(&path, label)
                    .map_err(|source| Error::io(format!("label {}", path.display()), source))?;
            }
        }
        Ok(())
    }

    pub(crate) fn write_facts(
        &self,
        record: &Record,
        places: &Places,
        ports: &[PortBinding],
        process: &Process,
        ids: Option<&IdMaps>,
    ) -> Result<()> {
        let facts = RunFacts {
            boot_id: crate::host::boot_id(),
            places: places.clone(),
            endpoint: None,
            ports: ports.to_vec(),
            process: process.clone(),
            ids: ids.cloned(),
        };
        let encoded = serde_json::to_vec(&facts).map_err(|source| Error::DamagedRow {
            key: record.id.to_string(),
            source,
        })?;
        write_file(&self.layout.run_facts(&record.id), encoded)
    }

    /// The container's control group below the launcher's root.
    pub(crate) fn cgroup_path(&self, record: &Record) -> String {
        match record.config.host.cgroup_parent.trim_matches('/') {
            "" => self.cgroup.path_of(record.id.as_str()),
            parent => format!("{parent}/{}", record.id),
        }
    }

    fn log_config(&self, record: &Record) -> Result<Option<LogConfig>> {
        Ok(self.log_settings(record)?.map(|settings| LogConfig {
            path: self.layout.log(&record.id),
            max_bytes: settings.max_bytes,
            max_files: settings.max_files,
            attributes: settings.attributes(record, &self.identity.name),
        }))
    }

    /// Whether a container has a log that can be read.
    pub(crate) fn has_log(&self, record: &Record) -> bool {
        self.log_settings(record)
            .is_ok_and(|settings| settings.is_some_and(|settings| settings.readable))
    }
}

/// The exit code and Docker's sentence for a start that failed.
fn described(error: &Error) -> (i32, String) {
    match error {
        Error::Runtime(RuntimeError::Start { message, code }) => (*code, message.clone()),
        other => (CODE_NOT_STARTED, other.chain()),
    }
}

/// Bridges and the like have a network of their own; used by callers that only ask for ports.
pub(crate) fn has_ports(record: &Record) -> bool {
    let own_network = !matches!(record.config.host.network, NetworkMode::Host | NetworkMode::None);
    own_network && (!record.config.host.ports.is_empty() || record.config.host.publish_all)
}
