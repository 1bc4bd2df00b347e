//! A running server with its backends, and two clients: raw requests and the docker CLI.

use crate::cluster::FakeCluster;
use crate::engine::FakeEngine;
use muster_engine_api::{Backends, Listen, Server, ServerConfig};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Running {
    pub directory: tempfile::TempDir,
    pub socket: PathBuf,
    pub cluster: Arc<FakeCluster>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

/// Output of a CLI call.
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let config = ServerConfig {
            listeners: vec![Listen::Unix(socket.clone())],
            ..ServerConfig::default()
        };
        let server = Server::bind(&config).await.unwrap();
        let cluster = Arc::new(FakeCluster::default());
        let backends = Backends {
            engine: Arc::new(FakeEngine::default()),
            cluster: cluster.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(backends, async move {
            stopped.await.unwrap();
        }));
        Self {
            directory,
            socket,
            cluster,
            stop: Some(stop),
            server: Some(server),
        }
    }

    /// Stops the server and waits until nothing of it runs.
    pub async fn stop(mut self) -> PathBuf {
        self.stop.take().unwrap().send(()).unwrap();
        let server = self.server.take().unwrap();
        tokio::time::timeout(DEADLINE, server).await.unwrap().unwrap();
        self.socket.clone()
    }

    /// Sends bytes and reads until the server closes.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // A server that refuses a large body may close before it has read it all.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
        let _ = read.await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request and returns status, head and body.
    pub async fn request(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String, String) {
        let body = body.unwrap_or_default();
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let answer = self
            .raw(
                format!(
                    "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            )
            .await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
            unchunk(body)
        } else {
            body.to_owned()
        };
        (status, head.to_owned(), body)
    }

    /// The `message` of an error answer.
    pub async fn failure(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let (status, _, body) = self.request(method, path, body).await;
        let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        (status, value["message"].as_str().unwrap_or_default().to_owned())
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("docker");
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments)
            .env("DOCKER_CONFIG", self.directory.path())
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_API_VERSION")
            .kill_on_drop(true);
        command
    }

    /// Runs the docker CLI with this input.
    pub async fn docker_with(&self, input: &str, arguments: &[&str]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("docker {arguments:?} did not end"))
            .unwrap();
        Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the docker CLI, which must succeed, and returns its trimmed output.
    pub async fn docker(&self, arguments: &[&str]) -> String {
        let output = self.docker_with("", arguments).await;
        assert_eq!(
            output.status, 0,
            "docker {arguments:?}: {}{}",
            output.stdout, output.stderr
        );
        output.stdout.trim().to_owned()
    }

    /// Runs the docker CLI, which must fail, and returns its error.
    pub async fn docker_fails(&self, arguments: &[&str]) -> String {
        let output = self.docker_with("", arguments).await;
        assert_ne!(output.status, 0, "docker {arguments:?}: {}", output.stdout);
        output.stderr
    }

    /// Runs the docker CLI on a terminal of its own.
    pub async fn docker_on_terminal(&self, arguments: &str) -> String {
        let line = format!("docker -H unix://{} {arguments}", self.socket.display());
        let mut child = tokio::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("DOCKER_CONFIG", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .expect("the terminal session ends")
            .unwrap();
        drop(stdin);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    whole
}
