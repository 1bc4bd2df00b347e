//! Tasks as containers of the local engine.

use super::address::own_addresses;
use super::networks::ClusterNetworks;
use super::task_container::{container_config, published};
use super::task_files;
use super::templates::TemplateNode;
use futures::StreamExt;
use futures::future::BoxFuture;
use muster_agent::task_engine::{Ending, Healthy, TaskEngine};
use muster_engine::Engine;
use muster_engine_api::backend::{
    BackendError, ContainerFilterHint, ErrorKind, LocalEngine, RemoveOptions, StopOptions, WaitCondition,
};
use muster_images::ImageStore;
use muster_node_plan::Restored;
use muster_node_plan::agent_core::StartedContainer;
use muster_proto::transport::Dialer;
use muster_registry::Registries;
use muster_types::container::{ContainerInfo, ContainerState};
use muster_types::{AssignedFile, AssignedNetwork, AssignedTask, ContainerId, NodeId, TaskId, Timestamp};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// Runs tasks through the engine; images that are not here come from other nodes.
pub struct EngineTasks {
    pub(super) engine: Arc<dyn LocalEngine>,
    pub(super) images: ImageStore,
    pub(super) registries: Registries,
    networks: Arc<ClusterNetworks>,
    /// The same engine: secrets and configs are given past the Engine API.
    own_engine: Engine,
    /// Set while the node is a member.
    cluster: RwLock<Option<(NodeId, Dialer)>>,
}

impl EngineTasks {
    /// Tasks on this engine, which is both.
    pub fn new(
        (engine, own_engine): (Arc<dyn LocalEngine>, Engine),
        images: ImageStore,
        registries: Registries,
        networks: Arc<ClusterNetworks>,
    ) -> Self {
        Self {
            engine,
            images,
            registries,
            networks,
            own_engine,
            cluster: RwLock::new(None),
        }
    }

    /// From now on images may come from the cluster's nodes, and containers name this node. `address` is where others
    /// reach it.
    pub fn enter_cluster(&self, node: NodeId, address: IpAddr, dialer: Dialer) {
        self.networks.enter_cluster(node, address);
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Some((node, dialer));
    }

    pub(super) fn cluster(&self) -> Option<(NodeId, Dialer)> {
        self.cluster
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn create(&self, task: &AssignedTask, peers: &[String]) -> Result<ContainerId, String> {
        let name = task.container_name();
        // Made by an earlier daemon that did not get to say so.
        if let Ok(known) = self.engine.container_inspect(&name, false).await
            && known.config.task == Some(task.id)
        {
            return Ok(known.id.clone());
        }
        self.ensure_image(&task.template.container, peers).await?;
        self.networks.await_standing(&task.networks).await?;
        let node = self.template_node().await?;
        let mut config = container_config(task, &node).map_err(|error| error.to_string())?;
        config.host.ports = published(task, &own_addresses()?)?;
        let created = self.engine.container_create(Some(&name), config).await;
        created.map(|created| created.id).map_err(|error| error.message)
    }

    /// What templates say of this node.
    async fn template_node(&self) -> Result<TemplateNode, String> {
        let info = self.engine.info().await.map_err(|error| error.message)?;
        Ok(TemplateNode {
            id: self.cluster().map(|(node, _)| node).unwrap_or_default(),
            hostname: info.name,
            os: "linux".to_owned(),
            architecture: info.architecture,
        })
    }

    /// Hands a task's secrets and configs to the engine for the start of its container.
    async fn give_files(
        &self,
        task: &AssignedTask,
        container: &ContainerId,
        files: &[AssignedFile],
    ) -> Result<(), String> {
        if task.template.files().next().is_none() {
            return Ok(());
        }
        let node = self.template_node().await?;
        let given =
            task_files::given(task, files, &node).map_err(|error| muster_runtime::describe(&error))?;
        self.own_engine
            .give_files(container, given)
            .map_err(|error| error.chain())
    }

    async fn inspect(&self, container: &ContainerId) -> Result<Arc<ContainerInfo>, BackendError> {
        self.engine.container_inspect(container.as_str(), false).await
    }

    /// How a container that has ended did so.
    async fn ending(&self, container: &ContainerId) -> Ending {
        match self.inspect(container).await {
            Ok(info) if info.started_at == Timestamp::ZERO => Ending {
                exit_code: None,
                error: Some(info.error.clone()).filter(|error| !error.is_empty()),
            },
            Ok(info) => Ending {
                exit_code: Some(info.exit_code),
                error: explain(&info),
            },
            Err(error) => Ending {
                exit_code: None,
                error: Some(error.message),
            },
        }
    }
}

/// What the exit code alone does not say.
fn explain(info: &ContainerInfo) -> Option<String> {
    if info.oom_killed {
        return Some(format!("task: non-zero exit ({}): OOMKilled", info.exit_code));
    }
    Some(info.error.clone()).filter(|error| !error.is_empty())
}

impl TaskEngine for EngineTasks {
    fn restored(&self) -> BoxFuture<'_, BTreeMap<TaskId, Restored>> {
        Box::pin(async {
            let containers = self
                .engine
                .container_list(ContainerFilterHint::default())
                .await
                .unwrap_or_default();
            let booted = boot_time();
            let tasks = containers.iter().filter_map(|info| restored(info, booted));
            tasks.collect()
        })
    }

