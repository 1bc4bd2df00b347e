//! Hooks: programs of the caller that run at points of a container's life, with its state on their standard input.

use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::error::{OciError, Result};
use crate::error::RuntimeError;
use crate::launch::{ExecTarget, StreamSource, exec_with};
use crate::plan::{CapabilityPlan, ExecPlan, LabelPlan, ProcessExtras, ProcessPlan, c_string};
use crate::sys;

/// How much of a failed hook's output is repeated.
const OUTPUT_BYTES_MAX: usize = 4096;

/// The points of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Point {
    pub(super) fn name(self) -> &'static str {
        match self {
            Point::Prestart => "prestart",
            Point::CreateRuntime => "createRuntime",
            Point::CreateContainer => "createContainer",
            Point::StartContainer => "startContainer",
            Point::Poststart => "poststart",
            Point::Poststop => "poststop",
        }
    }

    /// The hooks of this point.
    pub(super) fn of(self, hooks: Option<&Hooks>) -> &[Hook] {
        let Some(hooks) = hooks else { return &[] };
        #[allow(deprecated)]
        let list = match self {
            Point::Prestart => hooks.prestart(),
            Point::CreateRuntime => hooks.create_runtime(),
            Point::CreateContainer => hooks.create_container(),
            Point::StartContainer => hooks.start_container(),
            Point::Poststart => hooks.poststart(),
            Point::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// Where hooks run.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// In the runtime's namespaces, in this directory.
    Host(&'a Path),
    /// In those of the container.
    Container(&'a ExecTarget<'a>),
}

/// Runs the hooks of one point, in their order. The first that fails is the last one.
pub(super) fn run(point: Point, hooks: Option<&Hooks>, state: &str, place: Place<'_>) -> Result<()> {
    for (number, hook) in point.of(hooks).iter().enumerate() {
        run_one(hook, state, place).map_err(|problem| OciError::Hook {
            kind: point.name(),
            number,
            path: hook.path().display().to_string(),
            problem,
        })?;
    }
    Ok(())
}

/// As [`run`], at a point where the specification wants a warning and the next hook.
pub(super) fn run_all(
    point: Point,
    hooks: Option<&Hooks>,
    state: &str,
    place: Place<'_>,
    mut warn: impl FnMut(String),
) {
    for (number, hook) in point.of(hooks).iter().enumerate() {
        if let Err(problem) = run_one(hook, state, place) {
            let path = hook.path().display();
            warn(format!("{} hook #{number} ({path}): {problem}", point.name()));
        }
    }
}

/// Checks all hooks before anything is made.
pub(super) fn check(hooks: Option<&Hooks>) -> Result<()> {
    for point in [
        Point::Prestart,
        Point::CreateRuntime,
        Point::CreateContainer,
        Point::StartContainer,
        Point::Poststart,
        Point::Poststop,
    ] {
        for hook in point.of(hooks) {
            let problem = match () {
                () if !hook.path().is_absolute() => "its path is not absolute",
                () if hook.timeout().is_some_and(|seconds| seconds <= 0) => "its timeout is not above 0",
                () => continue,
            };
            let (kind, path) = (point.name(), hook.path().display());
            return Err(RuntimeError::spec(format!("{kind} hook {path}: {problem}")).into());
        }
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str, place: Place<'_>) -> std::result::Result<(), String> {
    let running = match place {
        Place::Host(directory) => start_on_host(hook, directory),
        Place::Container(target) => start_in_container(hook, target),
    };
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    running?.finish(state.as_bytes(), timeout.map(Duration::from_secs))
}

/// A hook that was started.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    input: Option<OwnedFd>,
    outputs: Vec<OwnedFd>,
}

fn start_on_host(hook: &Hook, directory: &Path) -> std::result::Result<Running, String> {
    let mut command = Command::new(hook.path());
    let mut arguments = hook.args().iter().flatten();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env_clear().current_dir(directory);
    for variable in hook.env().iter().flatten() {
        let (name, value) = variable
            .split_once('=')
            .ok_or_else(|| format!("environment variable {variable:?} has no value"))?;
        command.env(name, value);
    }
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = streams.stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| error.to_string())?;
    let pid = i32::try_from(child.id()).map_err(|_| "impossible process id".to_owned())?;
    let outputs = [child.stdout.map(OwnedFd::from), child.stderr.map(OwnedFd::from)];
    let input = child.stdin.map(OwnedFd::from);
    if let Some(input) = &input {
        let flags = rustix::fs::fcntl_getfl(input).map_err(|error| error.to_string())?;
        rustix::fs::fcntl_setfl(input, flags | OFlags::NONBLOCK).map_err(|error| error.to_string())?;
    }
    Ok(Running {
        pid,
        pidfd: open_process(pid)?,
        input,
        outputs: outputs.into_iter().flatten().collect(),
    })
}

fn open_process(pid: i32) -> std::result::Result<OwnedFd, String> {
    let pid = Pid::from_raw(pid).ok_or("no process id")?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())
}

