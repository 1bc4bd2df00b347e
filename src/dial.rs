//! `muster system dial-stdio`: connects standard input and output with the engine's socket. The docker CLI of another
//! machine runs it through ssh, as `docker system dial-stdio`; a link to this binary under the name `docker` serves that.

use crate::config::{DEFAULT_SOCKET, DOCKER_SOCKET};
use crate::firewall::{self, FirewallCommand};
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

/// Bytes carried at once; the size of a pipe.
const PIECE_BYTES: usize = 64 << 10;

/// `muster system …`
#[derive(Debug, Args)]
pub struct SystemCommand {
    /// Engine to talk to [default: DOCKER_HOST, /run/muster/docker.sock or /var/run/docker.sock]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    host: Option<String>,
    #[command(subcommand)]
    action: OwnAction,
}

/// What `muster system` knows: more than `docker system` here.
#[derive(Debug, Clone, Copy, Subcommand)]
enum OwnAction {
    #[command(flatten)]
    Docker(SystemAction),
    /// Show or take back what was done so that other firewalls of this host admit containers
    #[command(subcommand)]
    Firewall(FirewallCommand),
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum SystemAction {
    /// Connect standard input and output with the engine's socket, for a docker CLI behind ssh
    DialStdio,
}

/// What is understood of the docker CLI's command line.
#[derive(Debug, Parser)]
#[command(
    name = "docker",
    about = "Stands in for the docker CLI where ssh looks for it: it knows `docker system dial-stdio` only"
)]
struct DockerLine {
    #[arg(short = 'H', long = "host", value_name = "URL")]
    host: Option<String>,
    #[command(subcommand)]
    command: DockerCommand,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum DockerCommand {
    /// What ssh connections of docker contexts need
    #[command(subcommand)]
    System(SystemAction),
}

/// Whether the binary was called by this name.
pub fn is_called_docker(program: Option<&OsString>) -> bool {
    program
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == "docker")
}

/// The binary as `docker`.
pub fn as_docker() -> anyhow::Result<()> {
    let DockerLine {
        host,
        command: DockerCommand::System(SystemAction::DialStdio),
    } = DockerLine::parse();
    dial_stdio(host)
}

/// `muster system …`
pub fn run(command: SystemCommand) -> anyhow::Result<()> {
    match command.action {
        OwnAction::Docker(SystemAction::DialStdio) => dial_stdio(command.host),
        OwnAction::Firewall(command) => firewall::run(command),
    }
}

/// The socket of the engine to talk to: of this URL, of `DOCKER_HOST`, or the first of the usual ones that is there.
pub fn engine_socket(host: Option<String>) -> anyhow::Result<PathBuf> {
    let named = host.or_else(|| std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()));
    let default = DEFAULT_SOCKET.trim_start_matches("unix://");
    socket(named.as_deref(), [Path::new(default), Path::new(DOCKER_SOCKET)])
}

fn dial_stdio(host: Option<String>) -> anyhow::Result<()> {
    let path = engine_socket(host)?;
    let connect = || {
        format!(
            "cannot connect to the engine at {}; is it running?",
            path.display()
        )
    };
    let to_engine = UnixStream::connect(&path).with_context(connect)?;
    let from_engine = to_engine.try_clone()?;
    // Rust's own standard output waits for the end of a line.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    thread::spawn(move || {
        // The end of the client's side ends ours only: the engine may still have something to say.
        let _ = carry(input, &to_engine);
        let _ = to_engine.shutdown(Shutdown::Write);
    });
    // The process ends with the engine's side, also while its input is still open.
    carry(from_engine, output).context("the connection to the engine broke")
}

/// The socket that was named, or the first of the usual ones that is there.
fn socket(named: Option<&str>, usual: [&Path; 2]) -> anyhow::Result<PathBuf> {
    match named {
        Some(url) => match url.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => bail!("cannot dial {url:?}: use unix:///path of a socket of this machine"),
        },
        None => {
            let found = usual.iter().find(|path| path.exists());
            Ok(found.unwrap_or(&usual[0]).to_path_buf())
        }
    }
}

fn carry(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return to.flush(),
            Ok(length) => to.write_all(&piece[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_named_one_or_the_first_that_is_there() {
        let (missing, there) = (Path::new("/nonexistent"), Path::new("/"));
        let found = |named| socket(named, [missing, there]).ok();
        assert_eq!(
            found(Some("unix:///run/x.sock")),
            Some(PathBuf::from("/run/x.sock"))
        );
        assert_eq!(found(None), Some(there.to_owned()));
        assert_eq!(socket(None, [missing, missing]).unwrap(), missing);
        for bad in ["tcp://127.0.0.1:2375", "unix://x", "/run/x.sock"] {
            assert_eq!(found(Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn the_line_that_ssh_runs_is_understood() {
        for line in [
            &["docker", "system", "dial-stdio"][..],
            &["docker", "--host=unix:///run/x.sock", "system", "dial-stdio"],
            &["docker", "-H", "unix:///run/x.sock", "system", "dial-stdio"],
        ] {
            assert!(DockerLine::try_parse_from(line).is_ok(), "{line:?}");
        }
        assert!(DockerLine::try_parse_from(["docker", "ps"]).is_err());
        assert!(is_called_docker(Some(&"/usr/bin/docker".into())));
        assert!(!is_called_docker(Some(&"muster".into())) && !is_called_docker(None));
    }
}
