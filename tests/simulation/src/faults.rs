//! What goes wrong: about twenty faults in a run, drawn from the seed; each ends by itself or with the run's heal.

use crate::controllers::name;
use crate::network::Weather;
use crate::random::Dice;
use crate::world::{Event, World};
use muster_controller::core::io::Input;
use muster_types::{Node, NodeRole};

/// A kind of fault; what it hits is drawn when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A daemon is killed; its machine goes on.
    KillDaemon,
    /// A daemon is stopped in order and starts again.
    RestartDaemon,
    /// A machine loses power.
    PowerCut,
    /// A machine loses power in the middle of a write.
    PowerCutMidWrite,
    /// The leader's daemon is killed.
    KillLeader,
    /// The leader's machine loses power.
    CutLeader,
    /// The machines fall into two groups that do not hear each other.
    Partition,
    /// The leader hears nobody.
    IsolateLeader,
    /// One machine's messages to some others are lost, theirs to it arrive.
    OneWay,
    /// Messages are slow, lost and repeated.
    BadWeather,
    /// A disk takes long to sync.
    SlowDisk,
    /// A disk fails to sync.
    FailedSync,
    /// A disk fails to write, with a part of the bytes on it.
    FailedWrite,
    /// A disk is full.
    FullDisk,
    /// A machine's wall clock jumps.
    ClockJump,
    /// A machine is paused.
    Stall,
    /// A controller's log is lost.
    LostLog,
    /// The leader is asked to hand over.
    StepDown,
    /// A daemon is stopped in order and stays away for longer than it may.
    LongRestart,
    /// A worker leaves the cluster, and comes back as a new node.
    Leave,
    /// The record of a node that is down is removed; it comes up as if nothing had happened, and leaves later.
    Outcast,
}

/// How a fault ends.
#[derive(Debug, Clone)]
pub enum Recovery {
    /// The machine has power and its daemon runs.
    Start(usize),
    /// These directions are whole again.
    Mend(Vec<(usize, usize)>),
    /// The weather is fair again.
    Fair,
    /// The disk is as it should be; a controller that it ended starts again with its daemon.
    Disk(usize),
    /// The machine asks for a place in the cluster, as a new node.
    Rejoin(usize),
}

const SECOND: u64 = 1_000_000;

/// Draws one.
pub fn draw(dice: &mut Dice) -> Fault {
    use Fault::*;
    let of = [
        KillDaemon,
        KillDaemon,
        RestartDaemon,
        LongRestart,
        PowerCut,
        PowerCut,
        PowerCutMidWrite,
        PowerCutMidWrite,
        KillLeader,
        KillLeader,
        CutLeader,
        Partition,
        Partition,
        Partition,
        IsolateLeader,
        IsolateLeader,
        OneWay,
        OneWay,
        BadWeather,
        BadWeather,
        SlowDisk,
        FailedSync,
        FullDisk,
        ClockJump,
        Stall,
        Stall,
        LostLog,
        StepDown,
        Leave,
        Outcast,
    ];
    of[dice.below(of.len() as u64) as usize]
}

