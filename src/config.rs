//! Settings of the node daemon: a TOML file and flags for the same settings, checked at once at start.

pub use registry::RegistryConfig;

use logs::LogOptions;
use muster_engine::SubnetPool;
use muster_network::{IpNet, Ipv4Net};
use muster_registry::RegistrySettings;
use muster_types::Problems;
use muster_types::id_map::IdMaps;
use muster_types::service::LogDriver;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Default settings file; it need not exist.
pub const CONFIG_FILE: &str = "/etc/muster/muster.toml";
/// Where the Engine API listens by default.
pub const DEFAULT_SOCKET: &str = "unix:///run/muster/docker.sock";
/// Where Docker's clients look for an engine.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Port of the cluster server, as Swarm's.
pub const CLUSTER_PORT: u16 = 2377;

/// Flags of `muster daemon`. A flag that is given wins over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DaemonFlags {
    /// Settings file (TOML) [default: /etc/muster/muster.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for images, containers and cluster state [default: /var/lib/muster]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory for sockets and what does not survive a reboot [default: /run/muster]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where the Engine API listens: unix:///path or tcp://address:port; may be given several times
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub hosts: Vec<String>,
    /// Also serve /var/run/docker.sock, where Docker's clients look, unless another engine answers there
    #[arg(long)]
    pub docker_socket: bool,
    /// Require client certificates signed by --tlscacert on TCP
    #[arg(long)]
    pub tlsverify: bool,
    /// Certificate authority of clients
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Certificate of the TCP server
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Key of the TCP server
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Serve TCP without TLS; on loopback addresses only, and not to browsers
    #[arg(long)]
    pub insecure_loopback: bool,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of the cluster server [default: 0.0.0.0:2377]
    #[arg(long, value_name = "ADDRESS")]
    pub listen_addr: Option<String>,
    /// Address that other nodes reach this one at [default: that of the interface with the default route]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_addr: Option<String>,
    /// Label of the node, key=value; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Address of the metrics server (Prometheus text), for example 127.0.0.1:9323
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<String>,
    /// Least severe log level: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log format: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log driver of containers that name none [default: json-file]
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of that driver, key=value, for containers that do not set it; may be given several times
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub log_opts: Vec<String>,
    /// Parent of the containers' cgroups, from the root of the hierarchy [default: muster]
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Subnet of the default bridge [default: 172.17.0.0/16, or the next free one]
    #[arg(long, value_name = "CIDR")]
    pub bridge_subnet: Option<String>,
    /// Where networks without a subnet of their own get one, as base=10.10.0.0/16,size=24; may be given several times
    /// [default: Docker's pools]
    #[arg(long = "default-address-pool", value_name = "POOL")]
    pub default_address_pools: Vec<String>,
    /// Run containers in user namespaces, with the subordinate ids of a user: default, or USER[:GROUP] by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    pub userns_remap: Option<String>,
    /// Mirror that is asked before a registry, URL for docker.io or REGISTRY=URL; may be given several times
    #[arg(long = "registry-mirror", value_name = "MIRROR")]
    pub registry_mirrors: Vec<String>,
    /// Registry (HOST[:PORT]) or network (CIDR) that is spoken to without verified TLS, or in plain HTTP; may be given
    /// several times. Registries at loopback addresses always are
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub insecure_registries: Vec<String>,
    /// Where the registry in the box listens: without TLS at loopback addresses, with TLS at others; may be given several
    /// times [default: it does not]
    #[arg(long = "registry-listen", value_name = "ADDRESS")]
    pub registry_listen: Vec<String>,
    /// Who may use the registry in the box: names and passwords as htpasswd -B writes them [default: everybody]
    #[arg(long, value_name = "FILE")]
    pub registry_htpasswd: Option<PathBuf>,
    /// Certificate of the registry in the box [default: the node's own of its cluster, which nodes accept]
    #[arg(long, value_name = "FILE")]
    pub registry_tlscert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    pub registry_tlskey: Option<PathBuf>,
}

