//! Networks: those of this node, and on controllers those of the cluster, in one space of names and ids.

use crate::backend::{BackendError, Candidate, ContainerFilterHint, ErrorKind, resolve};
use crate::convert;
use crate::convert::network::{is_on, scope};
use crate::http::{Call, Failure, Filters, Object, Reply, json_created, json_gated, status_only};
use crate::wire::network::{ConnectBody, CreateBody, Created, DisconnectBody};
use hyper::StatusCode;
use muster_types::NetworkId;
use muster_types::network::NetworkInfo;
use muster_types::overlay::{GATEWAY_BRIDGE, OVERLAY_DRIVER};
use std::collections::BTreeSet;

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// First version whose daemon refuses a subnet in which bits beyond the prefix are set.
const REFUSES_HOST_BITS: u32 = 44;
const BUILT_IN: &[&str] = &["bridge", "host", "none"];

/// Whether it exists by itself.
fn is_built_in(network: &NetworkInfo) -> bool {
    BUILT_IN.contains(&network.spec.name.as_str())
}

/// Whether the node itself uses it, so that it is never without a use: as in Docker, also the one that carries published
/// ports, and the bridge by which containers on networks of the cluster reach the outside.
pub(super) fn is_of_node(network: &NetworkInfo) -> bool {
    is_built_in(network) || network.spec.ingress || network.spec.name == GATEWAY_BRIDGE
}

/// The networks of this node and those of the cluster. A worker knows only the ones that it has a part in, and so does
/// a controller while there is no leader.
async fn all(call: &Call) -> Result<Vec<NetworkInfo>, Failure> {
    let mut networks = of_cluster(call).await?;
    let known: BTreeSet<String> = networks.iter().map(|network| network.id.clone()).collect();
    let local = call.engine().network_list().await?;
    networks.extend(local.into_iter().filter(|network| !known.contains(&network.id)));
    Ok(networks)
}

/// The networks of the cluster, where this node can ask for them.
pub(super) async fn of_cluster(call: &Call) -> Result<Vec<NetworkInfo>, Failure> {
    if !call.cluster().local().controller {
        return Ok(Vec::new());
    }
    match call.cluster().network_list().await {
        Ok(networks) => Ok(networks
            .iter()
            .map(|network| convert::overlay::info(network))
            .collect()),
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn find(mut networks: Vec<NetworkInfo>, reference: &str) -> Result<NetworkInfo, Failure> {
    let candidates = networks.iter().map(|network| Candidate {
        id: &network.id,
        name: &network.spec.name,
    });
    let found = resolve("network", reference, candidates)?;
    Ok(networks.swap_remove(found))
}

/// The id of a network of the cluster.
pub(super) fn cluster_id(network: &NetworkInfo) -> Result<NetworkId, Failure> {
    let missing = || BackendError::not_found(format!("network {} not found", network.id));
    network.id.parse().map_err(|_| missing().into())
}

/// `GET /networks`.
pub(super) async fn list(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, FILTERS)?;
    if let Some(bad) = filters
        .values("type")
        .find(|kind| !matches!(*kind, "builtin" | "custom"))
    {
        return Err(Failure::invalid(format!("invalid filter: 'type'='{bad}'")));
    }
    let dangling = filters.truth("dangling")?;
    let containers = call
        .engine()
        .container_list(ContainerFilterHint::default())
        .await?;
    let networks = all(&call).await?;
    let networks: Vec<_> = networks
        .iter()
        .filter(|network| matches(network, &filters))
        .filter(|network| {
            let used = containers.iter().any(|container| is_on(container, network));
            dangling.is_none_or(|wanted| wanted == (!used && !is_of_node(network)))
        })
        // Lists name no containers, as in Docker.
        .map(|network| convert::network::network(network, &[]))
        .collect();
    json_gated(Object::Network, call.version, &networks)
}

fn matches(network: &NetworkInfo, filters: &Filters) -> bool {
    let kind = if is_built_in(network) { "builtin" } else { "custom" };
    filters.exact("driver", &network.spec.driver)
        && filters.part("id", &network.id)
        && filters.labels("label", &network.spec.labels)
        && filters.part("name", &network.spec.name)
        && filters.exact("scope", scope(network))
        && filters.exact("type", kind)
}

/// `GET /networks/{id}`.
pub(super) async fn inspect(call: Call) -> Reply {
    let mut networks = all(&call).await?;
    if let Some(wanted) = call.query.get("scope").filter(|wanted| !wanted.is_empty()) {
        networks.retain(|network| wanted == scope(network));
    }
    let network = find(networks, call.reference())?;
    let containers = call
        .engine()
        .container_list(ContainerFilterHint::default())
        .await?;
    json_gated(
        Object::Network,
        call.version,
        &convert::network::network(&network, &containers),
    )
}

/// `POST /networks/create`.
pub(super) async fn create(mut call: Call) -> Reply {
    let mut body: CreateBody = call.body_of(Object::NetworkCreate).await?;
    if call.version.minor < REFUSES_HOST_BITS {
        convert::network::cut_subnets(&mut body);
    }
    let spec = convert::network::read(body)?;
    // One name means one network, wherever it lies: else neither could be removed by its name.
    let same = |network: &NetworkInfo| network.spec.name == spec.name && !is_built_in(network);
    if all(&call).await?.iter().any(same) {
        let text = format!("network with name {} already exists", spec.name);
        return Err(BackendError::conflict(text).into());
    }
    let id = if spec.driver == OVERLAY_DRIVER {
        call.cluster().network_create(spec).await?.to_string()
    } else {
        call.engine().network_create(spec).await?
    };
    json_created(&Created {
        id,
        warning: String::new(),
    })
}

/// `DELETE /networks/{id}`.
pub(super) async fn remove(call: Call) -> Reply {
    let network = find(all(&call).await?, call.reference())?;
    if network.cluster_scope {
        call.cluster().network_remove(cluster_id(&network)?).await?;
    } else {
        call.engine().network_remove(&network.id).await?;
    }
    Ok(status_only(StatusCode::NO_CONTENT))
}

/// `POST /networks/{id}/connect`.
pub(super) async fn connect(mut call: Call) -> Reply {
    let body: ConnectBody = call.body_of(Object::NetworkConnect).await?;
    let spec = convert::network::read_endpoint(body.endpoint_config)?;
    let (network, container) = (call.reference(), body.container.as_str());
    call.engine().network_connect(network, container, spec).await?;
    Ok(status_only(StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`.
pub(super) async fn disconnect(mut call: Call) -> Reply {
    let body: DisconnectBody = call.body().await?;
    let network = call.reference();
    call.engine()
        .network_disconnect(network, &body.container, body.force)
        .await?;
    Ok(status_only(StatusCode::OK))
}
