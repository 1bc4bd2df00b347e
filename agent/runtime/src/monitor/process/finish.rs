//! Transitions: a held process that is released, exec'ed processes and the container that end.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::super::connection::SOCKET_NAME;
use super::super::frame::{self, Kind};
use super::client::Role;
use super::listener::hand_over;
use super::server::Server;
use crate::error::RuntimeError;
use crate::exit::{self, ExitStatus, RecordedExit};
use crate::launch::{self, ExecTarget, Released};
use crate::sys;

/// How long the removal of the control group may take.
const DESTROY_DEADLINE: Duration = Duration::from_secs(5);

/// Ended exec'ed processes whose codes are kept for a late question.
const EXEC_CODES_MAX: usize = 256;

impl Server {
    /// Lets a held process go, or repeats the answer for one that runs.
    pub(super) fn release(&mut self, index: usize) {
        match &self.held {
            None => self.clients[index].send(Kind::Done, &[]),
            Some(held) => {
                // A process that is gone shows on the socket.
                let _ = crate::init::sync::send_go(held.as_fd());
                self.clients[index].role = Role::WaitsForRelease;
            }
        }
    }

    pub(super) fn hear_released(&mut self) {
        let Some(held) = self.held.take() else { return };
        let (plan, init) = (&self.plan, &self.processes[0]);
        let process = ExecTarget {
            init: init.pidfd.as_fd(),
            init_pid: init.pid,
            cgroup: self.cgroup.as_ref(),
        };
        let answer = launch::read_released(
            held.as_fd(),
            |failure| launch::start_error(plan, failure),
            |listener| hand_over(plan, "created", init.pid, &process, listener),
        );
        let frame = match answer {
            Released::Running => frame::encode_bytes(Kind::Done, &[]),
            Released::Failed(error) => {
                // The agent of its filter may keep it, and let it go on later.
                let _ = sys::pidfd_signal(process.init, libc::SIGKILL);
                self.note_failure(&error)
            }
        };
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.role == Role::WaitsForRelease)
        {
            client.send_frame(&frame);
            client.role = Role::Idle;
        }
    }

    fn note_failure(&mut self, error: &RuntimeError) -> Vec<u8> {
        let (code, message) = launch::code_and_message(error);
        self.failure = Some((code, message.clone()));
        frame::encode(Kind::Error, &frame::ErrorBody { code, message })
    }

    /// Reports exec'ed processes that have ended and said everything.
    pub(super) fn finish_execs(&mut self) {
        let Server {
            processes,
            clients,
            exec_codes,
            ..
        } = self;
        let mut index = 1;
        while index < processes.len() {
            let process = &processes[index];
            let Some(ended) = process.ended().filter(|_| !process.has_output()) else {
                index += 1;
                continue;
            };
            let number = processes.remove(index).number;
            exec_codes.push((number, ended.code));
            for client in clients.iter_mut() {
                match client.role {
                    Role::WaitsForExec(waited) if waited == number => {
                        client.send_frame(&frame::encode(Kind::ExecExited, &ended.code));
                        client.role = Role::Idle;
                    }
                    Role::Attached { process, .. } if process == number => {
                        client.send(Kind::OutputEnd, &[]);
                        client.role = Role::Idle;
                    }
                    _ => {}
                }
            }
        }
        let surplus = exec_codes.len().saturating_sub(EXEC_CODES_MAX);
        exec_codes.drain(..surplus);
    }

    /// Ends what is left of the container and records how it ended. What was recorded is still to be made durable.
    pub(super) fn settle(&mut self) -> (ExitStatus, Option<RecordedExit>) {
        let finished_at_ns = exit::wall_clock_ns();
        let ended = self.processes[0].ended();
        let mut status = ExitStatus {
            code: ended.map_or(128, |ended| ended.code),
            signal: ended.and_then(|ended| ended.signal),
            oom_killed: self
                .cgroup
                .as_ref()
                .is_some_and(|group| group.oom_kills().is_ok_and(|kills| kills > 0)),
            finished_at_ns,
            reason: None,
        };
        if let Some((code, message)) = self.failure.take() {
            (status.code, status.reason) = (code, Some(message));
        }
        if let Some(group) = self.cgroup.take() {
            // Without a process id namespace of its own, processes outlive the container's init.
            let problem = group.remove(DESTROY_DEADLINE).err();
            if let Some(problem) = problem.filter(|_| status.reason.is_none()) {
                status.reason = Some(crate::error::chain(&problem));
            }
        }
        for process in &mut self.processes {
            process.reap();
        }
        let recorded = self
            .plan
            .exit_file
            .as_ref()
            .map(|file| exit::record_exit(file, &status));
        match recorded.transpose() {
            Ok(recorded) => (status, recorded),
            Err(problem) => {
                status.reason.get_or_insert(crate::error::chain(&problem));
                (status, None)
            }
        }
    }

    pub(super) fn answer_end(&mut self, status: &ExitStatus) {
        // New connections are refused from here on: the exit file answers instead.
        let socket: PathBuf = self.plan.state_dir.join(SOCKET_NAME);
        let _ = std::fs::remove_file(socket);
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.finish_execs();
        let exited = frame::encode(Kind::Exited, status);
        for client in &mut self.clients {
            match client.role {
                Role::WaitsForExit => client.send_frame(&exited),
                Role::Attached { .. } => client.send(Kind::OutputEnd, &[]),
                Role::WaitsForExec(_) | Role::WaitsForRelease | Role::Idle => {}
            }
        }
    }
}
