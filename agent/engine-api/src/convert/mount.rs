//! Mounts, `-v` texts and `--tmpfs` options.

use super::{Read, non_negative, signed, unsupported};
use crate::http::Failure;
use crate::wire::mount::{BindOptions, Driver, ImageOptions, Mount, TmpfsOptions, VolumeOptions};
use hyper::StatusCode;
use muster_types::container::{MountKind, MountSpec, Relabel};
use std::collections::BTreeSet;

/// Reads a mount of `--mount`.
pub(crate) fn read(wire: Mount) -> Read<MountSpec> {
    let kind = match wire.r#type.as_str() {
        "bind" => MountKind::Bind,
        "volume" | "" => MountKind::Volume,
        "tmpfs" => MountKind::Tmpfs,
        "image" => MountKind::Image,
        "npipe" | "cluster" => {
            return Err(unsupported(&format!("mount type {:?}", wire.r#type)));
        }
        other => {
            return Err(Failure::invalid(format!(
                "invalid mount config for type {other:?}: mount type unknown"
            )));
        }
    };
    if wire.target.is_empty() {
        return Err(Failure::invalid(
            "invalid mount config: field Target must not be empty",
        ));
    }
    let invalid =
        |why: &str| Failure::invalid(format!("invalid mount config for type {:?}: {why}", name(kind)));
    match kind {
        MountKind::Bind | MountKind::Image if wire.source.is_empty() => {
            return Err(invalid("field Source must not be empty"));
        }
        MountKind::Tmpfs if !wire.source.is_empty() => {
            return Err(invalid("field Source must not be specified"));
        }
        MountKind::Bind | MountKind::Image | MountKind::Tmpfs | MountKind::Volume => {}
    }
    check_options(kind, &wire)?;
    let bind = wire.bind_options.unwrap_or_default();
    let volume = wire.volume_options.unwrap_or_default();
    let tmpfs = wire.tmpfs_options.unwrap_or_default();
    let subpath = match kind {
        MountKind::Image => wire.image_options.unwrap_or_default().subpath,
        MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => volume.subpath,
    };
    if !subpath.is_empty() {
        if wire.source.is_empty() {
            return Err(invalid("must not set Subpath when using anonymous volumes"));
        }
        if !is_inside(&subpath) {
            return Err(invalid("subpath must be a relative path within the volume"));
        }
    }
    let driver = volume.driver_config.unwrap_or_default();
    if !matches!(driver.name.as_str(), "" | "local") {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("create {}: plugin {:?} not found", wire.source, driver.name),
        ));
    }
    Ok(MountSpec {
        kind,
        source: wire.source,
        target: wire.target,
        read_only: wire.read_only,
        propagation: bind.propagation,
        create_source: bind.create_mountpoint,
        no_copy: volume.no_copy,
        volume_labels: volume.labels,
        volume_options: driver.options,
        subpath,
        relabel: Relabel::No,
        non_recursive: bind.non_recursive,
        read_only_non_recursive: bind.read_only_non_recursive,
        tmpfs_bytes: non_negative("TmpfsOptions.SizeBytes", tmpfs.size_bytes)?,
        tmpfs_mode: tmpfs.mode,
        tmpfs_options: tmpfs
            .options
            .iter()
            .map(|option| read_tmpfs_option(option))
            .collect::<Read<_>>()?,
        as_written: None,
    })
}

/// Whether a relative path stays below where it begins, as it is written.
fn is_inside(path: &str) -> bool {
    let mut depth = 0_i32;
    let stays = path.split('/').all(|part| {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth >= 0
    });
    stays && !path.starts_with('/')
}

fn read_tmpfs_option(option: &[String]) -> Read<String> {
    match option {
        [flag] if flag == "exec" || flag == "noexec" => Ok(flag.clone()),
        [] => Err(Failure::invalid("invalid option array length")),
        [name, ..] => Err(Failure::invalid(format!("invalid option: {name}"))),
    }
}

fn check_options(kind: MountKind, wire: &Mount) -> Read<()> {
    let foreign = [
        ("BindOptions", wire.bind_options.is_some(), MountKind::Bind),
        ("VolumeOptions", wire.volume_options.is_some(), MountKind::Volume),
        ("TmpfsOptions", wire.tmpfs_options.is_some(), MountKind::Tmpfs),
        ("ImageOptions", wire.image_options.is_some(), MountKind::Image),
    ];
    match foreign.iter().find(|(_, given, of)| *given && *of != kind) {
        Some((options, ..)) => Err(Failure::invalid(format!(
            "invalid mount config for type {:?}: field {options} must not be specified",
            name(kind)
        ))),
        None => Ok(()),
    }
}

/// Docker's name of a kind.
pub(crate) fn name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    }
}

