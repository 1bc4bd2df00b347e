//! Networks in answers.

use super::container::time;
use crate::backend::NetworkInfo;
use crate::wire::network::Network;
use muster_types::container::ContainerInfo;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A network with the containers that are on it.
pub(crate) fn network(info: &NetworkInfo, containers: &[Arc<ContainerInfo>]) -> Network {
    let ranges: Vec<Value> = info
        .subnets
        .iter()
        .map(|(subnet, gateway)| match gateway {
            Some(gateway) => json!({"Subnet": subnet, "Gateway": gateway}),
            None => json!({"Subnet": subnet}),
        })
        .collect();
    Network {
        name: info.name.clone(),
        id: info.id.clone(),
        created: time(info.created),
        scope: scope(info),
        driver: info.driver.clone(),
        enable_ipv4: true,
        enable_ipv6: false,
        ipam: json!({"Driver": "default", "Options": null, "Config": ranges}),
        internal: info.internal,
        attachable: info.attachable,
        ingress: false,
        config_from: json!({"Network": ""}),
        config_only: false,
        containers: Value::Object(members(info, containers)),
        options: info.options.clone(),
        labels: info.labels.clone(),
    }
}

/// `swarm` or `local`.
pub(crate) fn scope(info: &NetworkInfo) -> &'static str {
    if info.cluster_scope { "swarm" } else { "local" }
}

fn members(info: &NetworkInfo, containers: &[Arc<ContainerInfo>]) -> Map<String, Value> {
    containers
        .iter()
        .filter_map(|container| {
            let place = container.networks.get(&info.name)?;
            let address = place
                .address
                .map(|address| format!("{address}/{}", place.prefix_len))
                .unwrap_or_default();
            let member = json!({
                "Name": container.name,
                "EndpointID": "",
                "MacAddress": place.mac,
                "IPv4Address": address,
                "IPv6Address": "",
            });
            Some((container.id.to_string(), member))
        })
        .collect()
}
