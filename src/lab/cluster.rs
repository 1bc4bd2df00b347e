//! What a lab does to its nodes.

use super::node::{NodeProcess, restart_daemon};
use super::record::{Lab, LabNode, NodeStanding, check_name, directory};
use super::{TOPOLOGIES_DIRECTORY, cgroups, process};
use crate::client::EngineClient;
use anyhow::{Context, bail};
use muster_network::Topology;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Time for a daemon to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Time for the whole cluster to be ready.
const CLUSTER_WITHIN: Duration = Duration::from_secs(60);
/// Time for a daemon to end by itself.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Time for a killed process to be gone.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// Wait between two looks.
const POLL: Duration = Duration::from_millis(20);
/// Subnet of a lab's nodes. Labs do not see each other, so all use the same.
const SUBNET: &str = "10.77.0.0/24";

impl Lab {
    /// Makes a lab and waits until all its nodes are ready and joined. On failure everything is removed again.
    pub async fn up(name: &str, nodes: usize, controllers: usize) -> anyhow::Result<Self> {
        if nodes == 0 || nodes > 200 || controllers == 0 || controllers > nodes {
            bail!("a lab has 1 to 200 nodes, of which at least one and at most all are controllers");
        }
        let lab = Self::create(name)?;
        match lab.build(nodes, controllers).await {
            Ok(lab) => Ok(lab),
            Err(error) => {
                let logs = Self::down(name)
                    .err()
                    .map(|error| format!("; cleaning up failed too: {error:#}"));
                Err(error.context(format!("cannot make the lab{}", logs.unwrap_or_default())))
            }
        }
    }

