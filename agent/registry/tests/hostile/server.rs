//! A small server that answers whatever a test wants, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Only so many bytes of the body are sent, though all are announced; then the connection is closed.
    pub cut_after: Option<usize>,
    /// After so many bytes of the body nothing more comes, until the client goes away.
    pub paused_after: Option<usize>,
    /// The body comes byte by byte, one now and then.
    pub trickles: bool,
    /// The body never ends.
    pub endless: bool,
    /// The body comes whole, but the connection is closed before it says that it is.
    pub unended: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Handler = dyn Fn(&Asked, usize) -> Answer + Send + Sync;

/// Answers at a port of 127.0.0.1. Its threads end with the test.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// The handler is given how often the same method and path were asked for before.
    pub fn start(handler: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
        };
        let (asked, handler): (_, Arc<Handler>) = (server.asked.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, handler) = (asked.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, &asked, &*handler));
            }
        });
        server
    }

    /// `host:port`.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Everything that was asked for.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// What was asked for with a path that contains this.
    pub fn asked_for(&self, part: &str) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.path.contains(part));
        asked
    }
}

/// Serves one connection until it closes or does not speak HTTP.
fn serve(stream: TcpStream, asked: &Mutex<Vec<Asked>>, handler: &Handler) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        let before = {
            let mut all = asked.lock().unwrap();
            let same = |one: &&Asked| one.method == request.method && one.path == request.path;
            let before = all.iter().filter(same).count();
            all.push(request.clone());
            before
        };
        let answer = handler(&request, before);
        if write_answer(&mut stream, &request, &answer).is_none() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    // A TLS greeting is no text.
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let mut request = Asked {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Asked::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        request
            .headers
            .insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = request
        .headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn write_answer(stream: &mut TcpStream, request: &Asked, answer: &Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Said\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.endless {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let piece = vec![b'x'; 64 << 10];
        loop {
            stream
                .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
                .ok()?;
            stream.write_all(&piece).ok()?;
            stream.write_all(b"\r\n").ok()?;
        }
    }
    if answer.unended {
        head.push_str(&format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            answer.body.len()
        ));
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&answer.body).ok()?;
        stream.write_all(b"\r\n").ok()?;
        return None;
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    if answer.trickles {
        for byte in &answer.body {
            stream.write_all(&[*byte]).ok()?;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        return Some(());
    }
    if let Some(bytes) = answer.paused_after {
        stream.write_all(&answer.body[..bytes]).ok()?;
        // It ends when the client closes the connection.
        let _ = stream.read(&mut [0]);
        return None;
    }
    let sent = answer
        .cut_after
        .unwrap_or(answer.body.len())
        .min(answer.body.len());
    stream.write_all(&answer.body[..sent]).ok()?;
    (sent == answer.body.len()).then_some(())
}
