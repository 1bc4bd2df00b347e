//! Descriptors that a container's first process takes from its parent.

use rustix::mount::{OpenTreeFlags, UnmountFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Result, RuntimeError};
use crate::plan::{Attributes, BindSource, SandboxPlan, open_source};
use crate::sys::{self, MountAttributes};
use crate::user_namespace::{self, Beside};

/// What was opened before the clone.
pub(super) struct Prerequisites {
    pub root: OwnedFd,
    pub binds: Vec<OwnedFd>,
    pub joined: Vec<(OwnedFd, u64)>,
}

impl Prerequisites {
    /// Opens everything; `root` is the root file system where the plan does not name it.
    pub(super) fn open(sandbox: &SandboxPlan, root: Option<OwnedFd>) -> Result<Prerequisites> {
        let root = match (root, &sandbox.root_source) {
            (Some(root), _) => root,
            (None, Some(path)) => open_root(path)?,
            (None, None) => return Err(RuntimeError::spec("there is no root file system")),
        };
        let binds = sandbox.binds.iter().map(open_bind).collect::<Result<_>>()?;
        let mut joined = Vec::new();
        for (path, kind) in &sandbox.joined {
            let namespace = open_namespace(path, *kind)?;
            if *kind == libc::CLONE_NEWPID as u64 && !sandbox.joins_user_namespace() {
                // Takes effect for the clone; this process stays where it is.
                sys::join_namespaces(namespace.as_fd(), libc::CLONE_NEWPID).map_err(|error| {
                    RuntimeError::io(format!("join the namespace {}", path.display()), error)
                })?;
            }
            joined.push((namespace, *kind));
        }
        Ok(Prerequisites { root, binds, joined })
    }
}

impl Prerequisites {
    /// Takes the root file system away again from a mount namespace that others use; one that was not attached stays
    /// what it is.
    pub(super) fn detach_root(&self) {
        let path = format!("/proc/self/fd/{}", self.root.as_raw_fd());
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
    }
}

/// Opens a namespace, which has to be of the kind that was named.
fn open_namespace(path: &Path, kind: u64) -> Result<OwnedFd> {
    let describe = || format!("open the namespace {}", path.display());
    let namespace = std::fs::File::open(path).map_err(|error| RuntimeError::io(describe(), error))?;
    let namespace = OwnedFd::from(namespace);
    match sys::namespace_kind(namespace.as_fd()) {
        Ok(found) if found as u64 == kind => Ok(namespace),
        Ok(_) => Err(RuntimeError::spec(format!(
            "{} is a namespace of another kind",
            path.display()
        ))),
        Err(error) => Err(RuntimeError::io(describe(), error)),
    }
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let mut source = BindSource::private(path.to_owned());
    source.recursive = true;
    open_bind(&source)
}

/// A detached copy of a mount of the host, with its own attributes.
fn open_bind(source: &BindSource) -> Result<OwnedFd> {
    let describe = |error| RuntimeError::io(format!("bind {}", source.path.display()), error);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if source.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_source(&source.path, source.subpath.as_deref())
        .and_then(|place| rustix::mount::open_tree(place, "", flags | OpenTreeFlags::AT_EMPTY_PATH))
        .map_err(describe)?;
    let Attributes {
        set,
        clear,
        propagation,
    } = source.attributes;
    if propagation != 0 && !source.is_unbindable() {
        let attributes = MountAttributes {
            propagation,
            ..MountAttributes::default()
        };
        sys::mount_setattr(tree.as_fd(), source.recursive, attributes).map_err(describe)?;
    }
    if let Some(ids) = &source.ids {
        let namespace = user_namespace::make(&ids.maps, Beside::Nothing)?;
        sys::map_mount(tree.as_fd(), ids.recursive, namespace.users.as_fd()).map_err(describe)?;
    }
    let below = source.recursive_attributes;
    for (recursive, set, clear) in [(true, below.set, below.clear), (false, set, clear)] {
        if set != 0 || clear != 0 {
            let attributes = MountAttributes {
                set,
                clear,
                propagation: 0,
            };
            sys::mount_setattr(tree.as_fd(), recursive, attributes).map_err(describe)?;
        }
    }
    Ok(tree)
}
