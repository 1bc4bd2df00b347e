//! Runs one OCI bundle in the foreground, without a daemon.

use oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::CgroupRoot;
use crate::error::{Result, RuntimeError};
use crate::launch::{self, ExecTarget, Launched, NetworkBeside, Observer, PlanDescriptors, StreamSource};
use crate::plan::{ContainerOptions, ProcessExtras, container_plan};
use crate::sys;

/// How long the removal of the control group may take.
const DESTROY_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the container of `bundle/config.json` with this process's standard streams, waits for its end, removes its control
/// group, and returns its exit code as Docker reports it. Blocks.
pub fn run_bundle(bundle: &Path, id: &str) -> Result<i32> {
    let root = CgroupRoot::detect().map_err(|source| RuntimeError::cgroup("find a place for", source))?;
    run_bundle_below(bundle, id, &root)
}

/// As [`run_bundle`], with control groups that were found before.
pub fn run_bundle_below(bundle: &Path, id: &str, root: &CgroupRoot) -> Result<i32> {
    let config = bundle.join("config.json");
    let spec = Spec::load(&config).map_err(|error| {
        RuntimeError::spec(format!("{}: {}", config.display(), crate::error::chain(&error)))
    })?;
    run_spec(bundle, id, spec, root)
}

/// Runs a specification as [`run_bundle`] does; relative paths in it are below `bundle`.
pub fn run_spec(bundle: &Path, id: &str, mut spec: Spec, root: &CgroupRoot) -> Result<i32> {
    let network_beside = NetworkBeside::start(&spec)?;
    let root_path = absolute_root(bundle, &mut spec)?;
    let plan = container_plan(
        &spec,
        ContainerOptions {
            id,
            attach_point: root_path,
            state_dir: PathBuf::new(),
            exit_file: None,
            log: None,
            stdin_open: true,
            stdin_once: true,
            init: false,
            hold: false,
            console_size: None,
            cgroup: Some((root.clone(), group_path(&spec, id, root)?)),
            has_rootfs: false,
            has_netns: false,
            runs_hooks: false,
            extras: ProcessExtras::default(),
        },
    )?;
    if plan.process.terminal {
        return Err(RuntimeError::spec(
            "a bundle that runs in the foreground has no terminal: set process.terminal to false",
        ));
    }
    let descriptors = PlanDescriptors {
        network_beside,
        ..PlanDescriptors::default()
    };
    let launched = launch::launch(&plan, descriptors, StreamSource::Inherited, &mut Nobody)?;
    wait(launched)
}

/// Nothing happens while the container starts.
struct Nobody;

impl Observer for Nobody {
    fn started(&mut self, _pid: i32) -> Result<()> {
        Ok(())
    }

    fn built(&mut self, _process: &ExecTarget<'_>) -> Result<()> {
        Ok(())
    }
}

/// Makes the path of the root file system absolute, and without links.
pub(crate) fn absolute_root(bundle: &Path, spec: &mut Spec) -> Result<PathBuf> {
    let bundle = std::path::absolute(bundle).map_err(|error| RuntimeError::io("find the bundle", error))?;
    let mut root = spec
        .root()
        .clone()
        .ok_or_else(|| RuntimeError::spec("there is no root file system"))?;
    let path = bundle.join(root.path());
    let path = std::fs::canonicalize(&path)
        .map_err(|error| RuntimeError::io(format!("find the root file system {}", path.display()), error))?;
    root.set_path(path.clone());
    spec.set_root(Some(root));
    Ok(path)
}

fn group_path(spec: &Spec, id: &str, root: &CgroupRoot) -> Result<String> {
    let specified = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    match specified {
        None => Ok(root.path_of(id)),
        Some(path) => {
            let path = path
                .to_str()
                .ok_or_else(|| RuntimeError::spec("cgroupsPath is no UTF-8"))?;
            Ok(path.trim_start_matches('/').to_owned())
        }
    }
}

fn wait(launched: Launched) -> Result<i32> {
    let status = loop {
        match sys::reap(launched.pid, true) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(RuntimeError::io("wait for the container", error)),
        }
    };
    if let Some(group) = launched.cgroup {
        group
            .remove(DESTROY_DEADLINE)
            .map_err(|source| RuntimeError::cgroup("remove", source))?;
    }
    let signalled = libc::WIFSIGNALED(status);
    Ok(if signalled {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    })
}
