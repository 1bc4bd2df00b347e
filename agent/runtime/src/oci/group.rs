//! Which control group a container gets.

use oci_spec::runtime::Spec;

use super::error::{OciError, Result};
use crate::cgroup::{CgroupRoot, PARENT_DEFAULT};
use crate::error::RuntimeError;

/// The place of control groups, and the container's path in it.
pub(super) fn of_container(spec: &Spec, id: &str, systemd: bool) -> Result<(CgroupRoot, String)> {
    let specified = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    let specified = specified
        .map(|path| {
            path.to_str()
                .ok_or_else(|| OciError::usage("cgroupsPath is no UTF-8"))
        })
        .transpose()?
        .filter(|path| !path.is_empty());
    let path = path_of(specified, id, systemd)?;
    // Paths of a specification count from the top, whatever group this process is in.
    let root = CgroupRoot::at_parent(PARENT_DEFAULT)
        .map_err(|source| RuntimeError::cgroup("find a place for", source))?;
    Ok((root, path))
}

fn path_of(specified: Option<&str>, id: &str, systemd: bool) -> Result<String> {
    if systemd {
        return Err(OciError::Unsupported {
            what: "making control groups through systemd (--systemd-cgroup)",
            instead: "use cgroupfs: podman --cgroup-manager cgroupfs, or SystemdCgroup = false in containerd",
        });
    }
    match specified {
        None => Ok(format!("{PARENT_DEFAULT}/{id}")),
        Some(path) if path.contains(':') => Err(OciError::usage(format!(
            "cgroupsPath {path:?} has the form of systemd's (slice:prefix:name), which needs --systemd-cgroup"
        ))),
        Some(path) => match path.strip_prefix('/') {
            Some(absolute) => Ok(absolute.to_owned()),
            // Where relative ones begin is the runtime's choice.
            None => Ok(format!("{PARENT_DEFAULT}/{path}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_count_from_the_top_and_others_from_ours() {
        assert_eq!(
            path_of(Some("/pod/a"), "id", false).expect("it is valid"),
            "pod/a"
        );
        assert_eq!(
            path_of(Some("pod/a"), "id", false).expect("it is valid"),
            "muster/pod/a"
        );
        assert_eq!(path_of(None, "id", false).expect("it is valid"), "muster/id");
        assert!(path_of(Some("system.slice:p:n"), "id", false).is_err());
    }
}
