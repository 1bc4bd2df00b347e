//! Settings of the engine.

use crate::network::{SharedPlaces, SubnetPool};
use muster_network::Ipv4Net;
use muster_runtime::Launcher;
use muster_runtime::cgroup::CgroupRoot;
use muster_types::id_map::IdMaps;
use muster_types::service::{DnsSpec, Labels, LogDriver};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of the engine. Start from [`EngineConfig::new`].
#[derive(Debug)]
pub struct EngineConfig {
    /// Images, containers, volumes and metadata; survives a reboot.
    pub data_dir: PathBuf,
    /// Sockets and facts of running containers; must not survive a reboot.
    pub run_dir: PathBuf,
    /// Starts containers.
    pub launcher: Launcher,
    /// Where control groups are made; the launcher's.
    pub cgroup: CgroupRoot,
    /// The default bridge.
    pub bridge: BridgeSettings,
    /// The node's name, for `info`.
    pub node_name: String,
    /// The node's labels, for `info`.
    pub labels: Labels,
    /// Resolver settings of containers that have none of their own.
    pub dns: DnsSpec,
    /// Log driver of containers that name none, and options of those that have it.
    pub log: LogDriver,
    /// Whose users those of containers are (`userns-remap`); the host's where `None`.
    pub user_namespace: Option<IdMaps>,
    /// Who gives users' containers places in networks that nodes share. Without it, such a container has the addresses
    /// that its configuration names.
    pub shared_places: Option<Arc<dyn SharedPlaces>>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
}

/// Settings of the default bridge.
#[derive(Debug, Clone)]
pub struct BridgeSettings {
    /// Name of its interface.
    pub name: String,
    /// Its subnet; the next free one of the pools where the host has a route into it.
    pub subnet: Ipv4Net,
    /// Where subnets of networks come from that users ask for without one; Docker's pools when empty.
    pub pools: Vec<SubnetPool>,
    /// Largest packet, or the kernel's default.
    pub mtu: Option<u32>,
    /// Name of the table in the packet filter.
    pub table: String,
}

impl EngineConfig {
    /// The default settings.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
        launcher: Launcher,
        cgroup: CgroupRoot,
    ) -> Self {
        Self {
            data_dir: data_dir.into(),
            run_dir: run_dir.into(),
            launcher,
            cgroup,
            bridge: BridgeSettings::default(),
            node_name: crate::host::host_name(),
            labels: Labels::new(),
            dns: DnsSpec::default(),
            log: LogDriver {
                name: "json-file".to_owned(),
                options: Labels::new(),
            },
            user_namespace: None,
            shared_places: None,
            registry: prometheus::Registry::new(),
        }
    }
}

impl Default for BridgeSettings {
    fn default() -> Self {
        let subnet = Ipv4Net::new(Ipv4Addr::new(172, 17, 0, 0), 16);
        Self {
            name: "muster0".to_owned(),
            subnet: subnet.expect("16 is at most 32"),
            pools: Vec::new(),
            mtu: None,
            table: "muster".to_owned(),
        }
    }
}
