//! The cluster's object.

use super::{Read, container::time, duration, node, unsupported};
use crate::backend::{InitRequest, JoinRequest};
use crate::http::Failure;
use crate::wire::ObjectVersion;
use crate::wire::swarm as wire;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use muster_types::{Cluster, ClusterSpec, Issuer, RootCa};
use serde_json::{Value, json};
use std::time::Duration;

/// Docker's defaults that Muster has no setting for; they are reported so that clients can print them.
const ELECTION_TICK: i64 = 10;
const HEARTBEAT_TICK: i64 = 1;
/// Shortest validity of node certificates, as in Docker.
const CERTIFICATE_EXPIRY_MIN: Duration = Duration::from_secs(3600);
/// Longest prefix of the cluster's subnets, as in Docker: a gateway, a virtual address and some tasks.
const SUBNET_SIZE_MAX: u8 = 29;

/// Reads the body of `POST /swarm/init`.
pub(crate) fn read_init(body: wire::InitBody) -> Read<InitRequest> {
    if body.auto_lock_managers {
        return Err(unsupported("autolock of managers"));
    }
    if body.data_path_port != 0 && !(1024..=49151).contains(&body.data_path_port) {
        return Err(Failure::invalid(
            "invalid data path port: it must be between 1024 and 49151",
        ));
    }
    if read_root(&body.spec.ca_config)?.is_some() {
        return Err(unsupported(
            "beginning with a root certificate of your own (\"docker swarm ca --rotate\" takes one afterwards)",
        ));
    }
    let mut spec = read_spec(body.spec)?;
    if !body.default_addr_pool.is_empty() {
        spec.address_pools = read_pools(&body.default_addr_pool)?;
    }
    if body.subnet_size != 0 {
        spec.subnet_prefix_len = read_subnet_size(body.subnet_size)?;
    }
    check_pools(&spec)?;
    if let Some(port) = u16::try_from(body.data_path_port).ok().filter(|port| *port != 0) {
        spec.data_path_port = port;
    }
    Ok(InitRequest {
        listen_address: body.listen_addr,
        advertise_address: body.advertise_addr,
        data_path_address: body.data_path_addr,
        force_new_cluster: body.force_new_cluster,
        spec,
        availability: node::read_availability(&body.availability)?,
    })
}

fn read_pools(texts: &[String]) -> Read<Vec<IpNet>> {
    let read = |text: &String| {
        let pool: IpNet = text
            .parse()
            .map_err(|_| Failure::invalid(format!("invalid base pool address {text:?}")))?;
        Ok(pool.trunc())
    };
    texts.iter().map(read).collect()
}

fn read_subnet_size(size: u32) -> Read<u8> {
    u8::try_from(size)
        .ok()
        .filter(|size| *size <= SUBNET_SIZE_MAX)
        .ok_or_else(|| Failure::invalid(format!("subnet size is out of range: {size}")))
}

/// Pools must have room for a subnet each, and nothing in common.
fn check_pools(spec: &ClusterSpec) -> Read<()> {
    for (place, pool) in spec.address_pools.iter().enumerate() {
        if pool.addr().is_ipv4() && pool.prefix_len() > spec.subnet_prefix_len {
            return Err(Failure::invalid(format!(
                "invalid CIDR: {pool}. Subnet size is too small for pool: {}",
                spec.subnet_prefix_len
            )));
        }
        let earlier = &spec.address_pools[..place];
        if let Some(other) = earlier
            .iter()
            .find(|other| other.contains(pool) || pool.contains(*other))
        {
            return Err(Failure::invalid(format!(
                "invalid Pool overlap between {other} and {pool}"
            )));
        }
    }
    Ok(())
}

/// Reads the body of `POST /swarm/join`.
pub(crate) fn read_join(body: wire::JoinBody) -> Read<JoinRequest> {
    if body.remote_addrs.iter().all(String::is_empty) {
        return Err(Failure::invalid("at least 1 RemoteAddr is required to join"));
    }
    let token = body
        .join_token
        .parse()
        .map_err(|error| Failure::invalid(format!("{error}: copy it from \"docker swarm join-token\"")))?;
    Ok(JoinRequest {
        listen_address: body.listen_addr,
        advertise_address: body.advertise_addr,
        data_path_address: body.data_path_addr,
        remote_addresses: body.remote_addrs,
        token,
        availability: node::read_availability(&body.availability)?,
    })
}

