//! A cluster in memory: one controller, whose tasks run as soon as they are made.

use crate::engine::now;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use muster_engine_api::backend::*;
use muster_types::file::FileSpec;
use muster_types::network::NetworkSpec;
use muster_types::overlay::OverlaySubnet;
use muster_types::policy::NetworkPolicy;
use muster_types::service::{UpdateState, UpdateStatus};
use muster_types::task::{DesiredState, Slot, Task, TaskState, TaskStatus};
use muster_types::*;
use std::sync::{Arc, Mutex};

#[derive(Default)]
pub struct FakeCluster(Mutex<Option<State>>);

struct State {
    cluster: Cluster,
    nodes: Vec<Node>,
    services: Vec<Service>,
    tasks: Vec<(Task, Arc<TaskTemplate>)>,
    networks: Vec<Arc<ClusterNetwork>>,
    files: Vec<Arc<ClusterFile>>,
    index: u64,
    has_leader: bool,
}

impl State {
    fn next(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    fn meta(&mut self) -> Meta {
        Meta {
            created_at: now(),
            updated_at: now(),
            spec_version: self.next(),
            ..Meta::default()
        }
    }

    fn service(&mut self, reference: &str) -> Result<&mut Service> {
        let ids: Vec<String> = self.services.iter().map(|s| s.id.to_string()).collect();
        let found = resolve(
            "service",
            reference,
            self.services.iter().zip(&ids).map(|(service, id)| Candidate {
                id,
                name: &service.spec.name,
            }),
        )?;
        Ok(&mut self.services[found])
    }

    /// Makes the tasks that the service wants and ends the others.
    fn run(&mut self, service: &Service) {
        let replicas = match service.spec.mode {
            ServiceMode::Replicated { replicas } => replicas,
            ServiceMode::ReplicatedJob { concurrent_max, .. } => concurrent_max,
            ServiceMode::Global | ServiceMode::GlobalJob => 1,
        };
        for (task, _) in &mut self.tasks {
            let slot = match task.slot {
                Slot::Replica(number) => number,
                Slot::Node(_) => 1,
            };
            let stale = task.template_version != service.template_version || slot > replicas;
            if task.service == service.id && stale {
                task.desired = DesiredState::Shutdown;
                task.status.state = TaskState::Shutdown;
            }
        }
        for number in 1..=replicas {
            let slot = Slot::Replica(number);
            let there = self.tasks.iter().any(|(task, _)| {
                task.service == service.id && task.slot == slot && task.desired == DesiredState::Running
            });
            if there {
                continue;
            }
            let meta = self.meta();
            let task = Task {
                id: TaskId::from_u128(1 << 100 | u128::from(meta.spec_version)),
                meta,
                service: service.id,
                slot,
                template_version: service.template_version,
                node: Some(self.nodes[0].id),
                desired: DesiredState::Running,
                start_after: None,
                reason: Reason::MissingReplica,
                status: TaskStatus {
                    attempt: 0,
                    state: TaskState::Running,
                    at: now(),
                    message: "started".into(),
                    error: None,
                    container: None,
                },
                addresses: Vec::new(),
            };
            self.tasks.push((task, Arc::new(service.spec.template.clone())));
        }
    }

    fn view(&self, task: &Task, template: &Arc<TaskTemplate>) -> TaskView {
        let service = self.services.iter().find(|service| service.id == task.service);
        TaskView {
            task: task.clone(),
            template: template.clone(),
            service_name: service
                .map(|service| service.spec.name.clone())
                .unwrap_or_default(),
            iteration: service.and_then(|service| service.job).map(|job| job.iteration),
            up_to_date: service.is_some_and(|service| service.template_version == task.template_version),
            places: Vec::new(),
        }
    }
}

impl FakeCluster {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        match self.0.lock().unwrap().as_mut() {
            Some(state) if !state.has_leader => Err(BackendError::no_leader()),
            Some(state) => act(state),
            None => Err(BackendError::no_swarm()),
        }
    }

    pub fn lose_leader(&self) {
        self.with(|state| {
            state.has_leader = false;
            Ok(())
        })
        .unwrap();
    }
}

fn view(node: &Node) -> NodeView {
    NodeView {
        node: node.clone(),
        trusted_root_pem: None,
        controller: (node.spec.role == NodeRole::Controller).then(|| ControllerView {
            leader: true,
            reach: ControllerReach::Reachable,
            address: "10.0.0.1:2377".into(),
        }),
    }
}

