//! The `muster` binary: the node daemon, the small processes that hold containers, and the command line.
//!
//! Decisions are in the core crates and effects in the shells below `agent/` and `controller/`; this package only wires
//! one node together. Start reading at [`daemon::run`].

mod client;
mod config;
mod daemon;
mod demo;
mod dial;
mod lab;
mod node;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
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
    /// Serve as the far end of a docker CLI's ssh connection
    System(dial::SystemCommand),
    /// Use the container runtime on its own
    #[command(subcommand)]
    Runtime(RuntimeCommand),
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

fn main() -> ExitCode {
    // The launcher must stay small and single-threaded: nothing else runs before it.
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| first == muster_runtime::LAUNCHER_SUBCOMMAND)
    {
        muster_runtime::launcher_main(&arguments[1..]);
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
    result.unwrap_or_else(|error| {
        eprintln!("muster: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    match CommandLine::parse().command {
        Command::Daemon(flags) => daemon::run(*flags).map(|()| ExitCode::SUCCESS),
        Command::Demo => demo::run().map(|()| ExitCode::SUCCESS),
        Command::Lab(command) => lab::run(command).map(|()| ExitCode::SUCCESS),
        Command::System(command) => dial::run(command).map(|()| ExitCode::SUCCESS),
        Command::Runtime(RuntimeCommand::Run { bundle, id }) => {
            let code = muster_runtime::run_bundle(&bundle, &id);
            code.map(|code| ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
                .map_err(anyhow::Error::from)
        }
    }
}
