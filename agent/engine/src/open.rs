//! Opening the engine: what an earlier one left is found again, settled or removed.

use crate::build::StepCaches;
use crate::clock;
use crate::config::EngineConfig;
use crate::container::{Container, Ending, Run};
use crate::ending::should_restart;
use crate::engine::{Identity, Inner};
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::host;
use crate::layout::Layout;
use crate::log_forward::Forwarding;
use crate::metrics::EngineMetrics;
use crate::names::Registry;
use crate::neighbours::Neighbours;
use crate::network::Networking;
use crate::phase::Phase;
use crate::record::{Record, Unfinished};
use crate::spec::{HostAbilities, HostFacts, parse_host_limits};
use crate::start::{RunFacts, STARTS_MAX};
use crate::store::{Store, Table};
use crate::user_namespace::{Remap, as_root_of};
use crate::volume_mounts::VolumeMounts;
use crate::volumes::Volumes;
use muster_images::ImageStore;
use muster_runtime::cgroup::CgroupRoot;
use muster_runtime::label::HostLabels;
use muster_runtime::label::apparmor::{self, DefaultProfile};
use muster_runtime::label::selinux::ContainerContexts;
use muster_runtime::seccomp::{KernelVersion, Machine};
use muster_runtime::{Monitor, RuntimeError, recover_lost};
use muster_types::container::EngineRestart;
use muster_types::id_map::IdMaps;
use rand::Rng;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The warning on a node whose SELinux policy says nothing of containers.
const NO_CONTEXTS: &str = "WARNING: Containers run without SELinux labels: the policy has no contexts/lxc_contexts; \
                           install container-selinux";

/// Key of the engine's own id.
const ID_KEY: &str = "id";

/// Opens the engine.
pub(crate) async fn open(config: EngineConfig) -> Result<Arc<Inner>> {
    let layout = Layout::new(&config.data_dir, &config.run_dir);
    let metrics = EngineMetrics::register(&config.registry)?;
    let (for_stores, maps) = (layout.clone(), config.user_namespace);
    let opened = tokio::task::spawn_blocking(move || {
        for_stores.prepare()?;
        let store = Store::open(&for_stores.metadata())?;
        let volumes = Volumes::open(&for_stores, &store, maps.clone())?;
        let images = ImageStore::open(&for_stores.images())?;
        let remap = maps.map(|maps| open_remap(maps, &images)).transpose()?;
        let records = store.all::<Record>(Table::Containers)?;
        let known = records.iter();
        images
            .readopt(known.filter_map(|record| Some((record.id.as_str(), record.image_id.parse().ok()?))))?;
        let id = store.get::<String>(Table::Engine, ID_KEY)?;
        Ok::<_, Error>((store, volumes, images, remap, records, id))
    });
    let (store, volumes, images, remap, records, id) = opened.await.map_err(|_| Error::ShuttingDown)??;
    volumes.settle().await?;
    let for_removal = layout.clone();
    let emptied = tokio::task::spawn_blocking(move || for_removal.empty_discarded());
    emptied.await.map_err(|_| Error::ShuttingDown)?;
    let id = match id {
        Some(id) => id,
        None => new_identity(&store).await?,
    };
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let networking = Networking::open(
        &config.bridge,
        &id,
        layout.run_dir(),
        config.shared_places,
        store.clone(),
        tasks.clone(),
        stopping.clone(),
    )
    .await?;
    let inner = Arc::new(Inner {
        layout,
        launcher: config.launcher,
        host: host_facts(&config.cgroup)?,
        cgroup: config.cgroup,
        remap: remap.map(Arc::new),
        images,
        networking,
        neighbours: Neighbours::new(&config.bridge.table),
        store,
        volumes,
        volume_mounts: VolumeMounts::default(),
        step_caches: StepCaches::default(),
        events: EventBus::default(),
        metrics,
        identity: Identity {
            id,
            name: config.node_name,
            labels: config.labels,
            started_at: clock::now(),
        },
        dns: config.dns,
        log: config.log,
        starts: Semaphore::new(STARTS_MAX as usize),
        tasks,
        stopping,
        reserving: Mutex::new(()),
        execs: Mutex::new(HashMap::new()),
        forwarding: Forwarding::default(),
        packing: Semaphore::new(1),
        containers: Mutex::new(Registry::default()),
    });
    // No restart may begin before every running container has its address again and orphans are gone.
    let starts = inner.starts.acquire_many(STARTS_MAX).await;
    let mut due = Vec::new();
    for record in records {
        due.extend(inner.recover(record).await?);
    }
    // Only now is it known who uses which volume.
    for removal in due {
        inner.carry_out(removal).await?;
    }
    inner.clear_orphans().await;
    inner.clear_builds().await;
    inner.watch_neighbours().await;
    drop(starts);
    Ok(inner)
}