    fn set_networks(&self, networks: Vec<AssignedNetwork>, index: u64) {
        self.networks.set(networks, index);
    }

    fn networks_applied(&self) -> tokio::sync::watch::Receiver<u64> {
        self.networks.applied()
    }

    fn prepare<'a>(
        &'a self,
        task: &'a AssignedTask,
        peers: Vec<String>,
    ) -> BoxFuture<'a, Result<ContainerId, String>> {
        Box::pin(async move { self.create(task, &peers).await })
    }

    fn start<'a>(
        &'a self,
        task: &'a AssignedTask,
        container: &'a ContainerId,
        files: &'a [AssignedFile],
    ) -> BoxFuture<'a, Result<StartedContainer, String>> {
        Box::pin(async move {
            self.give_files(task, container, files).await?;
            let started = self.engine.container_start(container.as_str()).await;
            // A start that ended early has taken none, and nothing keeps a secret for the next one.
            let _ = self.own_engine.give_files(container, Vec::new());
            match started {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::NotModified => {}
                Err(error) => return Err(error.message),
            }
            let info = self.inspect(container).await.map_err(|error| error.message)?;
            let ports = info
                .ports
                .iter()
                .map(|port| (port.protocol, port.container_port, port.host_port));
            Ok(StartedContainer {
                pid: info.pid,
                ports: ports.collect(),
                health_checked: has_health_check(&info),
            })
        })
    }

    fn wait<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Ending> {
        Box::pin(async move {
            match self
                .engine
                .container_wait(container.as_str(), WaitCondition::NotRunning)
                .await
            {
                Ok(wait) => match wait.await {
                    Ok(_) => self.ending(container).await,
                    Err(error) => Ending {
                        exit_code: None,
                        error: Some(error.message),
                    },
                },
                Err(error) => Ending {
                    exit_code: None,
                    error: Some(error.message),
                },
            }
        })
    }

    fn health<'a>(&'a self, container: &'a ContainerId, known: Option<Healthy>) -> BoxFuture<'a, Healthy> {
        Box::pin(async move {
            // Subscribed first, so that no change falls between the look and the wait.
            let Ok(mut events) = self.engine.events(None, None).await else {
                return std::future::pending().await;
            };
            loop {
                let status = self
                    .inspect(container)
                    .await
                    .ok()
                    .and_then(|info| info.health.clone());
                let healthy = match status.as_ref().map(|health| health.status.as_str()) {
                    Some("healthy") => Some(true),
                    Some("unhealthy") => Some(false),
                    Some(_) | None => None,
                };
                if let Some(healthy) = healthy.filter(|healthy| known != Some(*healthy)) {
                    return healthy;
                }
                loop {
                    match events.next().await {
                        Some(Ok(event)) if event.actor_id != container.as_str() => {}
                        // It may have changed; so it may when events were missed.
                        Some(_) => break,
                        None => return std::future::pending().await,
                    }
                }
            }
        })
    }

    fn stop<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Ending> {
        Box::pin(async move {
            match self
                .engine
                .container_stop(container.as_str(), StopOptions::default())
                .await
            {
                Err(error) if error.kind != ErrorKind::NotModified && error.kind != ErrorKind::NotFound => {
                    tracing::warn!(
                        container = container.short(),
                        error = error.message,
                        "a stop failed"
                    );
                    self.wait(container).await
                }
                Ok(()) | Err(_) => self.ending(container).await,
            }
        })
    }

    fn remove<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            match self.engine.container_remove(container.as_str(), options).await {
                Ok(()) => Ok(()),
                Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.message),
            }
        })
    }
}

fn has_health_check(info: &ContainerInfo) -> bool {
    info.health.as_ref().is_some_and(|health| health.status != "none")
}

/// A task's container as it was found; `None` for a container of a user, whatever its labels say.
fn restored(info: &ContainerInfo, booted: Timestamp) -> Option<(TaskId, Restored)> {
    let container = info.id.clone();
    let found = match info.state {
        ContainerState::Running | ContainerState::Paused | ContainerState::Restarting => Restored::Running {
            container,
            pid: info.pid,
            health_checked: has_health_check(info),
        },
        ContainerState::Created => Restored::Prepared(container),
        ContainerState::Exited | ContainerState::Dead | ContainerState::Removing => {
            let ended_before = info.finished_at != Timestamp::ZERO && info.finished_at < booted;
            let by_reboot = info.started_at < booted && !ended_before;
            Restored::Ended {
                container,
                exit_code: info.exit_code,
                by_reboot,
            }
        }
    };
    Some((info.config.task?, found))
}

