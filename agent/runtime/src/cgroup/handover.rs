//! Making groups in the unified hierarchy: each parent on the way must hand its controllers to the groups below it.

use super::directory::Directory;
use super::error::{CgroupError, Result};
use super::root::{CgroupRoot, Controller};

/// Makes the group for a container, whose parent hands it every controller there is.
pub(super) fn make_group(root: &CgroupRoot, path: &str) -> Result<Directory> {
    let top = Directory::open(&root.hierarchies[0].directory)?;
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    if !hands_over_all(&top, parent, &root.hierarchies[0].controllers)? {
        make_chain(root, &top, parent)?;
    }
    if !top.make(path)? {
        super::v1::replace_leftover(&top, path)?;
    }
    let group = top.open_below(path)?;
    let kind = group.read_if_there("cgroup.type")?.unwrap_or_default();
    if kind.trim() != "domain" {
        top.remove(path.as_ref())
            .map_err(|errno| CgroupError::io("remove", group.path(), errno))?;
        return Err(CgroupError::InvalidPath {
            path: path.to_owned(),
            reason: "its parent is a threaded group, which cannot hold containers; choose another parent",
        });
    }
    Ok(group)
}

/// Makes the parent group and hands it every controller there is.
pub(super) fn make_parent(root: &CgroupRoot, parent: &str) -> Result<()> {
    let top = Directory::open(&root.hierarchies[0].directory)?;
    make_chain(root, &top, parent)
}

/// Makes the groups down to `path` and lets each of them, and the top, hand over the controllers.
fn make_chain(root: &CgroupRoot, top: &Directory, path: &str) -> Result<()> {
    let controllers = &root.hierarchies[0].controllers;
    hand_over(top, "", controllers)?;
    if path.is_empty() {
        return Ok(());
    }
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let group = &path[..end];
        top.make(group)?;
        hand_over(top, group, controllers)?;
    }
    Ok(())
}

fn control_file(group: &str) -> String {
    if group.is_empty() {
        "cgroup.subtree_control".to_owned()
    } else {
        format!("{group}/cgroup.subtree_control")
    }
}

/// Whether a group exists and hands over all of these controllers.
fn hands_over_all(top: &Directory, group: &str, controllers: &[Controller]) -> Result<bool> {
    let Some(enabled) = top.read_if_there(&control_file(group))? else {
        return Ok(false);
    };
    Ok(missing(&enabled, controllers).next().is_none())
}

/// The controllers that are not enabled yet. Those come first that a group with processes refuses: the others would turn
/// such a group into a threaded one before the refusal.
fn missing<'a>(enabled: &'a str, controllers: &'a [Controller]) -> impl Iterator<Item = &'static str> + 'a {
    let is_threaded = |controller: &Controller| {
        matches!(
            controller,
            Controller::Cpu | Controller::Cpuset | Controller::Pids
        )
    };
    let first = controllers
        .iter()
        .filter(move |controller| !is_threaded(controller));
    let last = controllers
        .iter()
        .filter(move |controller| is_threaded(controller));
    first
        .chain(last)
        .map(|controller| unified_name(*controller))
        .filter(move |name| !enabled.split_whitespace().any(|known| known == *name))
}

fn unified_name(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "cpu",
        Controller::Cpuset => "cpuset",
        Controller::Memory => "memory",
        Controller::Pids => "pids",
        Controller::Blkio => "io",
        Controller::Hugetlb => "hugetlb",
        Controller::Rdma => "rdma",
        // These have no v2 controller and are never read from cgroup.controllers.
        Controller::Cpuacct
        | Controller::Devices
        | Controller::Freezer
        | Controller::NetCls
        | Controller::NetPrio
        | Controller::Systemd => "",
    }
}

fn hand_over(top: &Directory, group: &str, controllers: &[Controller]) -> Result<()> {
    let file = control_file(group);
    let path = || top.path().join(&file);
    let enabled = top
        .read(&file)
        .map_err(|error| CgroupError::io("read", path(), error))?;
    // One by one: a controller that a parent does not have must not keep the others from being handed over. A limit
    // that needs it is refused when it is asked for.
    for name in missing(&enabled, controllers).filter(|name| !name.is_empty()) {
        match top.write(&file, &format!("+{name}")) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)
                ) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(CgroupError::HoldsProcesses {
                    path: top.path().join(group),
                    source: error,
                });
            }
            Err(error) => {
                return Err(CgroupError::io(
                    format!("hand over controller {name} in"),
                    path(),
                    error,
                ));
            }
        }
    }
    Ok(())
}
