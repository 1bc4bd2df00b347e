//! Networks of the cluster: what the controllers keep of them, and what a node with a part in one needs to know.

use crate::leading::Leading;
use crate::network::NetworkSpec;
use crate::policy::NetworkPolicy;
use crate::service::{Labels, PublishedPort};
use crate::{AttachmentId, ContainerId, Meta, NetworkId, NodeId, ServiceId, Slot, TaskId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// Identifier of the ingress network's tunnels, as in Swarm; other networks have higher ones.
pub const INGRESS_VNI: u32 = 4096;
/// The highest identifier of a network's tunnels: they have 24 bits.
pub const VNI_MAX: u32 = (1 << 24) - 1;
/// Name of the network that carries connections to ports published on every node.
pub const INGRESS_NETWORK: &str = "ingress";
/// Bridge of a node by which containers on the cluster's networks reach the outside.
pub const GATEWAY_BRIDGE: &str = "docker_gwbridge";
/// Driver of the cluster's networks.
pub const OVERLAY_DRIVER: &str = "overlay";
/// Option that has a network's traffic between nodes encrypted.
pub const OPTION_ENCRYPTED: &str = "encrypted";
/// Option that sets the largest packet of a network.
pub const OPTION_MTU: &str = "com.docker.network.driver.mtu";

/// A network of the cluster as its controllers store it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterNetwork {
    /// Identity; never changes.
    pub id: NetworkId,
    /// Times and versions.
    pub meta: Meta,
    /// What the user wants.
    pub spec: Arc<NetworkSpec>,
    /// Identifier of its tunnels.
    pub vni: u32,
    /// Where its addresses come from.
    pub subnets: Vec<OverlaySubnet>,
    /// The user removed it; it goes once nothing has a place in it.
    #[serde(default)]
    pub removing: bool,
    /// Which services may open connections to which; not written where there is none, as by versions without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<NetworkPolicy>>,
}

impl ClusterNetwork {
    /// Whether traffic between nodes is encrypted.
    pub fn encrypted(&self) -> bool {
        self.spec.is_encrypted()
    }

    /// The largest packet that the user wants.
    pub fn mtu(&self) -> Option<u32> {
        self.spec.options.get(OPTION_MTU)?.parse().ok()
    }
}

/// One subnet of a network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySubnet {
    /// All of its addresses.
    pub subnet: IpNet,
    /// The address of the networks' bridge on every node; never given out.
    pub gateway: IpAddr,
    /// The part that addresses are given out from; all of it when `None`.
    #[serde(default)]
    pub range: Option<IpNet>,
    /// Addresses that are somebody else's; never given out.
    #[serde(default)]
    pub reserved: Vec<IpAddr>,
}

/// Addresses on one network of the cluster, at most one of each family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAddresses {
    /// The network.
    pub network: NetworkId,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// The place of a standalone container in a network of the cluster: a lease that its node holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Identity; never changes.
    pub id: AttachmentId,
    /// Times and versions.
    pub meta: Meta,
    /// The node that the container is on.
    pub node: NodeId,
    /// The container.
    pub container: ContainerId,
    /// Names by which containers of the network find it.
    pub names: Vec<String>,
    /// The network and its addresses there.
    pub place: NetworkAddresses,
}

/// A task's place in a network of the cluster, as its node needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNetwork {
    /// The network.
    pub network: NetworkId,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// Further names in the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Driver options of the attachment.
    #[serde(default)]
    pub driver_opts: Labels,
}

/// A network of the cluster, as a node that has a part in it needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedNetwork {
    /// What it is.
    pub facts: NetworkFacts,
    /// Every place in it that is in use, by owner.
    pub endpoints: Vec<OverlayEndpoint>,
    /// The services on it, by id.
    pub services: Vec<OverlayService>,
}

