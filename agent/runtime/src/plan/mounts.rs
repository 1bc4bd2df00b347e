//! Mounts of a specification as steps.

use oci_spec::runtime::Mount;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use super::{Attributes, BindIds, BindSource, IdMaps, Step, Target, c_string};
use crate::error::{Result, RuntimeError};

/// Option of a bind mount that names a part of its source: `muster.subpath=dir/file`. It may lead through links, but
/// not out of the source.
pub const SUBPATH_OPTION: &str = "muster.subpath=";

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Mount options, sorted by what the kernel takes them as.
#[derive(Default)]
struct Options {
    attributes: Attributes,
    /// Those that go for the mounts below a bind mount too.
    recursive_attributes: Attributes,
    bind: bool,
    recursive: bool,
    /// Fill a new file system with what lies where it is attached.
    copy_up: bool,
    /// Show the files as owned by others; whether that goes for the mounts below too.
    mapped: Option<bool>,
    subpath: Option<PathBuf>,
    /// What is left is for the file system.
    filesystem: Vec<(CString, Option<CString>)>,
}

impl Target {
    /// A target of this absolute path in the container. `..` is refused: it has no place in a specification.
    pub(super) fn new(path: &Path, is_file: bool, strict: bool) -> Result<Target> {
        let mut parents: Vec<(CString, CString)> = Vec::new();
        let mut reached: Vec<u8> = Vec::new();
        for component in path.components() {
            let name = match component {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => name.as_bytes(),
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(RuntimeError::spec(format!(
                        "path {} contains \"..\"",
                        path.display()
                    )));
                }
            };
            let parent: &[u8] = if reached.is_empty() { b"." } else { &reached };
            parents.push((c_string(parent, "a path")?, c_string(name, "a path")?));
            if !reached.is_empty() {
                reached.push(b'/');
            }
            reached.extend_from_slice(name);
        }
        let last = parents.pop();
        let last =
            last.ok_or_else(|| RuntimeError::spec("nothing may be mounted over the container's root"))?;
        Ok(Target {
            path: c_string(reached, "a path")?,
            parents,
            last,
            is_file,
            strict,
        })
    }
}

/// What of the container a mount depends on.
#[derive(Clone, Copy, Default)]
pub(super) struct MountContext<'a> {
    /// The SELinux label of its own file systems.
    pub label: Option<&'a str>,
    /// Its users and groups.
    pub ids: Option<&'a IdMaps>,
}

impl BindSource {
    /// A file or directory alone, which neither gets nor gives mounts.
    pub(crate) fn private(path: PathBuf) -> BindSource {
        BindSource {
            path,
            subpath: None,
            recursive: false,
            attributes: Attributes {
                propagation: libc::MS_PRIVATE,
                ..Attributes::default()
            },
            recursive_attributes: Attributes::default(),
            ids: None,
        }
    }
}

/// Appends the steps of one mount.
pub(super) fn add(
    mount: &Mount,
    context: MountContext<'_>,
    steps: &mut Vec<Step>,
    binds: &mut Vec<BindSource>,
) -> Result<()> {
    let mut options = parse_options(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or("bind");
    if options.bind || kind == "bind" {
        return add_bind(mount, options, context, steps, binds);
    }
    if options.mapped.is_some() || options.recursive_attributes != Attributes::default() {
        return Err(RuntimeError::spec(format!(
            "mount at {}: options for mounts below it and for other owners are for bind mounts",
            mount.destination().display()
        )));
    }
    let label = context.label;
    let strict = matches!(kind, "proc" | "sysfs");
    if let Some(label) = label.filter(|_| takes_label(kind)) {
        options
            .filesystem
            .push((c_string("context", "a label")?, Some(c_string(label, "a label")?)));
    }
    // Containers of one IPC namespace share its message queues, so that the kernel takes no option for them.
    let root_label = label.filter(|_| kind == "mqueue");
    steps.push(Step::Mount {
        target: Target::new(mount.destination(), false, strict)?,
        kind: c_string(kind, "a mount's type")?,
        source: c_string(
            mount
                .source()
                .as_deref()
                .unwrap_or(Path::new(kind))
                .as_os_str()
                .as_bytes(),
            "a mount's source",
        )?,
        options: options.filesystem,
        attributes: options.attributes.set,
        propagation: options.attributes.propagation,
        label: root_label.map(|label| c_string(label, "a label")).transpose()?,
        copy_up: options.copy_up,
    });
    Ok(())
}

/// Whether a file system of this kind can be mounted with one label for everything in it. What the kernel makes up for
/// all containers alike keeps its own.
fn takes_label(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "devpts" | "ramfs" | "overlay")
}