/// Takes hold of containers' users, once it is known that their files can be shown to them here. Blocks.
fn open_remap(maps: IdMaps, images: &ImageStore) -> Result<Remap> {
    let remap = Remap::new(maps)?;
    let probed = as_root_of(Some(&remap.maps), || {
        Ok(remap.shown(|shown| images.probe_shown(shown))?)
    });
    match probed {
        Ok(()) => Ok(remap),
        Err(source) => Err(Error::NoUserNamespaces {
            source: Box::new(source),
        }),
    }
}

async fn new_identity(store: &Store) -> Result<String> {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    let id = hex::encode(bytes);
    store.put(Table::Engine, ID_KEY, &id).await?;
    Ok(id)
}

fn host_facts(cgroup: &CgroupRoot) -> Result<HostFacts> {
    let features = cgroup.features();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let labels = HostLabels::detect();
    let (apparmor_profile, warning) = apparmor_in_force(labels.apparmor.then(apparmor::load_default));
    let selinux = ContainerContexts::read(Path::new("/etc/selinux")).filter(|_| labels.selinux);
    let unlabelled = labels.selinux && selinux.is_none();
    Ok(HostFacts {
        abilities: HostAbilities {
            cpus: host::cpus(),
            cpu_list: host::online("cpu"),
            memory_nodes: host::online("node"),
            memory: features.memory,
            swap: features.swap,
            swappiness: features.swappiness,
            oom_kill_disable: features.oom_kill_disable,
            memory_reservation: features.memory_reservation,
            pids: features.pids,
            cpu_shares: features.cpu_shares,
            cpu_quota: features.cpu_quota,
            cpu_realtime: features.cpu_realtime,
            cpuset: features.cpuset,
            block_weight: features.block_weight,
            block_throttle: features.block_throttle,
        },
        capabilities: host::capability_set("CapBnd"),
        machine: Machine::current(),
        kernel: KernelVersion::current().map_err(|error| Error::invalid(error.to_string()))?,
        apparmor_profile,
        selinux,
        warnings: warning
            .into_iter()
            .chain(unlabelled.then(|| NO_CONTEXTS.to_owned()))
            .collect(),
        limits: parse_host_limits(&limits),
    })
}

/// The profile of containers that name none, or a warning; neither where the kernel runs without AppArmor.
fn apparmor_in_force(
    loaded: Option<muster_runtime::label::Result<DefaultProfile>>,
) -> (Option<String>, Option<String>) {
    let reason = match loaded {
        None => return (None, None),
        Some(Ok(DefaultProfile::Loaded)) => return (Some(apparmor::DEFAULT_PROFILE.to_owned()), None),
        Some(Ok(DefaultProfile::Unavailable(reason))) => reason,
        Some(Err(error)) => muster_runtime::describe(&error),
    };
    tracing::warn!(reason, "containers run without an AppArmor profile");
    (
        None,
        Some(format!(
            "WARNING: Containers run without an AppArmor profile: {reason}"
        )),
    )
}

/// What an earlier engine left of a run.
enum Left {
    /// It runs on.
    Running(Box<Run>),
    /// It ended while nobody looked.
    Ended(Ending),
    /// A start that never happened.
    NeverRan,
    /// Nothing: it did not run.
    Nothing,
}

/// A removal that is due.
enum Removal {
    /// It was cut short, or so was the create.
    CutShort(Arc<Container>),
    /// The container ended and was to go then.
    Ended(Arc<Container>),
}