/// What a network of the cluster is, apart from who is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Identity.
    pub id: NetworkId,
    /// Name.
    pub name: String,
    /// Identifier of its tunnels.
    pub vni: u32,
    /// UDP port of the tunnels.
    pub data_path_port: u16,
    /// Where its addresses come from.
    pub subnets: Vec<OverlaySubnet>,
    /// No way out.
    pub internal: bool,
    /// Standalone containers may join.
    pub attachable: bool,
    /// Traffic between nodes is encrypted.
    pub encrypted: bool,
    /// It carries the connections to ports that are published on every node.
    pub ingress: bool,
    /// The largest packet that the user wants; worked out from the underlay when `None`.
    pub mtu: Option<u32>,
    /// The user's labels.
    pub labels: Labels,
    /// Driver options.
    pub options: Labels,
    /// Which services may open connections to which.
    #[serde(default)]
    pub policy: Option<Arc<NetworkPolicy>>,
}

/// Whose place in a network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndpointOwner {
    /// A node's own.
    Node(NodeId),
    /// A task's.
    Task(TaskId),
    /// A standalone container's.
    Attachment(AttachmentId),
}

/// A place in a network that is in use: where packets to its addresses go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayEndpoint {
    /// Whose it is.
    pub owner: EndpointOwner,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node that it is on.
    pub node: NodeId,
    /// That node's address outside of the network; `None` until the node has told of one.
    pub data_path: Option<IpAddr>,
    /// Names of a standalone container; a task is found by its service.
    pub names: Vec<String>,
    /// The node is down: whatever leads there ends nowhere.
    #[serde(default)]
    pub down: bool,
    /// A task's service.
    #[serde(default)]
    pub service: Option<ServiceId>,
}

/// A service as containers of a network see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayService {
    /// Identity.
    pub id: ServiceId,
    /// Name.
    pub name: String,
    /// Virtual addresses; none where the name resolves to the tasks.
    pub vips: Vec<IpAddr>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Ports that every node publishes, with their numbers; on the ingress network only.
    pub ports: Vec<PublishedPort>,
    /// Its tasks that run and are healthy, by id.
    pub endpoints: Vec<ServiceEndpoint>,
    /// How connections to it are led.
    #[serde(default)]
    pub leading: Leading,
}

/// A task of a service that runs and is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEndpoint {
    /// The task.
    pub task: TaskId,
    /// Its slot.
    pub slot: Slot,
    /// The node that it is on.
    pub node: NodeId,
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
}

impl ServiceEndpoint {
    /// The container's name, as [`crate::AssignedTask::container_name`] has it.
    pub fn container_name(&self, service: &str) -> String {
        format!("{service}.{}.{}", self.slot, self.task)
    }
}

/// What changed in one network of an assignment set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUpdate {
    /// The network.
    pub id: NetworkId,
    /// What it is; always there when the network is new to the node.
    pub facts: Option<NetworkFacts>,
    /// Places that are new or changed.
    pub endpoints: Vec<OverlayEndpoint>,
    /// Places that are free again.
    pub endpoints_gone: Vec<EndpointOwner>,
    /// Services that are new or changed.
    pub services: Vec<OverlayService>,
    /// Services that left the network.
    pub services_gone: Vec<ServiceId>,
}

impl NetworkUpdate {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.facts.is_none()
            && self.endpoints.is_empty()
            && self.endpoints_gone.is_empty()
            && self.services.is_empty()
            && self.services_gone.is_empty()
    }
}

impl From<AssignedNetwork> for NetworkUpdate {
    fn from(network: AssignedNetwork) -> Self {
        Self {
            id: network.facts.id,
            facts: Some(network.facts),
            endpoints: network.endpoints,
            endpoints_gone: Vec::new(),
            services: network.services,
            services_gone: Vec::new(),
        }
    }
}

impl AssignedNetwork {
    /// A network that is new to the node; `None` unless the update says what it is.
    pub fn begin(update: &NetworkUpdate) -> Option<Self> {
        let mut network = Self {
            facts: update.facts.clone()?,
            endpoints: Vec::new(),
            services: Vec::new(),
        };
        network.update(update);
        Some(network)
    }