    async fn build(mut self, nodes: usize, controllers: usize) -> anyhow::Result<Self> {
        Topology::create(Path::new(TOPOLOGIES_DIRECTORY), &self.name, SUBNET.parse()?)?;
        for number in 1..=nodes {
            let name = format!("node-{number}");
            self.nodes.push(LabNode {
                name: name.clone(),
                controller: number <= controllers,
                init: None,
                address: None,
            });
            self.save()?;
            self.power_on(&name)?;
        }
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            self.wait_daemon(name).await?;
        }
        self.join_all(&names).await?;
        self.wait_ready().await?;
        Ok(self)
    }

    /// A client of a node.
    pub fn client(&self, node: &str) -> EngineClient {
        EngineClient::new(self.socket(node))
    }

    async fn join_all(&self, names: &[String]) -> anyhow::Result<()> {
        let first = self.client(&names[0]);
        first
            .post("/swarm/init", &json!({"ListenAddr": "0.0.0.0:2377"}))
            .await?;
        let swarm = first.get("/swarm").await?;
        let remote = self
            .node(&names[0])?
            .address
            .context("the first node has no address")?;
        for node in &self.nodes[1..] {
            let token = if node.controller { "Manager" } else { "Worker" };
            let token = swarm["JoinTokens"][token]
                .as_str()
                .context("the cluster gave no join token")?;
            let join = json!({
                "ListenAddr": "0.0.0.0:2377",
                "RemoteAddrs": [format!("{remote}:2377")],
                "JoinToken": token,
            });
            self.client(&node.name).post("/swarm/join", &join).await?;
        }
        Ok(())
    }

    /// Waits until every node of the lab that is on is ready, and every controller votes.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + CLUSTER_WITHIN;
        loop {
            let why = match self.unready().await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => why,
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() >= deadline {
                bail!("the cluster is not ready: {why}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn unready(&self) -> anyhow::Result<Option<String>> {
        let on: Vec<&LabNode> = self
            .nodes
            .iter()
            .filter(|node| self.standing(node) == NodeStanding::Running)
            .collect();
        let mut asked = on.iter().filter(|node| node.controller).peekable();
        asked.peek().context("no controller is on")?;
        // Every controller answers as of now, which it can only once it has caught up.
        for controller in asked {
            let listed = self.client(&controller.name).get("/nodes").await?;
            let listed: Vec<&Value> = listed.as_array().into_iter().flatten().collect();
            if let Some(why) = on.iter().find_map(|node| unready_in(&listed, node)) {
                return Ok(Some(format!("{why}, says {}", controller.name)));
            }
        }
        Ok(None)
    }

    /// Waits until a node's daemon answers.
    pub async fn wait_daemon(&self, node: &str) -> anyhow::Result<()> {
        let (client, deadline) = (self.client(node), Instant::now() + READY_WITHIN);
        while client.get("/info").await.is_err() {
            if Instant::now() >= deadline {
                let log = self.node_directory(node).join("daemon.log");
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(12).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                bail!(
                    "the daemon of {node} does not answer; the end of {}:\n{}",
                    log.display(),
                    tail.join("\n")
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends a node's whole pid namespace without warning.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let init = self.on(name)?;
        process::signal(init.0, Signal::SIGKILL)?;
        self.forget(name, init)
    }

    /// Ends a node's daemon without warning; its containers go on.
    pub fn kill_daemon(&self, name: &str) -> anyhow::Result<()> {
        let init = self.on(name)?;
        let daemon =
            process::daemon_of(init.0).with_context(|| format!("the daemon of {name} does not run"))?;
        let started = process::start_time(daemon).unwrap_or_default();
        process::signal(daemon, Signal::SIGKILL)?;
        if !process::wait_gone((daemon, started), KILL_WITHIN) {
            bail!("the daemon of {name} does not end");
        }
        Ok(())
    }

    /// Ends a node's daemon in good order, then the node.
    pub fn stop(&mut self, name: &str) -> anyhow::Result<()> {
        let init = self.on(name)?;
        if let Some(daemon) = process::daemon_of(init.0) {
            let started = process::start_time(daemon).unwrap_or_default();
            process::signal(daemon, Signal::SIGTERM)?;
            if !process::wait_gone((daemon, started), STOP_WITHIN) {
                bail!("the daemon of {name} does not end; kill the node with `muster lab kill {name}`");
            }
        }
        process::signal(init.0, Signal::SIGKILL)?;
        self.forget(name, init)
    }

    /// Turns a node on again, or starts only its daemon.
    pub fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?.clone();
        match self.standing(&node) {
            NodeStanding::Running => bail!("{name} runs already"),
            NodeStanding::Off => self.power_on(name),
            NodeStanding::DaemonStopped => {
                let (init, address) = (
                    node.init.context("the node is off")?,
                    node.address.context("no address")?,
                );
                restart_daemon(init.0, &self.process(name), address)
            }
        }
    }

    /// Removes the lab, whole or not, also after a crash.
    pub fn down(name: &str) -> anyhow::Result<()> {
        check_name(name)?;
        let directory = directory(name);
        // Not by the record: it may be damaged, or older than the last node's first process.
        for init in process::nodes_of(&directory) {
            process::signal(init.0, Signal::SIGKILL)?;
            if !process::wait_gone(init, KILL_WITHIN) {
                bail!("process {} of lab {name:?} does not end", init.0);
            }
        }
        Topology::remove_by_name(Path::new(TOPOLOGIES_DIRECTORY), name)?;
        cgroups::remove(&format!("muster-lab/{name}")).context("cannot remove the lab's cgroups")?;
        // Other labs may still live beside it.
        let _ = cgroups::remove_if_empty("muster-lab");
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", directory.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn process(&self, name: &str) -> NodeProcess {
        NodeProcess {
            name: name.to_owned(),
            directory: self.node_directory(name),
            cgroup: format!("/{}", self.cgroup(name)),
        }
    }

    fn power_on(&mut self, name: &str) -> anyhow::Result<()> {
        let waiting = self.process(name).spawn()?;
        let init = waiting.init;
        self.update(name, |node| node.init = Some(init))?;
        let address = self.topology()?.add_node_of_process(name, init.0)?;
        self.update(name, |node| node.address = Some(address))?;
        waiting.go(address)
    }

    fn on(&self, name: &str) -> anyhow::Result<(i32, u64)> {
        let init = self.node(name)?.init.filter(|init| process::is_alive(*init));
        init.with_context(|| format!("{name} is off; turn it on with `muster lab start {name}`"))
    }

    fn forget(&mut self, name: &str, init: (i32, u64)) -> anyhow::Result<()> {
        if !process::wait_gone(init, KILL_WITHIN) {
            bail!("{name} does not end");
        }
        self.update(name, |node| node.init = None)
    }
}

/// What a node lacks in a controller's list of nodes.
fn unready_in(listed: &[&Value], node: &LabNode) -> Option<String> {
    let name = &node.name;
    let Some(entry) = listed
        .iter()
        .find(|entry| entry["Description"]["Hostname"] == *name)
    else {
        return Some(format!("{name} is not listed"));
    };
    let (state, reach) = (&entry["Status"]["State"], &entry["ManagerStatus"]["Reachability"]);
    if state != "ready" {
        Some(format!("{name} is {state}"))
    } else if node.controller && reach != "reachable" {
        Some(format!("controller {name} is {reach}"))
    } else {
        None
    }
}