/// Writes a mount.
pub(crate) fn write(mount: &MountSpec) -> Mount {
    let mut wire = Mount {
        r#type: name(mount.kind).to_owned(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        ..Mount::default()
    };
    match mount.kind {
        MountKind::Bind => {
            let options = BindOptions {
                propagation: mount.propagation.clone(),
                create_mountpoint: mount.create_source,
                non_recursive: mount.non_recursive,
                read_only_non_recursive: mount.read_only_non_recursive,
                ..BindOptions::default()
            };
            wire.bind_options = Some(options).filter(|options| *options != BindOptions::default());
        }
        MountKind::Volume => {
            let options = VolumeOptions {
                no_copy: mount.no_copy,
                labels: mount.volume_labels.clone(),
                subpath: mount.subpath.clone(),
                driver_config: (!mount.volume_options.is_empty()).then(|| Driver {
                    name: "local".to_owned(),
                    options: mount.volume_options.clone(),
                }),
            };
            wire.volume_options = Some(options).filter(|options| *options != VolumeOptions::default());
        }
        MountKind::Tmpfs => {
            let options = TmpfsOptions {
                size_bytes: signed(mount.tmpfs_bytes),
                mode: mount.tmpfs_mode,
                options: mount
                    .tmpfs_options
                    .iter()
                    .map(|option| write_tmpfs_option(option))
                    .collect(),
            };
            wire.tmpfs_options = Some(options).filter(|options| *options != TmpfsOptions::default());
        }
        MountKind::Image => {
            let options = ImageOptions {
                subpath: mount.subpath.clone(),
            };
            wire.image_options = Some(options).filter(|options| *options != ImageOptions::default());
        }
    }
    wire
}

fn write_tmpfs_option(option: &str) -> Vec<String> {
    match option.split_once('=') {
        Some((name, value)) => vec![name.to_owned(), value.to_owned()],
        None => vec![option.to_owned()],
    }
}

/// Reads `[source:]target[:options]` of `-v`. A source with a leading slash is a path, else a volume's name.
pub(crate) fn read_bind(text: &str) -> Read<MountSpec> {
    let invalid = |why: &str| Failure::invalid(format!("invalid volume specification: '{text}': {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid("too many colons")),
    };
    if !target.starts_with('/') {
        return Err(invalid("mount path must be absolute"));
    }
    let kind = if source.starts_with('/') {
        MountKind::Bind
    } else {
        MountKind::Volume
    };
    let mut mount = MountSpec {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        create_source: kind == MountKind::Bind,
        ..MountSpec::default()
    };
    let mut kinds = BTreeSet::new();
    for option in options.split(',').filter(|_| !options.is_empty()) {
        let is_new = match option {
            "ro" | "rw" => {
                mount.read_only = option == "ro";
                kinds.insert("access")
            }
            "z" | "Z" => {
                mount.relabel = match option {
                    "z" => Relabel::Containers,
                    _ => Relabel::Own,
                };
                kinds.insert("label")
            }
            "cached" | "delegated" | "consistent" => kinds.insert("consistency"),
            "nocopy" | "copy" if kind == MountKind::Volume => {
                mount.no_copy = option == "nocopy";
                kinds.insert("copy")
            }
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" if kind == MountKind::Bind => {
                option.clone_into(&mut mount.propagation);
                kinds.insert("propagation")
            }
            _ => false,
        };
        if !is_new {
            return Err(Failure::invalid(format!("invalid mode: {options}")));
        }
    }
    Ok(mount)
}

/// Options of a tmpfs that stand alone, as Docker accepts them. Those that mean nothing for a new mount are left out.
const TMPFS_FLAGS: &[&str] = &[
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
];

/// Reads the options of `--tmpfs target:options`. Of two that contradict each other the later one holds.
pub(crate) fn read_tmpfs(target: &str, options: &str) -> Read<MountSpec> {
    let mut mount = MountSpec {
        kind: MountKind::Tmpfs,
        target: target.to_owned(),
        ..MountSpec::default()
    };
    let invalid = |option: &str| Failure::invalid(format!("invalid tmpfs option {option:?} for {target}"));
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) if !size.ends_with('%') => {
                mount.tmpfs_bytes = bytes(size).ok_or_else(|| invalid(option))?
            }
            Some(("mode", mode)) => {
                mount.tmpfs_mode = u32::from_str_radix(mode, 8).map_err(|_| invalid(option))?;
            }
            Some(("size" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol", _)) => {
                replace_option(&mut mount.tmpfs_options, option);
            }
            None if matches!(option, "ro" | "rw") => mount.read_only = option == "ro",
            None if option == "defaults" => {}
            None if TMPFS_FLAGS.contains(&option) => replace_option(&mut mount.tmpfs_options, option),
            _ => return Err(invalid(option)),
        }
    }
    Ok(mount)
}

/// Adds an option in place of an earlier one about the same.
fn replace_option(options: &mut Vec<String>, new: &str) {
    const PROPAGATIONS: [&str; 4] = ["private", "shared", "slave", "unbindable"];
    let subject = |option: &str| {
        let name = option.split('=').next().unwrap_or(option);
        let positive = name.strip_prefix("no").unwrap_or(name);
        if PROPAGATIONS.contains(&positive.strip_prefix('r').unwrap_or(positive)) {
            "propagation".to_owned()
        } else {
            positive.replace("async", "sync")
        }
    };
    options.retain(|old| subject(old) != subject(new));
    options.push(new.to_owned());
}

