//! One node's daemon: engine, membership, Engine API, metrics; started in order, stopped in reverse.

mod builds;
mod container_files;
mod engine;
mod input_writer;
mod lock;
mod metrics;
pub(crate) mod registry;
mod registry_server;
mod reserve;

use crate::config::{self, ApiHost, DaemonConfig, DaemonFlags, LogFormat};
use crate::node::NodeHost;
use crate::node::attach::Attachments;
use crate::node::backend::NodeBackend;
use crate::node::files::NodeFiles;
use crate::node::member::MemberContext;
use crate::node::networks::ClusterNetworks;
use crate::node::registry::OtherNodes;
use crate::node::service::PeerService;
use crate::node::spread::Spread;
use crate::node::tasks::EngineTasks;
use crate::tls;
use anyhow::Context;
use engine::EngineBackend;
use muster_controller::metrics::ControllerMetrics;
use muster_engine::{Engine, EngineConfig};
use muster_engine_api::backend::{Backends, LocalEngine};
use muster_engine_api::{Listen, Server, ServerConfig};
use muster_registry::Registries;
use muster_runtime::cgroup::CgroupRoot;
use muster_runtime::{Launcher, LauncherConfig};
use muster_types::service::Platform;
use muster_types::{NodeDescription, Resources};
use reserve::Reserve;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Threads that run the daemon's tasks; blocking work has its own.
const WORKER_THREADS_MAX: usize = 4;
/// Between two looks at whether what came of unfinished images is too old.
const UNFINISHED_LOOK_PERIOD: std::time::Duration = std::time::Duration::from_secs(60);

/// Runs the daemon until SIGTERM or SIGINT. Containers outlive it.
pub fn run(flags: DaemonFlags) -> anyhow::Result<()> {
    let config = config::load(flags)?;
    start_logging(&config);
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("cannot make {}", config.run_dir.display()))?;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make {}", config.data_dir.display()))?;
    let _lock = lock::take(&config.data_dir)?;
    let reserve = Reserve::give_out_if_needed(&config.data_dir)?;
    let cgroup = match &config.cgroup_parent {
        Some(parent) => CgroupRoot::at_parent(parent),
        None => CgroupRoot::detect(),
    }
    .context("cannot use this host's control groups")?;
    cgroup
        .prepare()
        .context("cannot prepare the containers' parent control group")?;
    // Before the first thread: the launcher is a copy of as little as possible.
    let launcher = Launcher::spawn(&LauncherConfig::new(&config.run_dir, cgroup.clone()))
        .context("cannot start the launcher")?;
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(WORKER_THREADS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(serve(config, launcher, cgroup, reserve))
}

