//! Containers on the running kernel, through launcher and monitor. They need root, and leave nothing behind.

#[path = "../oci/agent.rs"]
mod agent;
mod descriptors;
mod escapes;
mod execs;
mod lifecycle;
mod listener;
mod namespaces;
mod streams;
mod support;
mod survival;