/// The settings file. Keys are the flags' names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct ConfigFile {
    data_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    hosts: Vec<String>,
    docker_socket: bool,
    tlsverify: bool,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    insecure_loopback: bool,
    node_name: Option<String>,
    listen_addr: Option<String>,
    advertise_addr: Option<String>,
    labels: Vec<String>,
    metrics_addr: Option<String>,
    log_level: Option<String>,
    log_format: Option<String>,
    log_driver: Option<String>,
    log_opts: LogOptions,
    cgroup_parent: Option<String>,
    bridge_subnet: Option<String>,
    default_address_pools: Vec<String>,
    userns_remap: Option<String>,
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
    registry_listen: Vec<String>,
    registry_htpasswd: Option<PathBuf>,
    registry_tlscert: Option<PathBuf>,
    registry_tlskey: Option<PathBuf>,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Images, containers, cluster state.
    pub data_dir: PathBuf,
    /// Sockets and what does not survive a reboot.
    pub run_dir: PathBuf,
    /// Where the Engine API listens.
    pub hosts: Vec<ApiHost>,
    /// Serve [`DOCKER_SOCKET`], too, unless another engine does.
    pub docker_socket: bool,
    /// Files of the TCP server.
    pub tls: Option<TlsFiles>,
    /// Name of the node.
    pub node_name: Option<String>,
    /// Address of the cluster server.
    pub listen_addr: SocketAddr,
    /// Address told to other nodes; without one it is found at init or join.
    pub advertise_addr: Option<SocketAddr>,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Address of the metrics server.
    pub metrics_addr: Option<SocketAddr>,
    /// Log level.
    pub log_level: tracing::Level,
    /// Log format.
    pub log_format: LogFormat,
    /// Log driver of containers that name none.
    pub log_driver: LogDriver,
    /// Parent of the containers' cgroups, from the root of the hierarchy; else the runtime chooses.
    pub cgroup_parent: Option<String>,
    /// Subnet of the default bridge.
    pub bridge_subnet: Option<Ipv4Net>,
    /// Where networks without a subnet of their own get one.
    pub default_address_pools: Vec<SubnetPool>,
    /// Whose users those of containers are; the host's where `None`.
    pub user_namespace: Option<IdMaps>,
    /// How registries are reached.
    pub registries: RegistrySettings,
    /// The registry in the box.
    pub registry: RegistryConfig,
}

/// One listener of the Engine API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiHost {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP; with client certificates, or insecure on loopback.
    Tcp(SocketAddr),
}

/// Certificate files of the TCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authority of clients.
    pub authority: PathBuf,
    /// Server certificate.
    pub certificate: PathBuf,
    /// Server key.
    pub key: PathBuf,
}

/// Format of the daemon's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the file, lays the flags over it and checks everything; the error lists every problem.
pub fn load(flags: DaemonFlags) -> anyhow::Result<DaemonConfig> {
    let (file, mut problems) = match &flags.config {
        Some(path) => file::read(path),
        None if Path::new(CONFIG_FILE).exists() => file::read(Path::new(CONFIG_FILE)),
        None => Default::default(),
    };
    match check(merge(flags, file)) {
        Ok(config) if problems.0.is_empty() => return Ok(config),
        Ok(_) => {}
        Err(more) => problems.0.extend(more.0),
    }
    let lines: Vec<String> = problems
        .0
        .iter()
        .map(|p| format!("  {}: {}", p.field, p.message))
        .collect();
    anyhow::bail!("the settings cannot be used:\n{}", lines.join("\n"))
}

