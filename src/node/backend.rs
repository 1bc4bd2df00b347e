//! The cluster as the Engine API sees it, from this node.

use super::address::MemberAddresses;
use super::anew::force_new_cluster;
use super::host::{NodeHost, Standing};
use super::member::Member;
use super::refusals::{failed, from_control, from_fetch};
use super::root::root_rotation;
use super::views::{node_view, service_view, task_view, trace_view};
use super::{address, events, task_logs};
use crate::daemon::registry::platform as image_platform;
use async_trait::async_trait;
use muster_controller::control::{ControlReply, ControlRequest, ServiceChange as Change};
use muster_controller::core::cluster_requests::check_cluster_spec;
use muster_controller::core::io::ReadView;
use muster_controller::shell::ControllerHandle;
use muster_engine_api::backend::{
    ALREADY_MEMBER, BackendError, Candidate, ClusterBackend, ClusterUpdate, ControllerReach, EventStream,
    InitRequest, JoinRequest, LocalSwarm, LocalSwarmState, LogOptions, LogSelection, NOT_PART, NodeView,
    RemoteController, Result, ServiceChange, ServiceCreated, ServiceView, TaskLogStream, TaskSelection,
    TaskView, TraceStep, resolve,
};
use muster_types::file::FileSpec;
use muster_types::network::NetworkSpec;
use muster_types::policy::NetworkPolicy;
use muster_types::service::Protocol;
use muster_types::{
    Cluster, ClusterFile, ClusterNetwork, ClusterSpec, FileId, FileKind, NetworkId, Node, NodeId, NodeSpec,
    RequestId, Service, ServiceId, ServiceSpec, Task, Timestamp,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// Connects the Engine API to this node's membership.
pub struct NodeBackend {
    host: Arc<NodeHost>,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
}

impl NodeBackend {
    /// `listen` and `advertise` are what the daemon was told; requests may say otherwise.
    pub fn new(host: Arc<NodeHost>, listen: SocketAddr, advertise: Option<SocketAddr>) -> Self {
        Self {
            host,
            listen,
            advertise,
        }
    }

    fn member(&self) -> Result<Arc<Member>> {
        match self.host.standing() {
            Standing::Active(member) => Ok(member),
            Standing::Error(error) => Err(BackendError::unavailable(format!(
                "this node could not come back to its swarm: {error}; restart the daemon, or leave with \"docker swarm leave --force\""
            ))),
            Standing::Inactive | Standing::Pending => Err(BackendError::no_swarm()),
        }
    }

    async fn controller(&self) -> Result<ControllerHandle> {
        let member = self.member()?;
        if let Some(handle) = member.controller() {
            return Ok(handle);
        }
        Err(match member.controller_failure().await {
            Some(failure) => {
                BackendError::unavailable(format!("the controller of this node has ended: {failure}"))
            }
            None => BackendError::not_controller(),
        })
    }

    async fn read(&self) -> Result<Box<ReadView>> {
        self.controller().await?.read().await.map_err(from_control)
    }

    async fn write(&self, request: ControlRequest) -> Result<ControlReply> {
        let id = RequestId::from_u128(rand::random());
        self.controller()
            .await?
            .write(id, request)
            .await
            .map_err(from_control)
    }

    /// Docker's words for what the cluster loses with this controller.
    async fn loss_by_leaving(&self) -> String {
        let nodes = self.node_list().await.unwrap_or_default();
        let reaches = nodes
            .iter()
            .filter_map(|view| Some(view.controller.as_ref()?.reach))
            .filter(|reach| *reach != ControllerReach::Unknown);
        let (reachable, unreachable): (Vec<_>, Vec<_>) =
            reaches.partition(|reach| *reach == ControllerReach::Reachable);
        let lost = match (reachable.len(), unreachable.len()) {
            (1, 0) => {
                return "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this \
                        message. "
                    .to_owned();
            }
            (0, _) => "Doing so may lose the consensus of your cluster. ".to_owned(),
            (reachable, unreachable) if reachable <= unreachable + 2 => format!(
                "Removing this node leaves {} managers out of {}. Without a Raft quorum your swarm will be \
                 inaccessible. ",
                reachable - 1,
                reachable + unreachable
            ),
            _ => String::new(),
        };
        format!(
            "{lost}The only way to restore a swarm that has lost consensus is to reinitialize it with \
             `--force-new-cluster`. Use `--force` to suppress this message."
        )
    }

    fn addresses(&self, listen: &str, advertise: &str, data_path: &str) -> Result<MemberAddresses> {
        let listen = self.listen_address(listen)?;
        Ok(MemberAddresses {
            listen,
            advertise: self.advertise_address(advertise, listen)?,
            data_path: address::data_path(data_path).map_err(BackendError::invalid)?,
        })
    }

    fn listen_address(&self, given: &str) -> Result<SocketAddr> {
        if given.is_empty() {
            return Ok(self.listen);
        }
        address::read(given, self.listen.port()).map_err(BackendError::invalid)
    }

    fn advertise_address(&self, given: &str, listen: SocketAddr) -> Result<SocketAddr> {
        match self.advertise {
            Some(own) if given.is_empty() => Ok(own),
            Some(_) | None => address::advertise(given, listen).map_err(BackendError::invalid),
        }
    }
}

/// Also one whose controller has ended by itself.
pub(super) async fn is_controller(member: &Member) -> bool {
    member.controller().is_some() || member.controller_failure().await.is_some()
}

#[async_trait]
impl ClusterBackend for NodeBackend {
    fn local(&self) -> LocalSwarm {
        let mut local = LocalSwarm::default();
        match self.host.standing() {
            Standing::Inactive => {}
            Standing::Pending => local.state = LocalSwarmState::Pending,
            Standing::Error(error) => {
                local.state = LocalSwarmState::Error;
                local.error = error;
            }
            Standing::Active(member) => {
                local.state = LocalSwarmState::Active;
                local.node_id = Some(member.node());
                local.node_address = member.advertise_ip();
                if let Some(handle) = member.controller() {
                    local.controller = true;
                    let members = handle.members().borrow().members.clone();
                    let remote = members.into_iter();
                    local.controllers = remote
                        .map(|(_, node, address)| RemoteController { node, address })
                        .collect();
                } else {
                    let addresses = member.controllers().into_iter();
                    local.controllers = addresses
                        .map(|address| RemoteController {
                            node: member.node_at(&address),
                            address,
                        })
                        .collect();
                }
            }
        }
        local
    }

    async fn swarm_init(&self, request: InitRequest) -> Result<NodeId> {
        let addresses = || {
            let (listen, advertise) = (&request.listen_address, &request.advertise_address);
            self.addresses(listen, advertise, &request.data_path_address)
        };
        if request.force_new_cluster {
            let given = (!request.advertise_address.is_empty()).then(addresses);
            return force_new_cluster(&self.host, given.transpose()?).await;
        }
        if !matches!(self.host.standing(), Standing::Inactive) {
            return Err(BackendError::unavailable(ALREADY_MEMBER));
        }
        check_cluster_spec(&request.spec).map_err(from_control)?;
        let addresses = addresses()?;
        let begun = self.host.init(addresses, request.spec, request.availability);
        begun.await.map_err(failed)
    }

    async fn swarm_join(&self, request: JoinRequest) -> Result<()> {
        if !matches!(self.host.standing(), Standing::Inactive) {
            return Err(BackendError::unavailable(ALREADY_MEMBER));
        }
        let addresses = self.addresses(
            &request.listen_address,
            &request.advertise_address,
            &request.data_path_address,
        )?;
        let remotes: Result<Vec<String>> = request
            .remote_addresses
            .iter()
            .map(|remote| {
                let read =
                    address::read(remote, crate::config::CLUSTER_PORT).map_err(BackendError::invalid)?;
                Ok(read.to_string())
            })
            .collect();
        self.host
            .join(addresses, remotes?, request.token, request.availability)
            .await
            .map_err(failed)
    }

    async fn swarm_leave(&self, force: bool) -> Result<()> {
        match self.host.standing() {
            Standing::Inactive => return Err(BackendError::unavailable(NOT_PART)),
            Standing::Active(member) if !force && is_controller(&member).await => {
                let consequence = self.loss_by_leaving().await;
                return Err(BackendError::unavailable(format!(
                    "You are attempting to leave the swarm on a node that is participating as a manager. {consequence}"
                )));
            }
            Standing::Active(_) | Standing::Pending | Standing::Error(_) => {}
        }
        self.host.leave().await.map_err(failed)
    }

    async fn swarm_inspect(&self) -> Result<Cluster> {
        let view = self.read().await?;
        view.state
            .cluster()
            .map(|cluster| (**cluster).clone())
            .ok_or_else(BackendError::no_swarm)
    }

    async fn swarm_update(&self, version: u64, update: ClusterUpdate) -> Result<()> {
        let ClusterUpdate { spec, tokens, root } = update;
        let (rotate_worker, rotate_controller) = (tokens.worker, tokens.controller);
        let cluster = self.swarm_inspect().await?;
        let rotation = root_rotation(&cluster, spec.root_rotations, root)?;
        // What is fixed when a cluster begins is no part of the request.
        let begun = cluster.spec;
        let spec = Box::new(ClusterSpec {
            address_pools: begun.address_pools,
            subnet_prefix_len: begun.subnet_prefix_len,
            data_path_port: begun.data_path_port,
            ..spec
        });
        self.write(ControlRequest::UpdateCluster {
            version,
            spec,
            rotate_worker,
            rotate_controller,
            rotation: rotation.map(Box::new),
        })
        .await?;
        Ok(())
    }

    async fn node_list(&self) -> Result<Vec<NodeView>> {
        let view = self.read().await?;
        Ok(view.state.nodes().map(|node| node_view(&view, node)).collect())
    }

    async fn node_inspect(&self, reference: &str) -> Result<NodeView> {
        let view = self.read().await?;
        let nodes: Vec<(String, &Arc<Node>)> = view
            .state
            .nodes()
            .map(|node| (node.id.to_string(), node))
            .collect();
        let candidates = nodes.iter().map(|(id, node)| {
            let name = if node.spec.name.is_empty() {
                &node.description.hostname
            } else {
                &node.spec.name
            };
            Candidate { id, name }
        });
        let found = resolve("node", reference, candidates)?;
        Ok(node_view(&view, nodes[found].1))
    }

    async fn node_update(&self, id: NodeId, version: u64, spec: NodeSpec) -> Result<()> {
        self.write(ControlRequest::UpdateNode { id, version, spec })
            .await?;
        Ok(())
    }

    async fn node_remove(&self, id: NodeId, force: bool) -> Result<()> {
        self.write(ControlRequest::RemoveNode { id, force }).await?;
        Ok(())
    }

    async fn service_create(&self, spec: ServiceSpec) -> Result<ServiceCreated> {
        match self
            .write(ControlRequest::CreateService { spec: Box::new(spec) })
            .await?
        {
            ControlReply::ServiceCreated { id } => Ok(ServiceCreated {
                id,
                warnings: Vec::new(),
            }),
            other => Err(BackendError::internal(format!("an unexpected answer: {other:?}"))),
        }
    }

    async fn service_list(&self, counts: bool) -> Result<Vec<ServiceView>> {
        let view = self.read().await?;
        let live = view.state.services().filter(|service| !service.removing);
        Ok(live
            .map(|service| service_view(&view.state, service, counts))
            .collect())
    }

    async fn service_inspect(&self, reference: &str) -> Result<ServiceView> {
        let view = self.read().await?;
        let services: Vec<(String, &Arc<Service>)> = view
            .state
            .services()
            .filter(|service| !service.removing)
            .map(|service| (service.id.to_string(), service))
            .collect();
        let candidates = services.iter().map(|(id, service)| Candidate {
            id,
            name: &service.spec.name,
        });
        let found = resolve("service", reference, candidates)?;
        Ok(service_view(&view.state, services[found].1, false))
    }

    async fn service_update(
        &self,
        id: ServiceId,
        version: u64,
        change: ServiceChange,
    ) -> Result<Vec<String>> {
        let change = match change {
            ServiceChange::Spec(spec) => Change::Spec(spec),
            ServiceChange::RollBack => Change::RollBack,
        };
        self.write(ControlRequest::UpdateService { id, version, change })
            .await?;
        Ok(Vec::new())
    }

    async fn service_remove(&self, id: ServiceId) -> Result<()> {
        self.write(ControlRequest::RemoveService { id }).await?;
        Ok(())
    }

    async fn network_list(&self) -> Result<Vec<Arc<ClusterNetwork>>> {
        let view = self.read().await?;
        let live = view.state.networks().filter(|network| !network.removing);
        Ok(live.cloned().collect())
    }

    async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkId> {
        if spec.is_encrypted() {
            return Err(BackendError::not_implemented(
                "networks with the option \"encrypted\" are not implemented yet",
            ));
        }
        match self
            .write(ControlRequest::CreateNetwork { spec: Box::new(spec) })
            .await?
        {
            ControlReply::NetworkCreated { id } => Ok(id),
            other => Err(BackendError::internal(format!("an unexpected answer: {other:?}"))),
        }
    }

    async fn network_remove(&self, id: NetworkId) -> Result<()> {
        self.write(ControlRequest::RemoveNetwork { id }).await?;
        Ok(())
    }

    async fn service_trace(
        &self,
        from: &str,
        to: &str,
        port: Option<(Protocol, u16)>,
    ) -> Result<Vec<TraceStep>> {
        let [from, to] = [self.service_inspect(from).await?, self.service_inspect(to).await?];
        let view = self.read().await?;
        Ok(trace_view(&view.state, &from.service, &to.service, port))
    }

    async fn network_set_policy(&self, id: NetworkId, policy: NetworkPolicy) -> Result<()> {
        self.write(ControlRequest::SetNetworkPolicy { id, policy })
            .await?;
        Ok(())
    }

    async fn file_list(&self, kind: FileKind) -> Result<Vec<Arc<ClusterFile>>> {
        let view = self.read().await?;
        let of_kind = view.state.files().filter(|file| file.kind == kind);
        Ok(of_kind.cloned().collect())
    }

    async fn file_inspect(&self, kind: FileKind, reference: &str) -> Result<Arc<ClusterFile>> {
        let files = self.file_list(kind).await?;
        let files: Vec<(String, Arc<ClusterFile>)> = files
            .into_iter()
            .map(|file| (file.id.to_string(), file))
            .collect();
        let candidates = files.iter().map(|(id, file)| Candidate {
            id,
            name: &file.spec.name,
        });
        let found = resolve(kind.name(), reference, candidates)?;
        Ok(files[found].1.clone())
    }

    async fn file_create(&self, kind: FileKind, spec: FileSpec) -> Result<FileId> {
        let spec = Box::new(spec);
        match self.write(ControlRequest::CreateFile { kind, spec }).await? {
            ControlReply::FileCreated { id } => Ok(id),
            other => Err(BackendError::internal(format!("an unexpected answer: {other:?}"))),
        }
    }

    async fn file_update(&self, kind: FileKind, id: FileId, version: u64, spec: FileSpec) -> Result<()> {
        let spec = Box::new(spec);
        self.write(ControlRequest::UpdateFile {
            kind,
            id,
            version,
            spec,
        })
        .await?;
        Ok(())
    }

    async fn file_remove(&self, kind: FileKind, id: FileId) -> Result<()> {
        self.write(ControlRequest::RemoveFile { kind, id }).await?;
        Ok(())
    }

    async fn task_list(&self, selection: TaskSelection) -> Result<Vec<TaskView>> {
        let view = self.read().await?;
        let state = &view.state;
        let wanted = |task: &&Arc<Task>| {
            let service = selection.services.is_empty() || selection.services.contains(&task.service);
            let node =
                selection.nodes.is_empty() || task.node.is_some_and(|node| selection.nodes.contains(&node));
            service && node
        };
        Ok(state
            .tasks()
            .filter(wanted)
            .filter_map(|task| task_view(state, task))
            .collect())
    }

    async fn task_inspect(&self, reference: &str) -> Result<TaskView> {
        let view = self.read().await?;
        let tasks: Vec<(String, &Arc<Task>)> = view
            .state
            .tasks()
            .map(|task| (task.id.to_string(), task))
            .collect();
        let candidates = tasks.iter().map(|(id, _)| Candidate { id, name: "" });
        let found = resolve("task", reference, candidates)?;
        let gone = || BackendError::not_found(format!("task {reference} not found"));
        task_view(&view.state, tasks[found].1).ok_or_else(gone)
    }

    async fn task_logs(&self, selection: LogSelection, options: LogOptions) -> Result<TaskLogStream> {
        let member = self.member()?;
        let view = self.read().await?;
        Ok(task_logs::merged(&member, &view.state, &selection, &options))
    }

    async fn image_fetch(&self, reference: &str, platform: &str) -> Result<()> {
        let platform = image_platform(platform);
        let fetched = self.member()?.fetch_image(reference, platform.as_ref()).await;
        fetched.map_err(from_fetch)
    }

    async fn events(&self, _since: Option<Timestamp>, until: Option<Timestamp>) -> Result<EventStream> {
        Ok(events::stream(self.host.clone(), until))
    }
}
