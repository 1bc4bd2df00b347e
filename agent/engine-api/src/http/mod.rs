//! What every handler uses of HTTP: the call, the reply, versions, query parameters and filters.

mod body;
mod call;
mod failure;
mod filters;
mod gates;
mod query;
mod upload;
mod version;

pub(crate) use body::{Body, BoxError, RequestBody, empty, json_lines, lines, status_only, text};
pub(crate) use call::{Call, json, json_created, json_gated};
pub(crate) use failure::{Failure, Reply, status_of};
pub(crate) use filters::Filters;
pub(crate) use gates::{Object, adjust, lives};
pub(crate) use query::{Query, decode, encode, parse_time};
pub(crate) use upload::upload;
pub(crate) use version::{ApiVersion, MAX_VERSION, MIN_VERSION, split_version};
