//! Exec.

use super::Read;
use crate::backend::{ExecConfig, ExecInfo};
use crate::http::Failure;
use crate::wire::exec::CreateBody;
use serde_json::{Value, json};

/// Reads the body of `POST /containers/{id}/exec`.
pub(crate) fn read(body: CreateBody) -> Read<ExecConfig> {
    let command: Vec<String> = body.cmd.map(Vec::from).unwrap_or_default();
    if command.first().is_none_or(String::is_empty) {
        return Err(Failure::invalid("No exec command specified"));
    }
    Ok(ExecConfig {
        command,
        env: body.env,
        working_dir: body.working_dir,
        user: body.user,
        tty: body.tty,
        privileged: body.privileged,
        stdin: body.attach_stdin,
        stdout: body.attach_stdout,
        stderr: body.attach_stderr,
        size: body.console_size.and_then(size),
        detach_keys: body.detach_keys,
    })
}

/// Rows and columns; zero means that the client does not know.
pub(crate) fn size([rows, columns]: [u16; 2]) -> Option<(u16, u16)> {
    (rows != 0 && columns != 0).then_some((rows, columns))
}

/// Answer of `GET /exec/{id}/json`.
pub(crate) fn inspect(info: &ExecInfo) -> Value {
    let config = &info.config;
    let (entrypoint, arguments) = match config.command.split_first() {
        Some((first, rest)) => (first.as_str(), rest),
        None => ("", [].as_slice()),
    };
    json!({
        "ID": info.id,
        "Running": info.running,
        "ExitCode": info.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": config.privileged,
            "user": config.user,
        },
        "OpenStdin": config.stdin,
        "OpenStderr": config.stderr,
        "OpenStdout": config.stdout,
        "CanRemove": !info.running && info.exit_code.is_some(),
        "ContainerID": info.container.as_str(),
        "DetachKeys": config.detach_keys,
        "Pid": info.pid,
    })
}
