//! Networks: only those that exist by themselves so far.

use crate::backend::{Candidate, ContainerFilterHint, NetworkInfo, resolve};
use crate::convert;
use crate::http::{Call, Failure, Filters, Object, Reply, json_gated};
use hyper::StatusCode;

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const BUILT_IN: &[&str] = &["bridge", "host", "none"];

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
            let used = containers
                .iter()
                .any(|container| container.networks.contains_key(&network.name));
            let built_in = BUILT_IN.contains(&network.name.as_str());
            dangling.is_none_or(|wanted| wanted == (!used && !built_in))
        })
        // Lists name no containers, as in Docker.
        .map(|network| convert::network::network(network, &[]))
        .collect();
    json_gated(Object::Network, call.version, &networks)
}

fn matches(network: &NetworkInfo, filters: &Filters) -> bool {
    let kind = if BUILT_IN.contains(&network.name.as_str()) {
        "builtin"
    } else {
        "custom"
    };
    filters.exact("driver", &network.driver)
        && filters.part("id", &network.id)
        && filters.labels("label", &network.labels)
        && filters.part("name", &network.name)
        && filters.exact("scope", convert::network::scope(network))
        && filters.exact("type", kind)
}

/// `GET /networks/{id}`.
pub(super) async fn inspect(call: Call) -> Reply {
    let networks = call.engine().network_list().await?;
    let wanted_scope = call.query.get("scope");
    let networks: Vec<&NetworkInfo> = networks
        .iter()
        .filter(|network| wanted_scope.is_none_or(|scope| scope == convert::network::scope(network)))
        .collect();
    let candidates = networks.iter().map(|network| Candidate {
        id: &network.id,
        name: &network.name,
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
