//! What a new network of the cluster gets, and who gets which place in it, where no service is concerned.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use muster_state::{Change, Changeset, ClusterState, Exhausted};
use muster_types::network::{AddressRange, NetworkSpec};
use muster_types::overlay::{
    Attachment, INGRESS_NETWORK, INGRESS_VNI, NetworkAddresses, OVERLAY_DRIVER, OverlaySubnet, VNI_MAX,
};
use muster_types::policy::NetworkPolicy;
use muster_types::{
    AttachmentId, ClusterId, ClusterNetwork, ClusterSpec, ContainerId, Meta, NetworkId, NodeId, Reason,
    validate,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Prefix length of IPv6 subnets, which is what hosts expect of a link.
const SUBNET_PREFIX_V6: u8 = 64;
/// Subnets looked at in one pool before it counts as full: all of a /8 in /24s.
const CANDIDATES_MAX: u32 = 65_536;
/// The smallest IPv4 subnet: a gateway and one container.
const PREFIX_V4_MAX: u8 = 30;
/// The smallest IPv6 subnet.
const PREFIX_V6_MAX: u8 = 126;
/// Most subnets of one network: bounds what a request costs every node.
const SUBNETS_MAX: usize = 32;

/// Why a network cannot be made, or a container not be attached. The text is Docker's where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkProblem {
    /// The request is wrong.
    Invalid(String),
    /// It is not allowed.
    Forbidden(String),
    /// Something else has the name or the addresses.
    Conflict(String),
    /// There is no such network.
    NotFound(String),
}

impl std::fmt::Display for NetworkProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(text) | Self::Forbidden(text) | Self::Conflict(text) | Self::NotFound(text) => {
                f.write_str(text)
            }
        }
    }
}

/// What a new network must keep clear of, and where its subnets come from.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// The networks that there are.
    pub state: &'a ClusterState,
    /// The cluster's settings.
    pub settings: &'a ClusterSpec,
    /// The cluster, which has IPv6 subnets of its own.
    pub cluster: ClusterId,
    /// Subnets that hosts have routes to.
    pub routes: Vec<IpNet>,
}

impl<'a> Surroundings<'a> {
    /// Those of a cluster as it is; `None` before it was made.
    pub fn of(state: &'a ClusterState) -> Option<Self> {
        let cluster = state.cluster()?;
        let routes = state
            .nodes()
            .flat_map(|node| node.description.routes.iter().copied());
        Some(Self {
            state,
            settings: &cluster.spec,
            cluster: cluster.id,
            routes: routes.collect(),
        })
    }

    /// A new network with its tunnel identifier and subnets.
    pub fn plan(&self, id: NetworkId, spec: &NetworkSpec) -> Result<ClusterNetwork, NetworkProblem> {
        check(self.state, spec)?;
        let policy = NetworkPolicy::of_labels(spec)
            .map_err(|problems| NetworkProblem::Invalid(problems.join("; ")))?;
        let policy = policy.filter(|policy| !policy.is_empty());
        if policy.is_some() && spec.ingress {
            return Err(NetworkProblem::Invalid(
                "the ingress network carries published ports and has no policy".to_owned(),
            ));
        }
        let mut subnets: Vec<OverlaySubnet> = Vec::new();
        for range in spec.ranges.iter().filter(|range| !range.subnet.is_empty()) {
            let subnet = wanted_subnet(range)?;
            let own = subnets.iter().any(|other| overlap(other.subnet, subnet.subnet));
            if own || self.state.overlapping(subnet.subnet).is_some() {
                return Err(NetworkProblem::Forbidden(
                    "Pool overlaps with other one on this address space".to_owned(),
                ));
            }
            subnets.push(subnet);
        }
        for (wanted, ipv4) in [(spec.ipv4, true), (spec.ipv6, false)] {
            if wanted
                && !subnets
                    .iter()
                    .any(|subnet| subnet.subnet.addr().is_ipv4() == ipv4)
            {
                subnets.push(self.free_subnet(ipv4)?);
            }
        }
        if subnets.is_empty() {
            return Err(NetworkProblem::Invalid(
                "IPv4 or IPv6 must be enabled: the network would have no addresses".to_owned(),
            ));
        }
        Ok(ClusterNetwork {
            id,
            meta: Meta::default(),
            spec: Arc::new(spec.clone()),
            vni: self.free_identifier(spec.ingress)?,
            subnets,
            removing: false,
            policy: policy.map(Arc::new),
        })
    }

