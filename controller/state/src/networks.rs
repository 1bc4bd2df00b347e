//! Networks of the cluster as the tables have them, and the indexes over who is on them.

use crate::address_pool::{bounds, never_given, number};
use crate::{AddressPool, AddressRuns, ClusterState};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use muster_types::overlay::{Attachment, EndpointOwner, NetworkAddresses};
use muster_types::service::{EndpointMode, PublishMode, PublishedPort};
use muster_types::{
    AttachmentId, ClusterNetwork, ContainerId, NetworkId, NodeId, Service, ServiceId, Task, TaskId,
    TaskState, TaskTemplate,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Derived from the tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NetworkIndexes {
    by_name: OrdMap<String, NetworkId>,
    by_vni: OrdMap<u32, NetworkId>,
    removing: OrdSet<NetworkId>,
    /// First number of each subnet, with its last.
    by_subnet: OrdMap<u128, (u128, NetworkId)>,
    ingress: Option<NetworkId>,
    /// Addresses in use, and those that are never given out.
    used: OrdMap<NetworkId, AddressRuns>,
    members: OrdSet<(NetworkId, EndpointOwner)>,
    /// Services that name the network or have a virtual address on it.
    services: OrdSet<(NetworkId, ServiceId)>,
    /// Services that publish ports on every node.
    publishing: OrdSet<ServiceId>,
    /// Services that shall have a virtual address on some network and have none.
    without_vip: OrdSet<ServiceId>,
    serving: OrdSet<(NetworkId, ServiceId, TaskId)>,
    attachments_by_node: OrdSet<(NodeId, AttachmentId)>,
}

impl ClusterState {
    /// One network.
    pub fn network(&self, id: NetworkId) -> Option<&Arc<ClusterNetwork>> {
        self.networks.get(&id)
    }

    /// Every network, by id.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<ClusterNetwork>> {
        self.networks.values()
    }

    /// The network that has this name.
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<ClusterNetwork>> {
        self.networks.get(self.indexes.networks.by_name.get(name)?)
    }

    /// The network that carries connections to ports published on every node.
    pub fn ingress_network(&self) -> Option<&Arc<ClusterNetwork>> {
        self.networks.get(&self.indexes.networks.ingress?)
    }

    /// The network that has this tunnel identifier.
    pub fn network_with_vni(&self, vni: u32) -> Option<NetworkId> {
        self.indexes.networks.by_vni.get(&vni).copied()
    }

    /// Networks that go once nothing has a place in them.
    pub(crate) fn removing_networks(&self) -> Vec<NetworkId> {
        self.indexes.networks.removing.iter().copied().collect()
    }

    /// A network with a subnet that has addresses in common with this one.
    pub fn overlapping(&self, subnet: IpNet) -> Option<NetworkId> {
        let (first, last) = bounds(subnet);
        let (_, (end, network)) = self.indexes.networks.by_subnet.get_prev(&last)?;
        (*end >= first).then_some(*network)
    }

    /// The addresses of a network, to take the next ones from.
    pub fn address_pool(&self, network: NetworkId) -> Option<AddressPool> {
        let row = self.networks.get(&network)?;
        let used = self.used_addresses(network);
        let last_given = row.subnets.iter().map(|subnet| {
            let key = (network, number(subnet.subnet.network()));
            self.last_given.get(&key).copied()
        });
        Some(AddressPool::new(
            network,
            &row.subnets,
            used,
            last_given.collect(),
        ))
    }

    /// Addresses of a network that are in use or never given out.
    pub fn used_addresses(&self, network: NetworkId) -> AddressRuns {
        self.indexes
            .networks
            .used
            .get(&network)
            .cloned()
            .unwrap_or_default()
    }

    /// Who has a place in a network, by owner.
    pub fn endpoints_of(&self, network: NetworkId) -> impl Iterator<Item = EndpointOwner> + '_ {
        let first = (network, EndpointOwner::Node(NodeId::from_u128(0)));
        let last = (
            network,
            EndpointOwner::Attachment(AttachmentId::from_u128(u128::MAX)),
        );
        let members = self.indexes.networks.members.range(first..=last);
        members.map(|(_, owner)| *owner)
    }

    /// The services on a network: those that name it or have a virtual address or tasks that serve there.
    pub fn services_on(&self, network: NetworkId) -> BTreeSet<ServiceId> {
        let indexes = &self.indexes.networks;
        let (first, last) = (ServiceId::from_u128(0), ServiceId::from_u128(u128::MAX));
        let named = indexes.services.range((network, first)..=(network, last));
        let mut found: BTreeSet<ServiceId> = named.map(|(_, service)| *service).collect();
        let serving = (network, first, TaskId::from_u128(0))..=(network, last, TaskId::from_u128(u128::MAX));
        found.extend(indexes.serving.range(serving).map(|(_, service, _)| *service));
        if indexes.ingress == Some(network) {
            found.extend(indexes.publishing.iter().copied());
        }
        found
    }

    /// Whether the service is one of [`ClusterState::services_on`].
    pub fn is_on(&self, service: ServiceId, network: NetworkId) -> bool {
        let indexes = &self.indexes.networks;
        indexes.services.contains(&(network, service))
            || (indexes.ingress == Some(network) && indexes.publishing.contains(&service))
            || self.serving_on(network, service).next().is_some()
    }

    /// The tasks of a service that serve on a network, by id: they run, are healthy and shall go on.
    pub fn serving_on(
        &self,
        network: NetworkId,
        service: ServiceId,
    ) -> impl Iterator<Item = &Arc<Task>> + '_ {
        let (first, last) = (TaskId::from_u128(0), TaskId::from_u128(u128::MAX));
        self.indexes
            .networks
            .serving
            .range((network, service, first)..=(network, service, last))
            .filter_map(|(_, _, task)| self.tasks.get(task))
    }

    /// One place of a standalone container.
    pub fn attachment(&self, id: AttachmentId) -> Option<&Arc<Attachment>> {
        self.attachments.get(&id)
    }

    /// Every place of a standalone container, by id.
    pub fn attachments(&self) -> impl Iterator<Item = &Arc<Attachment>> {
        self.attachments.values()
    }

    /// The places that a node holds for its standalone containers, by id.
    pub fn attachments_of_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Attachment>> + '_ {
        let (first, last) = (AttachmentId::from_u128(0), AttachmentId::from_u128(u128::MAX));
        self.indexes
            .networks
            .attachments_by_node
            .range((node, first)..=(node, last))
            .filter_map(|(_, id)| self.attachments.get(id))
    }

    /// The place of a container in a network.
    pub fn attachment_of(
        &self,
        node: NodeId,
        container: &ContainerId,
        network: NetworkId,
    ) -> Option<&Arc<Attachment>> {
        self.attachments_of_node(node)
            .find(|attachment| attachment.container == *container && attachment.place.network == network)
    }

    /// The networks of the cluster that tasks of this template have a place in, in its order; the ingress network last.
    pub fn networks_used_by(&self, template: &TaskTemplate, ports: &[PublishedPort]) -> Vec<NetworkId> {
        let mut found: Vec<NetworkId> = Vec::new();
        let ingress = self.indexes.networks.ingress.filter(|_| publishes(ports));
        for network in named_networks(template).chain(ingress) {
            if !found.contains(&network) {
                found.push(network);
            }
        }
        found
    }

    /// Services that publish ports on every node.
    pub(crate) fn publishing_services(&self) -> Vec<ServiceId> {
        self.indexes.networks.publishing.iter().copied().collect()
    }

    /// Services that shall have a virtual address on some network and have none.
    pub fn services_without_vip(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.indexes.networks.without_vip.iter().copied()
    }

    /// The networks that a service as a whole may be seen on.
    pub(crate) fn networks_of_service(&self, service: &Service) -> BTreeSet<NetworkId> {
        let vips = service.vips.iter().map(|vip| vip.network);
        let named = self.networks_used_by(&service.spec.template, &service.spec.ports);
        named.into_iter().chain(vips).collect()
    }

    pub(crate) fn put_network(&mut self, network: ClusterNetwork) {
        let id = network.id;
        let indexes = &mut self.indexes.networks;
        indexes.by_vni.insert(network.vni, id);
        if network.removing {
            indexes.forget_name(&network);
            indexes.removing.insert(id);
        } else {
            indexes.by_name.insert(network.spec.name.clone(), id);
            if network.spec.ingress {
                indexes.ingress = Some(id);
            }
        }
        let ingress = network.spec.ingress;
        let used = indexes.used.entry(id).or_default();
        for subnet in &network.subnets {
            let (first, last) = bounds(subnet.subnet);
            indexes.by_subnet.insert(first, (last, id));
            for address in never_given(subnet) {
                used.insert(address);
            }
        }
        self.networks.insert(id, Arc::new(network));
        if ingress {
            self.note_missing_vips();
        }
    }

    pub(crate) fn take_network(&mut self, id: NetworkId) -> Option<Arc<ClusterNetwork>> {
        let network = self.networks.remove(&id)?;
        let indexes = &mut self.indexes.networks;
        indexes.forget_name(&network);
        indexes.removing.remove(&id);
        indexes.by_vni.remove(&network.vni);
        indexes.used.remove(&id);
        for subnet in &network.subnets {
            let first = number(subnet.subnet.network());
            indexes.by_subnet.remove(&first);
            self.last_given.remove(&(id, first));
        }
        if network.spec.ingress {
            self.note_missing_vips();
        }
        Some(network)
    }

    pub(crate) fn put_attachment(&mut self, attachment: Attachment) {
        let id = attachment.id;
        self.take_attachment(id);
        self.hold(
            EndpointOwner::Attachment(id),
            &[],
            std::slice::from_ref(&attachment.place),
        );
        let by_node = &mut self.indexes.networks.attachments_by_node;
        by_node.insert((attachment.node, id));
        self.attachments.insert(id, Arc::new(attachment));
    }

    pub(crate) fn take_attachment(&mut self, id: AttachmentId) -> Option<Arc<Attachment>> {
        let attachment = self.attachments.remove(&id)?;
        self.hold(
            EndpointOwner::Attachment(id),
            std::slice::from_ref(&attachment.place),
            &[],
        );
        let by_node = &mut self.indexes.networks.attachments_by_node;
        by_node.remove(&(attachment.node, id));
        Some(attachment)
    }

    /// Notes that an owner's places are others than before.
    pub(crate) fn hold(
        &mut self,
        owner: EndpointOwner,
        before: &[NetworkAddresses],
        after: &[NetworkAddresses],
    ) {
        if before == after {
            return;
        }
        for place in before {
            self.indexes.networks.members.remove(&(place.network, owner));
        }
        for place in after {
            self.indexes.networks.members.insert((place.network, owner));
        }
        self.use_addresses(before, after);
    }

    fn use_addresses(&mut self, before: &[NetworkAddresses], after: &[NetworkAddresses]) {
        let used = &mut self.indexes.networks.used;
        for place in before {
            if let Some(runs) = used.get_mut(&place.network) {
                place.addresses.iter().for_each(|address| {
                    runs.remove(*address);
                });
            }
        }
        for place in after {
            if let Some(runs) = used.get_mut(&place.network) {
                place.addresses.iter().for_each(|address| {
                    runs.insert(*address);
                });
            }
        }
    }

    pub(crate) fn index_service_networks(&mut self, before: Option<&Service>, after: Option<&Service>) {
        let names = |service: Option<&Service>| -> BTreeSet<NetworkId> {
            let Some(service) = service else {
                return BTreeSet::new();
            };
            let vips = service.vips.iter().map(|vip| vip.network);
            named_networks(&service.spec.template).chain(vips).collect()
        };
        let (had, has) = (names(before), names(after));
        let id = after.or(before).map(|service| service.id);
        let Some(id) = id else { return };
        let indexes = &mut self.indexes.networks;
        for network in had.difference(&has) {
            indexes.services.remove(&(*network, id));
        }
        for network in has.difference(&had) {
            indexes.services.insert((*network, id));
        }
        match after.is_some_and(|service| publishes(&service.spec.ports)) {
            true => indexes.publishing.insert(id),
            false => indexes.publishing.remove(&id),
        };
        let vips =
            |service: Option<&Service>| service.map(|service| service.vips.clone()).unwrap_or_default();
        self.use_addresses(&vips(before), &vips(after));
        self.note_missing_vip(id, after);
    }

    /// Looks again at the services that the ingress network concerns.
    fn note_missing_vips(&mut self) {
        for id in self.publishing_services() {
            let service = self.services.get(&id).cloned();
            self.note_missing_vip(id, service.as_deref());
        }
    }

    fn note_missing_vip(&mut self, id: ServiceId, service: Option<&Service>) {
        let missing = service.is_some_and(|service| {
            let spec = &service.spec;
            let named = self.networks_used_by(&spec.template, &spec.ports);
            let has = |network: &NetworkId| service.vips.iter().any(|vip| vip.network == *network);
            spec.endpoint_mode == EndpointMode::Vip && !service.removing && !named.iter().all(has)
        });
        let without = &mut self.indexes.networks.without_vip;
        match missing {
            true => without.insert(id),
            false => without.remove(&id),
        };
    }

    pub(crate) fn index_task_networks(&mut self, before: Option<&Task>, after: Option<&Task>) {
        let Some(task) = after.or(before) else { return };
        let owner = EndpointOwner::Task(task.id);
        self.hold(owner, before.map_or(&[], held), after.map_or(&[], held));
        let (served, serves) = (
            before.map_or(&[][..], served_on),
            after.map_or(&[][..], served_on),
        );
        if served == serves {
            return;
        }
        let key = |place: &NetworkAddresses| (place.network, task.service, task.id);
        let serving = &mut self.indexes.networks.serving;
        for place in served {
            serving.remove(&key(place));
        }
        for place in serves {
            serving.insert(key(place));
        }
    }

    /// Notes the addresses that were given out last, so that the search goes on behind them.
    pub(crate) fn note_given(&mut self, places: &[NetworkAddresses]) {
        for place in places {
            let Some(network) = self.networks.get(&place.network) else {
                continue;
            };
            for subnet in &network.subnets {
                let in_subnet = |address: &&IpAddr| subnet.subnet.contains(*address);
                if let Some(address) = place.addresses.iter().find(in_subnet) {
                    let key = (place.network, number(subnet.subnet.network()));
                    self.last_given.insert(key, number(*address));
                }
            }
        }
    }
}

