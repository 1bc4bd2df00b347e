//! The table of fields that exist in some API versions only. Answers and request bodies are adjusted by it, so that a
//! client sees exactly its version's fields and cannot set those that its version does not have.

use super::ApiVersion;
use serde_json::Value;

/// The kind of object that a JSON value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    /// Body of `POST /containers/create`.
    ContainerCreate,
    /// Body of `POST /containers/{id}/update`.
    ContainerUpdate,
    /// Body of `POST /containers/{id}/exec` and `/exec/{id}/start`.
    Exec,
    /// `GET /containers/{id}/json`.
    Container,
    /// An element of `GET /images/json`.
    ImageSummary,
    /// `GET /images/{name}/json`.
    Image,
    /// `GET /info`.
    Info,
    /// A container's place in a network, in answers.
    Endpoint,
    /// A network.
    Network,
    /// Body of `POST /networks/create`.
    NetworkCreate,
    /// Body of `POST /networks/{id}/connect`.
    NetworkConnect,
    /// A service's spec, in requests.
    ServiceSpec,
    /// A service, in answers.
    Service,
    /// A task.
    Task,
}

/// In which versions a field exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lives {
    /// From this 1.x on.
    Since(u32),
    /// Up to this 1.x.
    Until(u32),
}

use Lives::{Since, Until};

/// (object, dotted path, life). A `*` stands for every member of an object or element of a list.
const GATES: &[(Object, &str, Lives)] = &[
    (Object::ContainerCreate, "HostConfig.CgroupnsMode", Since(41)),
    (Object::ContainerCreate, "HostConfig.ConsoleSize", Since(42)),
    (Object::ContainerCreate, "HostConfig.Annotations", Since(43)),
    (Object::ContainerCreate, "Healthcheck.StartInterval", Since(44)),
    (
        Object::ContainerCreate,
        "HostConfig.Mounts.*.BindOptions.CreateMountpoint",
        Since(42),
    ),
    (
        Object::ContainerCreate,
        "HostConfig.Mounts.*.VolumeOptions.Subpath",
        Since(45),
    ),
    (
        Object::ContainerCreate,
        "HostConfig.Mounts.*.TmpfsOptions.Options",
        Since(46),
    ),
    (
        Object::ContainerCreate,
        "HostConfig.Mounts.*.ImageOptions",
        Since(48),
    ),
    (
        Object::ContainerCreate,
        "HostConfig.Mounts.*.BindOptions.ReadOnlyNonRecursive",
        Since(44),
    ),
    // Later versions have no kernel memory, whatever their clients send.
    (Object::ContainerCreate, "HostConfig.KernelMemory", Until(41)),
    (Object::ContainerUpdate, "KernelMemory", Until(41)),
    (
        Object::ContainerCreate,
        "NetworkingConfig.EndpointsConfig.*.MacAddress",
        Since(44),
    ),
    (
        Object::ContainerCreate,
        "NetworkingConfig.EndpointsConfig.*.GwPriority",
        Since(48),
    ),
    (Object::NetworkCreate, "EnableIPv4", Since(48)),
    (Object::NetworkConnect, "EndpointConfig.GwPriority", Since(48)),
    (Object::Exec, "ConsoleSize", Since(42)),
    (Object::Container, "HostConfig.Annotations", Since(43)),
    (Object::Container, "Config.Healthcheck.StartInterval", Since(44)),
    (Object::Container, "Config.MacAddress", Until(43)),
    (Object::Endpoint, "DNSNames", Since(44)),
    (Object::Endpoint, "GwPriority", Since(48)),
    (Object::ImageSummary, "VirtualSize", Until(43)),
    (Object::Image, "VirtualSize", Until(43)),
    (Object::Image, "Container", Until(44)),
    // `ContainerConfig`, which ended there too, stays: docker-compose 1 asks in the newest version and cannot do without.
    (Object::Image, "Config.Hostname", Until(49)),
    (Object::Image, "Config.Domainname", Until(49)),
    (Object::Image, "Config.AttachStdin", Until(49)),
    (Object::Image, "Config.AttachStdout", Until(49)),
    (Object::Image, "Config.AttachStderr", Until(49)),
    (Object::Image, "Config.Tty", Until(49)),
    (Object::Image, "Config.OpenStdin", Until(49)),
    (Object::Image, "Config.StdinOnce", Until(49)),
    (Object::Image, "Config.Image", Until(49)),
    (Object::Info, "CgroupVersion", Since(41)),
    (Object::Info, "BridgeNfIptables", Until(49)),
    (Object::Info, "BridgeNfIp6tables", Until(49)),
    (Object::Info, "FirewallBackend", Since(49)),
    (Object::Network, "EnableIPv4", Since(48)),
    (
        Object::ServiceSpec,
        "TaskTemplate.Resources.Limits.Pids",
        Since(41),
    ),
    (
        Object::ServiceSpec,
        "TaskTemplate.ContainerSpec.CapabilityAdd",
        Since(41),
    ),
    (
        Object::ServiceSpec,
        "TaskTemplate.ContainerSpec.CapabilityDrop",
        Since(41),
    ),
    (
        Object::ServiceSpec,
        "TaskTemplate.ContainerSpec.Ulimits",
        Since(41),
    ),
    (
        Object::ServiceSpec,
        "TaskTemplate.ContainerSpec.OomScoreAdj",
        Since(46),
    ),
    (
        Object::Service,
        "Spec.TaskTemplate.Resources.Limits.Pids",
        Since(41),
    ),
    (
        Object::Service,
        "Spec.TaskTemplate.ContainerSpec.CapabilityAdd",
        Since(41),
    ),
    (
        Object::Service,
        "Spec.TaskTemplate.ContainerSpec.CapabilityDrop",
        Since(41),
    ),
    (
        Object::Service,
        "Spec.TaskTemplate.ContainerSpec.Ulimits",
        Since(41),
    ),
    (
        Object::Service,
        "Spec.TaskTemplate.ContainerSpec.OomScoreAdj",
        Since(46),
    ),
    (Object::ServiceSpec, "Mode.ReplicatedJob", Since(41)),
    (Object::ServiceSpec, "Mode.GlobalJob", Since(41)),
    (Object::Service, "ServiceStatus", Since(41)),
    (Object::Task, "Spec.Resources.Limits.Pids", Since(41)),
    (Object::Task, "Spec.ContainerSpec.CapabilityAdd", Since(41)),
    (Object::Task, "Spec.ContainerSpec.CapabilityDrop", Since(41)),
    (Object::Task, "Spec.ContainerSpec.Ulimits", Since(41)),
    (Object::Task, "Spec.ContainerSpec.OomScoreAdj", Since(46)),
];