    /// Takes in what changed.
    pub fn update(&mut self, update: &NetworkUpdate) {
        if let Some(facts) = &update.facts {
            self.facts = facts.clone();
        }
        replace(
            &mut self.endpoints,
            &update.endpoints,
            &update.endpoints_gone,
            |endpoint| endpoint.owner,
        );
        replace(
            &mut self.services,
            &update.services,
            &update.services_gone,
            |service| service.id,
        );
    }

    /// What leads from `before` to this; costs what both have.
    pub fn since(&self, before: &Self) -> NetworkUpdate {
        let (endpoints, endpoints_gone) =
            differences(&before.endpoints, &self.endpoints, |endpoint| endpoint.owner);
        let (services, services_gone) = differences(&before.services, &self.services, |service| service.id);
        NetworkUpdate {
            id: self.facts.id,
            facts: (self.facts != before.facts).then(|| self.facts.clone()),
            endpoints,
            endpoints_gone,
            services,
            services_gone,
        }
    }
}

/// Puts rows in their places of a list that is sorted by key, and takes out those that are gone.
fn replace<T: Clone, K: Ord>(rows: &mut Vec<T>, news: &[T], gone: &[K], key: impl Fn(&T) -> K) {
    for key_gone in gone {
        if let Ok(place) = rows.binary_search_by(|row| key(row).cmp(key_gone)) {
            rows.remove(place);
        }
    }
    for new in news {
        match rows.binary_search_by_key(&key(new), &key) {
            Ok(place) => rows[place] = new.clone(),
            Err(place) => rows.insert(place, new.clone()),
        }
    }
}

/// Rows that are new or changed, and keys that are gone, between two lists that are sorted by key.
fn differences<T: Clone + PartialEq, K: Ord>(
    before: &[T],
    after: &[T],
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Vec<K>) {
    let find = |rows: &[T], wanted: &T| {
        let place = rows.binary_search_by_key(&key(wanted), &key).ok()?;
        Some(place)
    };
    let news = after
        .iter()
        .filter(|row| find(before, row).is_none_or(|place| before[place] != **row));
    let gone = before.iter().filter(|row| find(after, row).is_none());
    (news.cloned().collect(), gone.map(&key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(task: u128, last: u8) -> OverlayEndpoint {
        OverlayEndpoint {
            owner: EndpointOwner::Task(TaskId::from_u128(task)),
            addresses: vec![IpAddr::from([10, 0, 1, last])],
            node: NodeId::from_u128(1),
            data_path: None,
            names: Vec::new(),
            down: false,
            service: None,
        }
    }

    fn network(endpoints: Vec<OverlayEndpoint>) -> AssignedNetwork {
        AssignedNetwork {
            facts: NetworkFacts {
                id: NetworkId::from_u128(1),
                name: "net".to_owned(),
                vni: 4097,
                data_path_port: 4789,
                subnets: Vec::new(),
                internal: false,
                attachable: false,
                encrypted: false,
                ingress: false,
                mtu: None,
                labels: Labels::new(),
                options: Labels::new(),
                policy: None,
            },
            endpoints,
            services: Vec::new(),
        }
    }

    #[test]
    fn an_update_leads_from_one_state_of_a_network_to_the_other() {
        let before = network(vec![endpoint(1, 2), endpoint(2, 3), endpoint(4, 5)]);
        let mut after = network(vec![endpoint(1, 2), endpoint(3, 4), endpoint(4, 9)]);
        after.facts.internal = true;
        let update = after.since(&before);
        assert_eq!(update.endpoints, vec![endpoint(3, 4), endpoint(4, 9)]);
        assert_eq!(update.endpoints_gone, vec![endpoint(2, 3).owner]);
        let mut updated = before.clone();
        updated.update(&update);
        assert_eq!(updated, after);
        assert!(after.since(&updated).is_empty());
        assert_eq!(AssignedNetwork::begin(&after.clone().into()), Some(after));
    }
}
