//! Changes of networks, and of the places that services, tasks, nodes and standalone containers have in them.

use crate::networks::{held, named_networks, served_on};
use crate::{Change, ClusterState, ObjectKey, Rejection, Touched};
use muster_types::leading::Leading;
use muster_types::overlay::{Attachment, EndpointOwner, NetworkAddresses};
use muster_types::policy::NetworkPolicy;
use muster_types::{ClusterNetwork, NetworkId, Node, NodeId, NodeState, Service, ServiceSpec, Task, TaskId};
use std::collections::BTreeSet;
use std::sync::Arc;

impl ClusterState {
    pub(super) fn apply_network(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        match change {
            Change::NetworkCreate(network) => self.create_network(network, touched),
            Change::NetworkRemove { network } => self.remove_network(*network, touched),
            Change::NetworkPolicy { network, policy } => self.set_policy(*network, policy.as_ref(), touched),
            Change::AttachmentCreate(attachment) => self.create_attachment(attachment, touched),
            Change::AttachmentRemove { attachment } => {
                let object = ObjectKey::Attachment(*attachment);
                let row = self.attachments.get(attachment).cloned();
                let row = row.ok_or(Rejection::NotFound { object })?;
                touch_places(
                    EndpointOwner::Attachment(row.id),
                    std::slice::from_ref(&row.place),
                    touched,
                );
                touched.loads = true;
                self.take_attachment(*attachment);
                Ok(())
            }
            other => unreachable!("apply_change sends only changes of networks here, not {other:?}"),
        }
    }

    fn create_network(&mut self, network: &ClusterNetwork, touched: &mut Touched) -> Result<(), Rejection> {
        let object = ObjectKey::Network(network.id);
        if self.networks.contains_key(&network.id) {
            return Err(Rejection::AlreadyExists { object });
        }
        if self.network_by_name(&network.spec.name).is_some() {
            return Err(Rejection::NetworkNameConflict {
                name: network.spec.name.clone(),
            });
        }
        if let Some(ingress) = self.ingress_network().filter(|_| network.spec.ingress) {
            return Err(Rejection::SecondIngress { network: ingress.id });
        }
        if let Some(other) = self.network_with_vni(network.vni) {
            return Err(Rejection::NetworkOverlap { network: other });
        }
        for (place, subnet) in network.subnets.iter().enumerate() {
            let own = network.subnets[..place]
                .iter()
                .any(|other| other.subnet.contains(&subnet.subnet) || subnet.subnet.contains(&other.subnet));
            let taken = self.overlapping(subnet.subnet).or(own.then_some(network.id));
            if let Some(other) = taken {
                return Err(Rejection::NetworkOverlap { network: other });
            }
        }
        touched.networks.insert(network.id);
        touched.loads = true;
        if network.spec.ingress {
            touched.services.extend(self.publishing_services());
        }
        self.put_network(ClusterNetwork {
            meta: self.new_meta(),
            removing: false,
            ..network.clone()
        });
        Ok(())
    }

    /// The row goes at once when nothing has a place in the network any more; else with the last one that has.
    fn remove_network(&mut self, id: NetworkId, touched: &mut Touched) -> Result<(), Rejection> {
        self.check_network(id)?;
        if let Some(user) = self.user_of(id) {
            return Err(Rejection::NetworkInUse { network: id, user });
        }
        let nodes: Vec<NodeId> = self
            .endpoints_of(id)
            .filter_map(|owner| match owner {
                EndpointOwner::Node(node) => Some(node),
                EndpointOwner::Task(_) | EndpointOwner::Attachment(_) => None,
            })
            .collect();
        for node in nodes {
            if let Some(row) = self.nodes.get(&node) {
                let mut row = Node::clone(row);
                row.addresses.retain(|place| place.network != id);
                self.put_node(row);
                touched.nodes.insert(node);
            }
        }
        touched.networks.insert(id);
        if let Some(row) = self.networks.get(&id) {
            let mut row = ClusterNetwork::clone(row);
            row.removing = true;
            row.meta.spec_version = self.index;
            row.meta.updated_at = self.time;
            self.put_network(row);
        }
        Ok(())
    }