#[async_trait]
impl ClusterBackend for FakeCluster {
    fn local(&self) -> LocalSwarm {
        match self.0.lock().unwrap().as_ref() {
            None => LocalSwarm::default(),
            Some(state) => LocalSwarm {
                state: LocalSwarmState::Active,
                node_id: Some(state.nodes[0].id),
                node_address: "10.0.0.1".into(),
                controller: true,
                error: String::new(),
                controllers: vec![RemoteController {
                    node: state.nodes[0].id,
                    address: "10.0.0.1:2377".into(),
                }],
            },
        }
    }

    async fn swarm_init(&self, request: InitRequest) -> Result<NodeId> {
        let id = NodeId::from_u128(7 << 100);
        let token = |secret| JoinToken {
            root_digest: [7; 32],
            secret,
        };
        let meta = Meta {
            created_at: now(),
            updated_at: now(),
            spec_version: 1,
            ..Meta::default()
        };
        let state = State {
            cluster: Cluster {
                id: ClusterId::from_u128(3 << 100),
                meta,
                spec: request.spec,
                root_ca: RootCa {
                    certificate_pem: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into(),
                    key_pem: "secret key".into(),
                },
                join_tokens: JoinTokens {
                    worker: token(1),
                    controller: token(2),
                },
                incarnation: 1,
                feature_level: 1,
                next_raft_id: 2,
                issuer: None,
                root_rotation: None,
            },
            nodes: vec![Node {
                id,
                meta,
                spec: NodeSpec {
                    role: NodeRole::Controller,
                    availability: request.availability,
                    ..NodeSpec::default()
                },
                description: Arc::new(NodeDescription {
                    hostname: "node-1".into(),
                    engine_version: "0.1.0".into(),
                    ..NodeDescription::default()
                }),
                status: NodeStatus {
                    state: NodeState::Ready,
                    since: now(),
                    message: String::new(),
                    address: "10.0.0.1".into(),
                    restarting_until: None,
                },
                controller: None,
                addresses: Vec::new(),
            }],
            services: Vec::new(),
            tasks: Vec::new(),
            networks: Vec::new(),
            files: Vec::new(),
            has_leader: true,
            index: 10,
        };
        *self.0.lock().unwrap() = Some(state);
        Ok(id)
    }

    async fn swarm_join(&self, _: JoinRequest) -> Result<()> {
        Err(BackendError::unavailable(ALREADY_MEMBER))
    }

    async fn swarm_leave(&self, force: bool) -> Result<()> {
        self.with(|_| Ok(()))?;
        if !force {
            return Err(BackendError::unavailable(
                "You are attempting to leave the swarm on a node that is participating as a manager.",
            ));
        }
        *self.0.lock().unwrap() = None;
        Ok(())
    }

    async fn swarm_inspect(&self) -> Result<Cluster> {
        self.with(|state| Ok(state.cluster.clone()))
    }

    async fn swarm_update(&self, version: u64, update: ClusterUpdate) -> Result<()> {
        self.with(|state| {
            if version != state.cluster.meta.spec_version {
                return Err(BackendError::out_of_sequence());
            }
            state.cluster.spec = update.spec;
            if update.tokens.worker {
                state.cluster.join_tokens.worker.secret += 100;
            }
            state.cluster.meta.spec_version = state.next();
            Ok(())
        })
    }

    async fn node_list(&self) -> Result<Vec<NodeView>> {
        self.with(|state| Ok(state.nodes.iter().map(view).collect()))
    }

    async fn node_inspect(&self, reference: &str) -> Result<NodeView> {
        self.with(|state| {
            let node = &state.nodes[0];
            let id = node.id.to_string();
            let candidate = Candidate {
                id: &id,
                name: &node.description.hostname,
            };
            resolve("node", reference, std::iter::once(candidate)).map(|_| view(node))
        })
    }

    async fn node_update(&self, _: NodeId, version: u64, spec: NodeSpec) -> Result<()> {
        self.with(|state| {
            let next = state.next();
            let node = &mut state.nodes[0];
            if version != node.meta.spec_version {
                return Err(BackendError::out_of_sequence());
            }
            if spec.role == NodeRole::Worker {
                return Err(BackendError::invalid(
                    "attempting to demote the last manager of the swarm",
                ));
            }
            node.spec = spec;
            node.meta.spec_version = next;
            Ok(())
        })
    }

    async fn node_remove(&self, id: NodeId, _: bool) -> Result<()> {
        Err(BackendError::invalid(format!(
            "node {id} is not down and can't be removed"
        )))
    }