fn add_bind(
    mount: &Mount,
    options: Options,
    context: MountContext<'_>,
    steps: &mut Vec<Step>,
    binds: &mut Vec<BindSource>,
) -> Result<()> {
    let destination = mount.destination();
    let source = mount.source().as_ref();
    let source = source.ok_or_else(|| {
        RuntimeError::spec(format!("bind mount at {} has no source", destination.display()))
    })?;
    let is_directory = open_source(source, options.subpath.as_deref())
        .and_then(|opened| Ok(FileType::from_raw_mode(rustix::fs::fstat(opened)?.st_mode).is_dir()));
    let is_directory = is_directory.map_err(|error| {
        RuntimeError::io(
            format!("use {} as source of a bind mount", source.display()),
            error,
        )
    })?;
    steps.push(Step::Bind {
        target: Target::new(destination, !is_directory, false)?,
        source: binds.len(),
    });
    let mut attributes = options.attributes;
    if attributes.propagation == 0 {
        attributes.propagation = libc::MS_PRIVATE;
    }
    binds.push(BindSource {
        path: source.clone(),
        subpath: options.subpath,
        recursive: options.recursive,
        attributes,
        recursive_attributes: options.recursive_attributes,
        ids: bind_ids(mount, options.mapped, context)?,
    });
    Ok(())
}

/// The owners that a bind mount's files get: by maps of its own, else by those of the container.
fn bind_ids(mount: &Mount, mapped: Option<bool>, context: MountContext<'_>) -> Result<Option<BindIds>> {
    let own = [mount.uid_mappings(), mount.gid_mappings()].map(|maps| maps.as_deref().unwrap_or_default());
    let recursive = mapped.unwrap_or(false);
    let [users, groups] = own;
    if !users.is_empty() || !groups.is_empty() {
        let maps = IdMaps::new(users, groups)?;
        return Ok(Some(BindIds { maps, recursive }));
    }
    match (mapped, context.ids) {
        (None, _) => Ok(None),
        (Some(_), Some(maps)) => Ok(Some(BindIds {
            maps: maps.clone(),
            recursive,
        })),
        (Some(_), None) => Err(RuntimeError::spec(format!(
            "mount at {}: without a user namespace, idmap needs uidMappings and gidMappings",
            mount.destination().display()
        ))),
    }
}

/// Opens the source of a bind mount, by its place only.
pub(crate) fn open_source(path: &Path, subpath: Option<&Path>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = rustix::fs::open(path, flags, Mode::empty())?;
    match subpath {
        None => Ok(source),
        Some(subpath) => {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(source, subpath, flags, Mode::empty(), resolve)
        }
    }
}

/// How a container comes to its control group file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupMounts {
    /// A tmpfs with one directory per hierarchy.
    V1,
    /// One file system.
    V2,
    /// The one of the host: whoever is in another user namespace than the control group namespace's may not mount one.
    V2Host,
}

/// Where that one is.
const UNIFIED_MOUNT: &str = "/sys/fs/cgroup";

/// Appends the control group file systems, as the container sees its own group only, but for those of the host.
pub(super) fn add_cgroup(
    mount: &Mount,
    mounts: CgroupMounts,
    steps: &mut Vec<Step>,
    binds: &mut Vec<BindSource>,
) -> Result<()> {
    let options = parse_options(mount.options().as_deref().unwrap_or_default())?;
    let attributes = options.attributes.set;
    let filesystem = |path: &Path, kind: &str, options: Vec<(CString, Option<CString>)>, attributes: u64| {
        Ok::<_, RuntimeError>(Step::Mount {
            target: Target::new(path, false, false)?,
            kind: c_string(kind, "a mount's type")?,
            source: c_string("cgroup", "a mount's source")?,
            options,
            attributes,
            propagation: 0,
            label: None,
            copy_up: false,
        })
    };
    let destination = mount.destination();
    match mounts {
        CgroupMounts::V1 => {}
        CgroupMounts::V2 => {
            steps.push(filesystem(destination, "cgroup2", Vec::new(), attributes)?);
            return Ok(());
        }
        CgroupMounts::V2Host => {
            steps.push(Step::Bind {
                target: Target::new(destination, false, false)?,
                source: binds.len(),
            });
            let mut source = BindSource::private(UNIFIED_MOUNT.into());
            source.attributes.set = attributes;
            binds.push(source);
            return Ok(());
        }
    }
    let size = vec![(c_string("mode", "")?, Some(c_string("755", "")?))];
    steps.push(filesystem(destination, "tmpfs", size, attributes & !RDONLY)?);
    for hierarchy in v1_hierarchies() {
        let options = hierarchy.split(',').map(|name| match name.split_once('=') {
            Some((key, value)) => Ok((c_string(key, "")?, Some(c_string(value, "")?))),
            None => Ok((c_string(name, "")?, None)),
        });
        let options = options.collect::<Result<Vec<_>>>()?;
        let directory = hierarchy.strip_prefix("name=").unwrap_or(hierarchy);
        steps.push(filesystem(
            &destination.join(directory),
            "cgroup",
            options,
            attributes,
        )?);
    }
    if attributes & RDONLY != 0 {
        let path = Target::new(destination, false, false)?.path;
        steps.push(Step::Seal { path });
    }
    Ok(())
}

