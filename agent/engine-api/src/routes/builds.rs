//! Building images.

use crate::backend::{
    BackendError, BaseImages, BuildEvent, BuildStream, ErrorKind, LocalSwarmState, PullRequest,
};
use crate::convert::build::{NO_BUILDKIT, read};
use crate::http::{BoxError, Call, Failure, Reply, lines, upload};
use crate::server::App;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use hyper::StatusCode;
use muster_types::image::RegistryAuth;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The client's credentials of all registries.
const CONFIG_HEADER: &str = "x-registry-config";

/// Most bytes of a quiet build's output that are kept for the case that it fails.
const QUIET_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a character that came in part.
const PARTIAL_BYTES_MAX: usize = 3;

/// `POST /build`. The context is received whole; from then on the answer tells what happens.
pub(super) async fn build(mut call: Call) -> Reply {
    let request = read(&call.query)?;
    let quiet = call.query.flag("q");
    let body = std::mem::take(call.request.body_mut());
    let bases = Arc::new(RemoteImages {
        app: Arc::clone(&call.app),
        auths: auths(&call),
    });
    let (context, feeding) = upload(body);
    let (events, ()) = tokio::join!(call.engine().image_build(context, request, bases), feeding);
    Ok(lines("application/json", progress(events?, quiet)))
}

/// `POST /session` and `POST /grpc`.
pub(super) async fn buildkit(_: Call) -> Reply {
    Err(Failure::new(StatusCode::NOT_IMPLEMENTED, NO_BUILDKIT))
}

/// Base images of registries, or where these are out of reach, of other nodes of the cluster.
struct RemoteImages {
    app: Arc<App>,
    /// The client's credentials, by registry.
    auths: BTreeMap<String, Value>,
}

impl RemoteImages {
    fn auth_of(&self, name: &str) -> RegistryAuth {
        let known = registries(name)
            .iter()
            .find_map(|registry| self.auths.get(registry));
        RegistryAuth(
            known
                .map(|auth| URL_SAFE.encode(auth.to_string()))
                .unwrap_or_default(),
        )
    }
}

/// The registry that a name is of, as clients name it among their credentials.
fn registries(name: &str) -> Vec<String> {
    let host = name
        .split_once('/')
        .map(|(host, _)| host)
        .filter(|host| host.contains(['.', ':']) || *host == "localhost");
    match host {
        None | Some("docker.io") => ["https://index.docker.io/v1/", "index.docker.io", "docker.io"]
            .map(str::to_owned)
            .to_vec(),
        Some(host) => vec![
            host.to_owned(),
            format!("https://{host}"),
            format!("http://{host}"),
        ],
    }
}

/// The credentials of all registries; what cannot be read is none.
fn auths(call: &Call) -> BTreeMap<String, Value> {
    let header = call.request.headers().get(CONFIG_HEADER);
    let decoded = header.and_then(|header| URL_SAFE.decode(header.as_bytes()).ok());
    decoded
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default()
}

#[async_trait]
impl BaseImages for RemoteImages {
    async fn fetch(&self, name: &str) -> Result<(), BackendError> {
        let backends = &self.app.backends;
        let last = name.rsplit('/').next().unwrap_or(name);
        let reference = match last.contains([':', '@']) {
            true => name.to_owned(),
            false => format!("{name}:latest"),
        };
        let request = PullRequest {
            auth: self.auth_of(name),
            reference,
            ..PullRequest::default()
        };
        let pulled = match backends.engine.image_pull(request).await {
            Ok(lines) => lines.try_for_each(async |_| Ok(())).await,
            Err(error) => Err(error),
        };
        let Err(unreachable) = pulled else { return Ok(()) };
        if unreachable.kind != ErrorKind::Unavailable {
            return Err(unreachable);
        }
        let familiar = name.strip_prefix("docker.io/").unwrap_or(name);
        let familiar = familiar.strip_prefix("library/").unwrap_or(familiar);
        if backends.cluster.local().state == LocalSwarmState::Active
            && backends.cluster.image_fetch(familiar, "").await.is_ok()
        {
            return Ok(());
        }
        // What is here is the newest that is known.
        let here = backends.engine.image_inspect(familiar).await;
        here.map(drop).map_err(|_| unreachable)
    }
}