    async fn service_create(&self, spec: ServiceSpec) -> Result<ServiceCreated> {
        if let Err(problems) = validate::service_spec(&spec) {
            return Err(BackendError::invalid(problems.to_string()));
        }
        self.with(|state| {
            if state
                .services
                .iter()
                .any(|service| service.spec.name == spec.name)
            {
                return Err(BackendError::conflict("name conflicts with an existing object"));
            }
            let meta = state.meta();
            let id = ServiceId::from_u128(5 << 100 | u128::from(meta.spec_version));
            let spec_job = spec.mode.is_job().then(|| JobStatus::first(now()));
            let service = Service {
                id,
                meta,
                spec: Arc::new(spec),
                previous_spec: None,
                template_version: meta.spec_version,
                update: None,
                allocated_ports: Vec::new(),
                vips: Vec::new(),
                job: spec_job,
                removing: false,
            };
            state.services.push(service.clone());
            state.run(&service);
            Ok(ServiceCreated {
                id,
                warnings: Vec::new(),
            })
        })
    }

    async fn service_list(&self, counts: bool) -> Result<Vec<ServiceView>> {
        self.with(|state| {
            let count = |service: &Service| {
                let running = state
                    .tasks
                    .iter()
                    .filter(|(task, _)| task.service == service.id && task.desired == DesiredState::Running)
                    .count() as u64;
                counts.then_some(TaskCounts {
                    running,
                    desired: running,
                    completed: 0,
                })
            };
            let views = state.services.iter().map(|service| ServiceView {
                service: service.clone(),
                counts: count(service),
                vips: Vec::new(),
            });
            Ok(views.collect())
        })
    }

    async fn service_inspect(&self, reference: &str) -> Result<ServiceView> {
        self.with(|state| {
            Ok(ServiceView {
                service: state.service(reference)?.clone(),
                counts: None,
                vips: Vec::new(),
            })
        })
    }

    async fn file_list(&self, kind: FileKind) -> Result<Vec<Arc<ClusterFile>>> {
        self.with(|state| {
            let of_kind = state.files.iter().filter(|file| file.kind == kind);
            Ok(of_kind.cloned().collect())
        })
    }

    async fn file_inspect(&self, kind: FileKind, reference: &str) -> Result<Arc<ClusterFile>> {
        let files = self.file_list(kind).await?;
        let ids: Vec<String> = files.iter().map(|file| file.id.to_string()).collect();
        let candidates = files.iter().zip(&ids).map(|(file, id)| Candidate {
            id,
            name: &file.spec.name,
        });
        let found = resolve(kind.name(), reference, candidates)?;
        Ok(files[found].clone())
    }

    async fn file_create(&self, kind: FileKind, spec: FileSpec) -> Result<FileId> {
        self.with(|state| {
            let meta = state.meta();
            let id = FileId::from_u128(7 << 100 | u128::from(meta.spec_version));
            let file = ClusterFile { id, kind, meta, spec };
            state.files.push(Arc::new(file));
            Ok(id)
        })
    }

    async fn file_update(&self, _: FileKind, id: FileId, version: u64, spec: FileSpec) -> Result<()> {
        self.with(|state| {
            let next = state.next();
            let file = state.files.iter_mut().find(|file| file.id == id).unwrap();
            if file.meta.spec_version != version {
                return Err(BackendError::out_of_sequence());
            }
            let file = Arc::make_mut(file);
            file.spec.labels = spec.labels;
            file.meta.spec_version = next;
            Ok(())
        })
    }

    async fn file_remove(&self, _: FileKind, id: FileId) -> Result<()> {
        self.with(|state| {
            state.files.retain(|file| file.id != id);
            Ok(())
        })
    }

    async fn network_list(&self) -> Result<Vec<Arc<ClusterNetwork>>> {
        self.with(|state| Ok(state.networks.clone()))
    }

    async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkId> {
        self.with(|state| {
            let meta = state.meta();
            let id = NetworkId::from_u128(6 << 100 | u128::from(meta.spec_version));
            let number = state.networks.len() as u8;
            state.networks.push(Arc::new(ClusterNetwork {
                id,
                meta,
                spec: Arc::new(spec),
                vni: 4097 + u32::from(number),
                subnets: vec![OverlaySubnet {
                    subnet: format!("10.0.{number}.0/24").parse().unwrap(),
                    gateway: [10, 0, number, 1].into(),
                    range: None,
                    reserved: Vec::new(),
                }],
                removing: false,
                policy: None,
            }));
            Ok(id)
        })
    }

