//! The `muster` binary: the node daemon, the small processes that hold containers, and the command line.
//!
//! Decisions are in the core crates and effects in the shells below `agent/` and `controller/`; this package only wires
//! one node together. Start reading at [`daemon::run`].

mod client;
mod config;
mod daemon;
mod demo;
mod dial;
mod firewall;
mod lab;
mod network;
mod node;
mod tls;

use clap::{Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Turns a set of Linux hosts into one virtual container engine.
#[derive(Parser)]
#[command(name = "muster", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node daemon
    Daemon(Box<config::DaemonFlags>),
    /// Watch three nodes become one engine, lose a node and repair themselves
    Demo,
    /// Run several nodes on this machine, joined into a cluster
    Lab(lab::LabCommand),
    /// Say which services of a network may open connections to which
    Network(network::NetworkCommand),
    /// Serve a docker CLI behind ssh, and look at other firewalls of this host
    System(dial::SystemCommand),
    /// Use the container runtime on its own
    #[command(subcommand)]
    Runtime(RuntimeCommand),
    /// Be an OCI runtime with runc's command line, for podman and containerd
    #[command(disable_help_flag = true)]
    Oci {
        /// As runc takes them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Subcommand)]
enum RuntimeCommand {
    /// Run the container of an OCI bundle and wait for its end
    Run {
        /// Directory with config.json
        #[arg(long)]
        bundle: PathBuf,
        /// Name of the container
        id: String,
    },
}

/// The name of a link to this binary that is the OCI runtime: podman and containerd call a program, without a subcommand.
const OCI_PROGRAM: &str = "muster-oci";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(code) = run_small(&program, &arguments) {
        return code;
    }
    // A lab's nodes are made of this binary too; the names are no part of the command line.
    let hidden = match arguments.first().and_then(|first| first.to_str()) {
        Some("lab-node") => Some(lab::run_node(&arguments[1..])),
        Some("whoami") => Some(demo::whoami::serve()),
        Some("lab-daemon") => Some(lab::run_daemon(&arguments[1..])),
        Some(_) | None => None,
    };
    let result = match hidden {
        Some(result) => result.map(|()| ExitCode::SUCCESS),
        None if dial::is_called_docker(std::env::args_os().next().as_ref()) => {
            dial::as_docker().map(|()| ExitCode::SUCCESS)
        }
        None => run(),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// What must stay small, single-threaded and quick to start: nothing else runs before it.
fn run_small(program: &OsStr, arguments: &[OsString]) -> Option<ExitCode> {
    let first = arguments.first().and_then(|first| first.to_str());
    match (first, arguments) {
        (Some(muster_runtime::LAUNCHER_SUBCOMMAND), [_, rest @ ..]) => muster_runtime::launcher_main(rest),
        (Some(muster_runtime::OCI_SUBCOMMAND), [_, rest @ ..]) => Some(muster_runtime::oci_main(rest)),
        (Some(muster_runtime::PROTECTED_SUBCOMMAND), [_, rest @ ..]) => {
            Some(muster_runtime::oci_protected_main(rest))
        }
        _ if Path::new(program).file_name() == Some(OsStr::new(OCI_PROGRAM)) => {
            Some(muster_runtime::oci_main(arguments))
        }
        // In the order that programs write it; the command line below knows every other.
        (Some("runtime"), [_, run, flag, bundle, id]) if run == "run" && flag == "--bundle" => {
            let result = run_bundle(Path::new(bundle), &id.to_string_lossy());
            Some(result.unwrap_or_else(|error| fail(&error)))
        }
        _ => None,
    }
}

fn run_bundle(bundle: &Path, id: &str) -> anyhow::Result<ExitCode> {
    let code = muster_runtime::run_bundle(bundle, id)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("muster: {error:#}");
    ExitCode::FAILURE
}

fn run() -> anyhow::Result<ExitCode> {
    match CommandLine::parse().command {
        Command::Daemon(flags) => daemon::run(*flags).map(|()| ExitCode::SUCCESS),
        Command::Demo => demo::run().map(|()| ExitCode::SUCCESS),
        Command::Lab(command) => lab::run(command).map(|()| ExitCode::SUCCESS),
        Command::Network(command) => network::run(command).map(|()| ExitCode::SUCCESS),
        Command::System(command) => dial::run(command).map(|()| ExitCode::SUCCESS),
        Command::Runtime(RuntimeCommand::Run { bundle, id }) => run_bundle(&bundle, &id),
        Command::Oci { arguments } => Ok(muster_runtime::oci_main(&arguments)),
    }
}
