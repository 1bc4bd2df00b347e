//! Containers on the running kernel, through launcher and monitor. They need root, and leave nothing behind.

mod descriptors;
mod escapes;
mod execs;
mod lifecycle;
mod namespaces;
mod streams;
mod support;
mod survival;
