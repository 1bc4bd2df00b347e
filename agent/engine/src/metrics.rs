//! What the engine measures of itself.

use crate::error::{Error, Result};
use crate::phase::Phase;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use std::time::Instant;

/// Bounds of operation times: a start takes milliseconds, a stop up to its grace.
const SECONDS_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// The engine's metrics.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    operations: HistogramVec,
    failures: IntCounterVec,
    containers: IntGaugeVec,
}

impl EngineMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self> {
        let failed = |error: prometheus::Error| Error::invalid(format!("cannot register metrics: {error}"));
        let seconds = HistogramOpts::new(
            "muster_engine_operation_duration_seconds",
            "Time of engine operations, by operation",
        );
        let failures = Opts::new(
            "muster_engine_operation_failures_total",
            "Engine operations that failed, by operation",
        );
        let containers = Opts::new("muster_engine_containers", "Containers, by state");
        let metrics = Self {
            operations: HistogramVec::new(seconds.buckets(SECONDS_BUCKETS.to_vec()), &["operation"])
                .map_err(failed)?,
            failures: IntCounterVec::new(failures, &["operation"]).map_err(failed)?,
            containers: IntGaugeVec::new(containers, &["state"]).map_err(failed)?,
        };
        registry
            .register(Box::new(metrics.operations.clone()))
            .map_err(failed)?;
        registry
            .register(Box::new(metrics.failures.clone()))
            .map_err(failed)?;
        registry
            .register(Box::new(metrics.containers.clone()))
            .map_err(failed)?;
        Ok(metrics)
    }

    /// Records an operation that began at `began`.
    pub(crate) fn observe(&self, operation: &str, began: Instant, succeeded: bool) {
        let seconds = began.elapsed().as_secs_f64();
        self.operations.with_label_values(&[operation]).observe(seconds);
        if !succeeded {
            self.failures.with_label_values(&[operation]).inc();
        }
    }

    /// A container went from one phase to another; `None` is before and after its life.
    pub(crate) fn moved(&self, from: Option<Phase>, to: Option<Phase>) {
        if let Some(from) = from {
            self.containers.with_label_values(&[from.state().name()]).dec();
        }
        if let Some(to) = to {
            self.containers.with_label_values(&[to.state().name()]).inc();
        }
    }
}
