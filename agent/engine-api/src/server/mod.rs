//! The server: sockets, connections, and the way of a request to its handler.

mod accept;
mod app;
mod listen;
mod origin;

pub use accept::{Server, serve};
pub(crate) use app::App;
pub use listen::{Listen, ListenError, ServerConfig};
