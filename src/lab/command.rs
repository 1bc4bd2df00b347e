//! The `muster lab` command line.

use super::record::{Lab, NodeStanding};
use anyhow::bail;
use clap::{Args, Subcommand};

/// Which lab.
#[derive(Args)]
pub struct Which {
    /// Name of the lab
    #[arg(long, default_value = "lab", global = true)]
    name: String,
}

/// `muster lab …`
#[derive(Args)]
pub struct LabCommand {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a lab and wait until its cluster is ready
    Up {
        /// Number of nodes
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// How many of them are controllers
        #[arg(long, default_value_t = 3)]
        controllers: usize,
    },
    /// Show the nodes
    Status,
    /// Print what makes docker talk to a node: eval "$(muster lab env node-1)"
    Env {
        /// The node
        node: String,
    },
    /// End a node without warning
    Kill {
        /// The node
        node: String,
        /// End only its daemon; containers go on
        #[arg(long)]
        daemon_only: bool,
    },
    /// Stop a node in good order
    Stop {
        /// The node
        node: String,
    },
    /// Start a node, or its daemon, again
    Start {
        /// The node
        node: String,
    },
    /// Let nothing pass between groups of nodes: muster lab partition node-1,node-2 node-3
    Partition {
        /// Groups, each a list of nodes separated by commas
        #[arg(required = true, num_args = 2..)]
        groups: Vec<String>,
    },
    /// End all partitions
    Heal,
    /// Remove the lab; nothing is left of it
    Down,
}

/// Carries a command out.
pub fn run(command: LabCommand) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: it makes namespaces, bridges and cgroups; run it with sudo");
    }
    let name = &command.which.name;
    match command.action {
        Action::Up { nodes, controllers } => {
            let lab = runtime()?.block_on(Lab::up(name, nodes, controllers))?;
            println!("lab {name} is ready: {nodes} nodes, {controllers} controllers");
            println!(
                "talk to it with:  eval \"$(muster lab env {})\"",
                lab.nodes[0].name
            );
            Ok(())
        }
        Action::Status => status(&Lab::load(name)?),
        Action::Env { node } => {
            let lab = Lab::load(name)?;
            lab.node(&node)?;
            println!("export DOCKER_HOST=unix://{}", lab.socket(&node).display());
            Ok(())
        }
        Action::Kill {
            node,
            daemon_only: true,
        } => Lab::load(name)?.kill_daemon(&node),
        Action::Kill {
            node,
            daemon_only: false,
        } => Lab::load(name)?.kill(&node),
        Action::Stop { node } => Lab::load(name)?.stop(&node),
        Action::Start { node } => {
            let mut lab = Lab::load(name)?;
            lab.start(&node)?;
            runtime()?.block_on(lab.wait_daemon(&node))
        }
        Action::Partition { groups } => partition(&Lab::load(name)?, &groups),
        Action::Heal => Ok(Lab::load(name)?.topology()?.heal()?),
        Action::Down => Lab::down(name),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn partition(lab: &Lab, groups: &[String]) -> anyhow::Result<()> {
    let groups: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.split(',').map(str::trim).collect())
        .collect();
    for node in groups.iter().flatten() {
        lab.node(node)?;
    }
    let mut topology = lab.topology()?;
    for (index, one) in groups.iter().enumerate() {
        for other in &groups[index + 1..] {
            topology.partition(one, other)?;
        }
    }
    Ok(())
}

fn status(lab: &Lab) -> anyhow::Result<()> {
    println!(
        "{:<10} {:<11} {:<15} {:<8} SOCKET",
        "NODE", "ROLE", "STATE", "PID"
    );
    for node in &lab.nodes {
        let role = if node.controller { "controller" } else { "worker" };
        let state = match lab.standing(node) {
            NodeStanding::Running => "running",
            NodeStanding::DaemonStopped => "daemon stopped",
            NodeStanding::Off => "off",
        };
        let pid = node
            .init
            .map_or_else(|| "-".to_owned(), |(pid, _)| pid.to_string());
        println!(
            "{:<10} {role:<11} {state:<15} {pid:<8} {}",
            node.name,
            lab.socket(&node.name).display()
        );
    }
    Ok(())
}
