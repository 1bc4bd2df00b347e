//! Namespaces of a specification: made, joined, or shared with the host.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};
use std::collections::BTreeMap;
use std::ffi::CString;

use super::{GroupView, IdMaps, SandboxPlan, c_string};
use crate::error::{Result, RuntimeError};

/// `CLONE_NEWTIME`, whose bit means something else to the plain clone call.
const NEW_TIME: u64 = libc::CLONE_NEWTIME as u64;
const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;

/// Nanoseconds that make a second.
const NANOSECONDS: u32 = 1_000_000_000;

/// What is decided elsewhere.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// The network namespace comes from the caller.
    pub has_netns: bool,
    /// The caller cleans up after a container that has no mount namespace of its own.
    pub may_share_mounts: bool,
    /// Control groups are v2.
    pub unified: bool,
}

/// Plans the namespaces.
pub(super) fn add(linux: &Linux, given: Given, plan: &mut SandboxPlan) -> Result<()> {
    let mut seen = 0;
    for namespace in linux.namespaces().iter().flatten() {
        let flag = flag_of(namespace.typ());
        if seen & flag != 0 {
            return Err(RuntimeError::spec(format!(
                "namespace {:?} is named twice",
                namespace.typ()
            )));
        }
        seen |= flag;
        match namespace.path() {
            _ if flag == libc::CLONE_NEWNET as u64 && given.has_netns => {}
            Some(_) if flag == libc::CLONE_NEWNS as u64 && !given.may_share_mounts => {
                return Err(RuntimeError::spec("a container has a mount namespace of its own"));
            }
            Some(path) => plan.joined.push((path.clone(), flag)),
            None if flag == libc::CLONE_NEWCGROUP as u64 => plan.group_view = GroupView::Namespace,
            None if flag == NEW_TIME => plan.clock_offsets = Some(clock_offsets(linux)?),
            None => plan.new_namespaces |= flag,
        }
    }
    plan.shares_mounts = plan.new_namespaces & libc::CLONE_NEWNS as u64 == 0;
    if plan.shares_mounts && !given.may_share_mounts {
        return Err(RuntimeError::spec("a container needs a mount namespace"));
    }
    // A namespace belongs to the user namespace of the process that makes it, so that one comes before all others.
    plan.joined.sort_by_key(|(_, flag)| *flag != NEW_USER);
    // Without a namespace of its own a container on v1 would see the groups of all others.
    if plan.group_view == GroupView::Shared && !given.unified && seen & libc::CLONE_NEWCGROUP as u64 == 0 {
        // From a user namespace there is no way back out of the namespace that mounting takes.
        plan.group_view = if plan.new_namespaces & NEW_USER != 0 || plan.joins_user_namespace() {
            GroupView::Namespace
        } else {
            GroupView::MountedOwn
        };
    }
    refuse_offsets_without_namespace(linux, plan)?;
    add_ids(linux, seen, plan)
}

fn flag_of(kind: LinuxNamespaceType) -> u64 {
    let flag = match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    };
    flag as u64
}

fn add_ids(linux: &Linux, seen: u64, plan: &mut SandboxPlan) -> Result<()> {
    let maps = |maps: &Option<Vec<LinuxIdMapping>>| maps.clone().unwrap_or_default();
    let (users, groups) = (maps(linux.uid_mappings()), maps(linux.gid_mappings()));
    if plan.new_namespaces & NEW_USER != 0 {
        let maps = IdMaps::new(&users, &groups)?;
        if maps.users.outside(0).is_none() || maps.groups.outside(0).is_none() {
            return Err(RuntimeError::spec(
                "a user namespace needs user 0 and group 0: map container id 0 to an id of the host",
            ));
        }
        plan.ids = Some(maps);
        return Ok(());
    }
    // One that is joined has its maps already; which ones they are, the specification may repeat.
    let mapped = !users.is_empty() || !groups.is_empty();
    if mapped && seen & NEW_USER == 0 {
        return Err(RuntimeError::spec(
            "uidMappings and gidMappings need a user namespace: add {\"type\": \"user\"} to linux.namespaces",
        ));
    }
    Ok(())
}

fn refuse_offsets_without_namespace(linux: &Linux, plan: &SandboxPlan) -> Result<()> {
    let has_offsets = linux
        .time_offsets()
        .as_ref()
        .is_some_and(|offsets| !offsets.is_empty());
    if has_offsets && plan.clock_offsets.is_none() {
        return Err(RuntimeError::spec(
            "time offsets need a new time namespace: add {\"type\": \"time\"} to linux.namespaces",
        ));
    }
    Ok(())
}

fn clock_offsets(linux: &Linux) -> Result<CString> {
    let offsets: BTreeMap<&String, &LinuxTimeOffset> = linux.time_offsets().iter().flatten().collect();
    let mut text = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(RuntimeError::spec(format!(
                "clock {clock:?} has no offset: only monotonic and boottime have"
            )));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= NANOSECONDS {
            return Err(RuntimeError::spec(format!(
                "clock {clock:?}: {nanoseconds} nanoseconds are more than a second"
            )));
        }
        text.push_str(&format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0)));
    }
    c_string(text, "a time offset")
}

impl SandboxPlan {
    /// Whether the container is in another user namespace than its parent.
    pub(crate) fn leaves_user_namespace(&self) -> bool {
        self.ids.is_some() || self.joins_user_namespace()
    }

    /// Whether that is one that exists.
    pub(crate) fn joins_user_namespace(&self) -> bool {
        self.joined.iter().any(|(_, flag)| *flag == NEW_USER)
    }

    /// Whether it sees the control groups as its parent does.
    pub(super) fn shares_groups(&self) -> bool {
        let joins = |(_, flag): &(_, u64)| *flag == libc::CLONE_NEWCGROUP as u64;
        self.group_view == GroupView::Shared && !self.joined.iter().any(joins)
    }

    /// Whether it lives in a mount namespace that exists and is not its parent's.
    pub(crate) fn joins_mounts(&self) -> bool {
        self.joined
            .iter()
            .any(|(_, flag)| *flag == libc::CLONE_NEWNS as u64)
    }

    /// The namespaces that the container's process is born in. That of the network takes the kernel longest to make: it
    /// is made beside, or by the process itself while its parent makes control groups.
    pub(crate) fn born_in(&self) -> u64 {
        self.new_namespaces & !(libc::CLONE_NEWNET as u64)
    }

    /// Whether the container's process makes a network namespace.
    pub(crate) fn makes_network(&self) -> bool {
        self.new_namespaces & libc::CLONE_NEWNET as u64 != 0
    }

    /// Whether the container may make device nodes.
    pub(super) fn makes_nodes(&self) -> bool {
        !self.leaves_user_namespace()
    }
}
