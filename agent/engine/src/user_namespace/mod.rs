//! Containers in user namespaces (`userns-remap`): whose users theirs are, and what the host does in their name.
//!
//! A container has a user namespace of its own. Layers and its own files keep the ids that they have in the container and
//! are shown to it through id-mapped mounts, so that nothing is copied and another setting changes nothing on disk. What
//! a container writes elsewhere (bind mounts, volumes) belongs to the users of the host that its own are.

mod acting;
mod start;
mod subordinate;

pub(crate) use acting::as_root_of;
pub(crate) use start::namespace_for;
pub use subordinate::{RemapError, resolve};

use crate::error::{Error, Result};
use crate::network;
use muster_images::{Owner, ShownAs};
use muster_runtime::{Beside, UserNamespace, map_mount};
use muster_types::container::HostConfig;
use muster_types::id_map::{IdMaps, MappedRange};
use muster_types::namespace::NamespaceMode;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The user that stands for all that have no id in a user namespace; the kernel's default.
const OVERFLOW_ID: u32 = 65_534;

/// The users and groups of this engine's containers.
#[derive(Debug)]
pub(crate) struct Remap {
    pub maps: IdMaps,
    /// Never left by its users: it only says who they are, for mounts.
    namespace: OwnedFd,
}

impl Remap {
    /// Takes hold of what mounts need. Blocks.
    pub fn new(maps: IdMaps) -> Result<Self> {
        let (users, groups) = ranges(&maps);
        let made = UserNamespace::make(&users, &groups, Beside::Nothing)?;
        Ok(Self {
            maps,
            namespace: made.users,
        })
    }

    /// Runs work that mounts files as the container's.
    pub fn shown<T>(&self, work: impl FnOnce(ShownAs<'_>) -> T) -> T {
        work(&|mount: BorrowedFd<'_>| map_mount(mount, self.namespace.as_fd()))
    }
}

/// Ranges as the kernel maps them: users and groups.
pub(crate) fn ranges(maps: &IdMaps) -> (Vec<MappedRange>, Vec<MappedRange>) {
    (maps.users.ranges().collect(), maps.groups.ranges().collect())
}

/// Refuses what a container in a user namespace cannot have, in Docker's words.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    let problem = if host.privileged {
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
         running privileged mode"
    } else if network::is_hosts(&host.network) {
        "cannot share the host's network namespace when user namespaces are enabled"
    } else if host.pid == NamespaceMode::Host {
        "cannot share the host PID namespace when user namespaces are enabled"
    } else {
        return Ok(());
    };
    Err(Error::invalid(problem))
}

/// The owner as the container's processes see it.
pub(crate) fn inside(maps: Option<&IdMaps>, owner: Owner) -> Owner {
    let Some(maps) = maps else { return owner };
    Owner {
        uid: maps.users.inside(owner.uid).unwrap_or(OVERFLOW_ID),
        gid: maps.groups.inside(owner.gid).unwrap_or(OVERFLOW_ID),
    }
}

/// The owner on the host for one of the container; `None` where it has none.
pub(crate) fn outside(maps: Option<&IdMaps>, owner: Owner) -> Option<Owner> {
    let Some(maps) = maps else { return Some(owner) };
    Some(Owner {
        uid: maps.users.outside(owner.uid)?,
        gid: maps.groups.outside(owner.gid)?,
    })
}

/// As [`outside`]; who has no id becomes nobody, as the container sees it, or its root.
pub(crate) fn outside_or_nobody(maps: Option<&IdMaps>, owner: Owner) -> Owner {
    let nobody = Owner {
        uid: OVERFLOW_ID,
        gid: OVERFLOW_ID,
    };
    let known = outside(maps, owner).or_else(|| outside(maps, nobody));
    known.unwrap_or_else(|| root_of(maps))
}

/// The owner on the host of what belongs to the container's root.
pub(crate) fn root_of(maps: Option<&IdMaps>) -> Owner {
    let (uid, gid) = maps.map_or((0, 0), IdMaps::root);
    Owner { uid, gid }
}

/// Gives a file of the host to the container's root.
pub(crate) fn give_to_root_of(maps: Option<&IdMaps>, path: &Path) -> Result<()> {
    let owner = root_of(maps);
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|error| Error::io(format!("give {} to the container's root", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::container::NetworkMode;
    use muster_types::id_map::{IdMap, IdRange};

    fn maps() -> IdMaps {
        let map = IdMap::new(vec![IdRange {
            first: 100_000,
            count: 1000,
        }]);
        IdMaps {
            users: map.clone().unwrap(),
            groups: map.unwrap(),
        }
    }

    #[test]
    fn what_needs_the_hosts_rights_is_refused() {
        let refused = |change: &dyn Fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            check(&host).map_err(|error| error.to_string())
        };
        assert_eq!(refused(&|_| {}), Ok(()));
        let privileged = refused(&|host| host.privileged = true).unwrap_err();
        assert!(privileged.starts_with("privileged mode is incompatible with user namespaces"));
        let network = refused(&|host| host.network = NetworkMode::Host).unwrap_err();
        assert!(network.contains("host's network namespace"));
        let pid = refused(&|host| host.pid = NamespaceMode::Host).unwrap_err();
        assert!(pid.contains("host PID namespace"));
    }

    #[test]
    fn owners_are_known_on_both_sides() {
        let owner = |uid, gid| Owner { uid, gid };
        let maps = maps();
        assert_eq!(outside(Some(&maps), owner(5, 0)), Some(owner(100_005, 100_000)));
        assert_eq!(outside(Some(&maps), owner(1000, 0)), None);
        assert_eq!(inside(Some(&maps), owner(100_005, 0)), owner(5, OVERFLOW_ID));
        assert_eq!(
            outside_or_nobody(Some(&maps), owner(5000, 1)),
            owner(100_000, 100_000)
        );
        assert_eq!(
            (inside(None, owner(7, 8)), outside(None, owner(7, 8))),
            (owner(7, 8), Some(owner(7, 8)))
        );
        assert_eq!(
            (root_of(None), root_of(Some(&maps))),
            (owner(0, 0), owner(100_000, 100_000))
        );
    }
}
