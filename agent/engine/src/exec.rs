//! Further processes in running containers.

use crate::attach::{AttachSession, OutputSender};
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::phase::Phase;
use crate::spec::{ProcessUser, bounding_of, exec_process};
use crate::user;
use muster_runtime::{AttachRequest, ExecControl, ExecRequest, RuntimeError};
use muster_types::ContainerId;
use rand::Rng;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Processes remembered; when more are made, those that ended go first.
const REMEMBERED_MAX: usize = 1024;
/// Exit code of a process whose status got lost with its container.
const CODE_LOST: i32 = 137;

/// A process to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecConfig {
    /// Path and arguments.
    pub command: Vec<String>,
    /// `KEY=value` entries beside the container's.
    pub env: Vec<String>,
    /// Working directory; the container's when empty.
    pub working_dir: String,
    /// `user[:group]`; the container's when empty.
    pub user: String,
    /// Terminal.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Attach standard input.
    pub stdin: bool,
    /// Attach standard output.
    pub stdout: bool,
    /// Attach standard error.
    pub stderr: bool,
    /// Rows and columns of the terminal at start.
    pub size: Option<(u16, u16)>,
    /// Keys that detach, reported back only.
    pub detach_keys: String,
}

/// A process of `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecInfo {
    /// Its id.
    pub id: String,
    /// Its container.
    pub container: ContainerId,
    /// What was asked for.
    pub config: ExecConfig,
    /// Running now.
    pub running: bool,
    /// Exit code, once it ended.
    pub exit_code: Option<i32>,
    /// Process id in the host's pid namespace; 0 when it does not run.
    pub pid: i32,
}

#[derive(Debug)]
enum State {
    /// With the size that its terminal shall have.
    Prepared(Option<(u16, u16)>),
    /// With the size that a client set meanwhile.
    Starting(Option<(u16, u16)>),
    Running {
        pid: i32,
        control: ExecControl,
    },
    Ended {
        code: i32,
    },
}

/// A process, from its preparation until it is forgotten.
#[derive(Debug)]
pub(crate) struct Exec {
    id: String,
    container: ContainerId,
    config: ExecConfig,
    state: Mutex<State>,
}

impl Exec {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn info(&self) -> ExecInfo {
        let (running, exit_code, pid) = match &*self.state() {
            State::Prepared(_) | State::Starting(_) => (false, None, 0),
            State::Running { pid, .. } => (true, None, *pid),
            State::Ended { code } => (false, Some(*code), 0),
        };
        ExecInfo {
            id: self.id.clone(),
            container: self.container.clone(),
            config: self.config.clone(),
            running,
            exit_code,
            pid,
        }
    }

    /// Sets the size of its terminal; one that does not run yet gets it at its start.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let control = match &mut *self.state() {
            State::Running { control, .. } => control.clone(),
            State::Prepared(size) | State::Starting(size) => {
                *size = Some((rows, columns));
                return Ok(());
            }
            State::Ended { .. } => {
                return Err(Error::wrong_state(format!("exec {} is not running", self.id)));
            }
        };
        Ok(control.resize(rows, columns).await?)
    }

    fn has_ended(&self) -> bool {
        matches!(*self.state(), State::Ended { .. })
    }

    /// Records the end, if it was not recorded before.
    fn end(&self, code: i32) -> bool {
        let mut state = self.state();
        let first = !matches!(*state, State::Ended { .. });
        if first {
            *state = State::Ended { code };
        }
        first
    }
}

/// A command as Docker's events write it: the program, a space, its arguments.
fn command_line(command: &[String]) -> String {
    let (program, arguments) = command
        .split_first()
        .map_or(("", &[][..]), |(program, arguments)| {
            (program.as_str(), arguments)
        });
    format!("{program} {}", arguments.join(" "))
}

impl Inner {
    pub(crate) fn exec_create(&self, container: &Container, config: ExecConfig) -> Result<String> {
        if config.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        let event = format!("exec_create: {}", command_line(&config.command));
        self.require_running(container)?;
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let id = hex::encode(bytes);
        let exec = Arc::new(Exec {
            id: id.clone(),
            container: container.id.clone(),
            config,
            state: Mutex::new(State::Prepared(None)),
        });
        let mut execs = self.execs();
        if execs.len() >= REMEMBERED_MAX {
            execs.retain(|_, exec| !exec.has_ended());
        }
        if execs.len() >= REMEMBERED_MAX {
            return Err(Error::wrong_state(format!(
                "more than {REMEMBERED_MAX} exec instances are open"
            )));
        }
        execs.insert(id.clone(), exec);
        drop(execs);
        self.container_event(container, &event, &[("execID", id.clone())]);
        Ok(id)
    }