    async fn service_trace(
        &self,
        from: &str,
        to: &str,
        port: Option<(muster_types::service::Protocol, u16)>,
    ) -> Result<Vec<TraceStep>> {
        let text = format!("{from} {to} {port:?}");
        let step = "name";
        Ok(vec![TraceStep {
            step,
            passes: port.is_none(),
            text,
        }])
    }

    async fn network_set_policy(&self, id: NetworkId, policy: NetworkPolicy) -> Result<()> {
        self.with(|state| {
            let network = state.networks.iter_mut().find(|network| network.id == id);
            let network = network.ok_or_else(|| BackendError::not_found("network not found"))?;
            Arc::make_mut(network).policy = Some(Arc::new(policy));
            Ok(())
        })
    }

    async fn network_remove(&self, id: NetworkId) -> Result<()> {
        self.with(|state| {
            let user = state.services.iter().find(|service| {
                let mut networks = service.spec.template.networks.iter();
                networks.any(|network| network.target == id.to_string())
            });
            if let Some(user) = user {
                return Err(BackendError::invalid(format!(
                    "network {id} is in use by service {}",
                    user.id
                )));
            }
            state.networks.retain(|network| network.id != id);
            Ok(())
        })
    }

    async fn service_update(
        &self,
        id: ServiceId,
        version: u64,
        change: ServiceChange,
    ) -> Result<Vec<String>> {
        self.with(|state| {
            let next = state.next();
            let service = state.service(&id.to_string())?;
            if version != service.meta.spec_version {
                return Err(BackendError::out_of_sequence());
            }
            let old = service.spec.clone();
            service.spec = match change {
                ServiceChange::Spec(spec) => Arc::new(*spec),
                ServiceChange::RollBack => service
                    .previous_spec
                    .clone()
                    .ok_or_else(|| BackendError::invalid("does not have a previous spec"))?,
            };
            service.meta.spec_version = next;
            if old.template != service.spec.template {
                service.template_version = next;
                service.update = Some(UpdateStatus {
                    state: UpdateState::Completed,
                    started_at: now(),
                    completed_at: Some(now()),
                    message: "update completed".into(),
                });
            }
            service.previous_spec = Some(old);
            let service = service.clone();
            state.run(&service);
            Ok(Vec::new())
        })
    }

    async fn service_remove(&self, id: ServiceId) -> Result<()> {
        self.with(|state| {
            state.services.retain(|service| service.id != id);
            state.tasks.retain(|(task, _)| task.service != id);
            Ok(())
        })
    }

    async fn task_list(&self, selection: TaskSelection) -> Result<Vec<TaskView>> {
        self.with(|state| {
            let chosen = state.tasks.iter().filter(|(task, _)| {
                selection.services.is_empty() || selection.services.contains(&task.service)
            });
            Ok(chosen
                .map(|(task, template)| state.view(task, template))
                .collect())
        })
    }

    async fn task_inspect(&self, reference: &str) -> Result<TaskView> {
        self.with(|state| {
            let found = state
                .tasks
                .iter()
                .find(|(task, _)| task.id.to_string().starts_with(reference));
            found
                .map(|(task, template)| state.view(task, template))
                .ok_or_else(|| BackendError::not_found(format!("task {reference} not found")))
        })
    }

    async fn task_logs(&self, selection: LogSelection, _: LogOptions) -> Result<TaskLogStream> {
        self.with(|state| {
            let chosen = state.tasks.iter().filter(|(task, _)| {
                selection.services.contains(&task.service) || selection.tasks.contains(&task.id)
            });
            let entries: Vec<_> = chosen
                .map(|(task, _)| {
                    Ok(TaskLogEntry {
                        node: state.nodes[0].id,
                        service: task.service,
                        task: task.id,
                        entry: LogEntry {
                            stream: StreamKind::Stdout,
                            at: now(),
                            data: Bytes::from(format!("hello from {}\n", task.slot)),
                            attributes: Default::default(),
                        },
                    })
                })
                .collect();
            Ok(stream::iter(entries).boxed())
        })
    }

    async fn image_fetch(&self, reference: &str, _platform: &str) -> Result<()> {
        Err(BackendError::not_found(format!("No such image: {reference}")))
    }

    async fn events(&self, _: Option<Timestamp>, until: Option<Timestamp>) -> Result<EventStream> {
        if until.is_some() {
            return Ok(stream::empty().boxed());
        }
        Ok(stream::pending().boxed())
    }
}
