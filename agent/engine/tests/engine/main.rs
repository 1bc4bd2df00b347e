//! The engine with real containers. Needs root; each test has a network namespace, directories and control groups of
//! its own.

mod build;
mod endings;
mod ingress;
mod interruption;
mod life;
mod limits;
mod members;
mod names;
mod namespaces;
mod network;
mod node;
mod overlays;
mod reboot;
mod restart;
mod streams;
