//! The user namespace of a container that starts.

use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::joined::Joined;
use crate::network;
use crate::record::Record;
use crate::user_namespace::{Remap, check, ranges};
use crate::volume_mounts::has_own_file_system;
use muster_runtime::{Beside, UserNamespace};
use muster_types::container::{HostConfig, MountKind, MountPoint};
use muster_types::id_map::{IdMaps, IdTranslation, translation};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

impl Inner {
    /// Whose users those of a container are; `None` where they are the host's.
    pub(crate) fn remap_of(&self, host: &HostConfig) -> Option<&Arc<Remap>> {
        self.remap.as_ref().filter(|_| !host.user_host)
    }

    /// As [`remap_of`](Self::remap_of).
    pub(crate) fn maps_of(&self, host: &HostConfig) -> Option<&IdMaps> {
        self.remap_of(host).map(|remap| &remap.maps)
    }

    /// Gives a start its user namespace: that of the containers whose other namespaces it joins, else a new one. Returns
    /// the network namespace that belongs to it, where the container has one of its own.
    pub(crate) async fn enter_users(
        self: &Arc<Self>,
        record: &Record,
        joined: &mut Joined,
    ) -> Result<Option<OwnedFd>> {
        let host = &record.config.host;
        let Some(remap) = self.remap_of(host) else {
            return Ok(None);
        };
        check(host)?;
        let beside = match network::has_own_namespace(&host.network) {
            true => Beside::Network,
            false => Beside::Nothing,
        };
        let others = joined.hold_users(&remap.maps)?;
        let maps = remap.maps.clone();
        let make = move |inner: &Self| match others {
            Some(users) => Ok((None, inner.made_in(users, beside)?)),
            None => {
                let (users, groups) = ranges(&maps);
                let made = inner.launcher.user_namespace(&users, &groups, beside)?;
                Ok((Some(made.users), made.network))
            }
        };
        let (users, network) = self.blocking(make).await?;
        if let Some(users) = users {
            joined.keep_users(users.into());
        }
        Ok(network)
    }

    /// The volumes among these mounts whose files have other owners on the host than containers with these users, and how
    /// they are shown to them. By the mount's target.
    pub(crate) fn translations(
        &self,
        points: &[MountPoint],
        maps: Option<&IdMaps>,
    ) -> BTreeMap<String, IdTranslation> {
        let volumes = points.iter().filter(|point| point.kind == MountKind::Volume);
        let shown = volumes.filter_map(|point| {
            let volume = self.volumes.get(&point.name)?;
            // What an administrator mounts there is the host's, as a bind mount.
            if has_own_file_system(&volume) {
                return None;
            }
            Some((point.target.clone(), translation(volume.ids.as_ref(), maps)?))
        });
        shown.collect()
    }

    fn made_in(&self, users: File, beside: Beside) -> Result<Option<OwnedFd>> {
        match beside {
            Beside::Nothing => Ok(None),
            Beside::Network => Ok(Some(self.launcher.network_of(users.as_fd())?)),
        }
    }
}

/// A user namespace with these ranges, for a mount.
pub(crate) fn namespace_for(shown: &IdTranslation) -> Result<OwnedFd> {
    let made = UserNamespace::make(&shown.users, &shown.groups, Beside::Nothing);
    Ok(made.map_err(Error::from)?.users)
}
