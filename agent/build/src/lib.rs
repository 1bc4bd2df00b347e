//! Dockerfiles: what they say, which of their stages a build needs, and how their words are expanded.
//!
//! What it is for: turning the text of a Dockerfile and the arguments of a request into steps that an engine performs.
//!
//! What it must never do: read a file, know an image or a container, or take time or memory beyond its limits
//! ([`limits`]) for any text.
//!
//! Start reading at [`Dockerfile::parse`], then `statement` (text into statements), `instruction` (statements into
//! instructions), `stage` (which stages are needed) and `scope` (the variables of a stage). The rules are those of
//! Docker's Dockerfile reference.

mod command;
mod error;
mod expand;
mod glob;
pub mod go_text;
mod healthcheck;
mod ignore;
mod instruction;
pub mod limits;
mod mount;
mod pairs;
mod scope;
mod stage;
mod statement;
mod transfer;

pub use command::{Command, Run, RunNetwork, Script};
pub use error::{Error, Result};
pub use glob::{Pattern, PatternError};
pub use healthcheck::Healthcheck;
pub use ignore::IgnoreList;
pub use instruction::{Exposed, Instruction};
pub use mount::{Mount, MountKind, Sharing};
pub use scope::{BuildArgs, Scope, Variables};
pub use stage::{Base, Dockerfile, Plan, Stage, Step};
pub use statement::Heredoc;
pub use transfer::{Source, Transfer, TransferKind};
