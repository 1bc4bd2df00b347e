//! The shell around the core: one thread that owns it, the connections to other controllers, and the services.

mod authorize;
mod handle;
mod leader_channel;
mod peers;
pub mod services;
mod thread;

pub use authorize::authorize;
pub use handle::{ControllerHandle, ControllerSlot, SessionMessage};
pub use thread::{ControllerConfig, Running, Started, start};

use std::time::Duration;

/// A Raft tick: fine enough that elections are spread, coarse enough that an idle controller sleeps.
pub const TICK: Duration = Duration::from_millis(20);
