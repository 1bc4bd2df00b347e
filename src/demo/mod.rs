//! The demo: three nodes become one engine, run a replicated service in real containers, lose a node and repair
//! themselves.

mod story;
pub mod whoami;

use crate::lab::Lab;
use anyhow::{Context, bail};
use std::path::Path;
use story::Story;

/// Name of the demo's lab.
const LAB: &str = "demo";

/// Runs the demo and cleans up, also after a failure.
pub fn run() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes namespaces, bridges and cgroups, which needs root: run it with sudo");
    }
    check_static(Path::new("/proc/self/exe"))?;
    if Lab::find(LAB)?.is_some() {
        println!("removing what an interrupted demo left");
        Lab::down(LAB)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let told = runtime.block_on(async {
        tokio::select! {
            told = Story::tell(LAB) => told,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    let cleaned = Lab::down(LAB).context("cannot remove the demo's lab");
    told.and(cleaned)?;
    println!("\nEverything is removed again. Make a lab of your own with `muster lab up`.");
    Ok(())
}

/// The image holds nothing but this binary, so it must not need a loader or libraries.
fn check_static(binary: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(binary).context("cannot read this program's own file")?;
    let interpreter = b"/ld-linux";
    if bytes
        .windows(interpreter.len())
        .take(4096)
        .any(|window| window == interpreter)
    {
        bail!(
            "this binary is linked dynamically and cannot run alone in an image: build it with `cargo demo`"
        );
    }
    Ok(())
}
