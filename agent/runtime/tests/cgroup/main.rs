//! Control groups against the running kernel. These tests need root and a kernel with v1 controllers beside a v2 tree.

mod group;
mod unified;
mod v1;
