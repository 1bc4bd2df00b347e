//! `/_ping`, `/version`, `/info`, `/system/df`.

use crate::backend::{ContainerFilterHint, EngineInfo, LocalSwarm, LocalSwarmState};
use crate::convert;
use crate::http::{
    Call, Failure, MAX_VERSION, MIN_VERSION, Object, Reply, json, json_gated, status_only, text,
};
use crate::wire::info::{Info, SwarmInfo};
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use hyper::{Method, StatusCode};
use muster_types::container::ContainerState;
use serde_json::{Value, json as value};

/// `GET` and `HEAD /_ping`.
pub(super) async fn ping(call: Call) -> Reply {
    let mut response = if call.request.method() == Method::HEAD {
        status_only(StatusCode::OK)
    } else {
        text("OK")
    };
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    // Clients then build without BuildKit.
    headers.insert(
        HeaderName::from_static("builder-version"),
        HeaderValue::from_static("1"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("swarm"),
        HeaderValue::from_static(swarm_header(&call.cluster().local())),
    );
    Ok(response)
}

fn swarm_header(local: &LocalSwarm) -> &'static str {
    match local.state {
        LocalSwarmState::Inactive => "inactive",
        LocalSwarmState::Pending => "pending",
        LocalSwarmState::Active if local.controller => "active/manager",
        LocalSwarmState::Active => "active/worker",
        LocalSwarmState::Error => "error",
        LocalSwarmState::Locked => "locked",
    }
}

/// `GET /version`.
pub(super) async fn version(call: Call) -> Reply {
    let info = call.engine().info().await?;
    let arch = go_architecture(&info.architecture);
    let built = info.started_at.to_string();
    json(&value!({
        "Platform": {"Name": "Muster"},
        "Components": [{
            "Name": "Engine",
            "Version": info.version,
            "Details": {
                "ApiVersion": MAX_VERSION.to_string(),
                "Arch": arch,
                "BuildTime": built,
                "Experimental": "false",
                "GitCommit": info.commit,
                "GoVersion": "none",
                "KernelVersion": info.kernel_version,
                "MinAPIVersion": MIN_VERSION.to_string(),
                "Os": "linux",
            },
        }],
        "Version": info.version,
        "ApiVersion": MAX_VERSION.to_string(),
        "MinAPIVersion": MIN_VERSION.to_string(),
        "GitCommit": info.commit,
        "GoVersion": "none",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": info.kernel_version,
        "BuildTime": built,
    }))
}

/// Docker names architectures as Go does.
fn go_architecture(kernel: &str) -> &str {
    match kernel {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `GET /info`.
pub(super) async fn info(call: Call) -> Reply {
    let engine = call.engine().info().await?;
    let containers = call
        .engine()
        .container_list(ContainerFilterHint::default())
        .await?;
    let count = |accepts: fn(ContainerState) -> bool| {
        containers
            .iter()
            .filter(|container| accepts(container.state))
            .count()
    };
    let running = count(|state| matches!(state, ContainerState::Running | ContainerState::Restarting));
    let paused = count(|state| state == ContainerState::Paused);
    let body = Info {
        containers: containers.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: containers.len() - running - paused,
        images: call.engine().image_list().await?.len(),
        swarm: swarm_info(&call).await,
        ..engine_info(&engine)
    };
    json_gated(Object::Info, call.version, &body)
}

fn engine_info(engine: &EngineInfo) -> Info {
    convert::info::from_engine(engine)
}

/// Membership, and on a controller what the cluster says; without a leader the reason becomes `Error`, as in Docker.
async fn swarm_info(call: &Call) -> SwarmInfo {
    let local = call.cluster().local();
    let mut info = convert::info::from_local_swarm(&local);
    if local.state != LocalSwarmState::Active || !local.controller {
        return info;
    }
    let gathered = async {
        let cluster = call.cluster().swarm_inspect().await?;
        let nodes = call.cluster().node_list().await?;
        Ok::<_, crate::BackendError>((cluster, nodes))
    };
    match gathered.await {
        Ok((cluster, nodes)) => {
            info.nodes = nodes.len();
            info.managers = nodes.iter().filter(|view| view.controller.is_some()).count();
            info.cluster = Some(convert::swarm::cluster_info(&cluster));
        }
        Err(error) => info.error = error.message,
    }
    info
}

/// `GET /system/df`: what images, containers, volumes and build caches take.
pub(super) async fn disk_usage(call: Call) -> Reply {
    const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];
    if let Some(unknown) = call.query.all("type").find(|kind| !KINDS.contains(kind)) {
        return Err(Failure::invalid(format!("unknown object type: {unknown}")));
    }
    let wanted = |name: &str| {
        let mut types = call.query.all("type").peekable();
        types.peek().is_none() || types.any(|asked| asked == name)
    };
    let hint = ContainerFilterHint {
        running_only: false,
        size: wanted("container"),
    };
    let containers = call.engine().container_list(hint).await?;
    let mut body = serde_json::Map::new();
    body.insert("LayersSize".into(), 0.into());
    for key in ["Images", "Containers", "Volumes", "BuildCache"] {
        body.insert(key.into(), Value::Null);
    }
    if wanted("image") {
        let usage = call.engine().image_usage().await?;
        let images = call.engine().image_list().await?;
        let images = images.iter().map(|image| {
            let shared = usage.shared_bytes.get(&image.id).copied().unwrap_or(0);
            let users = convert::image::users(&image.id, &containers);
            convert::image::shared_summary(image, users, shared)
        });
        body.insert("LayersSize".into(), usage.layers_bytes.into());
        body.insert("Images".into(), value!(images.collect::<Vec<_>>()));
    }
    if wanted("container") {
        let listed = containers.iter().map(|container| &**container);
        let listed = convert::container::summaries(listed, call.version);
        body.insert("Containers".into(), value!(listed));
    }
    if wanted("volume") {
        let sizes = call.engine().volume_sizes().await?;
        let volumes = call.engine().volume_list().await?;
        let volumes = volumes.iter().map(|volume| {
            let bytes = sizes.get(&volume.name).copied().unwrap_or(0);
            convert::volume::used_volume(volume, bytes, convert::volume::users(&volume.name, &containers))
        });
        body.insert("Volumes".into(), value!(volumes.collect::<Vec<_>>()));
    }
    if wanted("build-cache") {
        let entries = call.engine().build_cache().await?;
        let entries: Vec<_> = entries.iter().map(convert::build::cache_entry).collect();
        body.insert("BuildCache".into(), value!(entries));
    }
    json(&body)
}