/// A hook enters the container as an exec'ed process does, with all rights there.
fn start_in_container(hook: &Hook, target: &ExecTarget<'_>) -> std::result::Result<Running, String> {
    let words = |texts: &Option<Vec<String>>| -> crate::error::Result<Vec<CString>> {
        let texts = texts.iter().flatten();
        texts.map(|text| c_string(text.as_str(), "a hook")).collect()
    };
    let start = || {
        let path = c_string(hook.path().as_os_str().as_encoded_bytes(), "a hook's path")?;
        let mut arguments = words(hook.args())?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        let all = sys::capabilities().map_err(|error| RuntimeError::io("read capabilities", error))?;
        let plan = ExecPlan {
            process: ProcessPlan {
                arguments,
                environment: words(hook.env())?,
                candidates: vec![path],
                working_directory: c_string("/", "a directory")?,
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                umask: 0o022,
                capabilities: CapabilityPlan {
                    bounding: u64::MAX,
                    effective: all.permitted,
                    inheritable: 0,
                    permitted: all.permitted,
                    ambient: 0,
                },
                no_new_privileges: false,
                filter: None,
                limits: Vec::new(),
                oom_score_adj: None,
                labels: LabelPlan::default(),
                terminal: false,
            },
            console_size: None,
            stdin_open: true,
            output: true,
            extras: ProcessExtras::default(),
        };
        let source = StreamSource::Pipes {
            stdin: true,
            output: true,
        };
        exec_with(&plan, target, source, None)
    };
    let launched = start().map_err(|error| crate::error::chain(&error))?;
    let outputs = [launched.streams.stdout, launched.streams.stderr];
    Ok(Running {
        pid: launched.pid,
        pidfd: launched.pidfd,
        input: launched.streams.stdin,
        outputs: outputs.into_iter().flatten().collect(),
    })
}

impl Running {
    /// Gives it the state, takes its output and waits for its end, or ends it.
    fn finish(mut self, state: &[u8], timeout: Option<Duration>) -> std::result::Result<(), String> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut input = state;
        let mut output = Vec::new();
        let status = loop {
            if let Ok(Some((_, status))) = sys::reap(self.pid, false) {
                break status;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
                let _ = sys::reap(self.pid, true);
                return Err(format!(
                    "it did not end within {} s",
                    timeout.unwrap_or_default().as_secs()
                ));
            }
            self.wait(left);
            self.feed(&mut input);
            self.drain(&mut output);
        };
        self.drain(&mut output);
        let how = match () {
            () if libc::WIFSIGNALED(status) => format!("signal {}", libc::WTERMSIG(status)),
            () if libc::WEXITSTATUS(status) == 0 => return Ok(()),
            () => format!("exit status {}", libc::WEXITSTATUS(status)),
        };
        let output = String::from_utf8_lossy(&output);
        Err(format!("{how}, output: {}", output.trim()))
    }

    fn wait(&self, left: Option<Duration>) {
        let mut polled = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        polled.extend(self.input.iter().map(|input| PollFd::new(input, PollFlags::OUT)));
        polled.extend(
            self.outputs
                .iter()
                .map(|output| PollFd::new(output, PollFlags::IN)),
        );
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        // Whatever woke this up, everything is looked at again.
        let _ = poll(&mut polled, timeout.as_ref());
    }

    /// Writes what is left of the state; a hook that does not read it is none the worse for it.
    fn feed(&mut self, input: &mut &[u8]) {
        let Some(pipe) = &self.input else { return };
        match rustix::io::write(pipe, input) {
            Ok(written) => *input = &input[written..],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => *input = &[],
        }
        if input.is_empty() {
            self.input = None;
        }
    }

    /// Takes what can be read now.
    fn drain(&mut self, output: &mut Vec<u8>) {
        self.outputs.retain(|pipe| {
            let mut buffer = [0; 4096];
            let mut polled = [PollFd::new(pipe, PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            while poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0) {
                match rustix::io::read(pipe, &mut buffer[..]) {
                    Ok(0) => return false,
                    Ok(count) => {
                        let room = OUTPUT_BYTES_MAX.saturating_sub(output.len()).min(count);
                        output.extend_from_slice(&buffer[..room]);
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                    Err(_) => return false,
                }
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(point: &str, script: &str, timeout: Option<i64>) -> Hooks {
        let mut hook = serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"] });
        if let Some(timeout) = timeout {
            hook["timeout"] = timeout.into();
        }
        serde_json::from_value(serde_json::json!({ point: [hook] })).expect("they are valid")
    }

    fn run_script(script: &str, timeout: Option<i64>) -> Result<()> {
        let hooks = hooks("poststop", script, timeout);
        run(
            Point::Poststop,
            Some(&hooks),
            "{\"state\":1}",
            Place::Host(Path::new("/")),
        )
    }

    #[test]
    fn state_and_environment_reach_a_hook() {
        run_script(
            "read line; [ \"$line\" = '{\"state\":1}' ] && [ $A = b ] && [ -z \"$HOME\" ]",
            None,
        )
        .expect("it is happy");
        run_script("exec < /dev/null; head -c 200000 /dev/zero", Some(20)).expect("nobody has to read");
    }

    #[test]
    fn failures_say_what_the_hook_said() {
        let error = run_script("echo broken >&2; exit 3", None)
            .expect_err("it failed")
            .to_string();
        assert!(
            error.contains("poststop hook #0") && error.contains("status 3"),
            "{error}"
        );
        assert!(error.contains("broken"), "{error}");
        let error = run_script("sleep 100", Some(1))
            .expect_err("it hangs")
            .to_string();
        assert!(error.contains("within 1 s"), "{error}");
    }

    #[test]
    fn impossible_hooks_are_refused_at_once() {
        let mut hooks = hooks("prestart", "true", Some(0));
        assert!(check(Some(&hooks)).is_err(), "no time at all");
        hooks = serde_json::from_str("{\"createRuntime\":[{\"path\":\"bin/true\"}]}").expect("it is valid");
        assert!(check(Some(&hooks)).is_err(), "a relative path");
        assert!(check(None).is_ok());
    }
}
