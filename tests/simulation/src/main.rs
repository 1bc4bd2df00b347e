//! Runs seeds of the simulation, and tells the story of one that fails.

use clap::{Parser, Subcommand};
use muster_simulation::{Outcome, PlantedBug, Story, run};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs the cluster in virtual time, from a seed.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Plants a bug, to see it found.
    #[arg(long, global = true)]
    plant: Option<PlantedBug>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed.
    Run {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Tells the story also when nothing is wrong.
        #[arg(long)]
        trace: bool,
    },
    /// Runs a range of seeds and stops at the first that fails.
    Range {
        /// The first seed.
        #[arg(long)]
        from: u64,
        /// The seed after the last.
        #[arg(long)]
        to: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Goes on after a failure, and lists all of them.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Run { seed, trace } => run_one(seed, trace, arguments.plant),
        Command::Range { from, to, jobs, all } => run_range((from, to), jobs, all, arguments.plant),
    }
}

fn run_one(seed: u64, trace: bool, plant: Option<PlantedBug>) -> ExitCode {
    let outcome = run(seed, plant, Story::told());
    if trace || outcome.violation.is_some() {
        outcome.story.iter().for_each(|line| println!("{line}"));
    }
    println!("{}", summary(&outcome));
    if outcome.violation.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_range((from, to): (u64, u64), jobs: usize, all: bool, plant: Option<PlantedBug>) -> ExitCode {
    let next = AtomicU64::new(from);
    let failed = AtomicU64::new(0);
    let first = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to || (!all && failed.load(Ordering::Relaxed) > 0) {
                        return;
                    }
                    let outcome = run(seed, plant, Story::default());
                    if outcome.violation.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        first.fetch_min(seed, Ordering::Relaxed);
                        println!("{}", summary(&outcome));
                    }
                }
            });
        }
    });
    let failures = failed.load(Ordering::Relaxed);
    println!(
        "{failures} of the seeds {from} to {} failed",
        to.saturating_sub(1)
    );
    match first.load(Ordering::Relaxed) {
        u64::MAX => ExitCode::SUCCESS,
        _ if all => ExitCode::FAILURE,
        seed => run_one(seed, false, plant),
    }
}

fn summary(outcome: &Outcome) -> String {
    let what = match &outcome.violation {
        Some(violation) => format!("VIOLATED {violation}"),
        None => format!(
            "rested {:.1} s after the heal",
            outcome.rested_after_us as f64 / 1e6
        ),
    };
    format!(
        "seed {}: {what} ({} events, index {}, {} observations, trace {:016x})",
        outcome.seed, outcome.events, outcome.index, outcome.operations, outcome.digest
    )
}
