//! Volumes.

use super::{Read, container::time, signed, unsupported};
use crate::backend::{VolumeInfo, VolumeRequest};
use crate::wire::volume::{CreateBody, UsageData, Volume};
use muster_types::container::{ContainerInfo, MountKind};
use std::sync::Arc;

/// Reads the body of `POST /volumes/create`.
pub(crate) fn read(body: CreateBody) -> Read<VolumeRequest> {
    if body.cluster_volume_spec.is_some() {
        return Err(unsupported("ClusterVolumeSpec"));
    }
    Ok(VolumeRequest {
        name: body.name,
        driver: body.driver,
        labels: body.labels,
        options: body.driver_opts,
    })
}

/// Writes a volume.
pub(crate) fn volume(info: &VolumeInfo) -> Volume {
    Volume {
        name: info.name.clone(),
        driver: info.driver.clone(),
        mountpoint: info.mountpoint.clone(),
        created_at: time(info.created),
        labels: (!info.labels.is_empty()).then(|| info.labels.clone()),
        scope: "local",
        options: (!info.options.is_empty()).then(|| info.options.clone()),
        usage_data: None,
    }
}

/// Writes a volume with what it takes.
pub(crate) fn used_volume(info: &VolumeInfo, bytes: u64, users: usize) -> Volume {
    Volume {
        usage_data: Some(UsageData {
            size: signed(bytes),
            ref_count: users,
        }),
        ..volume(info)
    }
}

/// How many containers have a volume.
pub(crate) fn users(name: &str, containers: &[Arc<ContainerInfo>]) -> usize {
    let uses = |container: &&Arc<ContainerInfo>| {
        let mounts = &container.mounts;
        mounts
            .iter()
            .any(|mount| mount.kind == MountKind::Volume && mount.name == name)
    };
    containers.iter().filter(uses).count()
}
