//! Raft's own log lines, passed on to tracing.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

/// Raft's informational lines are many per election; they are for debugging here.
struct TracingDrain;

impl Drain for TracingDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        let message = record.msg();
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{message}"),
            Level::Warning => tracing::warn!(target: "raft", "{message}"),
            Level::Info => tracing::debug!(target: "raft", "{message}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{message}"),
        }
        Ok(())
    }
}

/// A logger for Raft.
pub(crate) fn raft_logger() -> Logger {
    Logger::root(TracingDrain, o!())
}
