//! The registry in the box: the OCI distribution API (1.1) over the repositories of the image store.
//!
//! What it is for: docker, skopeo and other clients push to a node and pull from it, over the store that the node's own
//! images are in; what is on another node of the cluster is fetched from there ([`Cluster`]).
//!
//! What it must never do: let an answer with content come to its end before its digest was checked, answer somebody
//! without the password that was set, send a password in clear to or from another machine, or wait or store without a
//! bound.
//!
//! Start reading at [`Server`], then `route.rs` (what is asked), `answer.rs` (who answers), `content.rs` (what is on this
//! node, and what on others) and `transfer.rs` (how it comes from them). Names, routes, ranges, manifests and the table
//! of uploads are functions without effects.

mod access;
mod answer;
mod body;
mod cluster;
mod content;
mod deleting;
mod failure;
mod listing;
mod manifest;
mod patience;
mod pulling;
mod pushing;
mod range;
mod route;
mod server;
mod traffic;
mod transfer;
mod uploads;

#[cfg(test)]
mod any_text;
#[cfg(test)]
mod tests;

pub use access::{Passwords, PasswordsError};
pub use cluster::{Alone, BlobStream, Cluster};
pub use patience::Patience;
pub use server::{BindError, ServeTls, Server, ServerConfig};
pub use traffic::Traffic;
