//! Conversions between the Engine API's JSON and the domain, one file per object. Docker's word `manager` becomes
//! `controller` here and nowhere else.

pub(crate) mod build;
pub(crate) mod container;
pub(crate) mod container_create;
pub(crate) mod duration;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod health;
pub(crate) mod host;
pub(crate) mod host_answer;
#[cfg(test)]
mod hostile;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod overlay;
pub(crate) mod platform;
pub(crate) mod port;
pub(crate) mod resources;
pub(crate) mod service;
pub(crate) mod service_container;
pub(crate) mod stats;
pub(crate) mod swarm;
pub(crate) mod task;
pub(crate) mod volume;

use crate::http::Failure;
use hyper::StatusCode;

/// Result of reading a request.
pub(crate) type Read<T> = Result<T, Failure>;

/// The request asks for something that is not built yet.
pub(crate) fn unsupported(what: &str) -> Failure {
    Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        format!("{what} is not implemented yet"),
    )
}

/// A number that may not be negative.
pub(crate) fn non_negative(field: &str, value: i64) -> Read<u64> {
    u64::try_from(value)
        .map_err(|_| Failure::invalid(format!("invalid {field} {value}: it must not be negative")))
}

/// Keeps a number within what JSON's readers in Go hold.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