/// The answer's lines.
fn progress(events: BuildStream, quiet: bool) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let mut text = Text::default();
    events
        .chain(stream::once(async { BuildEvent::Text(Bytes::new()) }))
        .flat_map(move |event| stream::iter(text.lines(event, quiet)))
        .map(|line| Ok(Bytes::from(format!("{line}\r\n"))))
}

/// What was written so far.
#[derive(Default)]
struct Text {
    /// The beginning of a character whose rest is still to come.
    partial: Vec<u8>,
    /// What a quiet build does not tell unless it fails.
    kept: String,
}

impl Text {
    fn lines(&mut self, event: BuildEvent, quiet: bool) -> Vec<Value> {
        match event {
            BuildEvent::Text(bytes) => {
                let text = self.decoded(&bytes);
                match (text.is_empty(), quiet) {
                    (true, _) => Vec::new(),
                    (false, false) => vec![json!({"stream": text})],
                    (false, true) => {
                        if self.kept.len() + text.len() <= QUIET_BYTES_MAX {
                            self.kept.push_str(&text);
                        }
                        Vec::new()
                    }
                }
            }
            BuildEvent::Image(id) => {
                let mut lines = vec![json!({"aux": {"ID": id}})];
                if quiet {
                    lines.push(json!({"stream": format!("{id}\n")}));
                }
                lines
            }
            BuildEvent::Failed { message, code } => {
                let mut detail = json!({"message": message});
                if let Some(code) = code {
                    detail["code"] = code.into();
                }
                let told = std::mem::take(&mut self.kept);
                let told = (!told.is_empty()).then(|| json!({"stream": told}));
                let error = json!({"errorDetail": detail, "error": message});
                told.into_iter().chain([error]).collect()
            }
        }
    }

    /// Whole characters; what is none becomes the replacement character.
    fn decoded(&mut self, bytes: &[u8]) -> String {
        let ended = bytes.is_empty();
        self.partial.extend_from_slice(bytes);
        let mut whole = self.partial.len();
        if !ended
            && let Err(error) = std::str::from_utf8(&self.partial)
            && self.partial.len() - error.valid_up_to() <= PARTIAL_BYTES_MAX
            && error.error_len().is_none()
        {
            whole = error.valid_up_to();
        }
        let rest = self.partial.split_off(whole);
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial = rest;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(events: Vec<BuildEvent>, quiet: bool) -> Vec<Value> {
        let lines: Vec<_> = progress(stream::iter(events).boxed(), quiet).collect().await;
        lines
            .into_iter()
            .map(|line| serde_json::from_slice(&line.unwrap()).unwrap())
            .collect()
    }

    fn text(bytes: &'static [u8]) -> BuildEvent {
        BuildEvent::Text(Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn characters_stay_whole() {
        let events = vec![text(b"a\xc3"), text(b"\xbc\xff"), text(b"\xe2\x82")];
        let streams: Vec<Value> = told(events, false).await;
        assert_eq!(
            streams,
            [
                json!({"stream": "a"}),
                json!({"stream": "\u{fc}\u{fffd}"}),
                json!({"stream": "\u{fffd}"})
            ]
        );
    }

    #[tokio::test]
    async fn quiet_builds_tell_the_id_or_what_failed() {
        let image = || BuildEvent::Image("sha256:x".into());
        assert_eq!(
            told(vec![text(b"step"), image()], true).await,
            [
                json!({"aux": {"ID": "sha256:x"}}),
                json!({"stream": "sha256:x\n"})
            ]
        );
        let failed = BuildEvent::Failed {
            message: "no".into(),
            code: Some(3),
        };
        assert_eq!(
            told(vec![text(b"step"), failed], true).await,
            [
                json!({"stream": "step"}),
                json!({"errorDetail": {"message": "no", "code": 3}, "error": "no"})
            ]
        );
    }
}
