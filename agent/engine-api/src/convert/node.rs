//! Nodes. A controller is a `manager` here.

use super::{Read, container::time};
use crate::backend::{ControllerReach, NodeView};
use crate::http::Failure;
use crate::wire::ObjectVersion;
use crate::wire::node as wire;
use muster_types::{Availability, NodeRole, NodeSpec, NodeState};
use serde_json::{Value, json};

/// Reads an availability; empty means active.
pub(crate) fn read_availability(text: &str) -> Read<Availability> {
    match text {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        other => Err(Failure::invalid(format!("invalid Availability: {other:?}"))),
    }
}

/// Docker's name of an availability.
pub(crate) fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

/// Docker's name of a role.
pub(crate) fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Worker => "worker",
        NodeRole::Controller => "manager",
    }
}

/// Reads the body of `POST /nodes/{id}/update`.
pub(crate) fn read_spec(wire: wire::NodeSpec) -> Read<NodeSpec> {
    let role = match wire.role.as_str() {
        "worker" => NodeRole::Worker,
        "manager" => NodeRole::Controller,
        other => return Err(Failure::invalid(format!("invalid Role: {other:?}"))),
    };
    Ok(NodeSpec {
        name: wire.name,
        labels: wire.labels,
        role,
        availability: read_availability(&wire.availability)?,
    })
}

fn write_spec(spec: &NodeSpec) -> wire::NodeSpec {
    wire::NodeSpec {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        role: role(spec.role).to_owned(),
        availability: availability(spec.availability).to_owned(),
    }
}

/// Writes a node.
pub(crate) fn write(view: &NodeView) -> wire::Node {
    let node = &view.node;
    wire::Node {
        id: node.id.to_string(),
        version: ObjectVersion {
            index: node.meta.spec_version,
        },
        created_at: time(node.meta.created_at),
        updated_at: time(node.meta.updated_at),
        spec: write_spec(&node.spec),
        description: description(view),
        status: status(view),
        manager_status: view.controller.as_ref().map(|controller| wire::ManagerStatus {
            leader: controller.leader,
            reachability: match controller.reach {
                ControllerReach::Unknown => "unknown",
                ControllerReach::Unreachable => "unreachable",
                ControllerReach::Reachable => "reachable",
            },
            addr: controller.address.clone(),
        }),
    }
}

fn status(view: &NodeView) -> Value {
    let status = &view.node.status;
    let state = match status.state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    };
    let mut value = json!({"State": state, "Addr": status.address});
    if !status.message.is_empty() {
        value["Message"] = status.message.as_str().into();
    }
    value
}

fn description(view: &NodeView) -> Value {
    let description = &view.node.description;
    let issuer = description.tls.as_ref().map(|tls| &tls.issuer);
    let tls = super::swarm::tls_info(view.trusted_root_pem.as_deref(), issuer);
    let mut engine = json!({
        "EngineVersion": description.engine_version,
        "Plugins": [
            {"Type": "Log", "Name": "json-file"},
            {"Type": "Network", "Name": "bridge"},
            {"Type": "Network", "Name": "host"},
            {"Type": "Network", "Name": "null"},
            {"Type": "Network", "Name": "overlay"},
            {"Type": "Volume", "Name": "local"},
        ],
    });
    if !description.engine_labels.is_empty() {
        engine["Labels"] = json!(description.engine_labels);
    }
    json!({
        "Hostname": description.hostname,
        "Platform": {
            "Architecture": description.platform.architecture,
            "OS": description.platform.os,
        },
        "Resources": {
            "NanoCPUs": description.resources.nano_cpus,
            "MemoryBytes": description.resources.memory_bytes,
        },
        "Engine": engine,
        "TLSInfo": tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_round_trip() {
        for (role, availability) in [
            (NodeRole::Worker, Availability::Drain),
            (NodeRole::Controller, Availability::Pause),
            (NodeRole::Controller, Availability::Active),
        ] {
            let spec = NodeSpec {
                name: "n".into(),
                labels: [("zone".into(), "a".into())].into(),
                role,
                availability,
            };
            assert_eq!(read_spec(write_spec(&spec)).unwrap(), spec);
        }
        assert!(read_spec(wire::NodeSpec::default()).is_err());
    }
}
