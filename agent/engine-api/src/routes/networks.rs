//! Networks.

use crate::backend::{Candidate, ContainerFilterHint, resolve};
use crate::convert;
use crate::convert::network::{is_on, scope};
use crate::http::{Call, Failure, Filters, Object, Reply, json_created, json_gated, status_only};
use crate::wire::network::{ConnectBody, CreateBody, Created, DisconnectBody};
use hyper::StatusCode;
use muster_types::network::NetworkInfo;

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const BUILT_IN: &[&str] = &["bridge", "host", "none"];

/// Whether it exists by itself.
pub(super) fn is_built_in(network: &NetworkInfo) -> bool {
    BUILT_IN.contains(&network.spec.name.as_str())
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
    let networks = call.engine().network_list().await?;
    let networks: Vec<_> = networks
        .iter()
        .filter(|network| matches(network, &filters))
        .filter(|network| {
            let used = containers.iter().any(|container| is_on(container, network));
            dangling.is_none_or(|wanted| wanted == (!used && !is_built_in(network)))
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
    let networks = call.engine().network_list().await?;
    let wanted_scope = call.query.get("scope");
    let networks: Vec<&NetworkInfo> = networks
        .iter()
        .filter(|network| wanted_scope.is_none_or(|wanted| wanted == scope(network)))
        .collect();
    let candidates = networks.iter().map(|network| Candidate {
        id: &network.id,
        name: &network.spec.name,
    });
    let found = resolve("network", call.reference(), candidates)?;
    let network = networks.get(found).ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_FOUND,
            format!("network {} not found", call.reference()),
        )
    })?;
    let containers = call
        .engine()
        .container_list(ContainerFilterHint::default())
        .await?;
    json_gated(
        Object::Network,
        call.version,
        &convert::network::network(network, &containers),
    )
}

/// `POST /networks/create`.
pub(super) async fn create(mut call: Call) -> Reply {
    let body: CreateBody = call.body_of(Object::NetworkCreate).await?;
    let spec = convert::network::read(body)?;
    let id = call.engine().network_create(spec).await?;
    json_created(&Created {
        id,
        warning: String::new(),
    })
}

/// `DELETE /networks/{id}`.
pub(super) async fn remove(call: Call) -> Reply {
    call.engine().network_remove(call.reference()).await?;
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