    pub(crate) fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        let found = self.execs().get(id).cloned();
        found.ok_or_else(|| Error::NoSuchExec { id: id.to_owned() })
    }

    pub(crate) async fn exec_start(
        self: &Arc<Self>,
        id: &str,
        attach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>> {
        let exec = self.exec(id)?;
        let container = self.find(exec.container.as_str())?;
        self.require_running(&container)?;
        let wanted = {
            let mut state = exec.state();
            match *state {
                State::Prepared(wanted) => {
                    *state = State::Starting(None);
                    wanted
                }
                State::Starting(_) | State::Running { .. } | State::Ended { .. } => {
                    return Err(Error::wrong_state(format!(
                        "Error: Exec command {id} has already run"
                    )));
                }
            }
        };
        match self.exec_launch(&exec, &container, attach, size.or(wanted)).await {
            Ok(session) => Ok(session),
            Err(error) => {
                let code = match &error {
                    Error::Runtime(RuntimeError::Start { code, .. }) => *code,
                    _ => 126,
                };
                exec.end(code);
                Err(match error {
                    Error::Runtime(RuntimeError::Start { code, message }) => Error::StartFailed {
                        code,
                        message,
                        invalid: true,
                    },
                    error => error,
                })
            }
        }
    }

    async fn exec_launch(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        container: &Arc<Container>,
        attach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>> {
        let config = &exec.config;
        let run = self.running(container)?;
        let user = self.exec_user(config, run.monitor.pid()).await?;
        let all = config.privileged.then(|| bounding_of(self.host.capabilities));
        let process = exec_process(
            &run.process,
            &config.command,
            &config.env,
            &config.working_dir,
            config.tty,
            user.as_ref(),
            all,
        )?;
        let request = ExecRequest {
            process,
            terminal: config.tty,
            console_size: size.or(config.size),
            stdin_open: attach && config.stdin,
            output: attach && (config.stdout || config.stderr),
        };
        let session = run.monitor.exec(request).await?;
        let running = State::Running {
            pid: session.pid,
            control: session.control.clone(),
        };
        let before = std::mem::replace(&mut *exec.state(), running);
        if let State::Starting(Some((rows, columns))) = before {
            // The process may have ended; then its terminal needs no size.
            let _ = session.control.resize(rows, columns).await;
        }
        let event = format!("exec_start: {}", command_line(&config.command));
        self.container_event(container, &event, &[("execID", exec.id.clone())]);
        let streams = AttachRequest {
            stdin: config.stdin,
            stdout: config.stdout,
            stderr: config.stderr,
        };
        let client = attach.then(|| self.session(session.stream, config.tty, streams));
        let (client, open) = client.unzip();
        self.watch_exec(exec, container, session.control, open);
        Ok(client)
    }

    /// The user that the process asks for, found in the running container's own database.
    async fn exec_user(self: &Arc<Self>, config: &ExecConfig, pid: i32) -> Result<Option<ProcessUser>> {
        if config.user.is_empty() {
            return Ok(None);
        }
        let wanted = config.user.clone();
        self.blocking(move |_| {
            let path = format!("/proc/{pid}/root");
            let root =
                std::fs::File::open(&path).map_err(|error| Error::io(format!("open {path}"), error))?;
            user::resolve(root.as_fd(), &wanted, &[]).map(Some)
        })
        .await
    }

    /// Records the end of the process. `open` keeps the client's output from ending before that: a client asks for the
    /// exit status as soon as its output ends.
    fn watch_exec(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        container: &Arc<Container>,
        control: ExecControl,
        open: Option<OutputSender>,
    ) {
        let (inner, exec, container) = (Arc::clone(self), Arc::clone(exec), Arc::clone(container));
        self.tasks.spawn(async move {
            let code = tokio::select! {
                code = control.wait() => code.unwrap_or(CODE_LOST),
                () = inner.stopping.cancelled() => return,
            };
            if exec.end(code) {
                let more = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
                inner.container_event(&container, "exec_die", &more);
            }
            drop(open);
        });
    }

    /// The container ended, and with it every process in it.
    pub(crate) fn end_execs(&self, container: &ContainerId) {
        for exec in self.execs().values().filter(|exec| exec.container == *container) {
            exec.end(CODE_LOST);
        }
    }

    /// The container is removed.
    /// The processes of a container that were made and have not ended.
    pub(crate) fn execs_of(&self, container: &ContainerId) -> Vec<String> {
        let execs = self.execs();
        let of = execs
            .values()
            .filter(|exec| exec.container == *container && !exec.has_ended());
        let mut ids: Vec<_> = of.map(|exec| exec.id.clone()).collect();
        ids.sort();
        ids
    }

    pub(crate) fn forget_execs(&self, container: &ContainerId) {
        self.execs().retain(|_, exec| exec.container != *container);
    }

    fn require_running(&self, container: &Container) -> Result<()> {
        match container.phase() {
            Phase::Running => Ok(()),
            Phase::Paused => Err(Error::wrong_state(format!(
                "container {} is paused, unpause the container before exec",
                container.id
            ))),
            _ => Err(Error::wrong_state(format!(
                "container {} is not running",
                container.id
            ))),
        }
    }

    fn execs(&self) -> MutexGuard<'_, std::collections::HashMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
