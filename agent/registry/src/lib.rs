//! A client of registries: the OCI distribution protocol (specification 1.1) as Docker speaks it.
//!
//! What it is for: pulling images into a store, layers also from peers, pushing them from it, logging in, and saying what a registry has.
//!
//! What it must never do: show credentials to anybody but the registry and the token server that it names, print them,
//! make anything visible before its digest was checked, or wait for a server without a limit.
//!
//! Decisions are functions without effects: [`address`] and `endpoint` (who is asked, and whom an answer may send the
//! client to), `challenge` and `credentials` (who asks), [`sources`] (who gives a blob), `retry`, `repository`'s readers. Effects are in `transport`
//! (one host), `session` (one endpoint, as somebody), `download` and `layers`.
//!
//! Start reading at [`Registries`], then `pull.rs`.

pub mod address;
mod assemble;
mod certificates;
mod challenge;
mod credentials;
mod download;
mod endpoint;
mod error;
mod layers;
mod peers;
mod progress;
mod pull;
mod push;
mod registries;
mod repository;
mod retry;
mod session;
mod settings;
pub mod sources;
mod stall;
mod transport;
mod upload;

pub use credentials::{Credentials, CredentialsError};
pub use error::{Error, ErrorKind, Result};
pub use peers::{PeerBlob, Peers, Pieces, Traffic};
pub use progress::Progress;
pub use pull::{ProgressStream, PullRequest};
pub use push::{PushRequest, manifest_type};
pub use registries::{Registries, RemoteDescription};
pub use settings::{Insecure, KnownNodes, Mirror, NodeAuthority, Patience, RegistrySettings, SettingError};
pub use stall::Stall;
