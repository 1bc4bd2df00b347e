//! Mounts of a specification as steps.

use oci_spec::runtime::Mount;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::OnceLock;

use super::{Attributes, BindSource, Step, Target, c_string};
use crate::error::{Result, RuntimeError};

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Mount options, sorted by what the kernel takes them as.
#[derive(Default)]
struct Options {
    attributes: Attributes,
    bind: bool,
    recursive: bool,
    attributes_recursive: bool,
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

/// Appends the steps of one mount.
pub(super) fn add(
    mount: &Mount,
    label: Option<&str>,
    steps: &mut Vec<Step>,
    binds: &mut Vec<BindSource>,
) -> Result<()> {
    let mut options = parse_options(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or("bind");
    if options.bind || kind == "bind" {
        return add_bind(mount, options, steps, binds);
    }
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
    steps: &mut Vec<Step>,
    binds: &mut Vec<BindSource>,
) -> Result<()> {
    let destination = mount.destination();
    let source = mount.source().as_ref();
    let source = source.ok_or_else(|| {
        RuntimeError::spec(format!("bind mount at {} has no source", destination.display()))
    })?;
    let metadata = std::fs::metadata(source).map_err(|error| {
        RuntimeError::io(
            format!("use {} as source of a bind mount", source.display()),
            error,
        )
    })?;
    steps.push(Step::Bind {
        target: Target::new(destination, !metadata.is_dir(), false)?,
        source: binds.len(),
    });
    let mut attributes = options.attributes;
    if attributes.propagation == 0 {
        attributes.propagation = libc::MS_PRIVATE;
    }
    binds.push(BindSource {
        path: source.clone(),
        recursive: options.recursive,
        attributes,
        attributes_recursive: options.attributes_recursive,
    });
    Ok(())
}

/// Appends the control group file systems, as the container sees its own group only: a tmpfs with one directory per
/// hierarchy on v1, one file system on v2.
pub(super) fn add_cgroup(mount: &Mount, unified: bool, steps: &mut Vec<Step>) -> Result<()> {
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
        })
    };
    let destination = mount.destination();
    if unified {
        steps.push(filesystem(destination, "cgroup2", Vec::new(), attributes)?);
        return Ok(());
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
        if !parse_flag(text, &mut options) {
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
    let attributes = &mut options.attributes;
    let mut set = |bits: u64| attributes.set |= bits;
    match text {
        "ro" => set(RDONLY),
        "nosuid" => set(NOSUID),
        "nodev" => set(NODEV),
        "noexec" => set(NOEXEC),
        "nosymfollow" => set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => set(libc::MOUNT_ATTR_NODIRATIME),
        "rw" => attributes.clear |= RDONLY,
        "suid" => attributes.clear |= NOSUID,
        "dev" => attributes.clear |= NODEV,
        "exec" => attributes.clear |= NOEXEC,
        "diratime" => attributes.clear |= libc::MOUNT_ATTR_NODIRATIME,
        "noatime" => set_atime(attributes, libc::MOUNT_ATTR_NOATIME),
        "strictatime" => set_atime(attributes, libc::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" => set_atime(attributes, libc::MOUNT_ATTR_RELATIME),
        "rro" => {
            set(RDONLY);
            options.attributes_recursive = true;
        }
        "bind" => options.bind = true,
        "rbind" => (options.bind, options.recursive) = (true, true),
        "private" | "rprivate" => attributes.propagation = libc::MS_PRIVATE,
        "slave" | "rslave" => attributes.propagation = libc::MS_SLAVE,
        "shared" | "rshared" => attributes.propagation = libc::MS_SHARED,
        "unbindable" | "runbindable" => attributes.propagation = libc::MS_UNBINDABLE,
        "defaults" | "async" | "rrw" | "nofail" | "copyup" | "tmpcopyup" => {}
        _ => return false,
    }
    true
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
            add(&mount, label, &mut steps, &mut Vec::new()).unwrap();
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