impl Lives {
    fn includes(self, version: ApiVersion) -> bool {
        match self {
            Since(minor) => version >= ApiVersion::minor(minor),
            Until(minor) => version <= ApiVersion::minor(minor),
        }
    }
}

/// Takes out of `value` what does not exist in `version`.
pub(crate) fn adjust(object: Object, version: ApiVersion, value: &mut Value) {
    for (gated, path, life) in GATES {
        if *gated == object && !life.includes(version) {
            remove(value, path);
        }
    }
}

/// Whether [`adjust`] may change anything.
pub(super) fn is_gated(object: Object, version: ApiVersion) -> bool {
    let mut gates = GATES.iter();
    gates.any(|(gated, _, life)| *gated == object && !life.includes(version))
}

/// Whether a field exists in `version`, for answers that are written without a way through untyped JSON.
pub(crate) fn lives(object: Object, path: &str, version: ApiVersion) -> bool {
    let mut gates = GATES.iter();
    gates.all(|(gated, field, life)| (*gated, *field) != (object, path) || life.includes(version))
}

fn remove(value: &mut Value, path: &str) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    match (first, rest, value) {
        ("*", Some(rest), Value::Array(list)) => list.iter_mut().for_each(|member| remove(member, rest)),
        ("*", Some(rest), Value::Object(map)) => map.values_mut().for_each(|member| remove(member, rest)),
        (name, Some(rest), Value::Object(map)) => {
            if let Some(member) = map.get_mut(name) {
                remove(member, rest);
            }
        }
        (name, None, Value::Object(map)) => {
            map.remove(name);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value in which every step of the path exists.
    fn holding(path: &str) -> Value {
        path.rsplit('.').fold(Value::from(1), |inner, step| match step {
            "*" => Value::Array(vec![inner]),
            name => serde_json::json!({ name: inner }),
        })
    }

    #[test]
    fn each_field_lives_exactly_in_its_versions() {
        for (object, path, life) in GATES {
            let (first, last) = match life {
                Since(minor) => (*minor, 51),
                Until(minor) => (40, *minor),
            };
            for minor in 40..=51 {
                let mut value = holding(path);
                adjust(*object, ApiVersion::minor(minor), &mut value);
                let kept = value == holding(path);
                assert_eq!(
                    kept,
                    (first..=last).contains(&minor),
                    "{object:?} {path} in 1.{minor}"
                );
                assert!(kept || is_gated(*object, ApiVersion::minor(minor)));
            }
        }
    }

    #[test]
    fn other_shapes_are_left_alone() {
        for value in [
            Value::Null,
            serde_json::json!([1]),
            serde_json::json!({"Config": 3}),
        ] {
            let mut adjusted = value.clone();
            adjust(Object::Image, ApiVersion::minor(50), &mut adjusted);
            assert_eq!(adjusted, value);
        }
    }
}