impl World {
    /// A fault happens.
    pub fn fault(&mut self, fault: Fault) {
        if self.healing {
            return;
        }
        let mut dice = self.fault_dice.fork();
        let machines = self.machines.len() as u64;
        let any = dice.below(machines) as usize;
        let leader = self.leader().unwrap_or(any);
        let lasting = dice.between(SECOND, 30 * SECOND);
        let takes_leader = matches!(fault, Fault::KillLeader | Fault::CutLeader | Fault::IsolateLeader);
        // Candidates that hear of each other late stand at the same time.
        if takes_leader && dice.permille(500) {
            let election = dice.between(2 * SECOND, 6 * SECOND);
            self.bad_weather(&mut dice, election);
        }
        match fault {
            Fault::KillDaemon => self.hit_daemon(any, dice.between(SECOND / 5, 15 * SECOND)),
            Fault::KillLeader => self.hit_daemon(leader, dice.between(SECOND / 5, 15 * SECOND)),
            Fault::RestartDaemon => self.hit_order(any, dice.between(SECOND / 5, 5 * SECOND)),
            Fault::LongRestart => self.hit_order(any, dice.between(80 * SECOND, 120 * SECOND)),
            Fault::PowerCut => self.hit_power(any, lasting),
            Fault::CutLeader => self.hit_power(leader, lasting),
            Fault::PowerCutMidWrite => {
                let target = if dice.permille(500) { leader } else { any };
                self.tell(format_args!("fault: {} will lose power in a write", name(target)));
                self.machines[target].disk.crash_after(dice.between(1, 30));
                self.push(lasting, Event::Recover(Recovery::Start(target)));
            }
            Fault::Partition => {
                let side: Vec<bool> = (0..machines).map(|_| dice.permille(500)).collect();
                self.cut_between(|from, to| side[from] != side[to], lasting);
            }
            Fault::IsolateLeader => self.cut_between(|from, to| from == leader || to == leader, lasting),
            Fault::OneWay => {
                let deaf: Vec<bool> = (0..machines).map(|_| dice.permille(600)).collect();
                self.cut_between(|from, to| from == any && deaf[to], lasting);
            }
            Fault::BadWeather => self.bad_weather(&mut dice, lasting),
            Fault::SlowDisk => {
                let longest = dice.between(20_000, 500_000);
                self.tell(format_args!(
                    "fault: the disk of {} takes up to {longest} us to sync",
                    name(leader)
                ));
                self.machines[leader]
                    .disk
                    .set_sync_delay_us(longest / 10, longest);
                self.push(lasting, Event::Recover(Recovery::Disk(leader)));
            }
            Fault::FailedSync | Fault::FailedWrite | Fault::FullDisk => {
                let target = if dice.permille(500) { leader } else { any };
                // A disk that fails does so in one of two ways.
                let in_write = fault == Fault::FailedSync && dice.permille(500);
                let fault = if in_write { Fault::FailedWrite } else { fault };
                self.hit_disk(fault, target, lasting);
            }
            Fault::ClockJump => {
                let jump = dice.between(0, 7200 * SECOND) as i64 - 3600 * SECOND as i64;
                self.tell(format_args!(
                    "fault: the wall clock of {} jumps by {jump} us",
                    name(any)
                ));
                self.machines[any].clock.wall_offset_us += jump;
            }
            Fault::Stall => {
                let target = if dice.permille(500) { leader } else { any };
                let wait = dice.between(SECOND / 5, 10 * SECOND);
                self.tell(format_args!("fault: {} is paused for {wait} us", name(target)));
                self.machines[target].stalled_until_us = self.now_us + wait;
            }
            Fault::LostLog => self.hit_log(any, lasting),
            Fault::Leave => self.hit_membership(any, lasting),
            Fault::Outcast => self.hit_record(any, lasting),
            Fault::StepDown => {
                self.tell(format_args!("fault: {} hands leadership over", name(leader)));
                self.input(leader, Input::StepDown);
            }
        }
    }

    fn hit_daemon(&mut self, machine: usize, lasting: u64) {
        self.tell(format_args!("fault: the daemon of {} is killed", name(machine)));
        self.kill_daemon(machine);
        self.push(lasting, Event::Recover(Recovery::Start(machine)));
    }

    fn hit_order(&mut self, machine: usize, lasting: u64) {
        self.tell(format_args!(
            "fault: {} restarts its daemon in {lasting} us",
            name(machine)
        ));
        self.stop_daemon(machine);
        self.push(lasting, Event::Recover(Recovery::Start(machine)));
    }

    fn hit_power(&mut self, machine: usize, lasting: u64) {
        self.tell(format_args!("fault: {} loses power", name(machine)));
        self.power_cut(machine);
        self.push(lasting, Event::Recover(Recovery::Start(machine)));
    }

    fn cut_between(&mut self, cuts: impl Fn(usize, usize) -> bool, lasting: u64) {
        let machines = self.machines.len();
        let pairs: Vec<(usize, usize)> = (0..machines)
            .flat_map(|from| (0..machines).map(move |to| (from, to)))
            .filter(|(from, to)| from != to && cuts(*from, *to))
            .collect();
        let text: Vec<String> = pairs
            .iter()
            .map(|(from, to)| format!("{}-{}", name(*from), name(*to)))
            .collect();
        self.tell(format_args!("fault: cut for {lasting} us: {}", text.join(" ")));
        for (from, to) in &pairs {
            self.network.cut(*from, *to);
        }
        self.push(lasting, Event::Recover(Recovery::Mend(pairs)));
    }

    fn bad_weather(&mut self, dice: &mut Dice, lasting: u64) {
        let weather = Weather {
            delay_us: dice.between(200, 30_000),
            jitter_us: dice.between(1_000, 150_000),
            lost_permille: dice.below(200),
            repeated_permille: dice.below(100),
        };
        self.tell(format_args!("fault: {weather:?}"));
        self.network.weather = weather;
        self.push(lasting, Event::Recover(Recovery::Fair));
    }

    fn hit_disk(&mut self, fault: Fault, machine: usize, lasting: u64) {
        self.tell(format_args!("fault: {fault:?} on {}", name(machine)));
        let found = &mut self.machines[machine];
        found.disk_fault = true;
        match fault {
            Fault::FailedSync => found.disk.fail_syncs(true),
            Fault::FailedWrite => found.disk.fail_writes(true),
            _ => found.disk.set_capacity(Some(found.disk.used_bytes())),
        }
        self.push(lasting, Event::Recover(Recovery::Disk(machine)));
    }

