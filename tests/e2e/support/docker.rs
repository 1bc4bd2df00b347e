//! The real docker CLI.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// No single command takes longer, unless something hangs.
const SECONDS_MAX: &str = "120";

/// The CLI, talking to one daemon.
#[derive(Debug, Clone)]
pub struct Docker {
    program: &'static str,
    socket: PathBuf,
    host: String,
    settings: PathBuf,
    /// Where programs are looked for first.
    programs: Option<PathBuf>,
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
            ..Self::at(&format!("unix://{}", socket.display()), settings)
        }
    }

    /// The CLI of the daemon at this address.
    pub fn at(host: &str, settings: &Path) -> Self {
        Self {
            program: "docker",
            socket: PathBuf::new(),
            host: host.to_owned(),
            settings: settings.to_owned(),
            programs: None,
        }
    }

    /// The same daemon, asked by a CLI that finds programs in this directory first.
    pub fn found_in(self, directory: &Path) -> Self {
        Self {
            programs: Some(directory.to_owned()),
            ..self
        }
    }

    /// Asks a [`SERVER`](super::SERVER) for its name, from inside a container.
    pub fn ask(&self, container: &str, host: &str) -> Output {
        let url = format!("http://{host}/name");
        let wget = ["timeout", "5", "/bin/busybox", "wget", "-qO-", &url];
        self.try_run(&[&["exec", container, "/bin/busybox"][..], &wget].concat())
    }

    /// What `service ps` says of the state of a service's tasks, and why.
    pub fn task_states(&self, service: &str) -> String {
        let format = "{{.CurrentState}} {{.Error}}";
        self.run(&["service", "ps", "--no-trunc", "--format", format, service])
    }

    /// The same daemon, asked by another CLI.
    pub fn by(self, program: &'static str) -> Self {
        Self { program, ..self }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `docker ARGS…` and returns whatever it answers.
    pub fn try_run(&self, args: &[&str]) -> Output {
        let mut command = self.command("timeout");
        command
            .args(["--kill-after=5", SECONDS_MAX, self.program])
            .args(args);
        finish(&mut command)
    }

    /// Runs `docker ARGS…` with this input.
    pub fn piped(&self, input: &[u8], args: &[&str]) -> Output {
        let mut command = self.command("timeout");
        command
            .args(["--kill-after=5", SECONDS_MAX, self.program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("`timeout` is in the path");
        let mut keyboard = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        // A process that ends early leaves the rest of its input.
        let typing = std::thread::spawn(move || keyboard.write_all(&input));
        let output = child.wait_with_output().expect("it was started");
        let _ = typing.join();
        answered(&output)
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

    /// As [`Docker::on_terminal`], with somebody who types each text as soon as the one before it is shown.
    #[track_caller]
    pub fn typing(&self, line: &str, conversation: &[(&str, &str)]) -> Output {
        let mut command = self.command("timeout");
        command
            .args(["--foreground", SECONDS_MAX, "script", "-qec", line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("`timeout` is in the path");
        let mut keyboard = child.stdin.take().expect("it is piped");
        let mut screen = child.stdout.take().expect("it is piped");
        let mut shown = Vec::new();
        let mut seen = 0;
        for (awaited, typed) in conversation {
            loop {
                let text = String::from_utf8_lossy(&shown[seen..]).into_owned();
                if text.contains(awaited) {
                    break;
                }
                let mut piece = [0; 4096];
                let count = screen.read(&mut piece).expect("the terminal can be read");
                assert_ne!(count, 0, "{line}: no {awaited:?} in {text:?}");
                shown.extend_from_slice(&piece[..count]);
            }
            seen = shown.len();
            keyboard
                .write_all(typed.as_bytes())
                .expect("the terminal takes input");
        }
        screen.read_to_end(&mut shown).expect("the terminal can be read");
        let status = child.wait().expect("it was started");
        Output {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&shown).into_owned(),
            stderr: String::new(),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", &self.settings)
            // Builds are the engine's own.
            .env("DOCKER_BUILDKIT", "0")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION")
            .stdin(Stdio::null());
        if let Some(programs) = &self.programs {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", programs.display()));
        }
        command
    }
}

/// The command that deploys the stack `shop` of a compose file.
pub fn stack_deploy<'a>(file: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    let file = file.to_str().expect("the path is text");
    let begin = [
        "stack",
        "deploy",
        "--detach=true",
        "--resolve-image",
        "never",
        "-c",
        file,
    ];
    [&begin[..], options, &["shop"]].concat()
}

fn finish(command: &mut Command) -> Output {
    let output = command
        .output()
        .expect("`timeout`, `script` and `docker` are in the path");
    answered(&output)
}

fn answered(output: &std::process::Output) -> Output {
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