/// When this machine booted (proc_stat(5), `btime`); the epoch when it cannot be read.
fn boot_time() -> Timestamp {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse().ok());
    Timestamp::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::container::ContainerConfig;
    use muster_types::{ServiceId, Slot, TaskTemplate};

    fn task() -> AssignedTask {
        AssignedTask {
            id: TaskId::from_u128(7),
            service: ServiceId::from_u128(1),
            service_name: "web".to_owned(),
            service_labels: BTreeMap::new(),
            slot: Slot::Replica(1),
            template_version: 1,
            template: Arc::new(TaskTemplate::default()),
            ports: Vec::new(),
            desired: muster_types::DesiredState::Running,
            start_after: None,
            recorded: (0, muster_types::TaskState::Assigned),
            networks: Vec::new(),
        }
    }

    #[test]
    fn ports_of_the_tasks_node_answer_at_the_addresses_that_the_service_names() {
        use muster_types::service::{Protocol, PublishMode, PublishedPort};
        let own: Vec<IpAddr> = ["127.0.0.1", "192.0.2.7", "10.1.0.5", "fd00::5"]
            .map(|text| text.parse().unwrap())
            .into();
        let port = |target_port, mode| PublishedPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            target_port,
            published_port: 8080,
            mode,
        };
        let at = |value: Option<&str>| {
            let mut task = task();
            let label = value.map(|value| ("muster.publish.address".to_owned(), value.to_owned()));
            task.service_labels = label.into_iter().collect();
            task.ports = vec![port(80, PublishMode::Host), port(81, PublishMode::Ingress)];
            let bindings = published(&task, &own)?;
            assert!(
                bindings
                    .iter()
                    .all(|port| (port.container_port, port.host_port) == (80, 8080))
            );
            Ok::<_, String>(bindings.into_iter().map(|port| port.host_ip).collect::<Vec<_>>())
        };
        assert_eq!(at(None).unwrap(), [None]);
        assert_eq!(at(Some("192.0.2.7")).unwrap(), [Some(own[1])]);
        assert_eq!(
            at(Some("10.0.0.0/8,fd00::/64")).unwrap(),
            [Some(own[2]), Some(own[3])]
        );
        let refused = at(Some("203.0.113.1")).unwrap_err();
        assert!(
            refused.contains("muster.publish.address=203.0.113.1/32"),
            "{refused}"
        );
        // What cannot be read may be a bound that a later version knows: no port of the host answers then.
        let unreadable = at(Some("of-the-office")).unwrap_err();
        assert!(unreadable.contains("of-the-office"), "{unreadable}");
        let mut without = task();
        without.service_labels = [("muster.publish.later".to_owned(), String::new())].into();
        without.ports = vec![port(81, PublishMode::Ingress)];
        assert_eq!(published(&without, &own), Ok(Vec::new()));
    }

    fn running(config: ContainerConfig) -> ContainerInfo {
        ContainerInfo {
            id: ContainerId::from_bytes([1; 32]),
            name: "web".to_owned(),
            config,
            image_id: String::new(),
            command: Vec::new(),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            created: Timestamp::ZERO,
            state: ContainerState::Running,
            pid: 42,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            started_at: Timestamp::ZERO,
            finished_at: Timestamp::ZERO,
            restart_count: 0,
            health: None,
            networks: BTreeMap::new(),
            ports: Vec::new(),
            mounts: Vec::new(),
            log_path: String::new(),
            hostname_path: String::new(),
            hosts_path: String::new(),
            resolv_conf_path: String::new(),
            size_rw: None,
            size_root: None,
            apparmor_profile: String::new(),
            selinux_labels: Default::default(),
            execs: Vec::new(),
            directories: None,
        }
    }

    #[test]
    fn a_container_of_a_user_is_no_task_whatever_its_labels_say() {
        let node = TemplateNode {
            id: NodeId::from_u128(1),
            hostname: "node".to_owned(),
            os: "linux".to_owned(),
            architecture: "x86_64".to_owned(),
        };
        let own = container_config(&task(), &node).unwrap();
        let users = ContainerConfig {
            labels: own.labels.clone(),
            ..ContainerConfig::default()
        };
        assert!(restored(&running(users), Timestamp::ZERO).is_none());
        let found = restored(&running(own), Timestamp::ZERO);
        assert!(matches!(found, Some((id, Restored::Running { pid: 42, .. })) if id == task().id));
    }
}