    /// A controller may lose its log only while the others can do without it: the loss of a quorum is for good.
    fn hit_log(&mut self, machine: usize, lasting: u64) {
        let voters = self.voters();
        let whole = voters.iter().all(|voter| {
            self.machines
                .iter()
                .any(|machine| machine.files.raft_id == Some(*voter) && !machine.log_lost)
        });
        let votes = self.machines[machine]
            .files
            .raft_id
            .is_some_and(|id| voters.contains(&id));
        // One that is being demoted may be gone before the lost one is replaced.
        let newest = self.oracle().newest().clone();
        let stays = |node: &Node| {
            let votes = node
                .controller
                .as_ref()
                .is_some_and(|member| voters.contains(&member.raft_id));
            votes && node.spec.role == NodeRole::Controller
        };
        let staying = newest.nodes().filter(|node| stays(node)).count();
        if !whole || !votes || staying < 3 || self.is_demoting() {
            return;
        }
        self.tell(format_args!("fault: {} loses its log", name(machine)));
        self.power_cut(machine);
        self.lose_log(machine);
        self.push(lasting, Event::Recover(Recovery::Start(machine)));
    }

    /// Only a worker may leave; a controller is demoted first.
    fn hit_membership(&mut self, machine: usize, lasting: u64) {
        if self.may_go(machine) && self.machines[machine].controller().is_none() {
            self.tell(format_args!("fault: {} leaves the cluster", name(machine)));
            self.leave(machine);
            self.push(lasting, Event::Recover(Recovery::Rejoin(machine)));
        }
    }

    /// The record of a worker is removed while it is down. What it keeps, also of a time as a controller that it does
    /// not know to be over, must be worth nothing.
    fn hit_record(&mut self, machine: usize, lasting: u64) {
        if self.may_go(machine) {
            self.tell(format_args!("fault: the record of {} is removed", name(machine)));
            self.cast_out(machine);
            self.push(lasting + 20 * SECOND, Event::Recover(Recovery::Rejoin(machine)));
        }
    }

    /// Whether it is a worker that is not on its way out already.
    fn may_go(&self, machine: usize) -> bool {
        let newest = self.oracle().newest().clone();
        let node = self.machines[machine].files.node;
        let record = node.and_then(|node| newest.node(node).cloned());
        let is_worker =
            record.is_some_and(|node| node.spec.role == NodeRole::Worker && node.controller.is_none());
        is_worker && !self.machines[machine].banished
    }

    /// A fault ends.
    pub fn recover(&mut self, recovery: Recovery) {
        match recovery {
            Recovery::Start(machine) => self.start_daemon(machine),
            Recovery::Mend(pairs) => {
                if !self.healing {
                    self.tell(format_args!("a cut of {} directions is mended", pairs.len()));
                    pairs
                        .into_iter()
                        .for_each(|(from, to)| self.network.mend(from, to));
                }
            }
            Recovery::Fair => self.network.weather = Weather::FAIR,
            Recovery::Disk(machine) => self.repair_disk(machine),
            Recovery::Rejoin(machine) => {
                self.forget_outcast(machine);
                self.machines[machine].banished = false;
                self.start_daemon(machine);
            }
        }
    }

    fn repair_disk(&mut self, machine: usize) {
        let (shortest, longest) = self.settings.sync_us;
        let found = &mut self.machines[machine];
        found.disk.fail_syncs(false);
        found.disk.fail_writes(false);
        found.disk.set_capacity(None);
        found.disk.set_sync_delay_us(shortest, longest);
        let failed = found
            .daemon
            .as_ref()
            .is_some_and(|daemon| daemon.controller_failed);
        found.disk_fault = false;
        if failed {
            self.kill_daemon(machine);
            self.start_daemon(machine);
        }
    }

    /// Every fault ends now.
    pub fn heal(&mut self) {
        self.tell(format_args!("everything heals"));
        self.healing = true;
        self.healed_us = self.now_us;
        self.network.heal();
        for machine in 0..self.machines.len() {
            self.machines[machine].stalled_until_us = 0;
            self.forget_outcast(machine);
            self.machines[machine].banished = false;
            self.repair_disk(machine);
            // A write that was to be cut short is written in peace; the daemon starts where it does not run.
            if self.machines[machine].powered {
                let disk = &self.machines[machine].disk;
                disk.crash_after(u64::MAX);
            }
            self.start_daemon(machine);
        }
    }
}
