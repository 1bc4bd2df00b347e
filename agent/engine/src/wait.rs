//! Waiting for a container's end.

use crate::container::{Container, Observed};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::phase::Phase;
use futures::future::BoxFuture;
use std::sync::Arc;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run: at once, if it does not run now.
    #[default]
    NotRunning,
    /// Its next end, even if it does not run now.
    NextExit,
    /// Its removal. The exit code is that of its last run.
    Removed,
}

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitResult {
    /// Exit code.
    pub exit_code: i32,
    /// Why the last run or the removal failed.
    pub error: Option<String>,
}

impl Inner {
    /// Registers at once, and resolves at the end that was asked for. Cancel-safe.
    pub(crate) fn wait(
        self: &Arc<Self>,
        container: &Arc<Container>,
        condition: WaitCondition,
    ) -> BoxFuture<'static, Result<WaitResult>> {
        let mut watch = container.watch();
        let first_ends = watch.borrow().ends;
        let stopping = self.stopping.clone();
        let container = Arc::clone(container);
        Box::pin(async move {
            let reached = |observed: &Observed| match condition {
                WaitCondition::NotRunning => !observed.phase.is_live() && observed.phase != Phase::Starting,
                WaitCondition::NextExit => {
                    observed.ends > first_ends || matches!(observed.phase, Phase::Removed | Phase::Dead)
                }
                WaitCondition::Removed => matches!(observed.phase, Phase::Removed | Phase::Dead),
            };
            let observed = tokio::select! {
                observed = watch.wait_for(reached) => observed,
                () = stopping.cancelled() => return Err(Error::ShuttingDown),
            };
            // The sender lives in the container, which this future holds.
            let observed = observed.map_err(|_| Error::ShuttingDown)?.clone();
            drop(container);
            // Once it is removed, what its start complained of was told to whoever started it.
            let told = observed.error.is_empty() || observed.phase == Phase::Removed;
            Ok(WaitResult {
                exit_code: observed.exit_code,
                error: (!told).then_some(observed.error),
            })
        })
    }
}
