//! Registries: pulling and pushing, what a registry has, and logging in. Where a registry is out of reach, an image may
//! come from another node of the cluster.

use crate::backend::{
    BackendError, ErrorKind, ImageProgress, LocalSwarmState, ProgressStream, PullRequest, PushRequest,
};
use crate::convert;
use crate::http::{BoxError, Call, Failure, Reply, json, json_lines, lines, status_of};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures::StreamExt;
use hyper::StatusCode;
use muster_types::image::RegistryAuth;
use serde_json::{Value, json as value};

/// Who asks a registry.
const AUTH_HEADER: &str = "x-registry-auth";

/// Pulls `fromImage`: with a tag or digest that one, else all tags.
pub(super) async fn pull(call: &Call, image: &str) -> Reply {
    let tag = call.query.get("tag").filter(|tag| !tag.is_empty());
    let separator = |tag: &str| if tag.contains(':') { '@' } else { ':' };
    let reference = match tag {
        Some(tag) => format!("{}{}{tag}", without_tag(image), separator(tag)),
        None => image.to_owned(),
    };
    let platform = call.query.get("platform").unwrap_or_default().to_owned();
    if !platform.is_empty() {
        convert::platform::Platform::read(&platform)?;
    }
    let request = PullRequest {
        all_tags: tag.is_none() && !names_one(image),
        reference: reference.clone(),
        platform: platform.clone(),
        auth: auth_of(call),
    };
    match call.engine().image_pull(request).await {
        Ok(progress) => Ok(stream(progress)),
        Err(error) if error.kind == ErrorKind::Unavailable => {
            from_cluster(call, &familiar(&reference), &platform, error).await
        }
        Err(error) => Err(error.into()),
    }
}

/// A tag in the image's name gives way to the one beside it.
fn without_tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

fn names_one(image: &str) -> bool {
    image.contains('@') || without_tag(image) != image
}

/// As people write it.
fn familiar(image: &str) -> String {
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    image.strip_prefix("library/").unwrap_or(image).to_owned()
}

/// Who asks; what cannot be read is for the client of registries to refuse.
pub(super) fn auth_of(call: &Call) -> RegistryAuth {
    let header = call.request.headers().get(AUTH_HEADER);
    let text = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    RegistryAuth(text.unwrap_or_default())
}

