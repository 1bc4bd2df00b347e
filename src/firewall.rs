//! `muster system firewall …`: what the daemon did in chains of other firewalls, and how it is taken back.

use anyhow::Context;
use clap::Subcommand;
use muster_network::{other_firewalls, withdraw_bridges};

/// The daemon's table in the packet filter.
const TABLE: &str = "muster";

/// `muster system firewall …`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum FirewallCommand {
    /// Show what was found and done, and what only you can do
    Show,
    /// Take back every rule that was put into chains of others, and the zone of firewalld; a running daemon puts them there
    /// again
    Remove,
}

/// Runs the command.
pub fn run(command: FirewallCommand) -> anyhow::Result<()> {
    match command {
        FirewallCommand::Show => show(),
        FirewallCommand::Remove => {
            let removed = withdraw_bridges(TABLE)
                .context("cannot take back what was put at other firewalls (are you root?)")?;
            println!("removed {removed} rules and interfaces");
            Ok(())
        }
    }
}

fn show() -> anyhow::Result<()> {
    let others = other_firewalls(TABLE).context("cannot look at the packet filter (are you root?)")?;
    let sections = [
        ("Other firewalls", &others.found),
        ("Rules of Muster in their chains", &others.admitted),
        ("For you to do", &others.warnings),
    ];
    for (title, lines) in sections {
        println!("{title}:{}", if lines.is_empty() { " none" } else { "" });
        for line in lines {
            println!("  {}", line.trim_start_matches("WARNING: "));
        }
    }
    Ok(())
}
