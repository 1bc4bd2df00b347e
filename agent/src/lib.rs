//! The per-node executor: keeps a session with the leader, performs what [`muster_node_plan::AgentCore`] decides, and
//! reports what it sees.
//!
//! Every decision about a task is in muster-node-plan; this crate owns the connection, the clock, the files and the
//! calls to the engine. It must never decide whether a task should run. Start reading at [`agent::Agent`].

pub mod agent;
pub mod executor;
pub mod heartbeat;
pub mod session;
pub mod store;
pub mod task_engine;
