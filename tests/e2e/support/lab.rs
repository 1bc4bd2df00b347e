//! A lab that is removed when the test ends, also when it fails.

use super::docker::{Docker, Output};
use super::image::{IMAGE, busybox};
use super::leftovers::Leftovers;
use super::request::{connect_inside, fetch_inside};
use super::wait::{LONG, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Far more than the agent waits before it writes.
const SAVED_AFTER: Duration = Duration::from_millis(500);
/// Where labs keep their networks.
const TOPOLOGIES: &str = "/run/muster-lab";

/// A running lab.
pub struct Lab {
    name: &'static str,
    /// Where the nodes' directories are.
    nodes: PathBuf,
    directory: TempDir,
}

impl Lab {
    /// Makes a lab of this name; names are unique among the tests.
    #[track_caller]
    pub fn up(name: &'static str, nodes: usize, controllers: usize) -> Self {
        let directory = own_directory();
        let place = directory.path().to_owned();
        Self {
            name,
            nodes: place,
            directory,
        }
        .make(nodes, controllers)
    }

    /// A lab of one node with the test image, which keeps its data in this directory.
    #[track_caller]
    pub fn with_image_in(name: &'static str, place: &Path) -> Self {
        let lab = Self {
            name,
            nodes: place.to_owned(),
            directory: own_directory(),
        };
        lab.make(1, 1).load_image()
    }

    /// A lab whose making is killed once its first node has a daemon.
    #[track_caller]
    pub fn cut_short(name: &'static str) -> Self {
        let directory = own_directory();
        let place = directory.path().to_owned();
        let lab = Self {
            name,
            nodes: place,
            directory,
        };
        let mut making = lab
            .process(&["up", "--nodes", "3"])
            .spawn()
            .expect("the binary under test can be run");
        eventually("the first node's log", LONG, || {
            std::fs::metadata(lab.node_directory("node-1").join("daemon.log"))
        });
        making.kill().expect("it is ours");
        let ended = making.wait().expect("it is ours");
        assert!(!ended.success(), "the lab was made before it could be cut short");
        lab
    }

    #[track_caller]
    fn make(self, nodes: usize, controllers: usize) -> Self {
        let (nodes, controllers) = (nodes.to_string(), controllers.to_string());
        self.command(&["up", "--nodes", &nodes, "--controllers", &controllers]);
        self
    }

    /// A lab with the test image on its first node.
    #[track_caller]
    pub fn with_image(name: &'static str, nodes: usize, controllers: usize) -> Self {
        Self::up(name, nodes, controllers).load_image()
    }

    #[track_caller]
    fn load_image(self) -> Self {
        let archive = busybox(self.directory.path());
        let docker = self.docker("node-1");
        let loaded = docker.run(&["load", "-i", &archive.to_string_lossy()]);
        assert_eq!(loaded, format!("Loaded image: {IMAGE}"));
        self
    }

    /// A place for the test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The docker CLI of a node.
    pub fn docker(&self, node: &str) -> Docker {
        let socket = self.node_directory(node).join("docker.sock");
        Docker::new(&socket, &self.directory.path().join("docker"))
    }

    /// Directory of a node's data and log.
    pub fn node_directory(&self, node: &str) -> PathBuf {
        self.lab_directory().join(node)
    }

    /// Runs `muster lab ARGS…`, which must succeed.
    #[track_caller]
    pub fn command(&self, args: &[&str]) -> String {
        let output = self.try_command(args);
        assert_eq!(output.code, 0, "muster lab {}: {output:?}", args.join(" "));
        output.stdout
    }

    pub fn kill(&self, node: &str) {
        self.command(&["kill", node]);
    }

    pub fn kill_daemon(&self, node: &str) {
        self.command(&["kill", "--daemon-only", node]);
    }

    pub fn start(&self, node: &str) {
        self.command(&["start", node]);
    }

    /// Fetches a page from a port of a node, as a machine of the lab's network does.
    pub fn fetch(&self, node: &str, port: u16, path: &str) -> Result<String, String> {
        let namespace = Path::new(TOPOLOGIES).join(self.name).join("netns");
        fetch_inside(&namespace, &format!("{}:{port}", self.address(node)), path)
    }

    /// Connects to a port of a node, as a machine of the lab's network does.
    #[track_caller]
    pub fn connect(&self, node: &str, port: u16) -> TcpStream {
        let namespace = Path::new(TOPOLOGIES).join(self.name).join("netns");
        let connected = connect_inside(&namespace, &format!("{}:{port}", self.address(node)));
        connected.expect("the port is open")
    }

    /// A node's address in the lab's network.
    #[track_caller]
    pub fn address(&self, node: &str) -> String {
        let address = self.record(node)["address"].as_str().map(str::to_owned);
        address.expect("the record has every node's address")
    }

    /// The first process of a node, as this host numbers it.
    #[track_caller]
    pub fn init(&self, node: &str) -> u64 {
        let init = self.record(node)["init"][0].as_u64();
        init.expect("the record has every node's first process")
    }

    /// The daemon of a node that is on, as this host numbers it.
    #[track_caller]
    pub fn daemon(&self, node: &str) -> u64 {
        let init = self.init(node);
        let children =
            std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).expect("the node is on");
        let is_daemon = |pid: &u64| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).nth(1) == Some(b"daemon")
        };
        let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.find(is_daemon).expect("the daemon runs")
    }

    /// The network namespace that a node's daemon sees as its host's.
    #[track_caller]
    pub fn netns(&self, node: &str) -> PathBuf {
        format!("/proc/{}/ns/net", self.init(node)).into()
    }

    /// Creates the service `web` with so many replicas that wait.
    #[track_caller]
    pub fn create_web(&self, replicas: usize) {
        let replicas = replicas.to_string();
        let create = ["service", "create", "-d", "-q", "--name", "web", "--replicas"];
        self.docker("node-1")
            .run(&[&create[..], &[replicas.as_str(), IMAGE]].concat());
    }

    /// Waits until a node is listed like this.
    #[track_caller]
    pub fn await_listed(&self, asked: &str, node: &str, expected: &str) {
        eventually(&format!("{node} {expected}"), LONG, || {
            let nodes = self.nodes(asked).map_err(|output| format!("{output:?}"))?;
            if nodes.get(node).is_some_and(|how| how == expected) {
                Ok(())
            } else {
                Err(format!("{nodes:?}"))
            }
        });
    }

    /// How each node is listed: `Ready Active Leader`.
    pub fn nodes(&self, asked: &str) -> Result<BTreeMap<String, String>, Output> {
        let format = "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}";
        let output = self.docker(asked).try_run(&["node", "ls", "--format", format]);
        if output.code != 0 {
            return Err(output);
        }
        let rows = output.stdout.lines().filter_map(|line| line.split_once(' '));
        Ok(rows
            .map(|(name, how)| (name.to_owned(), how.trim().to_owned()))
            .collect())
    }

    /// The leader, once the asked node knows one.
    #[track_caller]
    pub fn leader(&self, asked: &str) -> String {
        eventually("a leader", LONG, || {
            let nodes = self.nodes(asked)?;
            let leader = nodes.iter().find(|(_, how)| how.ends_with("Leader"));
            leader.map(|(name, _)| name.clone()).ok_or_else(|| Output {
                code: 0,
                stdout: format!("{nodes:?}"),
                stderr: "no leader".to_owned(),
            })
        })
    }

    /// Running tasks of a service: task id to node, wherever they run; and the listing that says so.
    fn running(&self, asked: &str, service: &str) -> Result<(BTreeMap<String, String>, String), Output> {
        let output = self.docker(asked).try_run(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.DesiredState}} {{.ID}} {{.Node}} {{.CurrentState}} {{.Error}}",
            service,
        ]);
        if output.code != 0 {
            return Err(output);
        }
        let mut running = BTreeMap::new();
        for line in output.stdout.lines() {
            let mut words = line.split(' ');
            if words.next() == Some("Running")
                && let (Some(id), Some(node), Some("Running")) = (words.next(), words.next(), words.next())
            {
                running.insert(id.to_owned(), node.to_owned());
            }
        }
        Ok((running, output.stdout))
    }

    /// Waits until exactly so many tasks run and they satisfy the condition; returns them.
    #[track_caller]
    pub fn await_running(
        &self,
        asked: &str,
        service: &str,
        count: usize,
        right: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> BTreeMap<String, String> {
        eventually(&format!("{count} tasks of {service}"), LONG, || {
            let (running, listing) = self
                .running(asked, service)
                .map_err(|output| format!("{output:?}"))?;
            if running.len() == count && right(&running) {
                Ok(running)
            } else {
                Err(format!("{listing}\n{:?}", self.nodes(asked)))
            }
        })
    }

    /// The containers that run on a node, id to pid as the node sees it.
    #[track_caller]
    pub fn containers(&self, node: &str) -> BTreeMap<String, String> {
        let docker = self.docker(node);
        let ids = docker.lines(&["ps", "-q", "--no-trunc"]);
        ids.into_iter()
            .map(|id| {
                let pid = docker.run(&["inspect", "--format", "{{.State.Pid}} {{.State.StartedAt}}", &id]);
                (id, pid)
            })
            .collect()
    }

    /// Waits until all that the node's agent was told lately is in its file: it writes it a moment later.
    pub fn await_saved(&self, node: &str) {
        let file = self.node_directory(node).join("data/cluster/agent.state");
        eventually("the agent's state is in its file", LONG, || {
            let written = std::fs::metadata(&file).and_then(|found| found.modified());
            let age = written.map_err(|error| error.to_string())?.elapsed();
            match age {
                Ok(age) if age >= SAVED_AFTER => Ok(()),
                age => Err(format!("{age:?}")),
            }
        });
    }

    /// Waits until the node's daemon answers.
    #[track_caller]
    pub fn await_daemon(&self, node: &str) {
        eventually(&format!("the daemon of {node}"), LONG, || {
            let output = self.docker(node).try_run(&["ps", "-q"]);
            if output.code == 0 { Ok(()) } else { Err(output) }
        });
    }

    fn record(&self, node: &str) -> Value {
        let text = std::fs::read(self.lab_directory().join("lab.json")).expect("the lab has a record");
        let record: Value = serde_json::from_slice(&text).expect("the record is JSON");
        let nodes = record["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.into_iter().find(|entry| entry["name"] == node);
        found.unwrap_or_else(|| panic!("there is no {node}"))
    }

    fn lab_directory(&self) -> PathBuf {
        self.nodes.join(self.name)
    }

    fn process(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(["lab", "--name", self.name])
            .args(args)
            .env("MUSTER_LAB_DIR", &self.nodes)
            .stdin(Stdio::null());
        command
    }

    /// Runs `muster lab ARGS…` and returns whatever it answers.
    pub fn try_command(&self, args: &[&str]) -> Output {
        let output = self
            .process(args)
            .output()
            .expect("the binary under test can be run");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What the daemons had to say, for a test that fails.
    fn show_logs(&self) {
        let Ok(nodes) = std::fs::read_dir(self.lab_directory()) else {
            return;
        };
        for node in nodes.flatten() {
            let Ok(log) = std::fs::read_to_string(node.path().join("daemon.log")) else {
                continue;
            };
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(30);
            eprintln!("{}:\n{}\n", node.path().display(), lines[tail..].join("\n"));
        }
    }
}

fn own_directory() -> TempDir {
    // Images need a real file system below them; /tmp may be a tmpfs.
    let directory = tempfile::Builder::new()
        .prefix("muster-e2e-")
        .tempdir_in("/var/tmp")
        .expect("/var/tmp can be written");
    std::fs::create_dir(directory.path().join("docker")).expect("the new directory can be written");
    directory
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let down = self.try_command(&["down"]);
        let topology = Path::new(TOPOLOGIES).join(self.name);
        let mut left = Leftovers {
            cgroup: &format!("muster-lab/{}", self.name),
            directories: &[&self.lab_directory(), &topology],
        }
        .find();
        for path in [self.lab_directory(), topology] {
            if path.exists() {
                left.push(format!("directory {}", path.display()));
            }
        }
        if down.code != 0 || !left.is_empty() {
            let complaint = format!("lab {} leaves behind {left:#?}; lab down: {down:?}", self.name);
            // A second panic would hide the first.
            if std::thread::panicking() {
                eprintln!("{complaint}");
            } else {
                panic!("{complaint}");
            }
        }
    }
}
