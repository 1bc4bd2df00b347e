//! Tests of the whole node.

mod cluster;
mod damage;
mod faults;
mod hostile;
mod log_crashes;
mod real_files;