    /// One above the highest in use, so that one which was given back comes late again; else the lowest that is free.
    fn free_identifier(&self, ingress: bool) -> Result<u32, NetworkProblem> {
        let is_free = |vni: &u32| self.state.network_with_vni(*vni).is_none();
        if ingress && is_free(&INGRESS_VNI) {
            return Ok(INGRESS_VNI);
        }
        let highest = self.state.networks().map(|network| network.vni).max();
        let next = highest.unwrap_or(INGRESS_VNI).max(INGRESS_VNI) + 1;
        let mut candidates = (next..=VNI_MAX).chain(INGRESS_VNI + 1..=VNI_MAX);
        candidates
            .find(is_free)
            .ok_or_else(|| NetworkProblem::Conflict("the cluster has no tunnel identifier left".to_owned()))
    }

    fn free_subnet(&self, ipv4: bool) -> Result<OverlaySubnet, NetworkProblem> {
        let pools = self.pools(ipv4);
        let free = pools.iter().find_map(|(pool, prefix)| {
            pieces(*pool, *prefix).find(|piece| {
                self.state.overlapping(*piece).is_none()
                    && !self.routes.iter().any(|route| overlap(*route, *piece))
            })
        });
        let subnet = free.ok_or_else(|| {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            NetworkProblem::Conflict(format!(
                "could not find an available, non-overlapping {family} address pool among the defaults to assign to \
                 the network: every subnet is used by a network of the cluster or has a route on a node; give one \
                 with --subnet"
            ))
        })?;
        let gateway = first_address(subnet, &[]);
        Ok(OverlaySubnet {
            subnet,
            gateway: gateway
                .ok_or_else(|| NetworkProblem::Invalid(format!("subnet {subnet} is too small")))?,
            range: None,
            reserved: Vec::new(),
        })
    }

    /// The cluster's pools. Where the user left them open, private networks beside 10.0.0.0/8 serve hosts that are
    /// themselves in it.
    fn pools(&self, ipv4: bool) -> Vec<(IpNet, u8)> {
        let prefix = if ipv4 {
            self.settings.subnet_prefix_len
        } else {
            SUBNET_PREFIX_V6
        };
        let pools = self.settings.address_pools.iter().copied();
        let mut found: Vec<IpNet> = pools.filter(|pool| pool.addr().is_ipv4() == ipv4).collect();
        if ipv4 && self.settings.address_pools == ClusterSpec::default().address_pools {
            found.push(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12).into());
            found.push(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16).into());
        }
        if !ipv4 {
            let mut own = self.cluster.as_u128().to_be_bytes();
            own[0] = 0xfd;
            found.push(Ipv6Net::new_assert(Ipv6Addr::from(own), 48).trunc().into());
        }
        found.into_iter().map(|pool| (pool, prefix)).collect()
    }
}

/// The network that carries connections to published ports, as a new cluster has it.
pub fn ingress_spec() -> NetworkSpec {
    NetworkSpec {
        name: INGRESS_NETWORK.to_owned(),
        driver: OVERLAY_DRIVER.to_owned(),
        ingress: true,
        ..NetworkSpec::default()
    }
}