async fn serve(
    config: DaemonConfig,
    launcher: Launcher,
    cgroup: CgroupRoot,
    reserve: Reserve,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registry = prometheus::Registry::new();
    let mut engine_config = EngineConfig::new(&config.data_dir, &config.run_dir, launcher, cgroup);
    engine_config.registry = registry.clone();
    engine_config.labels.clone_from(&config.labels);
    if let Some(name) = &config.node_name {
        engine_config.node_name.clone_from(name);
    }
    if let Some(subnet) = config.bridge_subnet {
        engine_config.bridge.subnet = subnet;
    }
    engine_config
        .bridge
        .pools
        .clone_from(&config.default_address_pools);
    engine_config.log.clone_from(&config.log_driver);
    engine_config.user_namespace.clone_from(&config.user_namespace);
    let attachments = Arc::new(Attachments::default());
    engine_config.shared_places = Some(attachments.clone());
    let engine = Engine::open(engine_config)
        .await
        .context("cannot open the container engine")?;
    let images = engine.images().clone();
    let spread = Spread::new(images.clone());
    let registries = Registries::new(config.registries.clone()).with_peers(Arc::new(spread.clone()));
    let local: Arc<dyn LocalEngine> = Arc::new(EngineBackend::new(engine.clone(), registries.clone()));
    metrics::register_images(
        &registry,
        images.clone(),
        registries.traffic().clone(),
        spread.clone(),
    )?;
    let registry_traffic = Arc::default();
    if !config.registry.listen.is_empty() {
        metrics::register_own_registry(&registry, Arc::clone(&registry_traffic), images.clone())?;
    }
    let description = describe(&config, local.as_ref()).await?;
    let controller_metrics = ControllerMetrics::new()?;
    controller_metrics.register(&registry)?;
    let networks = ClusterNetworks::new(engine.clone());
    let following = tokio::spawn(networks.clone().follow());
    let reserving = tokio::spawn(reserve.keep());
    let expiring = tokio::spawn(expire_unfinished(images.clone()));
    let host = NodeHost::new(MemberContext {
        files: NodeFiles::new(&config.data_dir),
        tasks: Arc::new(EngineTasks::new(
            (local.clone(), engine.clone()),
            images.clone(),
            registries,
            networks.clone(),
        )),
        peers: PeerService::new(images.clone(), Arc::new(local.clone()), spread),
        description,
        metrics: controller_metrics,
    });
    let backend = NodeBackend::new(host.clone(), config.listen_addr, config.advertise_addr);
    let backends = Backends {
        engine: local,
        cluster: Arc::new(backend),
    };
    let server = Server::bind(&api_config(&config)?).await?;
    let (stop, stopped) = watch::channel(false);
    let metrics = metrics::serve(config.metrics_addr, registry, host.clone(), stopped.clone()).await?;
    registry_server::accept_nodes(&config.registries.nodes, &host);
    let own_registry = registry_server::bind(&config.registry, &host, registry_traffic).await?;
    host.resume().await;
    let leasing = tokio::spawn(attachments.follow(networks, engine.clone(), host.clone()));
    let own_registry = own_registry.map(|server| {
        let others = OtherNodes::of(host.clone());
        tokio::spawn(server.run(images, others, until(stopped.clone())))
    });
    let api = tokio::spawn(server.run(backends, until(stopped)));
    tracing::info!(data_dir = %config.data_dir.display(), hosts = ?config.hosts, "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; containers run on");
    stop.send_replace(true);
    if let Some(own_registry) = own_registry
        && own_registry.await.is_err()
    {
        tracing::error!("the registry panicked");
    }
    host.shutdown().await;
    if api.await.is_err() {
        tracing::error!("the API server panicked");
    }
    if let Some(metrics) = metrics
        && metrics.await.is_err()
    {
        tracing::error!("the metrics server panicked");
    }
    leasing.abort();
    following.abort();
    reserving.abort();
    expiring.abort();
    engine.shutdown().await;
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A dropped sender means that the daemon is going down, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn start_logging(config: &DaemonConfig) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_ansi(std::io::stderr().is_terminal())
        // They would go to standard error too, and whoever logs would panic while its disk is full.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn api_config(config: &DaemonConfig) -> anyhow::Result<ServerConfig> {
    let mut server = ServerConfig::default();
    for host in &config.hosts {
        server.listeners.push(match (host, &config.tls) {
            (ApiHost::Unix(path), _) => Listen::Unix(path.clone()),
            (ApiHost::Tcp(address), Some(files)) => Listen::Tls(*address, tls::server_config(files)?),
            (ApiHost::Tcp(address), None) => Listen::InsecureLoopback(*address),
        });
    }
    if config.docker_socket {
        let path = PathBuf::from(config::DOCKER_SOCKET);
        // Who listens there by -H needs no second listener, which would find the first.
        if !config.hosts.contains(&ApiHost::Unix(path.clone())) {
            server.listeners.push(Listen::UnixIfFree(path));
        }
    }
    Ok(server)
}

/// Deletes what came of images that nobody finished.
async fn expire_unfinished(images: muster_images::ImageStore) {
    let mut look = tokio::time::interval(UNFINISHED_LOOK_PERIOD);
    loop {
        look.tick().await;
        let images = images.clone();
        let expired = tokio::task::spawn_blocking(move || images.expire_unfinished()).await;
        if let Ok(Err(error)) = expired {
            tracing::warn!(
                error = error.full_message(),
                "what came of unfinished images is left over"
            );
        }
    }
}

/// What the node says of itself to the cluster.
async fn describe(config: &DaemonConfig, engine: &dyn LocalEngine) -> anyhow::Result<NodeDescription> {
    let info = engine
        .info()
        .await
        .map_err(|error| anyhow::anyhow!("{}", error.message))?;
    Ok(NodeDescription {
        hostname: info.name,
        platform: Platform {
            os: "linux".to_owned(),
            architecture: info.architecture,
        },
        resources: Resources {
            nano_cpus: info.cpus.saturating_mul(1_000_000_000),
            memory_bytes: info.memory_bytes,
            pids: 0,
        },
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_labels: config.labels.clone(),
        feature_level: muster_state::SUPPORTED_FEATURE_LEVEL,
        data_path_address: None,
        routes: Vec::new(),
        tls: None,
        advertise_address: String::new(),
    })
}
