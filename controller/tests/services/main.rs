//! The services of a controller over mutual TLS, as other nodes and strangers meet them.

mod cluster;
mod keys;
mod renewal;
mod rights;
