//! The real docker CLI.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// No single command takes longer, unless something hangs.
const SECONDS_MAX: &str = "120";

/// The CLI, talking to one daemon.
#[derive(Debug, Clone)]
pub struct Docker {
    socket: PathBuf,
    settings: PathBuf,
}

/// What a command answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Docker {
    /// The CLI of the daemon behind this socket, with settings of its own.
    pub fn new(socket: &Path, settings: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            settings: settings.to_owned(),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `docker ARGS…` and returns whatever it answers.
    pub fn try_run(&self, args: &[&str]) -> Output {
        let mut command = self.command("timeout");
        command.args(["--kill-after=5", SECONDS_MAX, "docker"]).args(args);
        finish(&mut command)
    }

    /// Runs `docker ARGS…`, which must succeed, and returns what it printed, without space around it.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert_eq!(output.code, 0, "docker {}: {output:?}", args.join(" "));
        output.stdout.trim().to_owned()
    }

    /// Runs `docker ARGS…`, which must fail, and returns its complaint.
    #[track_caller]
    pub fn refuse(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert_ne!(output.code, 0, "docker {} succeeded: {output:?}", args.join(" "));
        assert_ne!(output.code, 124, "docker {} hung: {output:?}", args.join(" "));
        output.stderr.trim().to_owned()
    }

    /// Runs `docker ARGS…` and returns the lines it printed.
    #[track_caller]
    pub fn lines(&self, args: &[&str]) -> Vec<String> {
        self.run(args).lines().map(str::to_owned).collect()
    }

    /// Runs a shell command line with a `docker` that talks to this daemon, on a terminal of its own.
    pub fn on_terminal(&self, line: &str) -> Output {
        let mut command = self.command("timeout");
        command.args(["--foreground", SECONDS_MAX, "script", "-qec", line, "/dev/null"]);
        finish(&mut command)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", &self.settings)
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION")
            .stdin(Stdio::null());
        command
    }
}

fn finish(command: &mut Command) -> Output {
    let output = command
        .output()
        .expect("`timeout`, `script` and `docker` are in the path");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
