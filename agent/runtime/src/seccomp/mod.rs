//! Turns seccomp profiles into the filter that the kernel runs, and holds Docker's default profile.
//!
//! [`compile`] takes the OCI form in full; [`DockerProfile`] reads the form that Docker's users write and resolves its
//! conditions. The filter is a binary search over the system call number, so that the kernel can also see without
//! running it which calls are always allowed. Must never: let a call through that the profile does not name; whatever
//! cannot be expressed here is refused.

mod abi;
mod assemble;
mod compile;
#[cfg(test)]
mod hostile;
mod install;
mod profile;
mod recent;
mod support;
mod table;

pub use abi::Machine;
pub use compile::{UnlistedCalls, compile, compile_with};
pub use install::BpfProgram;
pub use profile::{DockerProfile, KernelVersion, docker_default};
pub use recent::Compiler;
pub use support::HostSupport;

use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompFilterFlag};

/// A profile cannot become a filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The action is not supported here.
    #[error("seccomp action {action} cannot be used: {reason}")]
    UnsupportedAction {
        /// The action.
        action: LinuxSeccompAction,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The kernel does not know a flag.
    #[error("seccomp flag {flag} cannot be used: {reason}")]
    UnsupportedFlag {
        /// The flag.
        flag: LinuxSeccompFilterFlag,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// An error number that the kernel would cut down.
    #[error("seccomp error number {errno} of {call} is above 4095, the largest that Linux returns")]
    ErrnoTooLarge {
        /// The number as given.
        errno: u32,
        /// The system call, or "the default action".
        call: String,
    },
    /// A rule about an argument that no system call has.
    #[error("seccomp rule of {call} names argument {index}; system calls have arguments 0 to 5")]
    NoSuchArgument {
        /// The system call.
        call: String,
        /// The argument as given.
        index: usize,
    },
    /// The filter is longer than the kernel takes.
    #[error(
        "seccomp profile needs {instructions} instructions, the kernel takes {limit}: use fewer rules with arguments"
    )]
    TooLong {
        /// What the profile needs.
        instructions: usize,
        /// What the kernel takes.
        limit: usize,
    },
    /// A profile in Docker's form does not parse.
    #[error("seccomp profile is not valid JSON of the expected form")]
    Malformed(#[source] serde_json::Error),
    /// A profile in Docker's form contradicts itself.
    #[error("seccomp profile cannot be used: {0}")]
    Contradiction(&'static str),
    /// The kernel's version or seccomp abilities cannot be read.
    #[error("cannot find out the kernel's {0}")]
    UnknownKernel(&'static str),
}

/// The result of working with a profile.
pub type Result<T> = std::result::Result<T, SeccompError>;
