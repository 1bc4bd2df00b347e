//! Tests of the whole node.

mod arrivals;
mod cluster;
mod damage;
mod faults;
mod hostile;
mod hostile_chunks;
mod log_crashes;
mod real_files;
