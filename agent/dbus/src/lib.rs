//! A small blocking client of a message bus (D-Bus): method calls and the signals that follow them.
//!
//! It is for the few words that are exchanged with other services of a host, firewalld and systemd. It offers no
//! objects of its own, takes no file descriptors and keeps no connection alive. Nothing that arrives is trusted: every
//! length is checked and every wait has a limit.
//!
//! Start reading at [`Connection`]; `message` is the form on the wire, `value` what is said.

mod address;
mod connection;
mod error;
mod message;
mod value;

pub use connection::{Connection, Method};
pub use error::DbusError;
pub use message::Signal;
pub use value::Value;