impl Inner {
    /// Takes a container over; returns what is to be done once all are known.
    async fn recover(self: &Arc<Self>, mut record: Record) -> Result<Option<Removal>> {
        let left = self.left_of(&record).await;
        let was_live = record.phase.is_live() || matches!(record.phase, Phase::Restarting | Phase::Starting);
        let removing = matches!(record.phase, Phase::Removing | Phase::Dead | Phase::Removed)
            || record.unfinished != Unfinished::Nothing;
        record.phase = match (&left, record.was_started()) {
            (Left::Running(_), _) => Phase::Running,
            (Left::Nothing | Left::NeverRan, false) => Phase::Created,
            _ => Phase::Exited,
        };
        if let Left::Ended(ending) = &left {
            if !record.was_started() {
                // The row of its start was lost; the restart policy counts it all the same.
                record.started_at = ending.finished_at;
            }
            record.exit_code = ending.code;
            record.oom_killed = ending.oom_killed;
            record.finished_at = ending.finished_at;
            record.error.clone_from(&ending.error);
        }
        let (id, name) = (record.id.clone(), record.name.clone());
        let broken = !self.layout.container(&id).exists();
        let container = Arc::new(Container::new(record, self.metrics.clone()));
        self.containers().insert(&id, &name, |_| Arc::clone(&container))?;
        if (removing || broken) && !matches!(left, Left::Running(_)) {
            container.with(|cell| cell.record.phase = Phase::Removing);
            return Ok(Some(Removal::CutShort(container)));
        }
        let ended_now = match left {
            Left::Running(run) => {
                self.rejoin(&container, *run).await?;
                return Ok(None);
            }
            Left::Ended(_) | Left::NeverRan => true,
            Left::Nothing => was_live,
        };
        self.clear_left(&container, ended_now).await?;
        Ok(self.settle(&container, ended_now))
    }

    /// Takes away what a run left, once what it tells of the end is durable.
    async fn clear_left(self: &Arc<Self>, container: &Arc<Container>, ended_now: bool) -> Result<()> {
        let record = container.record();
        let is_left = self.layout.run(&record.id).exists();
        let (table, key) = (Table::Containers, record.id.as_str());
        match (ended_now, is_left) {
            (true, true) => self.store.put(table, key, &record).await?,
            (true, false) => self.store.put_behind(table, key, &record).await?,
            (false, _) => {}
        }
        if is_left || ended_now {
            self.clear_run(container, None).await;
        }
        Ok(())
    }

    async fn carry_out(self: &Arc<Self>, removal: Removal) -> Result<()> {
        match removal {
            Removal::CutShort(container) => self.finish_removal(&container).await,
            Removal::Ended(container) => {
                let _owned = container.operation.lock().await;
                self.remove_ended(&container).await;
                Ok(())
            }
        }
    }

    async fn left_of(self: &Arc<Self>, record: &Record) -> Left {
        let was_live = record.phase.is_live();
        let facts = std::fs::read(self.layout.run_facts(&record.id)).ok();
        let facts: Option<RunFacts> = facts.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(facts) = facts.filter(|facts| facts.boot_id == host::boot_id()) else {
            // The host was booted since, or the end was cleared away before it was recorded.
            return if was_live {
                Left::Ended(self.end_on_disk(record))
            } else {
                Left::Nothing
            };
        };
        let state_dir = self.layout.run(&record.id);
        match Monitor::connect(&state_dir).await {
            Ok(monitor) => Left::Running(Box::new(Run {
                places: facts.places(),
                ports: facts.ports,
                process: facts.process,
                ids: facts.ids,
                monitor,
            })),
            Err(RuntimeError::Gone) => self.settled_end(record, was_live).await,
            Err(error) => {
                let error = muster_runtime::describe(&error);
                tracing::error!(
                    container = record.id.short(),
                    error,
                    "its monitor does not answer; it is given up"
                );
                self.settled_end(record, was_live).await
            }
        }
    }

    async fn settled_end(self: &Arc<Self>, record: &Record, was_live: bool) -> Left {
        let state_dir = self.layout.run(&record.id);
        let recovered = self.blocking(move |_| Ok(recover_lost(&state_dir)?)).await;
        match recovered {
            Ok(Some(status)) => Left::Ended(Ending::from(status)),
            Ok(None) if was_live => Left::Ended(self.end_on_disk(record)),
            Ok(None) => Left::NeverRan,
            Err(error) => Left::Ended(Ending::lost(&error.chain())),
        }
    }

    fn end_on_disk(&self, record: &Record) -> Ending {
        match muster_runtime::read_exit_file(&self.layout.exit_file(&record.id)) {
            Ok(Some(status)) => Ending::from(status),
            Ok(None) | Err(_) => Ending::lost("the host was booted while it ran"),
        }
    }

