//! What the engine keeps of a container across restarts of the daemon and of the host.

use crate::container::Ending;
use crate::network::{Wanted, own_network};
use crate::phase::{IllegalStep, Phase, Step};
use muster_runtime::label::selinux::Level;
use muster_types::container::{ContainerConfig, ContainerState, EndpointSpec, HealthCheck, MountPoint};
use muster_types::{ContainerId, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Wait between stop signal and SIGKILL where nobody says; Docker's.
const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// A container's durable record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Identity.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// What it was asked to be.
    pub config: ContainerConfig,
    /// The image's id.
    pub image_id: String,
    /// Path and arguments in effect.
    pub command: Vec<String>,
    /// Environment of image and configuration.
    pub env: Vec<String>,
    /// Working directory in effect.
    pub working_dir: String,
    /// User in effect.
    pub user: String,
    /// Host name in effect.
    pub host_name: String,
    /// Stop signal in effect.
    pub stop_signal: i32,
    /// Stop grace in effect.
    pub stop_grace: Duration,
    /// Health check in effect.
    pub health: Option<HealthCheck>,
    /// Exposed ports in effect, as `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// Mounts in effect.
    pub mounts: Vec<MountPoint>,
    /// Volumes that were made for it without a name; they go with it when asked for.
    pub anonymous_volumes: Vec<String>,
    /// What it wants of which network, by the networks' names; `None` in records of earlier versions.
    #[serde(default)]
    pub networks: Option<Wanted>,
    /// When it was made.
    pub created: Timestamp,
    /// Where it is. What it says of running is a hint only: the monitor knows.
    pub phase: Phase,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// The kernel's OOM killer ended the last run.
    pub oom_killed: bool,
    /// Why the last start or run failed.
    pub error: String,
    /// Last start; zero when never.
    pub started_at: Timestamp,
    /// Last end; zero when never.
    pub finished_at: Timestamp,
    /// Restarts by the engine.
    pub restart_count: u64,
    /// A user stopped it, so that `unless-stopped` leaves it alone.
    pub stopped_by_user: bool,
    /// The SELinux level that was reserved for it; one that comes from its id where `None`.
    #[serde(default)]
    pub level: Option<Level>,
    /// What was begun with it and is not known to have come to its end.
    #[serde(default)]
    pub unfinished: Unfinished,
}

/// An operation that an engine which ends in its middle leaves to the next one: recorded only where nothing else would
/// tell what to take away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Unfinished {
    /// Nothing is under way.
    #[default]
    Nothing,
    /// It is being made, and these volumes with it.
    Create {
        /// Names of the volumes, which nobody has used yet.
        volumes: Vec<String>,
    },
    /// It is being removed together with its anonymous volumes.
    Removal,
}

impl Record {
    /// The level that keeps it apart from other containers where SELinux is in force.
    pub fn level(&self) -> Level {
        self.level.unwrap_or_else(|| Level::of(self.id.as_str()))
    }

    /// Stop grace of a configuration.
    pub fn grace_of(config: &ContainerConfig) -> Duration {
        config.stop_grace.unwrap_or(STOP_GRACE_DEFAULT)
    }

    /// Notes that a run began.
    pub fn begin(&mut self, started_at: Timestamp) {
        self.started_at = started_at;
        self.error.clear();
        self.exit_code = 0;
        self.oom_killed = false;
    }

    /// Notes how the run ended, and whether another follows.
    pub fn end(&mut self, ending: &Ending, restarts: bool) -> Result<(), IllegalStep> {
        self.exit_code = ending.code;
        self.oom_killed = ending.oom_killed;
        self.finished_at = ending.finished_at;
        self.error.clone_from(&ending.error);
        let step = if restarts { Step::ExitToRestart } else { Step::Exit };
        self.phase = self.phase.after(step)?;
        Ok(())
    }

    /// What it wants of which network: in records of earlier versions, its mode's network alone.
    pub fn wanted_networks(&self) -> Wanted {
        match &self.networks {
            Some(networks) => networks.clone(),
            None => own_network(&self.config.host.network)
                .map(|name| (name.to_owned(), EndpointSpec::default()))
                .into_iter()
                .collect(),
        }
    }

    /// The state as users see it. A start under way shows what was before it: a container that its engine starts again is
    /// restarting until it runs.
    pub fn state(&self) -> ContainerState {
        match self.phase {
            Phase::Starting if self.restart_count > 0 => ContainerState::Restarting,
            Phase::Starting if self.was_started() => ContainerState::Exited,
            phase => phase.state(),
        }
    }

    /// Whether it was ever started.
    pub fn was_started(&self) -> bool {
        self.started_at != Timestamp::ZERO
    }
}