/// The place of a container in a network, at these addresses or at free ones.
pub fn plan_attachment(
    state: &ClusterState,
    id: AttachmentId,
    (node, container): (NodeId, &ContainerId),
    network: NetworkId,
    names: &[String],
    wanted: &[IpAddr],
) -> Result<Attachment, NetworkProblem> {
    let row = state.network(network).filter(|row| !row.removing);
    let row = row.ok_or_else(|| NetworkProblem::NotFound(format!("network {network} not found")))?;
    if !row.spec.attachable {
        return Err(NetworkProblem::Forbidden(format!(
            "Could not attach to network {}: rpc error: code = PermissionDenied desc = network {} not manually \
             attachable",
            row.spec.name, row.spec.name
        )));
    }
    let mut pool = state
        .address_pool(network)
        .ok_or_else(|| NetworkProblem::NotFound(format!("network {network} not found")))?;
    let mut addresses = Vec::new();
    for address in wanted {
        if !pool.take_this(*address) {
            return Err(NetworkProblem::Forbidden(format!(
                "Address already in use or not of network {}: {address}",
                row.spec.name
            )));
        }
        addresses.push(*address);
    }
    let both_families = || {
        let has = |ipv4: bool| {
            row.subnets
                .iter()
                .any(|subnet| subnet.subnet.addr().is_ipv4() == ipv4)
        };
        [true, false].into_iter().filter(|ipv4| has(*ipv4)).count()
    };
    if addresses.len() < both_families() {
        let taken = pool.take();
        let taken = taken.map_err(|exhausted| NetworkProblem::Conflict(no_address(state, exhausted)))?;
        let missing = |address: &IpAddr| wanted.iter().all(|own| own.is_ipv4() != address.is_ipv4());
        addresses.extend(taken.into_iter().filter(missing));
        addresses.sort();
    }
    Ok(Attachment {
        id,
        meta: Meta::default(),
        node,
        container: container.clone(),
        names: names.to_vec(),
        place: NetworkAddresses { network, addresses },
    })
}

/// Gives every node a place of its own in the ingress network; nothing while all have one, or none is free.
pub fn address_nodes(state: &ClusterState) -> Option<Changeset> {
    let ingress = state.ingress_network()?.id;
    let there = |places: &[NetworkAddresses]| places.iter().any(|place| place.network == ingress);
    let mut without = state.nodes().filter(|node| !there(&node.addresses)).peekable();
    without.peek()?;
    let mut pool = state.address_pool(ingress)?;
    let changes: Vec<Change> = without
        .map_while(|node| {
            let addresses = pool.take().ok()?;
            let place = NetworkAddresses {
                network: ingress,
                addresses,
            };
            let mut places = node.addresses.clone();
            places.push(place);
            Some(Change::NodeAddresses {
                node: node.id,
                addresses: places,
            })
        })
        .collect();
    (!changes.is_empty()).then(|| Changeset::new(Reason::NodeJoined, changes))
}

/// Why there is no address, for the user.
pub fn no_address(state: &ClusterState, exhausted: Exhausted) -> String {
    let network = exhausted.network;
    let Some(row) = state.network(network) else {
        return format!("network {network} not found: it was removed; update the service to leave it out");
    };
    let subnets: Vec<String> = row
        .subnets
        .iter()
        .map(|subnet| subnet.subnet.to_string())
        .collect();
    format!(
        "no address is free on network {} ({}): remove tasks or containers from it, or make a network with a larger \
         subnet",
        row.spec.name,
        subnets.join(", ")
    )
}

