//! Which control group a container gets.

use oci_spec::runtime::Spec;

use super::error::{OciError, Result};
use super::systemd::Scope;
use crate::cgroup::{CgroupRoot, PARENT_DEFAULT};
use crate::error::RuntimeError;

/// Where a container's control group is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub root: CgroupRoot,
    pub path: String,
    /// The scope that systemd has for it.
    pub scope: Option<Scope>,
}

/// The place of a container's control group.
pub(super) fn of_container(spec: &Spec, id: &str, systemd: bool) -> Result<Place> {
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
    let scope = systemd.then(|| Scope::new(specified, id)).transpose()?;
    let path = match &scope {
        Some(scope) => scope.path()?,
        None => path_of(specified, id)?,
    };
    // Paths of a specification count from the top, whatever group this process is in.
    let root = CgroupRoot::at_parent(PARENT_DEFAULT)
        .map_err(|source| RuntimeError::cgroup("find a place for", source))?;
    Ok(Place { root, path, scope })
}

fn path_of(specified: Option<&str>, id: &str) -> Result<String> {
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
        assert_eq!(path_of(Some("/pod/a"), "id").expect("it is valid"), "pod/a");
        assert_eq!(path_of(Some("pod/a"), "id").expect("it is valid"), "muster/pod/a");
        assert_eq!(path_of(None, "id").expect("it is valid"), "muster/id");
        assert!(path_of(Some("system.slice:p:n"), "id").is_err());
    }
}