    /// A container that runs on.
    async fn rejoin(self: &Arc<Self>, container: &Arc<Container>, run: Run) -> Result<()> {
        self.networking.rejoin(&container.record(), &run.places);
        let monitor = run.monitor.clone();
        let record = container.with(|cell| {
            // The row of its start may have been lost.
            cell.record.begin(clock::from_runtime(monitor.started_at_ns()));
            // What runs is whole, and its removal did not come to its first step.
            cell.record.unfinished = Unfinished::Nothing;
            cell.run = Some(run);
            cell.record.clone()
        });
        // A start that was cut short may have left it held.
        if let Err(error) = monitor.release().await {
            tracing::warn!(
                container = record.id.short(),
                error = muster_runtime::describe(&error),
                "cannot be released"
            );
        }
        if self
            .with_cgroup(container, "look at", |group| group.is_frozen())
            .await
            .unwrap_or(false)
        {
            container.with(|cell| cell.record.phase = Phase::Paused);
        }
        self.republish(&record).await;
        self.serve_names_again(&record).await;
        let (user, points) = (record.id.to_string(), record.mounts.clone());
        if let Err(error) = self
            .blocking(move |inner| inner.acquire_volumes(&points, &user))
            .await
        {
            tracing::warn!(
                container = record.id.short(),
                error = error.chain(),
                "a volume cannot be mounted again"
            );
        }
        let record = container.record();
        self.store
            .put_behind(Table::Containers, record.id.as_str(), &record)
            .await?;
        self.forward_log(container);
        self.pack_log(container);
        self.watch_end(container, monitor);
        self.watch_health(container);
        Ok(())
    }

    /// A container that does not run: it is to be removed, or is started again, where it says so.
    fn settle(self: &Arc<Self>, container: &Arc<Container>, ended_now: bool) -> Option<Removal> {
        let record = container.record();
        if record.config.host.auto_remove && record.phase == Phase::Exited {
            return Some(Removal::Ended(Arc::clone(container)));
        }
        let always = record.config.host.restart == EngineRestart::Always && record.was_started();
        let unless_stopped =
            record.config.host.restart == EngineRestart::UnlessStopped && record.was_started();
        let wanted = always
            || unless_stopped && !record.stopped_by_user
            || ended_now && record.was_started() && should_restart(&record, record.exit_code);
        self.pack_log(container);
        if wanted {
            container.with(|cell| {
                cell.record.phase = Phase::Restarting;
                // A stop counts until the container is started again, by whomever.
                cell.record.stopped_by_user = false;
            });
            self.restart_later(container, Duration::ZERO);
        }
        None
    }

    async fn finish_removal(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        tracing::info!(
            container = container.id.short(),
            "a create or a removal that was cut short is taken back or finished"
        );
        self.clear_run(container, None).await;
        let record = container.record();
        // Whether a removal was to take anonymous volumes along is not known where nothing says so: then they stay.
        let volumes = record.config.host.auto_remove || record.unfinished != Unfinished::Nothing;
        if let Unfinished::Create { volumes } = &record.unfinished {
            for volume in volumes {
                self.remove_unused_volume(volume).await?;
            }
        }
        self.clear_away(container, volumes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_runtime::label::LabelError;

    #[test]
    fn profile_that_cannot_be_loaded_is_a_warning() {
        assert_eq!(apparmor_in_force(None), (None, None));
        let profile = apparmor::DEFAULT_PROFILE.to_owned();
        let loaded = apparmor_in_force(Some(Ok(DefaultProfile::Loaded)));
        assert_eq!(loaded, (Some(profile.clone()), None));
        let missing = DefaultProfile::Unavailable("apparmor_parser is not installed".to_owned());
        let output = "syntax error in line 3".to_owned();
        let refused = LabelError::LoaderFailed { profile, output };
        for (outcome, why) in [(Ok(missing), "not installed"), (Err(refused), "line 3")] {
            let (profile, warning) = apparmor_in_force(Some(outcome));
            assert_eq!(profile, None);
            let warning = warning.unwrap();
            assert!(
                warning.starts_with("WARNING: Containers run without an AppArmor profile: ")
                    && warning.contains(why),
                "{warning}"
            );
        }
    }
}