/// A size with an optional suffix k, m or g, as tmpfs reads it.
fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.to_ascii_lowercase().strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (digits.to_owned(), text.chars().last()?.to_ascii_lowercase()),
        None => (text.to_owned(), ' '),
    };
    let shift = match unit {
        'k' => 10,
        'm' => 20,
        'g' => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_paths_or_volumes() {
        let bind = read_bind("/a:/b:ro,rslave").unwrap();
        assert_eq!(
            (
                bind.kind,
                bind.read_only,
                bind.create_source,
                bind.propagation.as_str()
            ),
            (MountKind::Bind, true, true, "rslave")
        );
        assert_eq!(read_bind("data:/b").unwrap().kind, MountKind::Volume);
        assert_eq!(read_bind("/only").unwrap().kind, MountKind::Volume);
        for bad in ["", "a:b", "/a:/b:/c:d", "/a:/b:what"] {
            assert_eq!(read_bind(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn tmpfs_options_are_read() {
        let mount = read_tmpfs("/t", "size=64m,mode=755,noexec").unwrap();
        assert_eq!((mount.tmpfs_bytes, mount.tmpfs_mode), (64 << 20, 0o755));
        assert_eq!(mount.tmpfs_options, ["noexec"]);
        let mount = read_tmpfs(
            "/t",
            "ro,noexec,exec,rw,uid=1,size=50%,rprivate,shared,uid=2,defaults",
        )
        .unwrap();
        assert_eq!(mount.tmpfs_options, ["exec", "size=50%", "shared", "uid=2"]);
        assert!(!mount.read_only);
        for bad in ["size=x", "mode=9", "nosuchthing", "exec=1", "bind", "uid"] {
            assert_eq!(read_tmpfs("/t", bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn options_of_another_kind_are_refused() {
        let mount = Mount {
            r#type: "tmpfs".into(),
            target: "/t".into(),
            bind_options: Some(BindOptions::default()),
            ..Mount::default()
        };
        assert!(read(mount).unwrap_err().message.contains("BindOptions"));
    }

    #[test]
    fn subpaths_that_leave_their_volume_are_refused() {
        for (path, inside) in [
            ("a/b", true),
            ("a/../b", true),
            ("..", false),
            ("a/../../b", false),
            ("/a", false),
        ] {
            assert_eq!(is_inside(path), inside, "{path}");
        }
        let anonymous = Mount {
            target: "/t".into(),
            volume_options: Some(VolumeOptions {
                subpath: "a".into(),
                ..VolumeOptions::default()
            }),
            ..Mount::default()
        };
        assert!(read(anonymous).unwrap_err().message.contains("anonymous"));
    }

    #[test]
    fn modes_of_one_kind_exclude_each_other() {
        for bad in [
            "/a:/b:ro,rw",
            "/a:/b:z,Z",
            "/a:/b:shared,slave",
            "v:/b:nocopy,copy",
            "/a:/b:nocopy",
            "v:/b:shared",
            "/a:/b:,",
        ] {
            assert_eq!(read_bind(bad).unwrap_err().status, 400, "{bad}");
        }
        assert!(!read_bind("v:/b:rw,z,copy").unwrap().no_copy);
    }

    #[test]
    fn binds_say_whose_label_their_files_get() {
        for (text, expected) in [
            ("/a:/b", Relabel::No),
            ("/a:/b:z", Relabel::Containers),
            ("/a:/b:ro,Z", Relabel::Own),
        ] {
            assert_eq!(read_bind(text).unwrap().relabel, expected, "{text}");
        }
    }

    #[test]
    fn mounts_round_trip() {
        let mounts = [
            MountSpec {
                kind: MountKind::Bind,
                source: "/s".into(),
                target: "/t".into(),
                propagation: "rslave".into(),
                create_source: true,
                read_only: true,
                ..MountSpec::default()
            },
            MountSpec {
                kind: MountKind::Volume,
                source: "v".into(),
                target: "/t".into(),
                no_copy: true,
                ..MountSpec::default()
            },
            MountSpec {
                kind: MountKind::Volume,
                source: "v".into(),
                target: "/t".into(),
                subpath: "a/b".into(),
                volume_options: [("type".to_owned(), "tmpfs".to_owned())].into(),
                ..MountSpec::default()
            },
            MountSpec {
                kind: MountKind::Bind,
                source: "/s".into(),
                target: "/t".into(),
                non_recursive: true,
                read_only_non_recursive: true,
                ..MountSpec::default()
            },
            MountSpec {
                kind: MountKind::Image,
                source: "i".into(),
                target: "/t".into(),
                subpath: "etc".into(),
                ..MountSpec::default()
            },
            MountSpec {
                kind: MountKind::Tmpfs,
                target: "/t".into(),
                tmpfs_bytes: 5,
                tmpfs_mode: 0o700,
                tmpfs_options: vec!["exec".into()],
                ..MountSpec::default()
            },
        ];
        for mount in mounts {
            assert_eq!(read(write(&mount)).unwrap(), mount);
        }
    }
}