fn check(state: &ClusterState, spec: &NetworkSpec) -> Result<(), NetworkProblem> {
    let invalid = |text: &str| Err(NetworkProblem::Invalid(text.to_owned()));
    if spec.driver != OVERLAY_DRIVER {
        return invalid("only networks of the driver \"overlay\" belong to the cluster");
    }
    if ["bridge", "host", "none", "docker_gwbridge"].contains(&spec.name.as_str()) {
        return Err(NetworkProblem::Forbidden(format!(
            "operation is not permitted on predefined {} network",
            spec.name
        )));
    }
    if let Err(problem) = validate::object_name(&spec.name) {
        return Err(NetworkProblem::Invalid(problem));
    }
    if spec.ingress && spec.attachable {
        return invalid("ingress network cannot be attachable");
    }
    if spec.ingress && spec.internal {
        return invalid("ingress network cannot be internal");
    }
    if spec.ranges.len() > SUBNETS_MAX {
        return Err(NetworkProblem::Invalid(format!(
            "a network has at most {SUBNETS_MAX} subnets"
        )));
    }
    if state.network_by_name(&spec.name).is_some() {
        return Err(NetworkProblem::Conflict(format!(
            "network with name {} already exists",
            spec.name
        )));
    }
    if let Some(ingress) = state.ingress_network().filter(|_| spec.ingress) {
        return Err(NetworkProblem::Conflict(format!(
            "ingress network (id:{}) is already present",
            ingress.id
        )));
    }
    Ok(())
}

fn wanted_subnet(range: &AddressRange) -> Result<OverlaySubnet, NetworkProblem> {
    let invalid = |text: String| NetworkProblem::Invalid(text);
    let read = |what: &str, text: &str| {
        let net: Result<IpNet, _> = text.parse();
        net.map_err(|_| {
            invalid(format!(
                "invalid {what} {text}: it is not an address with a prefix length"
            ))
        })
    };
    let given = read("subnet", &range.subnet)?;
    let subnet = given.trunc();
    if given != subnet {
        return Err(invalid(format!("invalid subnet {given}: it should be {subnet}")));
    }
    let most = if subnet.addr().is_ipv4() {
        PREFIX_V4_MAX
    } else {
        PREFIX_V6_MAX
    };
    if subnet.prefix_len() > most || subnet.prefix_len() < 8 {
        return Err(invalid(format!(
            "invalid subnet {subnet}: its prefix length must be between 8 and {most}"
        )));
    }
    if !is_for_hosts(subnet) {
        return Err(invalid(format!(
            "invalid subnet {subnet}: hosts cannot have its addresses"
        )));
    }
    let inside = |what: &str, address: IpAddr| match subnet.contains(&address) {
        true => Ok(address),
        false => Err(invalid(format!(
            "invalid {what} {address}: it is not in subnet {subnet}"
        ))),
    };
    let part = match range.ip_range.as_str() {
        "" => None,
        text => {
            let part = read("ip-range", text)?.trunc();
            if !subnet.contains(&part) {
                return Err(invalid(format!(
                    "invalid ip-range {part}: it is not in subnet {subnet}"
                )));
            }
            Some(part)
        }
    };
    let reserved: Vec<IpAddr> = range
        .auxiliary
        .values()
        .map(|address| inside("auxiliary address", *address))
        .collect::<Result<_, _>>()?;
    let gateway = match range.gateway {
        Some(gateway) => inside("gateway", gateway)?,
        None => first_address(subnet, &reserved)
            .ok_or_else(|| invalid(format!("subnet {subnet} has no address left for a gateway")))?,
    };
    Ok(OverlaySubnet {
        subnet,
        gateway,
        range: part,
        reserved,
    })
}

fn is_for_hosts(subnet: IpNet) -> bool {
    let address = subnet.network();
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_multicast() || address.is_loopback() || address.is_unspecified() || mapped)
}

/// The first address that a host may have and that is nobody's.
fn first_address(subnet: IpNet, taken: &[IpAddr]) -> Option<IpAddr> {
    subnet
        .hosts()
        .filter(|address| *address != subnet.network())
        .take(taken.len() + 1)
        .find(|address| !taken.contains(address))
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Subnets of a pool, in order.
fn pieces(pool: IpNet, prefix: u8) -> impl Iterator<Item = IpNet> {
    let pieces = pool.subnets(prefix.max(pool.prefix_len())).ok();
    pieces.into_iter().flatten().take(CANDIDATES_MAX as usize)
}

#[cfg(test)]
mod tests;
