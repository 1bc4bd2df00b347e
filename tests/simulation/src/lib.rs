//! The whole cluster in one thread and in virtual time: the production code of controllers and agents, with only
//! disk, network, clock, randomness and containers replaced, driven by one seed.
//!
//! Equal seeds give equal runs. The crate must never read a clock or the system's random source, and decides nothing
//! that production decides: what it re-expresses (sessions, heartbeats, forwarding) follows the shells line by line.
//! Start reading at [`world`]; [`faults`] says what goes wrong, [`oracle`], [`liveness`] and
//! [`convergence`] what must be true.

pub mod agents;
pub mod authority;
pub mod clients;
pub mod clock;
pub mod controllers;
pub mod convergence;
pub mod daemons;
pub mod engine;
pub mod faults;
pub mod history;
pub mod linearizability;
pub mod liveness;
pub mod machine;
pub mod network;
mod networks;
pub mod oracle;
pub mod planted;
pub mod queue;
pub mod random;
pub mod rpc;
mod secrets;
pub mod settings;
pub mod story;
pub mod streams;
pub mod wire;
pub mod world;
pub mod writes;

pub use planted::PlantedBug;
pub use story::Story;
pub use world::{Outcome, run};
