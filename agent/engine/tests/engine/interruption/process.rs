//! The engine as a process that is told what to do.

use super::trace::{self, Fate};
use crate::node::Node;
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(60);

/// The engine's process.
pub struct Subject {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What the engine says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub name: String,
    pub state: String,
    pub pid: i32,
}

impl Subject {
    /// Starts the process; the engine is opened when it is told to.
    pub fn start(node: &Node) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_muster-engine-launcher"))
            .arg("operate")
            .args([node.path("data"), node.path("run")])
            .arg(node.parent())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// Has a command done, which has to succeed.
    pub fn tell(&mut self, command: &str) -> Value {
        self.write(command);
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command}: no answer"));
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["ok"].clone()
    }

    fn write(&mut self, command: &str) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "{command}").and_then(|()| input.flush()).unwrap();
    }

    /// Has a last command done, and kills the process before its change number `point`.
    pub fn traced(&mut self, command: &str, point: usize) -> Fate {
        let process = Pid::from_raw(self.child.id() as i32);
        trace::seize(process);
        self.write(command);
        trace::follow(process, point)
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes the engine.
    pub fn close(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// What the engine says of every container.
    pub fn containers(&mut self) -> Vec<Listed> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let listed = |value: &Value| Listed {
            id: text(&value["id"]),
            name: text(&value["name"]),
            state: text(&value["state"]),
            pid: value["pid"].as_i64().unwrap() as i32,
        };
        self.tell("list").as_array().unwrap().iter().map(listed).collect()
    }

    /// What it says of one.
    pub fn container(&mut self, name: &str) -> Option<Listed> {
        self.containers().into_iter().find(|listed| listed.name == name)
    }

    /// The names that a command answers with.
    pub fn names(&mut self, command: &str) -> Vec<String> {
        serde_json::from_value(self.tell(command)).unwrap()
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