/// Brings an image of this name here from another node of the cluster, unless it is here: its registry is out of reach.
async fn from_cluster(call: &Call, name: &str, platform: &str, unreachable: BackendError) -> Reply {
    if call.cluster().local().state != LocalSwarmState::Active {
        return Err(failed(unreachable.message));
    }
    let why = &unreachable.message;
    // One for another platform may be of the same name.
    if platform.is_empty() && call.engine().image_inspect(name).await.is_ok() {
        let status = format!("Status: Image is up to date for {name}, as far as is known here: {why}");
        return Ok(json_lines(&[value!({"status": status})]));
    }
    match call.cluster().image_fetch(name, platform).await {
        Ok(()) => {
            let status =
                format!("Status: Downloaded newer image for {name} from a node of the cluster: {why}");
            Ok(json_lines(&[value!({"status": status})]))
        }
        Err(error) if error.kind == ErrorKind::NotFound => {
            Err(failed(format!("{why}; and no node of the cluster has {name}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Docker's status for a registry that cannot be reached.
fn failed(message: String) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// `POST /images/{name}/push`.
pub(super) async fn push(call: Call) -> Reply {
    let image = call.reference().to_owned();
    let tag = call.query.get("tag").filter(|tag| !tag.is_empty());
    let reference = match tag {
        Some(tag) => format!("{}:{tag}", without_tag(&image)),
        None => image.clone(),
    };
    let request = PushRequest {
        all_tags: tag.is_none() && !names_one(&image),
        reference,
        auth: auth_of(&call),
    };
    match call.engine().image_push(request).await {
        Ok(progress) => Ok(stream(progress)),
        Err(error) if error.kind == ErrorKind::Unavailable => Err(failed(error.message)),
        Err(error) => Err(error.into()),
    }
}

/// Lines as Docker writes them; an error is the last one.
fn stream(progress: ProgressStream) -> hyper::Response<crate::http::Body> {
    let text = progress.map(|line| {
        let line = match line {
            Ok(line) => wire(line),
            Err(error) => {
                value!({"errorDetail": {"code": status_of(error.kind).as_u16(), "message": error.message}, "error": error.message})
            }
        };
        Ok::<_, BoxError>(Bytes::from(format!("{line}\r\n")))
    });
    lines("application/json", text)
}

fn wire(line: ImageProgress) -> Value {
    match line {
        ImageProgress::Status(status) => value!({"status": status}),
        ImageProgress::Of {
            id,
            status,
            bytes: None,
        } => value!({"status": status, "progressDetail": {}, "id": id}),
        ImageProgress::Of {
            id,
            status,
            bytes: Some((current, total)),
        } => value!({
            "status": status,
            "progressDetail": {"current": current, "total": total},
            "progress": bar(current, total),
            "id": id,
        }),
        ImageProgress::Pushed { tag, digest, size } => {
            value!({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size}})
        }
    }
}

/// The bar that clients without one of their own print.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let done = (current.min(total) * WIDTH).checked_div(total).unwrap_or(WIDTH);
    let done = usize::try_from(done).unwrap_or_default();
    let head = if done < 50 { ">" } else { "" };
    let bar = format!("{}{head}", "=".repeat(done));
    format!("[{bar:<50}]  {}/{}", size(current), size(total))
}

/// Decimal, with four digits, as in Go's units package.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    let text = match value {
        value if value < 10.0 => format!("{value:.3}"),
        value if value < 100.0 => format!("{value:.2}"),
        value => format!("{value:.1}"),
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// `GET /distribution/{name}/json`: what a registry has under a name. Clients pin services to the digest.
pub(super) async fn distribution(call: Call) -> Reply {
    let found = call
        .engine()
        .registry_inspect(call.reference(), auth_of(&call))
        .await;
    let found = found.map_err(|error| match error.kind {
        ErrorKind::Unavailable => failed(error.message),
        _ => error.into(),
    })?;
    let platform = |platform: &crate::backend::RemotePlatform| {
        let mut value = value!({"architecture": platform.architecture, "os": platform.os});
        if let Some(variant) = &platform.variant {
            value["variant"] = variant.clone().into();
        }
        value
    };
    json(&value!({
        "Descriptor": {"mediaType": found.media_type, "digest": found.digest, "size": found.size},
        "Platforms": found.platforms.iter().map(platform).collect::<Vec<_>>(),
    }))
}

/// `GET /images/search`: what Docker Hub's index has, which is no part of the protocol of registries.
pub(super) async fn search(call: Call) -> Reply {
    let term = call.query.get("term").unwrap_or_default();
    Err(Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        format!("searching for {term:?} is not supported: search at https://hub.docker.com and pull by name"),
    ))
}

/// `POST /auth`: checks a name and password at a registry.
pub(super) async fn log_in(mut call: Call) -> Reply {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Server {
        serveraddress: String,
    }
    let body: Value = call.body().await?;
    let server = serde_json::from_value::<Server>(body.clone()).unwrap_or_default();
    let auth = RegistryAuth(URL_SAFE.encode(body.to_string()));
    let identity = call.engine().registry_login(&server.serveraddress, auth).await;
    let identity = identity.map_err(|error| match error.kind {
        ErrorKind::Unavailable => failed(error.message),
        _ => error.into(),
    })?;
    json(&value!({"Status": "Login Succeeded", "IdentityToken": identity.unwrap_or_default()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_from_tags_and_digests() {
        for (image, name, one) in [
            ("busybox", "busybox", false),
            ("busybox:1", "busybox", true),
            ("localhost:5000/busybox", "localhost:5000/busybox", false),
            ("localhost:5000/busybox:1", "localhost:5000/busybox", true),
            ("busybox@sha256:abc", "busybox", true),
        ] {
            assert_eq!((without_tag(image), names_one(image)), (name, one), "{image}");
        }
        assert_eq!(familiar("docker.io/library/a:1"), "a:1");
        assert_eq!(familiar("quay.io/library/a"), "quay.io/library/a");
    }

    #[test]
    fn progress_is_drawn_as_docker_draws_it() {
        assert_eq!(bar(0, 10), format!("[>{}]  0B/10B", " ".repeat(49)));
        assert_eq!(bar(10, 10), format!("[{}]  10B/10B", "=".repeat(50)));
        assert_eq!(size(1_234_567), "1.235MB");
        assert_eq!(size(2_206_542), "2.207MB");
        assert_eq!(size(99_999), "100kB");
        let line = wire(ImageProgress::Of {
            id: "abc".into(),
            status: "Downloading".into(),
            bytes: Some((5, 10)),
        });
        assert_eq!(line["progressDetail"], value!({"current": 5, "total": 10}));
        assert_eq!(wire(ImageProgress::Status("x".into())), value!({"status": "x"}));
    }
}
