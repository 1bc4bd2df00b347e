//! One machine: what survives a restart of its daemon, and the daemon.

use crate::agents::AgentProcess;
use crate::clock::Clock;
use crate::controllers::ControllerProcess;
use crate::engine::Engine;
use crate::networks::Held;
use crate::random::Dice;
use muster_consensus::sim::{SeededEntropy, SimDisk};
use muster_controller::authorize::Identity;
use muster_node_plan::TaskRecord;
use muster_types::{AssignmentSet, NodeId, RaftId, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many written states of the agent's file a power loss chooses from.
const SAVES_KEPT: usize = 3;

/// The agent's file.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// Newest assignment set.
    pub set: AssignmentSet,
    /// One record per task.
    pub records: BTreeMap<TaskId, TaskRecord>,
}

/// The files that say what the node is a member of. They are synced when they are written, all but the agent's state.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The node, once it joined.
    pub node: Option<NodeId>,
    /// Its certificate.
    pub certificate: Option<Identity>,
    /// The controller's Raft id, where there is one.
    pub raft_id: Option<RaftId>,
    /// Controllers to begin with.
    pub controllers: Vec<String>,
    /// Controllers as the agent was told last.
    pub told_controllers: Vec<String>,
    /// What the agent wrote, oldest first. It is not synced.
    pub saves: Vec<Saved>,
}

impl Files {
    /// The agent writes its file.
    pub fn save(&mut self, saved: Saved) {
        self.saves.push(saved);
        if self.saves.len() > SAVES_KEPT {
            self.saves.remove(0);
        }
    }

    /// Of what was not synced, any state may be left.
    pub fn lose_power(&mut self, dice: &mut Dice) {
        let kept = dice.between(1, SAVES_KEPT as u64) as usize;
        self.saves.truncate(kept);
    }
}

/// A running daemon.
pub struct Daemon {
    /// When it started.
    pub started_us: u64,
    /// Its agent, once the node has joined.
    pub agent: Option<AgentProcess>,
    /// Its controller, where the node has that role.
    pub controller: Option<ControllerProcess>,
    /// The controller ended by itself; the daemon does not try again.
    pub controller_failed: bool,
    /// A question for a node or Raft id is under way.
    pub joining: bool,
    /// The Raft id of the node's record, under which it has no log, as an answer told.
    pub held_raft_id: Option<RaftId>,
}

/// One machine.
pub struct Machine {
    /// It has power.
    pub powered: bool,
    /// Without power or daemon since.
    pub down_since_us: Option<u64>,
    /// The disk of the controller's log.
    pub disk: SimDisk,
    /// Where its keys come from.
    pub entropy: Arc<SeededEntropy>,
    /// Its other files.
    pub files: Files,
    /// Its containers.
    pub engine: Engine,
    /// Places of its standalone containers in networks of the cluster.
    pub held: Held,
    /// Its clocks.
    pub clock: Clock,
    /// The daemon, while it runs.
    pub daemon: Option<Daemon>,
    /// Rises with every start and end of the daemon, so that nothing meant for an earlier one reaches a later.
    pub epoch: u64,
    /// Nothing runs until then: the machine is paused.
    pub stalled_until_us: u64,
    /// When its certificate is to be renewed.
    pub renew_at_us: u64,
    /// The machine stays away until it joins anew.
    pub banished: bool,
    /// Its record was removed behind its back: it leaves when it gets up again, after a while.
    pub outcast: bool,
    /// Its daemon said that it restarts, and has not yet.
    pub said_farewell: bool,
    /// Its log is gone, and its controller has not found out yet.
    pub log_lost: bool,
    /// Its disk fails or is full: its controller may end.
    pub disk_fault: bool,
    /// For what happens on it.
    pub dice: Dice,
}

impl Machine {
    /// A machine that was just delivered.
    pub fn new(dice: &mut Dice) -> Self {
        Self {
            powered: true,
            down_since_us: None,
            disk: SimDisk::new(dice.draw()),
            entropy: Arc::new(SeededEntropy::new(dice.draw())),
            files: Files::default(),
            engine: Engine::new(dice.fork()),
            held: Held::new(),
            clock: Clock {
                drift_ppm: dice.between(0, 20_000) as i64 - 10_000,
                wall_offset_us: dice.between(0, 4_000_000) as i64 - 2_000_000,
            },
            daemon: None,
            epoch: 0,
            stalled_until_us: 0,
            renew_at_us: u64::MAX,
            banished: false,
            outcast: false,
            said_farewell: false,
            log_lost: false,
            disk_fault: false,
            dice: dice.fork(),
        }
    }

    /// The controller, while it runs.
    pub fn controller(&self) -> Option<&ControllerProcess> {
        self.daemon.as_ref()?.controller.as_ref()
    }

    /// The controller, while it runs.
    pub fn controller_mut(&mut self) -> Option<&mut ControllerProcess> {
        self.daemon.as_mut()?.controller.as_mut()
    }

    /// The agent, while it runs.
    pub fn agent(&self) -> Option<&AgentProcess> {
        self.daemon.as_ref()?.agent.as_ref()
    }

    /// The agent, while it runs.
    pub fn agent_mut(&mut self) -> Option<&mut AgentProcess> {
        self.daemon.as_mut()?.agent.as_mut()
    }
}
