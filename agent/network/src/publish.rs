//! Published ports: reserved first, then redirected by the packet filter, where it can.

use crate::conntrack;
use crate::error::NetworkError;
use crate::firewall::{PortKey, Target, Way};
use crate::ip_net::IpNet;
use crate::network::{Inner, lock};
use crate::port_mapping::{Entry, PortMapping};
use crate::ports::Reservations;
use crate::relay::Clients;
use crate::spec::{Protocol, check_container_id};

type Port = (PortKey, Target);

impl Inner {
    pub(crate) fn publish(
        &self,
        container_id: &str,
        mappings: &[PortMapping],
    ) -> Result<Vec<PortMapping>, NetworkError> {
        check_container_id(container_id)?;
        mappings.iter().try_for_each(PortMapping::check)?;
        let mut reservations = lock(&self.reservations);
        let mut previous = self.ports_of(&reservations, container_id);
        let mut ports = Vec::with_capacity(mappings.len());
        let mut reserved = Vec::new();
        for mapping in mappings {
            let (key, target) = port_of(container_id, mapping);
            if target.way == Way::Opened {
                previous.retain(|(had, _)| *had != key);
                ports.push((key, target));
                continue;
            }
            if let Some(kept) = take_matching(&mut previous, key, &target) {
                ports.push(kept);
                continue;
            }
            match reserve(&mut reservations, key, &target, &ports) {
                Ok(key) => {
                    reserved.push((key, target.clone()));
                    ports.push((key, target));
                }
                Err(error) => {
                    reservations.release(&keys(&reserved));
                    return Err(error);
                }
            }
        }
        let redirected: Vec<_> = ports.iter().filter(|port| is_redirected(port)).cloned().collect();
        if let Err(error) = lock(&self.firewall).publish(&redirected) {
            reservations.release(&keys(&reserved));
            return Err(error);
        }
        self.close(&mut reservations, &previous)?;
        self.forget_flows(&reserved);
        Ok(ports.iter().map(mapping_of).collect())
    }

    pub(crate) fn unpublish(&self, container_id: &str) -> Result<(), NetworkError> {
        check_container_id(container_id)?;
        let mut reservations = lock(&self.reservations);
        let ports = self.ports_of(&reservations, container_id);
        self.close(&mut reservations, &ports)
    }

    pub(crate) fn published(&self) -> Vec<(String, PortMapping)> {
        let ports = self.ports(&lock(&self.reservations));
        ports
            .iter()
            .map(|port| (port.1.container_id.clone(), mapping_of(port)))
            .collect()
    }

    /// The redirection goes first: a port that is free to others must not lead into a container.
    fn close(&self, reservations: &mut Reservations, ports: &[Port]) -> Result<(), NetworkError> {
        let keys = keys(ports);
        lock(&self.firewall)
            .unpublish(&keys)
            .map_err(NetworkError::firewall("unpublish ports"))?;
        self.forget_flows(ports);
        reservations.release(&keys);
        Ok(())
    }

    /// The ports are open or closed already; all that is lost without this is time until old flows run out.
    fn forget_flows(&self, ports: &[Port]) {
        if !ports.iter().any(|(key, _)| key.protocol == Protocol::Udp) {
            return;
        }
        let own = lock(&self.links).addresses(None);
        let forgotten = own.and_then(|own| {
            let own: Vec<_> = own.iter().map(IpNet::address).collect();
            conntrack::forget_flows(ports, &own)
        });
        if let Err(error) = forgotten {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old UDP flows may keep their former direction"
            );
        }
    }

    fn ports_of(&self, reservations: &Reservations, container_id: &str) -> Vec<Port> {
        let mut ports = self.ports(reservations);
        ports.retain(|(_, target)| target.container_id == container_id);
        ports
    }

    fn ports(&self, reservations: &Reservations) -> Vec<Port> {
        let firewall = lock(&self.firewall);
        firewall
            .published()
            .chain(reservations.relayed())
            .map(|(key, target)| (*key, target.clone()))
            .collect()
    }
}

/// Reserves a port. Where any will do, the one that was just chosen for the same port of the container in the other
/// family comes first, so that clients need not know two.
fn reserve(
    reservations: &mut Reservations,
    key: PortKey,
    target: &Target,
    chosen: &[Port],
) -> Result<PortKey, NetworkError> {
    let twin = chosen.iter().rev().find(|(other, leads_to)| {
        leads_to.is_to_same_port(target)
            && other.protocol == key.protocol
            && other.address.is_ipv4() != key.address.is_ipv4()
    });
    match twin {
        Some((twin, _)) if key.port == 0 => {
            let same = PortKey {
                port: twin.port,
                ..key
            };
            reservations
                .reserve(same, Some(target))
                .or_else(|_| reservations.reserve(key, Some(target)))
        }
        _ => reservations.reserve(key, Some(target)),
    }
}

/// Takes the port that the container has already for the same purpose.
fn take_matching(previous: &mut Vec<Port>, wanted: PortKey, target: &Target) -> Option<Port> {
    let position = previous.iter().position(|(key, had)| {
        let same_port = wanted.port == 0 || wanted.port == key.port;
        had == target && same_port && wanted.address == key.address && wanted.protocol == key.protocol
    })?;
    Some(previous.swap_remove(position))
}

fn is_redirected((key, target): &Port) -> bool {
    Clients::of(key, target) != Clients::Everybody
}

fn keys(ports: &[Port]) -> Vec<PortKey> {
    ports.iter().map(|(key, _)| *key).collect()
}

fn port_of(container_id: &str, mapping: &PortMapping) -> Port {
    let (ip, port) = (mapping.container_ip, mapping.container_port);
    let (address, port, way) = match mapping.entry {
        Entry::Host { ip: host, port: own } => (host, own, Way::Led((ip, port).into())),
        Entry::Container => (ip, port, Way::Opened),
    };
    let key = PortKey {
        address,
        protocol: mapping.protocol,
        port,
    };
    let container_id = container_id.to_owned();
    (key, Target { container_id, way })
}

fn mapping_of((key, target): &Port) -> PortMapping {
    let (ip, port) = (key.address, key.port);
    let (entry, to) = match target.way {
        Way::Led(to) => (Entry::Host { ip, port }, to),
        Way::Opened => (Entry::Container, (ip, port).into()),
    };
    PortMapping {
        entry,
        protocol: key.protocol,
        container_ip: to.ip(),
        container_port: to.port(),
    }
}
