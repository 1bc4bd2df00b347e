//! A small client of the Engine API over a unix socket, for the lab and the demo.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// Longest call: an image is loaded within it.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Calls one daemon. Every call has a connection of its own.
#[derive(Debug, Clone)]
pub struct EngineClient {
    socket: PathBuf,
}

impl EngineClient {
    /// A client of the daemon at this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, Bytes::new(), "application/json")
            .await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            serde_json::to_vec(body)?.into()
        };
        self.call(Method::POST, path, body, "application/json").await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(body)?.into();
        self.call(Method::PUT, path, body, "application/json").await
    }

    /// POST with a tar archive.
    pub async fn post_tar(&self, path: &str, archive: Bytes) -> anyhow::Result<Value> {
        self.call(Method::POST, path, archive, "application/x-tar").await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, kind: &str) -> anyhow::Result<Value> {
        let what = format!("{method} {path}");
        let called = tokio::time::timeout(CALL_TIMEOUT, self.exchange(method, path, body, kind)).await;
        let (status, body) = called
            .with_context(|| format!("{what}: no answer"))?
            .with_context(|| what.clone())?;
        // A stream of progress messages ends with the last one.
        let text = String::from_utf8_lossy(&body);
        let value = text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .map(serde_json::from_str);
        let value = value.transpose().ok().flatten().unwrap_or(Value::Null);
        if !status.is_success() && status != StatusCode::NOT_MODIFIED {
            let message = value["message"].as_str().unwrap_or("no message").to_owned();
            bail!("{what}: {status}: {message}");
        }
        Ok(value)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        kind: &str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "muster")
            .header("Content-Type", kind)
            .body(Full::new(body))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, body))
        };
        // The connection's own future moves the bytes; it ends with the exchange.
        tokio::select! {
            result = exchange => result,
            ended = connection => match ended {
                Ok(()) => bail!("the connection ended without an answer"),
                Err(error) => Err(error.into()),
            },
        }
    }
}
