//! One container: its record, its run, and how both change.

mod info;

use crate::backoff::Backoff;
use crate::given_files::GivenFile;
use crate::metrics::EngineMetrics;
use crate::network::Places;
use crate::phase::{IllegalStep, Phase, Step};
use crate::record::Record;
use bytes::Bytes;
use muster_runtime::{AttachRequest, Monitor};
use muster_types::container::{HealthState, PortBinding};
use muster_types::id_map::IdMaps;
use muster_types::{ContainerId, Timestamp};
use oci_spec::runtime::Process;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

use crate::attach::OutputChunk;
use crate::error::Result;

/// One container.
///
/// Whoever holds `operation` owns the container's transitions (start, end, pause, remove); everybody may read, and what
/// only asks the container to end (stop, kill) needs no ownership, so that it works while a start waits.
#[derive(Debug)]
pub(crate) struct Container {
    pub id: ContainerId,
    pub operation: tokio::sync::Mutex<()>,
    cell: Mutex<Cell>,
    changes: watch::Sender<Observed>,
    metrics: EngineMetrics,
}

/// What changes of a container.
#[derive(Debug)]
pub(crate) struct Cell {
    pub record: Record,
    pub run: Option<Run>,
    pub backoff: Backoff,
    pub health: Option<HealthState>,
    /// Clients that attached before the start.
    pub waiting_clients: Vec<WaitingClient>,
    /// Files for the next start.
    pub given_files: Vec<GivenFile>,
    /// Ends so far, so that a waiter can tell the next one from the last.
    ends: u64,
}

/// A container that runs.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub monitor: Monitor,
    /// Its places in networks.
    pub places: Places,
    pub ports: Vec<PortBinding>,
    /// What exec starts from.
    pub process: Process,
    /// Whose users its own are; `None` where they are the host's.
    pub ids: Option<IdMaps>,
}

/// A client that waits for the start.
#[derive(Debug)]
pub(crate) struct WaitingClient {
    pub request: AttachRequest,
    pub output: mpsc::Sender<Result<OutputChunk>>,
    pub input: Option<mpsc::Receiver<Bytes>>,
}

/// What waiters see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    pub phase: Phase,
    pub ends: u64,
    pub exit_code: i32,
    pub error: String,
}

impl Container {
    pub fn new(record: Record, metrics: EngineMetrics) -> Self {
        metrics.moved(None, Some(record.phase));
        let observed = Observed {
            phase: record.phase,
            ends: 0,
            exit_code: record.exit_code,
            error: record.error.clone(),
        };
        Self {
            id: record.id.clone(),
            operation: tokio::sync::Mutex::new(()),
            cell: Mutex::new(Cell {
                record,
                run: None,
                backoff: Backoff::default(),
                health: None,
                waiting_clients: Vec::new(),
                given_files: Vec::new(),
                ends: 0,
            }),
            changes: watch::Sender::new(observed),
            metrics,
        }
    }

    /// Reads or changes the container at one moment, then tells waiters. Must not block.
    pub fn with<R>(&self, change: impl FnOnce(&mut Cell) -> R) -> R {
        let mut cell = self.cell.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut cell);
        let now = Observed {
            phase: cell.record.phase,
            ends: cell.ends,
            exit_code: cell.record.exit_code,
            error: cell.record.error.clone(),
        };
        self.changes.send_if_modified(|observed| {
            if *observed == now {
                return false;
            }
            if observed.phase != now.phase {
                self.metrics.moved(Some(observed.phase), Some(now.phase));
            }
            *observed = now;
            true
        });
        result
    }

    pub fn record(&self) -> Record {
        self.with(|cell| cell.record.clone())
    }

    pub fn phase(&self) -> Phase {
        self.with(|cell| cell.record.phase)
    }

    pub fn run(&self) -> Option<Run> {
        self.with(|cell| cell.run.clone())
    }

    /// Takes a step of the state machine.
    pub fn step(&self, step: Step) -> Result<Phase, IllegalStep> {
        self.with(|cell| cell.step(step))
    }

    /// What waiters see, now and with every change.
    pub fn watch(&self) -> watch::Receiver<Observed> {
        self.changes.subscribe()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.metrics.moved(Some(self.changes.borrow().phase), None);
    }
}

impl Cell {
    pub fn step(&mut self, step: Step) -> Result<Phase, IllegalStep> {
        self.record.phase = self.record.phase.after(step)?;
        Ok(self.record.phase)
    }

    /// Ends the run and returns it.
    pub fn end(&mut self, ending: &Ending, restarts: bool) -> Option<Run> {
        self.ends += 1;
        // Only a live container has a run to end.
        let _ = self.record.end(ending, restarts);
        self.run.take()
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub code: i32,
    pub oom_killed: bool,
    pub finished_at: Timestamp,
    pub error: String,
}
