//! Bodies of every kind with hostile values anywhere in them: converted or refused with a status of the client's fault,
//! never a panic. `PROPTEST_CASES` asks for more of them.

use super::*;
use crate::wire;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What each body is made of.
fn container() -> Value {
    json!({
        "Image": "a:1", "Cmd": ["x"], "Entrypoint": "sh", "Env": ["A=b"], "User": "1:2", "WorkingDir": "/a",
        "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "StopSignal": "SIGINT",
        "StopTimeout": 5, "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000000000, "Retries": 3},
        "HostConfig": {
            "Binds": ["/a:/b:ro"], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080-8090"}]},
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "Memory": 16777216, "NanoCpus": 500000000,
            "CpuShares": 10, "PidsLimit": 5, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "Tmpfs": {"/t": "size=1m"}, "ShmSize": 65536, "ExtraHosts": ["a:1.2.3.4"], "Dns": ["1.1.1.1"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "CapAdd": ["NET_ADMIN"],
            "SecurityOpt": ["no-new-privileges"], "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x"}],
            "Mounts": [{"Type": "volume", "Source": "v", "Target": "/m", "VolumeOptions": {"NoCopy": true}}],
            "BlkioWeight": 10, "OomScoreAdj": 1, "NetworkMode": "bridge", "PidMode": "host", "IpcMode": "private",
        },
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["x"]}}},
    })
}

fn service() -> Value {
    json!({
        "Name": "web", "Labels": {"a": "b"}, "Mode": {"Replicated": {"Replicas": 3}},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "a:1", "Args": ["x"], "Env": ["A=b"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}],
                "Healthcheck": {"Test": ["NONE"]}, "Hosts": ["1.2.3.4 a"], "StopGracePeriod": 10000000000_i64,
                "DNSConfig": {"Nameservers": ["1.1.1.1"]}, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            },
            "Resources": {"Limits": {"NanoCPUs": 1, "MemoryBytes": 16777216}, "Reservations": {"NanoCPUs": 1}},
            "RestartPolicy": {"Condition": "any", "Delay": 5000000000_i64, "MaxAttempts": 3, "Window": 0},
            "Placement": {"Constraints": ["node.labels.a==b"], "Preferences": [{"Spread": {"SpreadDescriptor": "node.id"}}]},
            "ForceUpdate": 1,
        },
        "UpdateConfig": {"Parallelism": 1, "Delay": 1, "FailureAction": "pause", "MaxFailureRatio": 0.1, "Order": "stop-first"},
        "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]},
    })
}

/// A value that some client might send instead of the right one.
fn hostile() -> impl Strategy<Value = Value> {
    let numbers = [
        json!(-1),
        json!(0),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e308),
        json!(-0.5),
        json!(65536),
    ];
    let texts = [
        "",
        "\0",
        "a\0b",
        "..",
        "/",
        "../../etc",
        "=",
        ":",
        "::",
        "/:/:",
        "4294967296",
        "-1",
        "99999999999999999999999",
        "0-0",
        "9-1",
        "80/icmp",
        "\u{202e}x",
        "a b",
        "{}",
        "[::1]:80",
        "host-gateway",
        "sha256:",
        "1e9g",
        "ünïcode",
    ];
    let odd = [
        json!(true),
        json!([]),
        json!({}),
        json!([[[[]]]]),
        json!([null]),
        json!({"": ""}),
        json!(["", 1]),
    ];
    prop_oneof![
        proptest::sample::select(numbers.to_vec()),
        proptest::sample::select(texts.to_vec()).prop_map(|text| json!(text)),
        proptest::sample::select(odd.to_vec()),
        (0..5000_usize).prop_map(|length| json!("a".repeat(length))),
        any::<String>().prop_map(|text| json!(text)),
    ]
}