    fn set_policy(
        &mut self,
        id: NetworkId,
        policy: Option<&Arc<NetworkPolicy>>,
        touched: &mut Touched,
    ) -> Result<(), Rejection> {
        self.check_network(id)?;
        if let Some(row) = self.networks.get(&id) {
            let mut row = ClusterNetwork::clone(row);
            row.policy = policy.cloned();
            row.meta.spec_version = self.index;
            row.meta.updated_at = self.time;
            self.put_network(row);
            touched.networks.insert(id);
            touched.loads = true;
        }
        Ok(())
    }

    /// What keeps a network from being removed: what is being removed itself does not.
    fn user_of(&self, id: NetworkId) -> Option<String> {
        let live = |service: &Service| !service.removing;
        let services = self.services_on(id).into_iter();
        let mut services = services.filter_map(|service| self.services.get(&service));
        if let Some(service) = services.find(|service| live(service) && self.names(service, id)) {
            return Some(format!("service {}", service.id));
        }
        self.endpoints_of(id).find_map(|owner| match owner {
            EndpointOwner::Node(_) => None,
            EndpointOwner::Attachment(attachment) => {
                let row = self.attachments.get(&attachment)?;
                Some(format!("container {} on node {}", row.container, row.node))
            }
            EndpointOwner::Task(task) => {
                let row = self.tasks.get(&task)?;
                let service = self.services.get(&row.service);
                let wanted = row.wants_to_run() && service.is_some_and(|service| live(service));
                wanted.then(|| format!("task {task}"))
            }
        })
    }

    fn names(&self, service: &Service, network: NetworkId) -> bool {
        let spec = &service.spec;
        self.networks_used_by(&spec.template, &spec.ports)
            .contains(&network)
    }

    /// Lets go of networks that are being removed and that nothing has a place in any more.
    pub(super) fn drop_removed_networks(&mut self, touched: &mut Touched) {
        for id in self.removing_networks() {
            if self.endpoints_of(id).next().is_none() && self.services_on(id).is_empty() {
                touched.networks.insert(id);
                self.take_network(id);
            }
        }
    }

    fn create_attachment(&mut self, row: &Attachment, touched: &mut Touched) -> Result<(), Rejection> {
        let object = ObjectKey::Attachment(row.id);
        let twice = self.attachment_of(row.node, &row.container, row.place.network);
        if self.attachments.contains_key(&row.id) || twice.is_some() {
            return Err(Rejection::AlreadyExists { object });
        }
        let node = ObjectKey::Node(row.node);
        if !self.exists(node) {
            return Err(Rejection::NotFound { object: node });
        }
        self.check_network(row.place.network)?;
        let places = std::slice::from_ref(&row.place);
        self.check_free(places)?;
        touch_places(EndpointOwner::Attachment(row.id), places, touched);
        self.put_attachment(Attachment {
            meta: self.new_meta(),
            ..row.clone()
        });
        self.note_given(places);
        Ok(())
    }

    /// The named invariant that no address is given out twice: whether these may be.
    pub(super) fn check_free(&self, places: &[NetworkAddresses]) -> Result<(), Rejection> {
        let mut networks = BTreeSet::new();
        for place in places {
            let network = place.network;
            let object = ObjectKey::Network(network);
            let row = self
                .networks
                .get(&network)
                .ok_or(Rejection::NotFound { object })?;
            if !networks.insert(network) {
                return Err(Rejection::AlreadyExists { object });
            }
            let used = self.used_addresses(network);
            let mut own = BTreeSet::new();
            for address in &place.addresses {
                let known = row.subnets.iter().any(|subnet| subnet.subnet.contains(address));
                if !known || used.contains(*address) || !own.insert(*address) {
                    return Err(Rejection::AddressNotFree {
                        network,
                        address: *address,
                    });
                }
            }
        }
        Ok(())
    }

    /// The same for places of which the owner has some already.
    pub(super) fn check_new_places(
        &self,
        before: &[NetworkAddresses],
        after: &[NetworkAddresses],
    ) -> Result<(), Rejection> {
        let new = after.iter().filter(|place| !before.contains(place));
        let replaced = before.iter().any(|old| {
            let same = |place: &&NetworkAddresses| place.network == old.network;
            after.iter().find(same).is_some_and(|place| place != old)
        });
        match replaced {
            // An owner gives an address up before it gets another one on the same network.
            true => Err(Rejection::AddressNotFree {
                network: after[0].network,
                address: after[0].addresses.first().copied().unwrap_or([0, 0, 0, 0].into()),
            }),
            false => self.check_free(&new.cloned().collect::<Vec<_>>()),
        }
    }

