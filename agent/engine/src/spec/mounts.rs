//! Mounts of a container: the default ones, the user's, and the generated files.

use super::SpecInput;
use crate::error::{Error, Result};
use crate::joined::SHM_BYTES_DEFAULT;
use muster_runtime::SUBPATH_OPTION;
use muster_types::container::{MountKind, MountPoint, MountSpec};
use muster_types::id_map::MappedRange;
use muster_types::namespace::IpcMode;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};
use std::path::Path;

/// Mode of a tmpfs where the user does not say.
const TMPFS_MODE_DEFAULT: u32 = 0o1777;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// Every mount, in the order in which they are made: a mount below another comes after it.
pub fn of(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let mut mounts = defaults(input)?;
    let covered = |target: &str| input.mounts.iter().any(|point| point.target == target);
    mounts.retain(|mount| !covered(&mount.destination().to_string_lossy()));
    for name in ["resolv.conf", "hostname", "hosts"] {
        let target = format!("/etc/{name}");
        if !covered(&target) {
            let source = input.files.join(name);
            mounts.push(mount(
                &target,
                "bind",
                &source.to_string_lossy(),
                &["rbind", "rprivate"],
            )?);
        }
    }
    for point in input.mounts {
        let mut mount = users(point, &input.config.host.mounts)?;
        if let Some(shown) = input.translations.get(&point.target) {
            mount.set_uid_mappings(Some(mappings(&shown.users)?));
            mount.set_gid_mappings(Some(mappings(&shown.groups)?));
        }
        mounts.push(mount);
    }
    for (target, source) in input.given {
        let options = ["bind", "ro", "nosuid", "noexec", "nodev", "rprivate"];
        mounts.push(mount(target, "bind", &source.to_string_lossy(), &options)?);
    }
    // Stable, so that the order of equals stays the one above.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

fn defaults(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let host = &input.config.host;
    let access = if host.privileged { "rw" } else { "ro" };
    let hardened = ["nosuid", "noexec", "nodev"];
    let with = |more: &str| {
        hardened
            .iter()
            .copied()
            .chain(more.split(','))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &hardened)?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount("/sys", "sysfs", "sysfs", &refs(&with(access)))?,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &refs(&with(&format!("relatime,{access}"))),
        )?,
    ];
    // Each container of one namespace mounts the same message queues.
    match host.ipc {
        IpcMode::Host => mounts.extend(bind_if_present("/dev/mqueue", Path::new("/dev/mqueue"))?),
        IpcMode::Private | IpcMode::Shareable | IpcMode::None | IpcMode::Container(_) => {
            mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &hardened)?);
        }
    }
    match (&host.ipc, &input.joined.shm) {
        (IpcMode::Host, _) => mounts.extend(bind_if_present("/dev/shm", Path::new("/dev/shm"))?),
        (IpcMode::None, _) => {}
        (IpcMode::Shareable | IpcMode::Container(_), Some(shared)) => {
            mounts.push(bind("/dev/shm", shared)?);
        }
        (IpcMode::Private | IpcMode::Shareable | IpcMode::Container(_), _) => {
            let size = host.shm_bytes.unwrap_or(SHM_BYTES_DEFAULT);
            let options = with(&format!("mode=1777,size={size}"));
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &refs(&options))?);
        }
    }
    Ok(mounts)
}

fn mappings(ranges: &[MappedRange]) -> Result<Vec<LinuxIdMapping>> {
    let mapping = |(stored, shown, count): &MappedRange| {
        LinuxIdMappingBuilder::default()
            .container_id(*stored)
            .host_id(*shown)
            .size(*count)
            .build()
            .map_err(|error| Error::invalid(format!("invalid id mapping: {error}")))
    };
    ranges.iter().map(mapping).collect()
}

fn bind(target: &str, source: &Path) -> Result<Mount> {
    let options = ["rbind", "nosuid", "noexec", "nodev"];
    mount(target, "bind", &source.to_string_lossy(), &options)
}

fn bind_if_present(target: &str, source: &Path) -> Result<Option<Mount>> {
    source.exists().then(|| bind(target, source)).transpose()
}

fn users(point: &MountPoint, specs: &[MountSpec]) -> Result<Mount> {
    match point.kind {
        MountKind::Bind | MountKind::Volume | MountKind::Image => {
            let spec = specs
                .iter()
                .find(|spec| spec.kind == MountKind::Bind && plain(&spec.target) == point.target);
            // Read-only goes for what is mounted below, too, unless the user says otherwise.
            let recursive =
                point.kind == MountKind::Bind && spec.is_none_or(|spec| !spec.read_only_non_recursive);
            let access = match (point.writable, recursive) {
                (true, _) => "rw",
                (false, true) => "rro",
                (false, false) => "ro",
            };
            let bind = match spec {
                Some(spec) if spec.non_recursive => "bind",
                _ => "rbind",
            };
            let propagation = match point.propagation.as_str() {
                "" => "rprivate",
                known if PROPAGATIONS.contains(&known) => known,
                unknown => return Err(Error::invalid(format!("invalid propagation mode: {unknown}"))),
            };
            let mut options = vec![bind, access, propagation];
            let subpath = format!("{SUBPATH_OPTION}{}", point.subpath);
            if !point.subpath.is_empty() {
                options.push(&subpath);
            }
            mount(&point.target, "bind", &point.source, &options)
        }
        MountKind::Tmpfs => {
            let spec = specs
                .iter()
                .find(|spec| spec.kind == MountKind::Tmpfs && spec.target == point.target);
            let mode = spec.map_or(0, |spec| spec.tmpfs_mode);
            let mode = if mode == 0 { TMPFS_MODE_DEFAULT } else { mode };
            let bytes = spec.map_or(0, |spec| spec.tmpfs_bytes);
            let access = if point.writable { "rw" } else { "ro" };
            let mode = format!("mode={mode:o}");
            let size = format!("size={bytes}");
            let given = spec.map_or(&[][..], |spec| &spec.tmpfs_options);
            let is_given = |option: &str| given.iter().any(|given| given == option);
            let mut options = vec![access, mode.as_str()];
            for (hardened, open) in [("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")] {
                if !is_given(open) && !is_given(hardened) {
                    options.push(hardened);
                }
            }
            options.extend(given.iter().map(String::as_str));
            if bytes > 0 {
                options.push(&size);
            }
            mount(&point.target, "tmpfs", "tmpfs", &options)
        }
    }
}

/// A target without doubled and trailing slashes, as mounts in effect have it.
fn plain(target: &str) -> String {
    let names = target.split('/').filter(|name| !matches!(*name, "" | "."));
    names.map(|name| format!("/{name}")).collect()
}

fn refs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .map_err(|error| Error::invalid(format!("invalid mount at {target}: {error}")))
}