/// Reads settings; what is zero or absent becomes its default.
pub(crate) fn read_spec(wire: wire::Spec) -> Read<ClusterSpec> {
    if wire.encryption_config.auto_lock_managers {
        return Err(unsupported("autolock of managers"));
    }
    let ca = &wire.ca_config;
    if !ca.external_cas.is_empty() {
        return Err(unsupported("an external certificate authority"));
    }
    if wire.task_defaults.log_driver.is_some() {
        return Err(unsupported("TaskDefaults.LogDriver"));
    }
    if !matches!(wire.name.as_str(), "" | "default") {
        return Err(Failure::invalid(
            "invalid Name: swarm spec must be named \"default\"",
        ));
    }
    let defaults = ClusterSpec::default();
    let or = |field: &str, nanoseconds: i64, default: Duration| match nanoseconds {
        0 => Ok(default),
        other => duration::read(field, other),
    };
    let certificate_expiry = or(
        "CAConfig.NodeCertExpiry",
        ca.node_cert_expiry,
        defaults.certificate_expiry,
    )?;
    if certificate_expiry < CERTIFICATE_EXPIRY_MIN {
        return Err(Failure::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    let number = |given: u64, default: u64| if given == 0 { default } else { given };
    Ok(ClusterSpec {
        name: defaults.name.clone(),
        labels: wire.labels,
        task_history_limit: wire
            .orchestration
            .task_history_retention_limit
            .unwrap_or(defaults.task_history_limit),
        heartbeat_period: or(
            "Dispatcher.HeartbeatPeriod",
            wire.dispatcher.heartbeat_period,
            defaults.heartbeat_period,
        )?,
        snapshot_interval: number(wire.raft.snapshot_interval, defaults.snapshot_interval),
        log_entries_kept: number(
            wire.raft.log_entries_for_slow_followers,
            defaults.log_entries_kept,
        ),
        old_snapshots_kept: wire.raft.keep_old_snapshots,
        certificate_expiry,
        root_rotations: ca.force_rotate,
        ..defaults
    })
}

/// Reads the root certificate that shall take the place of the one that is there.
pub(crate) fn read_root(ca: &wire::CaConfig) -> Read<Option<RootCa>> {
    match (
        ca.signing_ca_cert.trim().is_empty(),
        ca.signing_ca_key.trim().is_empty(),
    ) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(RootCa {
            certificate_pem: ca.signing_ca_cert.clone(),
            key_pem: ca.signing_ca_key.clone(),
        })),
        (false, true) => Err(unsupported(
            "a signing certificate without its key, for an external authority",
        )),
        (true, false) => Err(Failure::invalid(
            "rpc error: code = InvalidArgument desc = if a signing CA key is provided, the signing CA cert must also be \
             provided",
        )),
    }
}

fn write_spec(spec: &ClusterSpec) -> wire::Spec {
    wire::Spec {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        orchestration: wire::Orchestration {
            task_history_retention_limit: Some(spec.task_history_limit),
        },
        raft: wire::Raft {
            snapshot_interval: spec.snapshot_interval,
            keep_old_snapshots: spec.old_snapshots_kept,
            log_entries_for_slow_followers: spec.log_entries_kept,
            election_tick: ELECTION_TICK,
            heartbeat_tick: HEARTBEAT_TICK,
        },
        dispatcher: wire::Dispatcher {
            heartbeat_period: duration::write(spec.heartbeat_period),
        },
        ca_config: wire::CaConfig {
            node_cert_expiry: duration::write(spec.certificate_expiry),
            force_rotate: spec.root_rotations,
            ..wire::CaConfig::default()
        },
        ..wire::Spec::default()
    }
}

/// The cluster's object without its tokens.
pub(crate) fn cluster_info(cluster: &Cluster) -> wire::ClusterInfo {
    wire::ClusterInfo {
        id: cluster.id.to_string(),
        version: ObjectVersion {
            index: cluster.meta.spec_version,
        },
        created_at: time(cluster.meta.created_at),
        updated_at: time(cluster.meta.updated_at),
        spec: write_spec(&cluster.spec),
        tls_info: tls_info(Some(&cluster.root_ca.certificate_pem), cluster.issuer.as_ref()),
        root_rotation_in_progress: cluster.root_rotation.is_some(),
        default_addr_pool: cluster
            .spec
            .address_pools
            .iter()
            .map(ToString::to_string)
            .collect(),
        subnet_size: cluster.spec.subnet_prefix_len.into(),
        data_path_port: cluster.spec.data_path_port.into(),
    }
}

