//! The demo's web server: answers every request with its task, its node and how many requests it has answered.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Port that it listens on.
pub const PORT: u16 = 8000;
/// A client that says nothing for so long is dropped.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of a request's head that are read.
const HEAD_LINES_MAX: usize = 100;

/// Serves until the process is ended.
pub fn serve() -> anyhow::Result<()> {
    stop_on_signal();
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    let requests = AtomicU64::new(0);
    println!("listening on port {PORT}");
    for stream in listener.incoming() {
        let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
        if let Err(error) = stream.and_then(|stream| answer(stream, number)) {
            eprintln!("request {number}: {error}");
        }
    }
    Ok(())
}

/// Process 1 of a container ignores signals that it has no handler for.
fn stop_on_signal() {
    extern "C" fn stop(_: i32) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(0) }
    }
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
    ] {
        let handler = nix::sys::signal::SigHandler::Handler(stop);
        // SAFETY: the handler only calls _exit, which is async-signal-safe.
        if let Err(error) = unsafe { nix::sys::signal::signal(signal, handler) } {
            eprintln!("cannot handle {signal}: {error}");
        }
    }
}

fn answer(stream: TcpStream, number: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    let mut lines = BufReader::new(&stream).lines().take(HEAD_LINES_MAX);
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    println!("request {number}: {first}");
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let hostname = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let body = format!(
        "task={} node={} host={hostname} requests={number}\n",
        variable("TASK"),
        variable("NODE")
    );
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
