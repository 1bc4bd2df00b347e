//! Servers elsewhere that users name (registries, syslog, NFS): what their names mean, and whom to believe that it is them.

mod names;
mod trust;

pub use names::{lookup, lookup_within};
pub use trust::{AnyCertificate, host_authorities};
