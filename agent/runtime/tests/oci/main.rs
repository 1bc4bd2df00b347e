//! The OCI runtime by its command line: alone, and as podman's and containerd's. They need root, and leave nothing behind.

mod agent;
mod containerd;
mod escapes;
mod hooks;
mod lifecycle;
mod listener;
mod podman;
mod resources;
mod support;