impl NetworkIndexes {
    /// The name, and the part in publishing ports, may be another network's from now on.
    fn forget_name(&mut self, network: &ClusterNetwork) {
        if self.by_name.get(&network.spec.name) == Some(&network.id) {
            self.by_name.remove(&network.spec.name);
        }
        if self.ingress == Some(network.id) {
            self.ingress = None;
        }
    }
}

/// Networks of the cluster that a template names: by id, since names are resolved when the spec is taken.
pub fn named_networks(template: &TaskTemplate) -> impl Iterator<Item = NetworkId> + '_ {
    template
        .networks
        .iter()
        .filter_map(|attachment| attachment.target.parse().ok())
}

/// Whether any of the ports answers on every node.
pub fn publishes(ports: &[PublishedPort]) -> bool {
    ports.iter().any(|port| port.mode == PublishMode::Ingress)
}

/// The places that a task holds: until it is seen to stop.
pub(crate) fn held(task: &Task) -> &[NetworkAddresses] {
    match task.is_terminal() {
        true => &[],
        false => &task.addresses,
    }
}

/// The places in which a task takes connections.
pub(crate) fn served_on(task: &Task) -> &[NetworkAddresses] {
    match task.status.state == TaskState::Running && task.wants_to_run() {
        true => &task.addresses,
        false => &[],
    }
}