fn merge(flags: DaemonFlags, file: ConfigFile) -> ConfigFile {
    let list = |flag: Vec<String>, file: Vec<String>| if flag.is_empty() { file } else { flag };
    ConfigFile {
        data_dir: flags.data_dir.or(file.data_dir),
        run_dir: flags.run_dir.or(file.run_dir),
        hosts: list(flags.hosts, file.hosts),
        docker_socket: flags.docker_socket || file.docker_socket,
        tlsverify: flags.tlsverify || file.tlsverify,
        tlscacert: flags.tlscacert.or(file.tlscacert),
        tlscert: flags.tlscert.or(file.tlscert),
        tlskey: flags.tlskey.or(file.tlskey),
        insecure_loopback: flags.insecure_loopback || file.insecure_loopback,
        node_name: flags.node_name.or(file.node_name),
        listen_addr: flags.listen_addr.or(file.listen_addr),
        advertise_addr: flags.advertise_addr.or(file.advertise_addr),
        labels: list(flags.labels, file.labels),
        metrics_addr: flags.metrics_addr.or(file.metrics_addr),
        log_level: flags.log_level.or(file.log_level),
        log_format: flags.log_format.or(file.log_format),
        log_driver: flags.log_driver.or(file.log_driver),
        log_opts: match flags.log_opts.is_empty() {
            true => file.log_opts,
            false => LogOptions::Flags(flags.log_opts),
        },
        cgroup_parent: flags.cgroup_parent.or(file.cgroup_parent),
        bridge_subnet: flags.bridge_subnet.or(file.bridge_subnet),
        default_address_pools: list(flags.default_address_pools, file.default_address_pools),
        userns_remap: flags.userns_remap.or(file.userns_remap),
        registry_mirrors: list(flags.registry_mirrors, file.registry_mirrors),
        insecure_registries: list(flags.insecure_registries, file.insecure_registries),
        registry_listen: list(flags.registry_listen, file.registry_listen),
        registry_htpasswd: flags.registry_htpasswd.or(file.registry_htpasswd),
        registry_tlscert: flags.registry_tlscert.or(file.registry_tlscert),
        registry_tlskey: flags.registry_tlskey.or(file.registry_tlskey),
    }
}

fn check(raw: ConfigFile) -> Result<DaemonConfig, Problems> {
    let mut problems = Problems::default();
    let data_dir = directory("data-dir", raw.data_dir.clone(), "/var/lib/muster", &mut problems);
    let run_dir = directory("run-dir", raw.run_dir.clone(), "/run/muster", &mut problems);
    let tls = api::tls_files(&raw, &mut problems);
    let hosts = api::hosts(&raw, tls.is_some(), &mut problems);
    let listen_addr = raw.listen_addr.as_deref().unwrap_or("0.0.0.0");
    let listen_addr = address("listen-addr", listen_addr, CLUSTER_PORT, &mut problems);
    let advertise_addr = raw
        .advertise_addr
        .as_deref()
        .and_then(|text| address("advertise-addr", text, CLUSTER_PORT, &mut problems));
    if advertise_addr.is_some_and(|address| address.ip().is_unspecified()) {
        problems.add(
            "advertise-addr",
            "other nodes cannot reach an unspecified address; name one of this host",
        );
    }
    let metrics_addr = raw
        .metrics_addr
        .as_deref()
        .and_then(|text| address("metrics-addr", text, 9323, &mut problems));
    let labels = pairs("label", &raw.labels, &mut problems);
    let log_level = raw
        .log_level
        .as_deref()
        .unwrap_or("info")
        .parse()
        .unwrap_or_else(|_| {
            problems.add("log-level", "use error, warn, info, debug or trace");
            tracing::Level::INFO
        });
    let log_format = match raw.log_format.as_deref().unwrap_or("text") {
        "json" => LogFormat::Json,
        "text" => LogFormat::Text,
        other => {
            problems.add("log-format", format!("{other:?} is neither text nor json"));
            LogFormat::Text
        }
    };
    let log_driver = logs::read(raw.log_driver.as_deref(), &raw.log_opts, &mut problems);
    let cgroup_parent = raw
        .cgroup_parent
        .as_deref()
        .map(|parent| parent.trim_matches('/').to_owned());
    let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if cgroup_parent
        .as_deref()
        .is_some_and(|parent| parent.split('/').any(is_bad))
    {
        problems.add(
            "cgroup-parent",
            "use a path such as /muster, without . and .. in it",
        );
    }
    if raw
        .node_name
        .as_deref()
        .is_some_and(|name| name.is_empty() || name.len() > 255)
    {
        problems.add("node-name", "use 1 to 255 characters");
    }
    let bridge_subnet = raw.bridge_subnet.as_deref().and_then(|text| {
        let read = text.parse().ok();
        if read.is_none() {
            problems.add(
                "bridge-subnet",
                format!("{text:?} is not an IPv4 subnet such as 172.17.0.0/16"),
            );
        }
        read
    });
    let default_address_pools = address_pools(&raw.default_address_pools, &mut problems);
    let user_namespace = user_namespace(raw.userns_remap.as_deref(), &mut problems);
    let (mirrors, insecure) = (&raw.registry_mirrors, &raw.insecure_registries);
    let registries = registries::read(mirrors, insecure, &data_dir, &mut problems);
    let registry = registry::read(&raw, &mut problems);
    problems.into_result()?;
    Ok(DaemonConfig {
        data_dir,
        run_dir,
        hosts,
        docker_socket: raw.docker_socket,
        tls,
        node_name: raw.node_name,
        listen_addr: listen_addr.expect("a bad address was a problem"),
        advertise_addr,
        labels,
        metrics_addr,
        log_level,
        log_format,
        log_driver,
        cgroup_parent,
        bridge_subnet,
        default_address_pools,
        user_namespace,
        registries,
        registry,
    })
}