/// Who is trusted, and who signs certificates.
pub(crate) fn tls_info(root_pem: Option<&str>, issuer: Option<&Issuer>) -> Value {
    let mut info = json!({});
    if let Some(root) = root_pem {
        info["TrustRoot"] = root.into();
    }
    if let Some(issuer) = issuer {
        info["CertIssuerSubject"] = STANDARD.encode(&issuer.subject).into();
        info["CertIssuerPublicKey"] = STANDARD.encode(&issuer.public_key).into();
    }
    info
}

/// Answer of `GET /swarm`.
pub(crate) fn swarm(cluster: &Cluster) -> wire::Swarm {
    wire::Swarm {
        info: cluster_info(cluster),
        join_tokens: wire::JoinTokens {
            worker: cluster.join_tokens.worker.to_string(),
            manager: cluster.join_tokens.controller.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip() {
        let spec = ClusterSpec {
            labels: [("a".into(), "b".into())].into(),
            task_history_limit: -1,
            heartbeat_period: Duration::from_secs(7),
            snapshot_interval: 3,
            log_entries_kept: 4,
            old_snapshots_kept: 5,
            certificate_expiry: Duration::from_secs(7200),
            root_rotations: 2,
            ..ClusterSpec::default()
        };
        assert_eq!(read_spec(write_spec(&spec)).unwrap(), spec);
        assert_eq!(read_spec(wire::Spec::default()).unwrap(), ClusterSpec::default());
    }

    #[test]
    fn pools_are_read_and_bad_ones_refused() {
        let init = |pools: &[&str], size: u32, port: u32| {
            read_init(wire::InitBody {
                default_addr_pool: pools.iter().map(ToString::to_string).collect(),
                subnet_size: size,
                data_path_port: port,
                ..wire::InitBody::default()
            })
        };
        let spec = init(&["10.20.0.0/16", "fd00:5::/48"], 26, 5000).unwrap().spec;
        assert_eq!(spec.address_pools.len(), 2);
        assert_eq!((spec.subnet_prefix_len, spec.data_path_port), (26, 5000));
        assert_eq!(init(&[], 0, 0).unwrap().spec, ClusterSpec::default());
        for (pools, size, port) in [
            (&["10.20.0.0"][..], 24, 0),
            (&["x/8"], 24, 0),
            (&["10.20.0.0/26"], 24, 0),
            (&["10.0.0.0/8", "10.20.0.0/16"], 24, 0),
            (&[], 30, 0),
            (&[], 0, 80),
        ] {
            let refused = init(pools, size, port).unwrap_err();
            assert_eq!(refused.status, 400, "{pools:?} {size} {port}");
        }
    }

    #[test]
    fn a_root_has_a_certificate_and_a_key() {
        let read = |certificate: &str, key: &str| {
            read_root(&wire::CaConfig {
                signing_ca_cert: certificate.to_owned(),
                signing_ca_key: key.to_owned(),
                ..wire::CaConfig::default()
            })
        };
        assert_eq!(read("", "").unwrap(), None);
        assert_eq!(read("c", "k").unwrap().unwrap().key_pem, "k");
        assert_eq!(read("", "k").unwrap_err().status, 400);
        assert_eq!(read("c", "").unwrap_err().status, 501);
    }

    #[test]
    fn a_new_cluster_makes_its_own_root() {
        let init = |certificate: &str, key: &str| {
            let mut body = wire::InitBody::default();
            body.spec.ca_config.signing_ca_cert = certificate.to_owned();
            body.spec.ca_config.signing_ca_key = key.to_owned();
            read_init(body)
        };
        assert!(init("", "").is_ok());
        let refused = init("c", "k").unwrap_err();
        assert_eq!(refused.status, 501);
        assert!(refused.message.contains("docker swarm ca --rotate"));
        assert_eq!(init("c", "").unwrap_err().status, 501);
        assert_eq!(init("", "k").unwrap_err().status, 400);
    }

    #[test]
    fn bad_settings_are_refused() {
        let mut short = wire::Spec::default();
        short.ca_config.node_cert_expiry = 1;
        assert_eq!(read_spec(short).unwrap_err().status, 400);
        let mut negative = wire::Spec::default();
        negative.dispatcher.heartbeat_period = -1;
        assert_eq!(read_spec(negative).unwrap_err().status, 400);
        let mut locked = wire::Spec::default();
        locked.encryption_config.auto_lock_managers = true;
        assert_eq!(read_spec(locked).unwrap_err().status, 501);
    }
}
