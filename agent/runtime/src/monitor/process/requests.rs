//! What clients ask of a monitor.

use std::os::fd::AsFd;

use super::super::frame::{
    self, AttachBody, ErrorBody, ExecStartedBody, Kind, ResizeBody, SignalBody, TARGET_INIT,
};
use super::client::Role;
use super::container::Process;
use super::listener::Executing;
use super::server::{Server, is_gone};
use crate::error::{Result, RuntimeError, chain};
use crate::launch::{self, ExecTarget};
use crate::plan::ExecPlan;
use crate::sys;

/// Processes that were exec'ed into one container at once; each costs the monitor four descriptors.
const EXECS_MAX: usize = 200;

impl Server {
    /// Carries out one request.
    pub(super) fn request(&mut self, index: usize, kind: u8, payload: &[u8]) {
        let result = match Kind::from_byte(kind) {
            Some(Kind::Wait) => self.set_role(index, Role::WaitsForExit),
            Some(Kind::Attach) => self.attach(index, payload),
            Some(Kind::Resize) => self.resize(index, payload),
            Some(Kind::Signal) => self.signal(index, payload),
            Some(Kind::Release) => {
                self.release(index);
                Ok(())
            }
            Some(Kind::Exec) => self.exec(index, payload),
            Some(Kind::WaitExec) => self.wait_exec(index, payload),
            Some(Kind::StdinData) => self.stdin_data(index, payload),
            Some(Kind::StdinClose) => self.stdin_close(index),
            Some(
                Kind::Hello
                | Kind::Done
                | Kind::Error
                | Kind::Exited
                | Kind::Stdout
                | Kind::Stderr
                | Kind::Console
                | Kind::ExecStarted
                | Kind::ExecExited
                | Kind::OutputEnd,
            )
            | None => Err(refused(format!(
                "this monitor does not know requests of kind {kind}"
            ))),
        };
        if let Err(error) = result {
            self.clients[index].send_frame(&error_frame(&error));
        }
    }

    fn set_role(&mut self, index: usize, role: Role) -> Result<()> {
        self.clients[index].role = role;
        Ok(())
    }

    fn attach(&mut self, index: usize, payload: &[u8]) -> Result<()> {
        let AttachBody {
            stdin,
            stdout,
            stderr,
        } = frame::decode(payload)?;
        self.clients[index].send(Kind::Done, &[]);
        self.set_role(
            index,
            Role::Attached {
                process: TARGET_INIT,
                stdin,
                stdout,
                stderr,
            },
        )
    }

    fn resize(&mut self, index: usize, payload: &[u8]) -> Result<()> {
        let ResizeBody {
            target,
            rows,
            columns,
        } = frame::decode(payload)?;
        let terminal = self.process(target)?.streams.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| refused("the process has no terminal".to_owned()))?;
        sys::set_terminal_size(terminal.as_fd(), rows, columns)
            .map_err(|error| RuntimeError::io("resize the terminal", error))?;
        self.clients[index].send(Kind::Done, &[]);
        Ok(())
    }

    fn signal(&mut self, index: usize, payload: &[u8]) -> Result<()> {
        let SignalBody { target, signal, all } = frame::decode(payload)?;
        // A process that ended cannot tell that it was sent a signal a moment too late.
        let sent = |outcome: std::result::Result<(), _>| match outcome {
            Err(error) if !is_gone(error) => Err(RuntimeError::io(format!("send signal {signal}"), error)),
            _ => Ok(()),
        };
        match (&self.cgroup, all) {
            (Some(group), true) => {
                let pids = group
                    .pids()
                    .map_err(|source| RuntimeError::cgroup("list", source))?;
                for pid in pids {
                    sent(sys::kill(pid, signal))?;
                }
            }
            _ => sent(sys::pidfd_signal(self.process(target)?.pidfd.as_fd(), signal))?,
        }
        self.clients[index].send(Kind::Done, &[]);
        Ok(())
    }

    fn exec(&mut self, index: usize, payload: &[u8]) -> Result<()> {
        let mut plan: ExecPlan = frame::decode(payload)?;
        if self.held.is_some() {
            return Err(refused("the container is not running yet".to_owned()));
        }
        if self.processes.len() > EXECS_MAX {
            return Err(refused(format!(
                "{EXECS_MAX} processes were exec'ed into this container already"
            )));
        }
        plan.process.filter = self.plan.process.filter.clone();
        let target = ExecTarget {
            init: self.processes[0].pidfd.as_fd(),
            init_pid: self.processes[0].pid,
            cgroup: self.cgroup.as_ref(),
        };
        let mut executing = Executing {
            plan: &self.plan,
            container_pid: target.init_pid,
        };
        let launched = launch::exec(&plan, &target, &mut executing)?;
        self.exec_count += 1;
        let (number, pid) = (self.exec_count, launched.pid);
        let process = Process::from_launched(number, launched);
        self.processes.push(process);
        let client = &mut self.clients[index];
        client.send_frame(&frame::encode(
            Kind::ExecStarted,
            &ExecStartedBody { pid, number },
        ));
        let (stdin, stdout, stderr) = (plan.stdin_open, true, true);
        self.set_role(
            index,
            Role::Attached {
                process: number,
                stdin,
                stdout,
                stderr,
            },
        )
    }

    fn wait_exec(&mut self, index: usize, payload: &[u8]) -> Result<()> {
        let number: u32 = frame::decode(payload)?;
        if let Some((_, code)) = self.exec_codes.iter().find(|(known, _)| *known == number) {
            let frame = frame::encode(Kind::ExecExited, code);
            self.clients[index].send_frame(&frame);
            return Ok(());
        }
        self.process(number)?;
        self.set_role(index, Role::WaitsForExec(number))
    }

    fn stdin_data(&mut self, index: usize, payload: &[u8]) -> Result<()> {
        if let Role::Attached {
            process: number,
            stdin: true,
            ..
        } = self.clients[index].role
            && let Some(process) = self.processes.iter_mut().find(|process| process.number == number)
        {
            process.write_input(payload);
        }
        Ok(())
    }

    fn stdin_close(&mut self, index: usize) -> Result<()> {
        if let Role::Attached {
            process, stdin: true, ..
        } = self.clients[index].role
        {
            self.end_input(process);
        }
        Ok(())
    }

    fn process(&self, number: u32) -> Result<&Process> {
        let found = self.processes.iter().find(|process| process.number == number);
        found.ok_or_else(|| refused("no such process in the container".to_owned()))
    }
}

fn refused(message: String) -> RuntimeError {
    RuntimeError::Refused { message }
}

fn error_frame(error: &RuntimeError) -> Vec<u8> {
    let body = match error {
        RuntimeError::Start { message, code } => ErrorBody {
            code: *code,
            message: message.clone(),
        },
        other => ErrorBody {
            code: 0,
            message: chain(other),
        },
    };
    frame::encode(Kind::Error, &body)
}
