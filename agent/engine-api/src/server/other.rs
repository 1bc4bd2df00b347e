//! Who else listens on a socket: another engine is asked for its name, so that the log can say it.

use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest wait for its answer; a socket of systemd starts a dockerd first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most of the answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// What is said of a listener that does not answer as an engine does.
const UNKNOWN: &str = "unknown";

/// The name and version of the engine that listens on this socket; `None` when nobody does.
pub(super) async fn engine_at(path: &Path) -> Option<String> {
    let stream = UnixStream::connect(path).await.ok()?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(stream)).await;
    let named = answer.ok().and_then(Result::ok);
    Some(named.map_or_else(|| UNKNOWN.to_owned(), |answer| name_in(&answer)))
}

async fn ask(mut stream: UnixStream) -> std::io::Result<String> {
    let request = b"GET /version HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn name_in(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let start = body.find('{').unwrap_or(body.len());
    let mut values = serde_json::Deserializer::from_str(&body[start..]).into_iter::<serde_json::Value>();
    let Some(Ok(version)) = values.next() else {
        return UNKNOWN.to_owned();
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let name = format!(
        "{} {}",
        text(&version["Platform"]["Name"]),
        text(&version["Version"])
    );
    match name.trim() {
        "" => UNKNOWN.to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_named_by_its_version() {
        let answer = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{\"Platform\":{\"Name\":\"Docker\"},\"Version\":\"20.10\"}\n";
        assert_eq!(name_in(answer), "Docker 20.10");
        let chunked = "HTTP/1.1 200 OK\r\n\r\n17\r\n{\"Version\":\"28.1\"}\r\n0\r\n\r\n";
        assert_eq!(name_in(chunked), "28.1");
        for other in [
            "",
            "SSH-2.0",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{}",
        ] {
            assert_eq!(name_in(other), UNKNOWN, "{other}");
        }
    }

    #[tokio::test]
    async fn nobody_listens_on_a_stale_or_missing_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        assert_eq!(engine_at(&path).await, None);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(engine_at(&path).await, None);
    }
}
