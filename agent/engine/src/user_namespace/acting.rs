//! Work on a container's files in the name of its root.
//!
//! What is made through an id-mapped mount has to belong to somebody whom the mount knows. The host's root is not among a
//! container's users, so a thread takes on the file system ids of the container's root, and keeps every capability.

use crate::error::{Error, Result};
use muster_types::id_map::IdMaps;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use std::io;

/// Runs work so that the files that it makes belong to the container's root; on this thread where that is the host's.
/// Blocks.
pub(crate) fn as_root_of<T: Send>(
    maps: Option<&IdMaps>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let Some(maps) = maps else { return work() };
    let root = maps.root();
    std::thread::scope(|scope| {
        // The ids belong to a thread, which ends here.
        let acting = std::thread::Builder::new()
            .name("container-root".to_owned())
            .spawn_scoped(scope, move || {
                take_on(root).map_err(|error| Error::io("take on the ids of the container's root", error))?;
                work()
            });
        match acting.map_err(|error| Error::io("start a thread", error))?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn take_on((uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setfsgid(gid);
    setfsuid(uid);
    // Both tell what was before, not whether they did it.
    if setfsgid(gid) != gid || setfsuid(uid) != uid {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // The kernel takes the capabilities for files away with the user.
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::id_map::{IdMap, IdRange};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_in_the_name_of_the_containers_root() {
        let ids = |first| IdMap::new(vec![IdRange { first, count: 10 }]).unwrap();
        let maps = IdMaps {
            users: ids(100_000),
            groups: ids(200_000),
        };
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let make = |name: &str| std::fs::write(at(name), "x").map_err(|error| Error::io("write", error));
        as_root_of(Some(&maps), || make("inside")).unwrap();
        as_root_of(None, || make("outside")).unwrap();
        make("after").unwrap();
        let owner = |name: &str| {
            let found = std::fs::metadata(at(name)).unwrap();
            (found.uid(), found.gid())
        };
        // The directory itself is closed to everybody but the host's root.
        assert_eq!(owner("inside"), (100_000, 200_000));
        assert_eq!((owner("outside"), owner("after")), ((0, 0), (0, 0)));
    }
}
