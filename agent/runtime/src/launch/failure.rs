//! Failures between clone and exec, in the user's words.

use rustix::io::Errno;

use crate::error::RuntimeError;
use crate::init::sync::{Failure, Stage};
use crate::label::LabelError;
use crate::plan::{ContainerPlan, ProcessPlan, SandboxPlan, Step};

/// Docker's exit code of a command that is not there.
const CODE_NOT_FOUND: i32 = 127;
/// Docker's exit code of a command that cannot be run.
const CODE_NOT_EXECUTABLE: i32 = 126;
/// Docker's exit code of every other failed start.
const CODE_FAILED: i32 = 128;

/// The error of a container's first process.
pub(crate) fn start_error(plan: &ContainerPlan, failure: Failure) -> RuntimeError {
    process_error(&plan.process, Some(&plan.sandbox), failure)
}

/// The error of any process.
pub(crate) fn process_error(
    process: &ProcessPlan,
    sandbox: Option<&SandboxPlan>,
    failure: Failure,
) -> RuntimeError {
    if failure.stage == Stage::Execute {
        return execute_error(process, failure.error);
    }
    let why = match (failure.stage, failure.error, &process.labels.apparmor) {
        // The kernel's answer for a profile that it does not have.
        (Stage::Label, Errno::NOENT, Some(profile)) => {
            let profile = profile.clone();
            LabelError::NotLoaded { profile }.to_string()
        }
        _ => format!("{}: {}", describe(process, sandbox, failure), text(failure.error)),
    };
    RuntimeError::Start {
        message: format!("unable to start container process: {why}"),
        code: CODE_FAILED,
    }
}

fn execute_error(process: &ProcessPlan, error: Errno) -> RuntimeError {
    let program = process
        .arguments
        .first()
        .map(|program| program.to_string_lossy())
        .unwrap_or_default();
    let (code, why) = match error {
        Errno::NOENT | Errno::NOTDIR if program.contains('/') => (
            CODE_NOT_FOUND,
            format!("stat {program}: no such file or directory"),
        ),
        Errno::NOENT | Errno::NOTDIR => (CODE_NOT_FOUND, "executable file not found in $PATH".to_owned()),
        Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR => (CODE_NOT_EXECUTABLE, text(error)),
        _ => (CODE_FAILED, text(error)),
    };
    let message = format!("unable to start container process: exec: \"{program}\": {why}");
    RuntimeError::Start { message, code }
}

/// The kernel's words, without the number that the standard library adds.
fn text(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn describe(process: &ProcessPlan, sandbox: Option<&SandboxPlan>, failure: Failure) -> String {
    let number = usize::from(failure.number);
    let step = |steps: fn(&SandboxPlan) -> &Vec<Step>| {
        let step = sandbox.and_then(|sandbox| steps(sandbox).get(number));
        step.map_or_else(
            || "build the file system".to_owned(),
            |step| describe_step(step, sandbox),
        )
    };
    match failure.stage {
        Stage::Session => "start a session".to_owned(),
        Stage::Streams => "set up standard streams".to_owned(),
        Stage::Proc => "open the host's /proc".to_owned(),
        Stage::OomScore => "set the OOM score adjustment".to_owned(),
        Stage::JoinNamespace => "join a namespace".to_owned(),
        Stage::Propagation => "make mounts private".to_owned(),
        Stage::AttachRoot => "attach the root file system".to_owned(),
        Stage::Loopback => "bring up the loopback device".to_owned(),
        Stage::Step => step(|sandbox| &sandbox.steps),
        Stage::LateStep => step(|sandbox| &sandbox.late_steps),
        Stage::JoinGroup => "join the control group".to_owned(),
        Stage::GroupNamespace => "make a control group namespace".to_owned(),
        Stage::Null => "open /dev/null".to_owned(),
        Stage::RootReadOnly => "make the root file system read-only".to_owned(),
        Stage::HostName => "set the host name".to_owned(),
        Stage::DomainName => "set the domain name".to_owned(),
        Stage::Sysctl => {
            let sysctl = sandbox.and_then(|sandbox| sandbox.sysctls.get(number));
            format!(
                "set sysctl {}",
                sysctl.map_or("?".into(), |(path, _)| path.to_string_lossy())
            )
        }
        Stage::PivotRoot => "enter the root file system".to_owned(),
        Stage::Terminal => "open a terminal on the container's /dev/pts".to_owned(),
        Stage::Fork => "fork".to_owned(),
        Stage::Keyring => "make a session keyring".to_owned(),
        Stage::Limit => {
            let limit = process.limits.get(number);
            limit.map_or("set a resource limit".to_owned(), |(resource, soft, hard)| {
                format!("set resource limit {resource} to {soft}:{hard}")
            })
        }
        Stage::WorkingDirectory if failure.error == Errno::XDEV => {
            format!(
                "working directory {} is outside of the container",
                process.working_directory.to_string_lossy()
            )
        }
        Stage::WorkingDirectory => {
            format!(
                "change to working directory {}",
                process.working_directory.to_string_lossy()
            )
        }
        Stage::Label => "set the security label".to_owned(),
        Stage::NoNewPrivileges => "set no-new-privileges".to_owned(),
        Stage::Capabilities => "set capabilities".to_owned(),
        Stage::Groups => format!("set group {}", process.gid),
        Stage::User => format!("set user {}", process.uid),
        Stage::Release => "wait for the release".to_owned(),
        Stage::Filter => "install the system call filter".to_owned(),
        Stage::Init => "start the init process".to_owned(),
        Stage::Execute => "execute the command".to_owned(),
        Stage::UserNamespace => "become root of the user namespace".to_owned(),
        Stage::Scheduling => "set the scheduling".to_owned(),
        Stage::Personality => "set the personality".to_owned(),
        Stage::NetworkNamespace => "make a network namespace".to_owned(),
        Stage::Listener => "hand over the listener of the system call filter".to_owned(),
    }
}

fn describe_step(step: &Step, sandbox: Option<&SandboxPlan>) -> String {
    match step {
        Step::Mount { target, kind, .. } => {
            format!(
                "mount {} at /{}",
                kind.to_string_lossy(),
                target.path.to_string_lossy()
            )
        }
        Step::Bind { target, source } => {
            let source = sandbox.and_then(|sandbox| sandbox.binds.get(*source));
            let source = source.map_or("?".into(), |source| source.path.to_string_lossy());
            format!("bind {source} at /{}", target.path.to_string_lossy())
        }
        Step::Device { target, .. } => format!("make device /{}", target.path.to_string_lossy()),
        Step::Link { target, .. } => format!("make link /{}", target.path.to_string_lossy()),
        Step::Mask { path, .. } => format!("mask /{}", path.to_string_lossy()),
        Step::ReadOnly { path, .. } | Step::Seal { path } => {
            format!("make /{} read-only", path.to_string_lossy())
        }
        Step::Directory { target } => format!("make directory /{}", target.path.to_string_lossy()),
    }
}
