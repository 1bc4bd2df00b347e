//! The container's namespaces and file system.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::binds::Binds;
use super::sync::{self, Failure, Message, Stage, fail};
use super::{HostFiles, InitContext, mount_steps, rights};
use crate::plan::GroupView;
use crate::sys::{self, MountAttributes};

/// Joins namespaces and builds the file system below the attached root.
pub(super) fn build(context: &InitContext<'_>, host: &HostFiles) -> Result<(), Failure> {
    let plan = context.sandbox;
    if plan.makes_network() && context.network_beside.is_none() {
        fail(Stage::NetworkNamespace, sys::unshare(libc::CLONE_NEWNET))?;
    }
    if let Some(netns) = context.netns {
        fail(
            Stage::JoinNamespace,
            sys::join_namespaces(netns, libc::CLONE_NEWNET),
        )?;
    }
    for (number, (namespace, kind)) in context.joined.iter().enumerate() {
        // Those of process ids and users were chosen at the clone.
        if *kind & (libc::CLONE_NEWPID | libc::CLONE_NEWUSER) as u64 == 0 {
            sys::join_namespaces(namespace.as_fd(), *kind as i32)
                .map_err(|error| Failure::numbered(Stage::JoinNamespace, number + 1, error))?;
        }
    }
    rustix::process::umask(Mode::empty());
    if !plan.shares_mounts {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        fail(Stage::Propagation, rustix::mount::mount_change(c"/", private))?;
    }
    fail(Stage::AttachRoot, attach_root(context))?;
    if plan.makes_network() && context.network_beside.is_none() {
        fail(Stage::Loopback, sys::bring_loopback_up())?;
    }
    let mut network = context.network_beside;
    let binds = Binds::new(plan, context.binds, host.proc);
    let mut steps = mount_steps::Steps::new(context.root, binds);
    for (number, step) in plan.steps.iter().enumerate() {
        if step.may_need_network() {
            receive_network(network.take())?;
        }
        steps
            .run(step)
            .map_err(|error| Failure::numbered(Stage::Step, number, error))?;
    }
    receive_network(network)?;
    if context.joins_group {
        join_group(context)?;
    }
    let outside = enter_group_view(plan.group_view, host)?;
    for (number, step) in plan.late_steps.iter().enumerate() {
        steps
            .run(step)
            .map_err(|error| Failure::numbered(Stage::LateStep, number, error))?;
    }
    match outside {
        Some(outside) => fail(
            Stage::GroupNamespace,
            sys::join_namespaces(outside.as_fd(), libc::CLONE_NEWCGROUP),
        ),
        None => Ok(()),
    }
}

/// Joins the network namespace that the parent makes meanwhile, with its loopback device up, if it does.
fn receive_network(beside: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let Some(socket) = beside else { return Ok(()) };
    let network = match fail(Stage::NetworkNamespace, sync::receive(socket))? {
        Message::Network(network) => network,
        // It could not be made, or the parent ended: the parent says why.
        _ => sys::exit_now(1),
    };
    fail(
        Stage::NetworkNamespace,
        sys::join_namespaces(network.as_fd(), libc::CLONE_NEWNET),
    )
}

/// Makes a namespace of control groups where the plan wants one; what comes back is the one to return to.
fn enter_group_view(view: GroupView, host: &HostFiles) -> Result<Option<OwnedFd>, Failure> {
    let unshare = || fail(Stage::GroupNamespace, sys::unshare(libc::CLONE_NEWCGROUP));
    match view {
        GroupView::Shared => Ok(None),
        GroupView::Namespace => unshare().map(|()| None),
        // What is mounted while this process is in a namespace shows that one's root for good.
        GroupView::MountedOwn => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let outside = rustix::fs::openat(host.proc, c"self/ns/cgroup", flags, Mode::empty());
            let outside = fail(Stage::GroupNamespace, outside)?;
            unshare().map(|()| Some(outside))
        }
    }
}

fn attach_root(context: &InitContext<'_>) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let mut place = context.sandbox.attach_point.as_c_str();
    if context.sandbox.leaves_user_namespace() {
        // The path may lead through directories that this user may not enter, so the parent went there.
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        place = c"";
    }
    rustix::mount::move_mount(context.root, c"", rustix::fs::CWD, place, flags)
}

/// v1: joins the groups by writing to their files, which for itself costs a process no lock.
fn join_group(context: &InitContext<'_>) -> Result<(), Failure> {
    let files = match fail(Stage::JoinGroup, sync::receive(context.sync))? {
        Message::Group(files) => files,
        // The monitor ended or gave up: it says why itself.
        _ => sys::exit_now(1),
    };
    for (number, file) in files.iter().flatten().enumerate() {
        rights::write_all(file.as_fd(), b"0")
            .map_err(|error| Failure::numbered(Stage::JoinGroup, number, error))?;
    }
    Ok(())
}

/// Makes the root file system the only one there is.
pub(super) fn enter(context: &InitContext<'_>, host: &HostFiles) -> Result<(), Failure> {
    let plan = context.sandbox;
    if plan.root_readonly {
        let readonly = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        };
        fail(
            Stage::RootReadOnly,
            sys::mount_setattr(context.root, false, readonly),
        )?;
    }
    if let Some(name) = &plan.host_name {
        fail(Stage::HostName, sys::set_host_name(name.to_bytes()))?;
    }
    if let Some(name) = &plan.domain_name {
        fail(Stage::DomainName, sys::set_domain_name(name.to_bytes()))?;
    }
    for (number, (path, value)) in plan.sysctls.iter().enumerate() {
        rights::write_proc(host.proc, path, value)
            .map_err(|error| Failure::numbered(Stage::Sysctl, number, error))?;
    }
    fail(Stage::PivotRoot, pivot(context))
}

fn pivot(context: &InitContext<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(context.root)?;
    if context.sandbox.shares_mounts {
        // Others have the same root, so that it stays where it is.
        rustix::process::chroot(c".")?;
        return rustix::process::chdir(c"/");
    }
    let old = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // With the old root put onto the new one it is the topmost mount of ".", so the unmount takes it away again.
    rustix::process::pivot_root(c".", c".")?;
    // Whatever came below it since it was made private: no unmount of it may reach the host.
    let private = MountAttributes {
        propagation: libc::MS_PRIVATE,
        ..MountAttributes::default()
    };
    sys::mount_setattr(old.as_fd(), true, private)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")?;
    if let Some(propagation) = context.sandbox.root_propagation {
        let flags = MountPropagationFlags::from_bits_retain(propagation as u32);
        rustix::mount::mount_change(c"/", flags)?;
    }
    Ok(())
}
