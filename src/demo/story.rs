//! The demo's steps, each with its time.

use super::whoami;
use crate::client::EngineClient;
use crate::lab::Lab;
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use muster_images::{ImageRecipe, RecipeSource};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NODES: usize = 3;
const REPLICAS: usize = 6;
const IMAGE: &str = "muster-whoami:demo";
/// A step that takes longer has failed.
const STEP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A running demo.
pub struct Story {
    lab: Lab,
    steps: Vec<(&'static str, Duration)>,
}

/// One replica that runs.
struct Replica {
    task: String,
    slot: u64,
    node: String,
    port: u16,
}

impl Story {
    /// Tells the whole story.
    pub async fn tell(name: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        println!("1. Making {NODES} nodes, each a real daemon in its own namespaces, and joining them");
        let lab = Lab::up(name, NODES, NODES).await?;
        let mut story = Self {
            lab,
            steps: vec![("three nodes are one cluster", began.elapsed())],
        };
        story.show_nodes("node-1").await?;
        story.run_service().await?;
        story.lose_node().await?;
        story.node_returns().await?;
        story.lose_leader().await?;
        println!("\nTimes:");
        for (step, time) in &story.steps {
            println!("  {:>7.2} s  {step}", time.as_secs_f64());
        }
        println!("  {:>7.2} s  in all", began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn run_service(&mut self) -> anyhow::Result<()> {
        println!("\n2. Loading an image made of this binary alone, on node-1 only");
        let began = Instant::now();
        let client = self.lab.client("node-1");
        client.post_tar("/images/load?quiet=1", image()?.into()).await?;
        self.step("image loaded on one node", began);
        println!(
            "\n3. Creating a service of {REPLICAS} replicas; the other nodes fetch the image from node-1"
        );
        let began = Instant::now();
        client.post("/services/create", &service()).await?;
        let replicas = self
            .wait_replicas("node-1", |replicas| replicas.len() == REPLICAS)
            .await?;
        self.step("six replicas run", began);
        self.show(&replicas);
        println!("\n4. Asking every replica who it is");
        let began = Instant::now();
        self.ask(&replicas)?;
        self.step("every replica answered", began);
        Ok(())
    }

    async fn lose_node(&mut self) -> anyhow::Result<()> {
        println!("\n5. Killing node-3 without warning");
        let began = Instant::now();
        self.lab.kill("node-3")?;
        let replicas = self
            .wait_replicas("node-1", |replicas| {
                replicas.len() == REPLICAS && replicas.iter().all(|replica| replica.node != "node-3")
            })
            .await?;
        self.step("node lost, its replicas run elsewhere", began);
        self.show(&replicas);
        self.ask(&replicas)
    }

    async fn node_returns(&mut self) -> anyhow::Result<()> {
        println!("\n6. Starting node-3 again, until all three controllers vote and are caught up");
        let began = Instant::now();
        self.lab.start("node-3")?;
        self.lab.wait_daemon("node-3").await?;
        self.lab.wait_ready().await?;
        self.step("node is back, three controllers vote", began);
        self.show_nodes("node-1").await
    }

    async fn lose_leader(&mut self) -> anyhow::Result<()> {
        let leader = self.leader("node-1").await?;
        let survivor = (1..=NODES)
            .map(|number| format!("node-{number}"))
            .find(|name| *name != leader);
        let survivor = survivor.context("no node is left")?;
        println!("\n7. Killing the leader, {leader}, and writing through {survivor}");
        let began = Instant::now();
        self.lab.kill(&leader)?;
        let client = self.lab.client(&survivor);
        self.write_until_accepted(&client).await?;
        self.step("leader lost, a write is accepted", began);
        self.show_nodes(&survivor).await?;
        let began = Instant::now();
        let replicas = self
            .wait_replicas(&survivor, |replicas| {
                replicas.len() == REPLICAS && replicas.iter().all(|replica| replica.node != leader)
            })
            .await?;
        self.step("all replicas run on the survivors", began);
        self.show(&replicas);
        self.ask(&replicas)
    }

    /// A write of the smallest kind: a label on the service.
    async fn write_until_accepted(&self, client: &EngineClient) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_WITHIN;
        loop {
            let written = async {
                let current = client.get("/services/whoami").await?;
                let (id, version) = (current["ID"].clone(), current["Version"]["Index"].clone());
                let mut spec = current["Spec"].clone();
                spec["Labels"] = json!({"demo": "survived"});
                let path = format!(
                    "/services/{}/update?version={version}",
                    id.as_str().unwrap_or_default()
                );
                client.post(&path, &spec).await
            };
            match written.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn leader(&self, ask: &str) -> anyhow::Result<String> {
        let nodes = self.lab.client(ask).get("/nodes").await?;
        let leader = nodes
            .as_array()
            .and_then(|nodes| nodes.iter().find(|node| node["ManagerStatus"]["Leader"] == true));
        let name = leader.and_then(|node| node["Description"]["Hostname"].as_str());
        name.map(str::to_owned).context("no node leads")
    }

    /// Waits until the replicas that run are as wanted, with a live picture of where they are.
    async fn wait_replicas(
        &self,
        ask: &str,
        done: impl Fn(&[Replica]) -> bool,
    ) -> anyhow::Result<Vec<Replica>> {
        let client = self.lab.client(ask);
        let bar = ProgressBar::new(REPLICAS as u64);
        bar.set_style(ProgressStyle::with_template(
            "   {bar:24} {pos}/{len} running  {msg}",
        )?);
        let deadline = Instant::now() + STEP_WITHIN;
        loop {
            // A survivor of a lost leader has no answer for a moment.
            let replicas = running(&client).await.unwrap_or_default();
            bar.set_position(replicas.len() as u64);
            bar.set_message(by_node(&replicas));
            if done(&replicas) {
                bar.finish_and_clear();
                return Ok(replicas);
            }
            if Instant::now() >= deadline {
                bar.abandon();
                bail!(
                    "the replicas did not come to run in time: {}",
                    problems(&client).await
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a request to every replica, from a place in the lab's network.
    fn ask(&self, replicas: &[Replica]) -> anyhow::Result<()> {
        let topology = self.lab.topology()?;
        for replica in replicas {
            let address = self
                .lab
                .node(&replica.node)?
                .address
                .context("the node has no address")?;
            let port = replica.port;
            let answer = topology.run_inside(move || request(address, port))??;
            print!("   {answer}");
            if !answer.contains(&format!("node={}", replica.node)) || !answer.contains(&replica.task) {
                bail!(
                    "the answer is not of task {} on {}: {answer}",
                    replica.task,
                    replica.node
                );
            }
        }
        Ok(())
    }

    fn step(&mut self, what: &'static str, began: Instant) {
        let time = began.elapsed();
        println!("   {:.2} s", time.as_secs_f64());
        self.steps.push((what, time));
    }

    fn show(&self, replicas: &[Replica]) {
        println!("   {}", by_node(replicas));
    }

    async fn show_nodes(&self, ask: &str) -> anyhow::Result<()> {
        let nodes = self.lab.client(ask).get("/nodes").await?;
        let mut nodes: Vec<&Value> = nodes.as_array().into_iter().flatten().collect();
        nodes.sort_by_key(|node| node["Description"]["Hostname"].as_str().unwrap_or_default());
        for node in nodes {
            let leader = node["ManagerStatus"]["Leader"] == true;
            println!(
                "   {}  {}  {}",
                node["Description"]["Hostname"].as_str().unwrap_or("?"),
                node["Status"]["State"].as_str().unwrap_or("?"),
                if leader { "leader" } else { "" }
            );
        }
        Ok(())
    }
}

fn image() -> anyhow::Result<Vec<u8>> {
    let binary = RecipeSource::File(PathBuf::from("/proc/self/exe"));
    let recipe = ImageRecipe {
        reference: IMAGE.to_owned(),
        entrypoint: vec!["/muster".to_owned(), "whoami".to_owned()],
        exposed_ports: vec![format!("{}/tcp", whoami::PORT)],
        ..ImageRecipe::default()
    };
    let mut archive = Vec::new();
    recipe.with("muster", 0o755, binary).write(&mut archive)?;
    Ok(archive)
}

/// Every replica publishes its port on its node, where the node chooses the number.
fn service() -> Value {
    json!({
        "Name": "whoami",
        "TaskTemplate": {"ContainerSpec": {
            "Image": IMAGE,
            "Env": ["TASK={{.Task.Name}}", "NODE={{.Node.Hostname}}"],
        }},
        "Mode": {"Replicated": {"Replicas": REPLICAS}},
        "EndpointSpec": {"Ports": [
            {"Protocol": "tcp", "TargetPort": whoami::PORT, "PublishMode": "host"},
        ]},
    })
}

async fn running(client: &EngineClient) -> anyhow::Result<Vec<Replica>> {
    let tasks = client
        .get("/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D")
        .await?;
    let nodes = client.get("/nodes").await?;
    let names: BTreeMap<&str, &str> = nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["ID"].as_str()?, node["Description"]["Hostname"].as_str()?)))
        .collect();
    let mut replicas: Vec<Replica> = tasks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|task| replica(task, &names))
        .collect();
    replicas.sort_by_key(|replica| replica.slot);
    Ok(replicas)
}

fn replica(task: &Value, names: &BTreeMap<&str, &str>) -> Option<Replica> {
    if task["Status"]["State"] != "running" {
        return None;
    }
    Some(Replica {
        task: task["ID"].as_str()?.to_owned(),
        slot: task["Slot"].as_u64()?,
        node: (*names.get(task["NodeID"].as_str()?)?).to_owned(),
        port: u16::try_from(task["Status"]["PortStatus"]["Ports"][0]["PublishedPort"].as_u64()?).ok()?,
    })
}

async fn problems(client: &EngineClient) -> String {
    let tasks = client.get("/tasks").await.unwrap_or_default();
    let texts = tasks.as_array().into_iter().flatten().filter_map(|task| {
        let error = task["Status"]["Err"].as_str().filter(|error| !error.is_empty())?;
        Some(format!("{} is {}: {error}", task["ID"], task["Status"]["State"]))
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn by_node(replicas: &[Replica]) -> String {
    let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for replica in replicas {
        nodes
            .entry(&replica.node)
            .or_default()
            .push(format!("whoami.{}", replica.slot));
    }
    let texts = nodes
        .into_iter()
        .map(|(node, slots)| format!("{node}: {}", slots.join(" ")));
    texts.collect::<Vec<_>>().join(" | ")
}

fn request(address: Ipv4Addr, port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), REQUEST_TIMEOUT)
        .with_context(|| format!("cannot connect to {address}:{port}"))?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: whoami\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.context("the answer has no body")
}
