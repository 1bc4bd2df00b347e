//! Volumes.

use super::{Read, container::time, unsupported};
use crate::backend::{VolumeInfo, VolumeRequest};
use crate::wire::volume::{CreateBody, Volume};

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
    }
}
