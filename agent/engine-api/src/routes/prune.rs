//! Removing what nothing uses.

use crate::backend::{BuildPruning, ContainerFilterHint, RemoveOptions, RemovedImage};
use crate::convert;
use crate::http::{Call, Filters, Reply, json};
use muster_types::Timestamp;
use muster_types::container::ContainerState;
use muster_types::service::Labels;
use serde_json::json as value;

const FILTERS: &[&str] = &["label", "label!", "until"];

/// `POST /containers/prune`: removes stopped containers.
pub(super) async fn containers(call: Call) -> Reply {
    let selection = Selection::of(&call, FILTERS)?;
    let hint = ContainerFilterHint {
        running_only: false,
        size: true,
    };
    let mut deleted = Vec::new();
    let mut reclaimed = 0;
    for container in call.engine().container_list(hint).await? {
        let stopped = matches!(
            container.state,
            ContainerState::Exited | ContainerState::Created | ContainerState::Dead
        );
        if !stopped || !selection.has(container.created, &container.config.labels) {
            continue;
        }
        let removed = call
            .engine()
            .container_remove(container.id.as_str(), RemoveOptions::default())
            .await;
        // One that was started or removed meanwhile is simply not pruned.
        if removed.is_ok() {
            reclaimed += container.size_rw.unwrap_or(0);
            deleted.push(container.id.to_string());
        }
    }
    json(&value!({"ContainersDeleted": deleted, "SpaceReclaimed": reclaimed}))
}

/// `POST /images/prune`: removes images without a name, or with `dangling=false` all that no container uses. The space
/// is that of the images, also where they share layers.
pub(super) async fn images(call: Call) -> Reply {
    let selection = Selection::of(&call, &[FILTERS, &["dangling"]].concat())?;
    let nameless_only = selection.filters.truth("dangling")?.unwrap_or(true);
    let containers = call
        .engine()
        .container_list(ContainerFilterHint::default())
        .await?;
    let mut deleted = Vec::new();
    let mut reclaimed = 0;
    for image in call.engine().image_list().await? {
        let named = !image.repo_tags.is_empty();
        let used = convert::image::users(&image.id, &containers) > 0;
        if used || named && nameless_only || !selection.has(image.created, &image.config.labels) {
            continue;
        }
        let references = match image.repo_tags.as_slice() {
            [] => std::slice::from_ref(&image.id),
            tags => tags,
        };
        for reference in references {
            // One that got a user or went away meanwhile is simply not pruned.
            let Ok(removed) = call.engine().image_remove(reference, false).await else {
                continue;
            };
            if removed.contains(&RemovedImage::Deleted(image.id.clone())) {
                reclaimed += image.size_bytes;
            }
            deleted.extend(removed.iter().map(convert::image::removed));
        }
    }
    json(&value!({"ImagesDeleted": deleted, "SpaceReclaimed": reclaimed}))
}

/// First version whose prune leaves named volumes alone unless `all` is given.
const SPARES_NAMED: u32 = 42;

/// `POST /volumes/prune`: removes volumes that no container has; only those without a name, unless `all` is given.
pub(super) async fn volumes(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, &["label", "label!", "all"])?;
    let all = filters.truth("all")?.unwrap_or(call.version.minor < SPARES_NAMED);
    let sizes = call.engine().volume_sizes().await?;
    let mut deleted = Vec::new();
    let mut reclaimed = 0;
    for volume in call.engine().volume_list().await? {
        let excluded = filters.has("label!") && filters.labels("label!", &volume.labels);
        if excluded || !(all || volume.anonymous) || !filters.labels("label", &volume.labels) {
            continue;
        }
        // One that a container has, or that went away meanwhile, is simply not pruned.
        if call.engine().volume_remove(&volume.name, false).await.is_ok() {
            // What a device holds stays there.
            let own = volume.options.is_empty();
            reclaimed += if own {
                sizes.get(&volume.name).copied().unwrap_or(0)
            } else {
                0
            };
            deleted.push(volume.name);
        }
    }
    json(&value!({"VolumesDeleted": deleted, "SpaceReclaimed": reclaimed}))
}

/// `POST /networks/prune`: removes networks that no running container is on, and those of the cluster that nothing uses.
pub(super) async fn networks(call: Call) -> Reply {
    let selection = Selection::of(&call, FILTERS)?;
    let containers = call
        .engine()
        .container_list(ContainerFilterHint::default())
        .await?;
    let mut deleted = Vec::new();
    for network in call.engine().network_list().await? {
        let used = containers
            .iter()
            .any(|container| convert::network::is_on(container, &network));
        let kept = used || network.cluster_scope || super::networks::is_of_node(&network);
        if kept || !selection.has(network.created, &network.spec.labels) {
            continue;
        }
        // One that got a container or went away meanwhile is simply not pruned.
        if call.engine().network_remove(&network.id).await.is_ok() {
            deleted.push(network.spec.name);
        }
    }
    // The network that carries published ports is removed only by name, as in Docker.
    let of_cluster = super::networks::of_cluster(&call).await?;
    for network in of_cluster.into_iter().filter(|network| !network.spec.ingress) {
        let selected = selection.has(network.created, &network.spec.labels);
        let id = super::networks::cluster_id(&network)?;
        // One that is in use is simply not pruned.
        if selected && call.cluster().network_remove(id).await.is_ok() {
            deleted.push(network.spec.name);
        }
    }
    json(&value!({"NetworksDeleted": deleted}))
}

/// `POST /build/prune`: forgets steps of builds; with `all`, also directories that steps mount.
pub(super) async fn builds(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, &["until", "unused-for", "label", "label!"])?;
    // No step has a label, which `docker system prune` may ask for.
    if filters.has("label") {
        return json(&value!({"CachesDeleted": Vec::<String>::new(), "SpaceReclaimed": 0}));
    }
    let unused_since = match filters.has("until") {
        true => filters.until()?,
        false => filters.age("unused-for")?,
    };
    let keep = call.query.number::<u64>("keep-storage")?;
    let pruning = BuildPruning {
        unused_since,
        keep_bytes: keep
            .or(call.query.number("reserved-space")?)
            .filter(|bytes| *bytes > 0),
        all: call.query.flag("all"),
    };
    let (deleted, reclaimed) = call.engine().build_prune(pruning).await?;
    json(&value!({"CachesDeleted": deleted, "SpaceReclaimed": reclaimed}))
}

/// What the filters of a request leave.
struct Selection {
    filters: Filters,
    until: Option<Timestamp>,
}

impl Selection {
    fn of(call: &Call, known: &[&str]) -> Result<Self, crate::http::Failure> {
        let filters = Filters::parse(&call.query, known)?;
        let until = filters.until()?;
        Ok(Self { filters, until })
    }

    fn has(&self, created: Timestamp, labels: &Labels) -> bool {
        self.until.is_none_or(|until| created <= until)
            && self.filters.labels("label", labels)
            && !(self.filters.has("label!") && self.filters.labels("label!", labels))
    }
}