    /// Every network that a spec names exists.
    pub fn check_networks(&self, spec: &ServiceSpec) -> Result<(), Rejection> {
        named_networks(&spec.template).try_for_each(|network| self.check_network(network))
    }

    fn check_network(&self, id: NetworkId) -> Result<(), Rejection> {
        let object = ObjectKey::Network(id);
        match self.networks.get(&id) {
            None => Err(Rejection::NotFound { object }),
            Some(row) if row.removing => Err(Rejection::Removing { object }),
            Some(_) => Ok(()),
        }
    }

    /// Takes from a task that came back to life what was given to others while it counted as stopped.
    pub(super) fn drop_lost_addresses(&self, row: &mut Task) {
        row.addresses
            .retain(|place| self.check_free(std::slice::from_ref(place)).is_ok());
    }

    /// Notes what a change of a task changes for others on its networks.
    pub(super) fn touch_task(&self, id: TaskId, after: Option<&Task>, touched: &mut Touched) {
        let before = self.tasks.get(&id).map(|task| task.as_ref());
        let (had, has) = (before.map_or(&[][..], held), after.map_or(&[][..], held));
        if had != has {
            let owner = EndpointOwner::Task(id);
            touch_places(owner, had, touched);
            touch_places(owner, has, touched);
            touched.loads |= comes_free(had, has);
        }
        let (served, serves) = (
            before.map_or(&[][..], served_on),
            after.map_or(&[][..], served_on),
        );
        if let Some(task) = after.or(before)
            && served != serves
        {
            let networks = served.iter().chain(serves).map(|place| place.network);
            let services = networks.map(|network| (network, task.service));
            touched.network_services.extend(services);
        }
    }

    /// Notes what a change of a service changes for others on its networks.
    pub(super) fn touch_service(
        &self,
        before: Option<&Service>,
        after: Option<&Service>,
        touched: &mut Touched,
    ) {
        let seen = |service: Option<&Service>| {
            service.map(|service| {
                (
                    service.vips.clone(),
                    service.allocated_ports.clone(),
                    service.spec.template.networks.clone(),
                    service.spec.ports.clone(),
                    Leading::read(&service.spec.labels).ok(),
                    service.removing,
                )
            })
        };
        if seen(before) == seen(after) {
            return;
        }
        for service in before.into_iter().chain(after) {
            let networks = self.networks_of_service(service).into_iter();
            let pairs = networks.map(|network| (network, service.id));
            touched.network_services.extend(pairs);
        }
        let vips =
            |service: Option<&Service>| service.map(|service| service.vips.clone()).unwrap_or_default();
        touched.loads |= comes_free(&vips(before), &vips(after));
    }

    /// Notes what a change of a node changes for others on its networks.
    pub(super) fn touch_node(&self, before: Option<&Node>, after: Option<&Node>, touched: &mut Touched) {
        let Some(id) = after.or(before).map(|node| node.id) else {
            return;
        };
        for node in before.into_iter().chain(after) {
            if before.map(|node| &node.addresses) != after.map(|node| &node.addresses) {
                touch_places(EndpointOwner::Node(id), &node.addresses, touched);
            }
        }
        let path = |node: Option<&Node>| {
            let down = |node: &Node| node.status.state == NodeState::Down;
            node.map(|node| (node.description.data_path(), down(node)))
        };
        if path(before) == path(after) {
            return;
        }
        touch_places(
            EndpointOwner::Node(id),
            after.map_or(&[], |node| &node.addresses),
            touched,
        );
        for task in self.tasks_of_node(id) {
            touch_places(EndpointOwner::Task(task.id), held(task), touched);
        }
        for attachment in self.attachments_of_node(id) {
            let place = std::slice::from_ref(&attachment.place);
            touch_places(EndpointOwner::Attachment(attachment.id), place, touched);
        }
    }
}

/// Whether some address is given up, which a task that waits may have.
fn comes_free(before: &[NetworkAddresses], after: &[NetworkAddresses]) -> bool {
    before.iter().any(|place| !after.contains(place))
}

fn touch_places(owner: EndpointOwner, places: &[NetworkAddresses], touched: &mut Touched) {
    let keys = places.iter().map(|place| (place.network, owner));
    touched.endpoints.extend(keys);
}
