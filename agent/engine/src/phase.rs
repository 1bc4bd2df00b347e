//! The life of a container as a state machine.

use muster_types::container::ContainerState;
use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Made, never started successfully.
    #[default]
    Created,
    /// A start is under way.
    Starting,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Ended; the engine waits to start it again.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed.
    Removing,
    /// Could not be removed completely; only removing it again is possible.
    Dead,
    /// Gone.
    Removed,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Somebody starts it.
    Start,
    /// The start failed before the first run.
    FailFirst,
    /// The start failed after an earlier run.
    FailAgain,
    /// It runs.
    Run,
    /// It is frozen.
    Pause,
    /// It is thawed.
    Unpause,
    /// It ended and stays so.
    Exit,
    /// It ended and will be started again.
    ExitToRestart,
    /// A waiting restart is given up.
    GiveUp,
    /// Somebody removes it.
    Remove,
    /// Removing it failed.
    FailRemove,
    /// Everything of it is gone.
    Vanish,
}

/// A step that the phase does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {phase:?} cannot {step:?}")]
pub struct IllegalStep {
    /// Where it was.
    pub phase: Phase,
    /// What was tried.
    pub step: Step,
}

impl Phase {
    /// The phase after a step.
    pub fn after(self, step: Step) -> Result<Self, IllegalStep> {
        let next = match step {
            Step::Start => {
                matches!(self, Self::Created | Self::Exited | Self::Restarting).then_some(Self::Starting)
            }
            Step::FailFirst => (self == Self::Starting).then_some(Self::Created),
            Step::FailAgain => (self == Self::Starting).then_some(Self::Exited),
            Step::Run => (self == Self::Starting).then_some(Self::Running),
            Step::Pause => (self == Self::Running).then_some(Self::Paused),
            Step::Unpause => (self == Self::Paused).then_some(Self::Running),
            Step::Exit => matches!(self, Self::Running | Self::Paused).then_some(Self::Exited),
            Step::ExitToRestart => {
                matches!(self, Self::Running | Self::Paused | Self::Starting).then_some(Self::Restarting)
            }
            Step::GiveUp => (self == Self::Restarting).then_some(Self::Exited),
            Step::Remove => matches!(self, Self::Created | Self::Exited | Self::Restarting | Self::Dead)
                .then_some(Self::Removing),
            Step::FailRemove => (self == Self::Removing).then_some(Self::Dead),
            Step::Vanish => (self == Self::Removing).then_some(Self::Removed),
        };
        next.ok_or(IllegalStep { phase: self, step })
    }

    /// Whether a process of it exists.
    pub fn is_live(self) -> bool {
        match self {
            Self::Running | Self::Paused => true,
            Self::Created
            | Self::Starting
            | Self::Restarting
            | Self::Exited
            | Self::Removing
            | Self::Dead
            | Self::Removed => false,
        }
    }

    /// Whether it runs, or will unless somebody stops it.
    pub fn goes_on(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Paused | Self::Restarting => true,
            Self::Created | Self::Exited | Self::Removing | Self::Dead | Self::Removed => false,
        }
    }

    /// The state as users see it.
    pub fn state(self) -> ContainerState {
        match self {
            Self::Created | Self::Starting => ContainerState::Created,
            Self::Running => ContainerState::Running,
            Self::Paused => ContainerState::Paused,
            Self::Restarting => ContainerState::Restarting,
            Self::Exited => ContainerState::Exited,
            Self::Removing | Self::Removed => ContainerState::Removing,
            Self::Dead => ContainerState::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::*;

    const PHASES: [Phase; 9] = [
        Created, Starting, Running, Paused, Restarting, Exited, Removing, Dead, Removed,
    ];

    const LEGAL: &[(Phase, Step, Phase)] = &[
        (Created, Step::Start, Starting),
        (Exited, Step::Start, Starting),
        (Restarting, Step::Start, Starting),
        (Starting, Step::FailFirst, Created),
        (Starting, Step::FailAgain, Exited),
        (Starting, Step::Run, Running),
        (Starting, Step::ExitToRestart, Restarting),
        (Running, Step::Pause, Paused),
        (Paused, Step::Unpause, Running),
        (Running, Step::Exit, Exited),
        (Paused, Step::Exit, Exited),
        (Running, Step::ExitToRestart, Restarting),
        (Paused, Step::ExitToRestart, Restarting),
        (Restarting, Step::GiveUp, Exited),
        (Created, Step::Remove, Removing),
        (Exited, Step::Remove, Removing),
        (Restarting, Step::Remove, Removing),
        (Dead, Step::Remove, Removing),
        (Removing, Step::FailRemove, Dead),
        (Removing, Step::Vanish, Removed),
    ];

    const STEPS: [Step; 12] = [
        Step::Start,
        Step::FailFirst,
        Step::FailAgain,
        Step::Run,
        Step::Pause,
        Step::Unpause,
        Step::Exit,
        Step::ExitToRestart,
        Step::GiveUp,
        Step::Remove,
        Step::FailRemove,
        Step::Vanish,
    ];

    #[test]
    fn exactly_the_legal_steps_are_allowed() {
        for phase in PHASES {
            for step in STEPS {
                let expected = LEGAL
                    .iter()
                    .find(|(from, by, _)| (*from, *by) == (phase, step))
                    .map(|(_, _, to)| *to);
                assert_eq!(phase.after(step).ok(), expected, "{phase:?} {step:?}");
            }
        }
    }
}
