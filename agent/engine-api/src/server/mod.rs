//! The server: sockets, connections, and the way of a request to its handler.

mod accept;
mod app;
mod client;
mod listen;
mod origin;
mod other;

pub use accept::{Server, serve};
pub(crate) use app::App;
pub(crate) use client::Client;
pub use listen::{Listen, ListenError, ServerConfig};
