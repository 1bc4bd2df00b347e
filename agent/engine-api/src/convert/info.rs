//! `GET /info`.

use crate::backend::{EngineInfo, LocalSwarm, LocalSwarmState, RegistryFacts};
use crate::wire::info::{Info, Peer, SwarmInfo};
use muster_types::Timestamp;
use serde_json::{Value, json};

/// What the engine says; counts and the cluster are filled in by the caller.
pub(crate) fn from_engine(engine: &EngineInfo) -> Info {
    let v1 = engine.cgroup_version == 1;
    Info {
        id: engine.id.clone(),
        driver: engine.storage_driver.clone(),
        plugins: json!({
            "Volume": ["local"],
            "Network": ["bridge", "host", "macvlan", "null", "overlay"],
            "Authorization": null,
            "Log": ["journald", "json-file", "local", "syslog"],
        }),
        memory_limit: true,
        swap_limit: engine.swap_limit,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        ipv4_forwarding: engine.ip_forwarding,
        oom_kill_disable: v1,
        system_time: wall_clock().to_string(),
        logging_driver: engine.log_driver.clone(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: engine.cgroup_version.to_string(),
        kernel_version: engine.kernel_version.clone(),
        operating_system: engine.operating_system.clone(),
        os_version: engine.os_version.clone(),
        os_type: "linux".to_owned(),
        architecture: engine.architecture.clone(),
        index_server_address: INDEX_SERVER.to_owned(),
        registry_config: registry_config(&engine.registries),
        cpus: engine.cpus,
        mem_total: engine.memory_bytes,
        docker_root_dir: engine.data_dir.clone(),
        name: engine.name.clone(),
        labels: engine
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        server_version: engine.version.clone(),
        runtimes: json!({"muster": {"path": "muster"}}),
        default_runtime: "muster".to_owned(),
        // Containers outlive the daemon.
        live_restore_enabled: true,
        init_binary: "muster".to_owned(),
        containerd_commit: json!({"ID": ""}),
        runc_commit: json!({"ID": ""}),
        init_commit: json!({"ID": ""}),
        security_options: engine.security.clone(),
        firewall_backend: json!({"Driver": "nftables"}),
        warnings: engine.warnings.clone(),
        ..Info::default()
    }
}

fn wall_clock() -> Timestamp {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::ZERO.after(since_epoch)
}

/// The node's membership.
pub(crate) fn from_local_swarm(local: &LocalSwarm) -> SwarmInfo {
    let state = match local.state {
        LocalSwarmState::Inactive => "inactive",
        LocalSwarmState::Pending => "pending",
        LocalSwarmState::Active => "active",
        LocalSwarmState::Error => "error",
        LocalSwarmState::Locked => "locked",
    };
    let peers: Vec<Peer> = local
        .controllers
        .iter()
        .map(|controller| Peer {
            node_id: controller.node.to_string(),
            addr: controller.address.clone(),
        })
        .collect();
    SwarmInfo {
        node_id: local.node_id.map(|id| id.to_string()).unwrap_or_default(),
        node_addr: local.node_address.clone(),
        local_node_state: state.to_owned(),
        control_available: local.controller && local.state == LocalSwarmState::Active,
        error: local.error.clone(),
        remote_managers: (!peers.is_empty()).then_some(peers),
        ..SwarmInfo::default()
    }
}

/// What clients log in to when they name nothing.
const INDEX_SERVER: &str = "https://index.docker.io/v1/";

/// How registries are reached, as Docker tells it.
fn registry_config(facts: &RegistryFacts) -> Value {
    let index = |name: &str, mirrors: &[String], secure: bool, official: bool| json!({"Name": name, "Mirrors": mirrors, "Secure": secure, "Official": official});
    let mut indexes = serde_json::Map::new();
    indexes.insert(
        "docker.io".to_owned(),
        index("docker.io", &facts.hub_mirrors, true, true),
    );
    for host in &facts.insecure_hosts {
        indexes.insert(host.clone(), index(host, &[], false, false));
    }
    json!({
        "InsecureRegistryCIDRs": facts.insecure_networks,
        "IndexConfigs": indexes,
        "Mirrors": facts.hub_mirrors,
    })
}
