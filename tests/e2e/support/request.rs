//! Requests without a client: to ports from inside a network namespace, and such as no client would send.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time for a page.
const FETCH_WITHIN: Duration = Duration::from_secs(5);

/// What a client does after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It waits until the daemon closes the connection.
    Wait,
    /// It says that nothing more will come.
    Close,
}

/// Sends these bytes and nothing more, and returns all that comes back.
pub fn raw_request(socket: &Path, bytes: &[u8], ending: Ending) -> String {
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time-out can be set");
    // The daemon may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    if ending == Ending::Close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a request with this body and returns status line and body.
pub fn json_request(socket: &Path, line: &str, body: &str) -> (String, String) {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw_request(socket, request.as_bytes(), Ending::Wait);
    let status = answer.lines().next().unwrap_or_default().to_owned();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status, body.unwrap_or_default())
}

/// Fetches a page from inside a network namespace.
pub fn fetch_inside(namespace: &Path, address: &str, path: &str) -> Result<String, String> {
    let answer = send_inside(
        namespace,
        address,
        format!("GET /{path} HTTP/1.0\r\nHost: {address}\r\n\r\n"),
    )?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => Err(answer),
    }
}

/// Connects from inside a network namespace, in which the connection stays.
pub fn connect_inside(namespace: &Path, address: &str) -> Result<TcpStream, String> {
    let namespace = File::open(namespace).map_err(|error| format!("network namespace: {error}"))?;
    let target: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    // Only the thread that enters it is in the namespace, and it ends here.
    let thread = std::thread::spawn(move || -> std::io::Result<TcpStream> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect_timeout(&target, FETCH_WITHIN)
    });
    let connected = thread.join().map_err(|_| "the thread panicked".to_owned())?;
    connected.map_err(|error| format!("{address}: {error}"))
}

/// Sends a request from inside a network namespace and returns all that comes back.
pub fn send_inside(namespace: &Path, address: &str, request: String) -> Result<String, String> {
    let mut stream = connect_inside(namespace, address)?;
    let mut exchange = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(FETCH_WITHIN))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    exchange().map_err(|error| format!("{address}: {error}"))
}