/// An empty value turns it off, as with Docker.
fn user_namespace(text: Option<&str>, problems: &mut Problems) -> Option<IdMaps> {
    let text = text.filter(|text| !text.is_empty())?;
    match muster_engine::user_namespace::resolve(text, Path::new("/etc")) {
        Ok(maps) => Some(maps),
        Err(found) => {
            for problem in found {
                problems.add("userns-remap", muster_runtime::describe(&problem));
            }
            None
        }
    }
}

fn address_pools(texts: &[String], problems: &mut Problems) -> Vec<SubnetPool> {
    let read = |text: &String| {
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.split_once('=')? {
                ("base", value) => base = value.parse::<IpNet>().ok(),
                ("size", value) => size = value.parse::<u8>().ok(),
                _ => return None,
            }
        }
        SubnetPool::new(base?, size?)
    };
    let mut pools = Vec::new();
    for text in texts {
        match read(text) {
            Some(pool) => pools.push(pool),
            None => problems.add(
                "default-address-pool",
                format!("{text:?} is no pool such as base=10.10.0.0/16,size=24"),
            ),
        }
    }
    pools
}

fn directory(field: &str, given: Option<PathBuf>, default: &str, problems: &mut Problems) -> PathBuf {
    let path = given.unwrap_or_else(|| PathBuf::from(default));
    if !path.is_absolute() {
        problems.add(field, format!("{} must be an absolute path", path.display()));
    }
    path
}

/// Reads `address`, `address:port` or `:port`. Names are not resolved: a cluster's addresses must not depend on DNS.
fn address(field: &str, text: &str, port: u16, problems: &mut Problems) -> Option<SocketAddr> {
    let read = text
        .parse::<SocketAddr>()
        .ok()
        .or_else(|| {
            text.parse::<std::net::IpAddr>()
                .ok()
                .map(|ip| SocketAddr::new(ip, port))
        })
        .or_else(|| {
            format!("0.0.0.0{text}")
                .parse()
                .ok()
                .filter(|_| text.starts_with(':'))
        });
    if read.is_none() {
        problems.add(
            field,
            format!("{text:?} is not an IP address with an optional port"),
        );
    }
    read
}

fn pairs(field: &str, given: &[String], problems: &mut Problems) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    for text in given {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
                    problems.add(field, format!("{key:?} is given twice"));
                }
            }
            _ => problems.add(field, format!("{text:?} is not key=value")),
        }
    }
    pairs
}

mod api;
mod file;
mod logs;
mod registries;
mod registry;
#[cfg(test)]
mod tests;