/// The controllers of each v1 hierarchy, as the kernel names them in mount options. They do not change while it runs.
fn v1_hierarchies() -> &'static [String] {
    static HIERARCHIES: OnceLock<Vec<String>> = OnceLock::new();
    HIERARCHIES.get_or_init(|| {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let names = groups.lines().filter_map(|line| line.split(':').nth(1));
        names
            .filter(|names| !names.is_empty())
            .map(str::to_owned)
            .collect()
    })
}

fn parse_options(texts: &[String]) -> Result<Options> {
    let mut options = Options::default();
    for text in texts {
        if let Some(subpath) = text.strip_prefix(SUBPATH_OPTION) {
            options.subpath = Some(subpath.into());
        } else if !parse_flag(text, &mut options) {
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(c_string(value, "a mount option")?)),
                None => (text.as_str(), None),
            };
            options.filesystem.push((c_string(key, "a mount option")?, value));
        }
    }
    Ok(options)
}

/// Takes an option that is not for the file system; false when it is.
fn parse_flag(text: &str, options: &mut Options) -> bool {
    if parse_attribute(text, &mut options.attributes) {
        return true;
    }
    // Each attribute has a form for the mounts below too, with an "r" before its name.
    if let Some(name) = text.strip_prefix('r')
        && parse_attribute(name, &mut options.recursive_attributes)
    {
        return true;
    }
    let propagation = &mut options.attributes.propagation;
    match text {
        "bind" => options.bind = true,
        "rbind" => (options.bind, options.recursive) = (true, true),
        "idmap" => options.mapped = Some(false),
        "ridmap" => options.mapped = Some(true),
        // A bind mount has it with all that is mounted below, or what the host mounts there would still come in.
        "private" | "rprivate" => *propagation = libc::MS_PRIVATE,
        "slave" | "rslave" => *propagation = libc::MS_SLAVE,
        "shared" | "rshared" => *propagation = libc::MS_SHARED,
        "unbindable" | "runbindable" => *propagation = libc::MS_UNBINDABLE,
        "copyup" | "tmpcopyup" => options.copy_up = true,
        "defaults" | "async" | "nofail" => {}
        _ => return false,
    }
    true
}

/// Takes an attribute of a mount.
fn parse_attribute(text: &str, attributes: &mut Attributes) -> bool {
    let mut set = |bits: u64| {
        attributes.set |= bits;
        attributes.clear &= !bits;
    };
    match text {
        "ro" => set(RDONLY),
        "nosuid" => set(NOSUID),
        "nodev" => set(NODEV),
        "noexec" => set(NOEXEC),
        "nosymfollow" => set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => set(libc::MOUNT_ATTR_NODIRATIME),
        "rw" => clear(attributes, RDONLY),
        "suid" => clear(attributes, NOSUID),
        "dev" => clear(attributes, NODEV),
        "exec" => clear(attributes, NOEXEC),
        "symfollow" => clear(attributes, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "diratime" => clear(attributes, libc::MOUNT_ATTR_NODIRATIME),
        "noatime" => set_atime(attributes, libc::MOUNT_ATTR_NOATIME),
        "strictatime" => set_atime(attributes, libc::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" => set_atime(attributes, libc::MOUNT_ATTR_RELATIME),
        _ => return false,
    }
    true
}

/// The last word about an attribute decides.
fn clear(attributes: &mut Attributes, bits: u64) {
    attributes.clear |= bits;
    attributes.set &= !bits;
}

fn set_atime(attributes: &mut Attributes, value: u64) {
    attributes.clear |= ATIME;
    attributes.set = attributes.set & !ATIME | value;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of each file system that is mounted for these types of mount.
    fn contexts(kinds: &[&str], label: Option<&str>) -> Vec<Option<String>> {
        let mut steps = Vec::new();
        for kind in kinds {
            let json =
                serde_json::json!({ "destination": "/at", "type": kind, "source": "s", "options": ["ro"] });
            let mount: Mount = serde_json::from_value(json).unwrap();
            let context = MountContext { label, ids: None };
            add(&mount, context, &mut steps, &mut Vec::new()).unwrap();
        }
        let context = |step: &Step| match step {
            Step::Mount {
                label: Some(label), ..
            } => Some(format!("root {}", label.to_str().unwrap())),
            Step::Mount { options, .. } => options.iter().find_map(|(key, value)| {
                let value = value.as_ref()?.to_str().ok()?.to_owned();
                (key.as_c_str() == c"context").then_some(value)
            }),
            _ => panic!("{step:?}"),
        };
        steps.iter().map(context).collect()
    }

    #[test]
    fn label_goes_to_the_containers_own_file_systems() {
        // Not between quotes: the kernel takes each option by itself.
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let own = ["tmpfs", "devpts", "ramfs", "overlay"];
        assert_eq!(contexts(&own, Some(label)), vec![Some(label.to_owned()); 4]);
        assert_eq!(contexts(&["proc", "sysfs"], Some(label)), [None, None]);
        let root = Some(format!("root {label}"));
        assert_eq!(contexts(&["mqueue"], Some(label)), [root]);
        assert_eq!(contexts(&["mqueue", "tmpfs"], None), [None, None]);
    }
}