/// Puts a value in the place of another, or of a member's name.
fn replace(body: &mut Value, place: Index, value: Value) {
    let places = count(body);
    let mut left = place.index(places);
    replace_at(body, &mut left, &mut Some(value));
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn replace_at(value: &mut Value, left: &mut usize, new: &mut Option<Value>) {
    if *left == 0 {
        if let Some(new) = new.take() {
            *value = new;
        }
        return;
    }
    *left -= 1;
    let below: Vec<&mut Value> = match value {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for part in below {
        if new.is_some() {
            replace_at(part, left, new);
        }
    }
}

/// Decodes and converts; what is refused is the client's fault or says what is missing.
fn convert<T: DeserializeOwned, D>(body: &Value, read: impl Fn(T) -> Read<D>) -> Result<(), TestCaseError> {
    let Ok(decoded) = wire::strict::read(body.clone()) else {
        return Ok(());
    };
    if let Err(failure) = read(decoded) {
        let fits = failure.status.is_client_error() || failure.status == StatusCode::NOT_IMPLEMENTED;
        prop_assert!(fits, "{failure:?}");
        prop_assert!(!failure.message.is_empty());
    }
    Ok(())
}

/// Puts a list in the place of each object, one after the other. Empty ones mean nothing but their names.
fn refuses_lists_for_objects<T: DeserializeOwned>(body: &Value) {
    let is_full = |place: &usize| {
        let object = at(body, &mut place.clone()).and_then(Value::as_object);
        object.is_some_and(|map| !map.is_empty())
    };
    for place in (0..count(body)).filter(is_full) {
        let (mut left, mut changed) = (place, body.clone());
        replace_at(&mut changed, &mut left, &mut Some(json!([])));
        assert!(wire::strict::read::<T>(changed.clone()).is_err(), "{changed}");
    }
}

/// What is at a place.
fn at<'a>(value: &'a Value, left: &mut usize) -> Option<&'a Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    let below: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for part in below {
        let parts = count(part);
        if *left < parts {
            return at(part, left);
        }
        *left -= parts;
    }
    None
}

#[test]
fn bodies_as_they_should_be_are_converted() {
    let decoded = wire::strict::read(container()).unwrap();
    container_create::read(decoded).unwrap();
    let decoded = wire::strict::read(service()).unwrap();
    super::service::read_spec(decoded).unwrap();
}

#[test]
fn lists_in_place_of_objects_are_refused() {
    refuses_lists_for_objects::<wire::container::CreateBody>(&container());
    refuses_lists_for_objects::<wire::service::ServiceSpec>(&service());
}

proptest! {
    #[test]
    fn hostile_containers_are_converted_or_refused(
        changes in proptest::collection::vec((any::<Index>(), hostile()), 1..5),
    ) {
        let mut body = container();
        for (place, value) in changes {
            replace(&mut body, place, value);
        }
        convert::<wire::container::CreateBody, _>(&body, container_create::read)?;
    }

    #[test]
    fn hostile_services_are_converted_or_refused(
        changes in proptest::collection::vec((any::<Index>(), hostile()), 1..5),
    ) {
        let mut body = service();
        for (place, value) in changes {
            replace(&mut body, place, value);
        }
        convert::<wire::service::ServiceSpec, _>(&body, super::service::read_spec)?;
    }

    #[test]
    fn other_hostile_bodies_are_converted_or_refused(
        kind in 0..4_usize,
        changes in proptest::collection::vec((any::<Index>(), hostile()), 1..4),
    ) {
        let mut body = match kind {
            0 => json!({"Cmd": ["x"], "Env": ["A=b"], "User": "1", "ConsoleSize": [1, 2], "Tty": true}),
            1 => json!({"Name": "v", "Driver": "local", "DriverOpts": {"a": "b"}, "Labels": {"a": "b"}}),
            2 => json!({"Role": "manager", "Availability": "drain", "Labels": {"a": "b"}}),
            _ => json!({"Orchestration": {"TaskHistoryRetentionLimit": 5}, "Raft": {"SnapshotInterval": 10000},
                        "Dispatcher": {"HeartbeatPeriod": 5000000000_i64}, "CAConfig": {"NodeCertExpiry": 7776000000000000_i64}}),
        };
        for (place, value) in changes {
            replace(&mut body, place, value);
        }
        convert::<wire::exec::CreateBody, _>(&body, exec::read)?;
        convert::<wire::volume::CreateBody, _>(&body, volume::read)?;
        convert::<wire::node::NodeSpec, _>(&body, node::read_spec)?;
        convert::<wire::swarm::Spec, _>(&body, swarm::read_spec)?;
    }
}
