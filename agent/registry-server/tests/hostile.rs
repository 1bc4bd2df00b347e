//! Clients that lie, stall and ask for what cannot be, over real connections. Needs root, as the store does.

use muster_images::{Digest, ImageStore};
use muster_registry_server::{Alone, Patience, Server, ServerConfig, Traffic};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// So long clients may take in these tests.
const WITHIN: Duration = Duration::from_millis(400);
/// After this a test has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// A registry on a port of 127.0.0.1, with a store of its own.
struct Place {
    address: SocketAddr,
    store: ImageStore,
    traffic: Arc<Traffic>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        // Overlay mounts need a real file system below them.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let traffic = Arc::new(Traffic::default());
        let config = ServerConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            passwords: None,
            tls: Arc::new(|| None),
            patience: Patience {
                within: WITHIN,
                bytes_min: 16 << 10,
            },
            traffic: traffic.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let images = store.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::bind(config).await.unwrap();
                tell.send(server.addresses()[0]).unwrap();
                let stopped = async { drop(stopped.await) };
                server.run(images, Arc::new(Alone), stopped).await;
            });
        });
        Self {
            address: told.recv_timeout(LIMIT).unwrap(),
            store,
            traffic,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends a request as it is, and reads the answer.
    fn raw(&self, bytes: &[u8]) -> Option<Reply> {
        let mut stream = self.connect();
        // A server that refuses early need not take all of it.
        let _ = stream.write_all(bytes);
        Reply::read(&mut stream, bytes.starts_with(b"HEAD"))
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        bytes.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let bytes = [bytes.as_bytes(), body].concat();
        self.raw(&bytes).expect("an answer")
    }

    /// Begins an upload; returns its path.
    fn upload(&self, name: &str) -> String {
        let begun = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
        assert_eq!(begun.status, 202);
        begun.header("location").unwrap().to_owned()
    }

    fn push(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        assert_eq!(self.ask("POST", &path, &[], content).status, 201);
        digest
    }

    /// The server goes on to answer.
    fn assert_serves(&self) {
        assert_eq!(self.ask("GET", "/v2/", &[], b"").status, 200);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn read(stream: &mut TcpStream, head_only: bool) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut reply = Self {
            status,
            headers,
            body: Vec::new(),
        };
        let length = reply.header("content-length").and_then(|text| text.parse().ok());
        reply.body = vec![0; if head_only { 0 } else { length.unwrap_or(0) }];
        reader.read_exact(&mut reply.body).ok()?;
        Some(reply)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The code of an error, which must have the form that clients read.
    fn code(&self) -> String {
        let document: serde_json::Value =
            serde_json::from_slice(&self.body).expect("an error's body is JSON");
        document["errors"][0]["code"]
            .as_str()
            .expect("an error has a code")
            .to_owned()
    }
}

#[test]
fn names_and_digests_lead_nowhere_but_into_repositories() {
    let place = Place::new();
    let digest = place.push("app", b"content");
    for path in [
        "/v2/../../etc/passwd/blobs/sha256:0",
        "/v2/%2e%2e/%2e%2e/manifests/1",
        "/v2/app%2f..%2f..%2fx/tags/list",
        "/v2/app/blobs/..%2f..%2fstore.redb",
        "/v2/app/blobs/sha256:..%2f..%2f..%2fstore.redb",
        "/v2/app/blobs/sha256%00:abc",
        "/v2/app/manifests/..",
        "/v2/app/manifests/%2e%2e%2f%2e%2e",
        "/v2/app/blobs/uploads/..%2f..%2ftmp",
        "/v2/app/blobs/uploads/../../../x",
        "/v2/APP/tags/list",
        "/v2/_catalog/../app/tags/list",
        "/v2//app/tags/list",
        "/v2/app\u{fe}/tags/list",
        "//v2/app/tags/list",
        "*",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let reply = place.raw(request.as_bytes()).expect("an answer");
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
        assert!(!reply.body.windows(4).any(|part| part == b"root"), "{path}");
    }
    let other = format!("/v2/other/blobs/{digest}");
    assert_eq!(
        place.ask("GET", &other, &[], b"").status,
        404,
        "a blob of another repository"
    );
    let own = place.ask("GET", &format!("/v2/app/blobs/{digest}"), &[], b"");
    assert_eq!((own.status, own.body.as_slice()), (200, &b"content"[..]));
    place.assert_serves();
}

#[test]
fn ranges_give_what_there_is_and_no_more() {
    let place = Place::new();
    let digest = place.push("app", b"0123456789");
    let path = format!("/v2/app/blobs/{digest}");
    for (range, status, body) in [
        ("bytes=2-4", 206, &b"234"[..]),
        ("bytes=-3", 206, b"789"),
        ("bytes=7-99999999999999999999", 200, b"0123456789"),
        ("bytes=7-18446744073709551615", 206, b"789"),
        ("bytes=0-0,5-6", 200, b"0123456789"),
        ("bytes=10-", 416, b""),
        ("bytes=18446744073709551615-", 416, b""),
        ("bytes=--1", 200, b"0123456789"),
    ] {
        let reply = place.ask("GET", &path, &[("Range", range)], b"");
        assert_eq!(reply.status, status, "{range}");
        if status != 416 {
            assert_eq!(reply.body, body, "{range}");
        }
    }
    let served = place.traffic.served_bytes();
    assert_eq!(served, 3 + 3 + 10 + 3 + 10 + 10);
}

#[test]
fn pieces_that_lie_are_refused_and_the_upload_goes_on() {
    let place = Place::new();
    let upload = place.upload("app");
    for (headers, expected) in [
        (&[("Content-Range", "5-9")][..], 416),
        (&[("Content-Range", "0-18446744073709551615")], 416),
        (&[("Content-Range", "0-2")], 400),
        (&[("Content-Range", "x")], 416),
    ] {
        let reply = place.ask("PATCH", &upload, headers, b"01234");
        assert_eq!(reply.status, expected, "{headers:?}");
        assert!(!reply.code().is_empty());
    }
    // Of one that broke off, what came stays.
    let mut broken = place.connect();
    let head = format!("PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01");
    broken.write_all(head.as_bytes()).unwrap();
    drop(broken);
    let deadline = Instant::now() + LIMIT;
    let range = loop {
        let status = place.ask("GET", &upload, &[], b"");
        if status.status == 204 && status.header("range") == Some("0-1") {
            break status.header("range").unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::yield_now();
    };
    assert_eq!(range, "0-1");
    let wrong = place.ask(
        "PUT",
        &format!("{upload}?digest={}", Digest::of(b"other")),
        &[],
        b"2345",
    );
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(
        place.ask("GET", &upload, &[], b"").status,
        404,
        "a false digest ends the upload"
    );
    assert!(!place.store.has_blob(&Digest::of(b"012345")).unwrap());
    place.assert_serves();
}

#[test]
fn manifests_that_are_none_are_refused() {
    let place = Place::new();
    let config = place.push("app", b"{}");
    let manifest = |config: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[]}}"#
        )
    };
    let good = manifest(&config.to_string());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let both = good.replace(r#""layers":[]"#, r#""layers":[],"manifests":[]"#);
    let large = format!(r#"{{"annotations":{{"a":"{}"}}}}"#, "x".repeat(5 << 20));
    let unknown = manifest(&Digest::of(b"unknown").to_string());
    let escaping = manifest("sha256:../../../store.redb");
    for (body, expected) in [
        ("", 400),
        ("null", 400),
        ("{\"schemaVersion\":2", 400),
        (deep.as_str(), 400),
        (both.as_str(), 400),
        (escaping.as_str(), 400),
        (unknown.as_str(), 404),
        (large.as_str(), 413),
    ] {
        let reply = place.ask("PUT", "/v2/app/manifests/1", &[], body.as_bytes());
        let shown: String = body.chars().take(80).collect();
        assert_eq!(reply.status, expected, "{shown}");
        assert!(!reply.code().is_empty(), "{shown}");
    }
    let at = format!("/v2/app/manifests/{}", Digest::of(b"other"));
    assert_eq!(
        place.ask("PUT", &at, &[], good.as_bytes()).status,
        400,
        "another digest"
    );
    assert_eq!(place.ask("GET", "/v2/app/manifests/1", &[], b"").status, 404);
    let said = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
    assert_eq!(
        place
            .ask("PUT", "/v2/app/manifests/1", &said, good.as_bytes())
            .status,
        400
    );
    assert_eq!(
        place
            .ask("PUT", "/v2/app/manifests/1", &[], good.as_bytes())
            .status,
        201
    );
    let received = place.traffic.received_bytes();
    assert!(received > good.len() as u64, "{received}");
    place.assert_serves();
}

#[test]
fn what_is_no_http_ends_its_connection_only() {
    let place = Place::new();
    let headers: String = (0..20_000).map(|number| format!("a{number}: b\r\n")).collect();
    let long = format!("GET /v2/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes(),
        long.as_bytes(),
        b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let answered = place
            .raw(bytes)
            .is_none_or(|reply| (400..500).contains(&reply.status));
        assert!(
            answered,
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    place.assert_serves();
}

#[test]
fn who_sends_too_slowly_is_told_so() {
    let place = Place::new();
    let upload = place.upload("app");
    let slow = [
        format!("PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"),
        "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".to_owned(),
    ];
    for head in slow {
        let mut stream = place.connect();
        stream.write_all(head.as_bytes()).unwrap();
        // One byte now and then is no progress.
        let mut writer = stream.try_clone().unwrap();
        let trickling = std::thread::spawn(move || {
            let began = Instant::now();
            while began.elapsed() < LIMIT && writer.write_all(b"x").is_ok() {
                std::thread::park_timeout(WITHIN / 10);
            }
            began.elapsed()
        });
        let reply = Reply::read(&mut stream, false).expect("an answer");
        assert_eq!(reply.status, 408, "{head}");
        let _ = stream.shutdown(std::net::Shutdown::Both);
        assert!(trickling.join().unwrap() < LIMIT);
    }
    // Nobody is at the upload any more.
    assert_eq!(place.ask("DELETE", &upload, &[], b"").status, 204);
    place.assert_serves();
}

#[test]
fn who_does_not_read_is_cut_off() {
    let place = Place::new();
    let content: Vec<u8> = (0..32_000_000_u32).map(|at| (at % 251) as u8).collect();
    let digest = place.push("app", &content);
    let mut stream = place.connect();
    let request = format!("GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // The server has given up once it has closed its side; what it had sent by then can still be read.
    let deadline = Instant::now() + LIMIT;
    while !is_closed_by(place.address, &stream) {
        assert!(
            Instant::now() < deadline,
            "the server still waits for a client that does not read"
        );
        std::thread::park_timeout(WITHIN / 10);
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < content.len());
    // Who reads slowly, but reads, gets all of it.
    let mut stream = place.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while read < content.len() {
        std::thread::park_timeout(WITHIN / 40);
        let more = stream.read(&mut buffer).unwrap();
        assert_ne!(more, 0, "cut off after {read} bytes");
        read += more;
    }
    place.assert_serves();
}

/// Whether the server's side of a connection is gone, by the kernel's table.
fn is_closed_by(server: SocketAddr, stream: &TcpStream) -> bool {
    let port = |address: SocketAddr| format!("{:04X}", address.port());
    let (local, remote) = (port(server), port(stream.local_addr().unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    !table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let established = fields[3] == "01";
        established && fields[1].ends_with(&format!(":{local}")) && fields[2].ends_with(&format!(":{remote}"))
    })
}
