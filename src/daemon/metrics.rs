//! The metrics server: Prometheus text on a configurable address.

use crate::node::NodeHost;
use crate::node::spread::Spread;
use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use muster_images::ImageStore;
use muster_registry::Traffic;
use muster_types::TaskState;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Serves `/metrics` until stopped; nothing when no address is configured.
pub async fn serve(
    address: Option<SocketAddr>,
    registry: Registry,
    host: Arc<NodeHost>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = address else { return Ok(None) };
    registry.register(Box::new(ClusterMetrics::new(host)?))?;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let router = Router::new().route("/metrics", get(move || render(registry.clone())));
    let task = tokio::spawn(async move {
        let stop = async move {
            // A dropped sender stops it too.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(error = %error, "the metrics server ended");
        }
    });
    Ok(Some(task))
}

async fn render(registry: Registry) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "cannot encode metrics");
            axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Has the bytes of images that are here, come and go counted.
pub fn register_images(
    registry: &Registry,
    images: ImageStore,
    traffic: Arc<Traffic>,
    spread: Spread,
) -> prometheus::Result<()> {
    registry.register(Box::new(ImageMetrics {
        images,
        traffic,
        spread,
        bytes: IntGauge::with_opts(Opts::new(
            "muster_image_bytes",
            "Bytes of all that this node keeps of images: files of layers, their archives' headers, blobs of layers",
        ))?,
        fetched: IntCounterVec::new(
            Opts::new(
                "muster_image_fetched_bytes_total",
                "Bytes of images' blobs that came here since the start",
            ),
            &["from"],
        )?,
        served: IntCounter::with_opts(Opts::new(
            "muster_image_served_bytes_total",
            "Bytes of images' blobs that other nodes took from here since the start",
        ))?,
    }))
}

/// Reads what was counted at each scrape.
struct ImageMetrics {
    images: ImageStore,
    bytes: IntGauge,
    traffic: Arc<Traffic>,
    spread: Spread,
    fetched: IntCounterVec,
    served: IntCounter,
}

impl Collector for ImageMetrics {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.fetched
            .desc()
            .into_iter()
            .chain(self.served.desc())
            .chain(self.bytes.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (from, bytes) in [
            ("registry", self.traffic.registry_bytes()),
            ("node", self.traffic.peer_bytes()),
        ] {
            raise(&self.fetched.with_label_values(&[from]), bytes);
        }
        raise(&self.served, self.spread.served());
        match self.images.layer_bytes() {
            Ok(bytes) => self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot count the images' bytes"
            ),
        }
        self.fetched
            .collect()
            .into_iter()
            .chain(self.served.collect())
            .chain(self.bytes.collect())
            .collect()
    }
}

/// Has the bytes of the registry in the box counted.
pub fn register_own_registry(
    registry: &Registry,
    traffic: Arc<muster_registry_server::Traffic>,
    images: ImageStore,
) -> prometheus::Result<()> {
    registry.register(Box::new(OwnRegistryMetrics {
        traffic,
        images,
        received: IntCounter::new(
            "muster_registry_received_bytes_total",
            "Bytes of blobs and manifests that clients sent to the registry in the box since the start",
        )?,
        served: IntCounter::new(
            "muster_registry_served_bytes_total",
            "Bytes of blobs and manifests that clients took from the registry in the box since the start",
        )?,
        stored: IntGauge::new(
            "muster_registry_stored_bytes",
            "Bytes on this node's disk that its repositories hold; images of the node may share them",
        )?,
    }))
}

/// Reads what was counted, and what is held, at each scrape.
struct OwnRegistryMetrics {
    traffic: Arc<muster_registry_server::Traffic>,
    images: ImageStore,
    received: IntCounter,
    served: IntCounter,
    stored: IntGauge,
}

impl Collector for OwnRegistryMetrics {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        let counters = self.received.desc().into_iter().chain(self.served.desc());
        counters.chain(self.stored.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        raise(&self.received, self.traffic.received_bytes());
        raise(&self.served, self.traffic.served_bytes());
        let counters = self.received.collect().into_iter().chain(self.served.collect());
        match self.images.repository_bytes() {
            Ok(bytes) => self.stored.set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Err(error) => {
                tracing::warn!(
                    error = error.full_message(),
                    "the repositories cannot be measured"
                );
                return counters.collect();
            }
        }
        counters.chain(self.stored.collect()).collect()
    }
}

/// Brings a counter up to what was counted elsewhere.
fn raise(counter: &IntCounter, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
}

/// Reads the cluster's figures at each scrape; a node that is no controller has none.
struct ClusterMetrics {
    host: Arc<NodeHost>,
    leading: IntGauge,
    nodes: IntGaugeVec,
    tasks: IntGaugeVec,
    services: IntGauge,
}

impl ClusterMetrics {
    fn new(host: Arc<NodeHost>) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help));
        let labelled = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["state"]);
        Ok(Self {
            host,
            leading: gauge("muster_raft_leading", "1 on the controller that leads")?,
            nodes: labelled(
                "muster_nodes",
                "Nodes of the cluster by state, as applied by this controller",
            )?,
            tasks: labelled(
                "muster_tasks",
                "Tasks of the cluster by state, as applied by this controller",
            )?,
            services: gauge(
                "muster_services",
                "Services of the cluster, as applied by this controller",
            )?,
        })
    }
}

impl Collector for ClusterMetrics {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        let gauges = [&self.leading, &self.services];
        let plain = gauges.into_iter().flat_map(|gauge| gauge.desc());
        plain.chain(self.nodes.desc()).chain(self.tasks.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(handle) = self.host.member().and_then(|member| member.controller()) else {
            return Vec::new();
        };
        let state = handle.state();
        self.leading.set(i64::from(handle.is_leading()));
        self.services
            .set(i64::try_from(state.services().count()).unwrap_or(i64::MAX));
        self.nodes.reset();
        for node in state.nodes() {
            self.nodes
                .with_label_values(&[&format!("{:?}", node.status.state).to_lowercase()])
                .inc();
        }
        self.tasks.reset();
        for name in TaskState::ALL {
            self.tasks.with_label_values(&[name.name()]).set(0);
        }
        for task in state.tasks() {
            self.tasks.with_label_values(&[task.status.state.name()]).inc();
        }
        let gauges = [&self.leading, &self.services];
        let plain = gauges.into_iter().flat_map(|gauge| gauge.collect());
        plain
            .chain(self.nodes.collect())
            .chain(self.tasks.collect())
            .collect()
    }
}
