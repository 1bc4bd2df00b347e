use super::*;
use crate::log_driver::syslog::Syslog;
use crate::logs::LogStreamKind;
use muster_types::Timestamp;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

fn entry(text: &str) -> LogEntry {
    LogEntry {
        stream: LogStreamKind::Stdout,
        at: Timestamp(1_795_232_121_250_000_000),
        data: text.to_owned().into_bytes().into(),
        attributes: BTreeMap::new(),
    }
}

fn syslog(options: &[(&str, &str)]) -> Sink {
    let options = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let sender = Sender {
        host: "node".to_owned(),
        tag: "tag".to_owned(),
        pid: 1,
    };
    Sink::syslog(Syslog::read(&options.collect()).unwrap(), sender)
}

fn line(text: &str) -> String {
    format!("<30>Nov 21 03:35:21 tag[1]: {text}\n")
}

#[test]
fn the_journal_gets_small_entries_in_datagrams_and_large_ones_in_sealed_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let missing = Sink::journald(Fields::for_tests(), path.clone())
        .connect()
        .unwrap_err();
    assert_eq!(missing.to_string(), "journald is not enabled on this host");
    let server = UnixDatagram::bind(&path).unwrap();
    let mut sink = Sink::journald(Fields::for_tests(), path);
    sink.send(&entry("small\n")).unwrap();
    let mut buffer = [0; 4096];
    let length = server.recv(&mut buffer).unwrap();
    assert!(buffer[..length].ends_with(b"MESSAGE=small\n"));
    // Larger than any socket's buffer.
    let large = "x".repeat(4 << 20);
    sink.send(&entry(&large)).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut space = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    rustix::net::recvmsg(&server, &mut parts, &mut space, RecvFlags::empty()).unwrap();
    let file = space.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let file = file.expect("the entry comes in a file");
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    assert!(seals.contains(rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SEAL));
    let mut content = Vec::new();
    let mut file = File::from(file);
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut content).unwrap();
    assert!(content.ends_with(b"x\n") && content.len() > 4 << 20);
}

#[test]
fn a_syslog_server_is_reached_in_every_way() {
    let directory = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sink = syslog(&[("syslog-address", &format!("udp://{}", udp.local_addr().unwrap()))]);
    sink.send(&entry("one\n")).unwrap();
    let mut buffer = [0; 256];
    let length = udp.recv(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..length]), line("one"));

    let path = directory.path().join("datagrams");
    let unix = UnixDatagram::bind(&path).unwrap();
    let mut sink = syslog(&[("syslog-address", &format!("unixgram://{}", path.display()))]);
    sink.send(&entry("two\n")).unwrap();
    let length = unix.recv(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..length]), line("two"));

    let path = directory.path().join("stream");
    let unix = UnixListener::bind(&path).unwrap();
    let mut sink = syslog(&[("syslog-address", &format!("unix://{}", path.display()))]);
    sink.send(&entry("three\n")).unwrap();
    let mut read = String::new();
    BufReader::new(unix.accept().unwrap().0)
        .read_line(&mut read)
        .unwrap();
    assert_eq!(read, line("three"));
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut sink = syslog(&[("syslog-address", &format!("tcp://{address}"))]);
    sink.send(&entry("one\n")).unwrap();
    let mut first = BufReader::new(server.accept().unwrap().0);
    let mut read = String::new();
    first.read_line(&mut read).unwrap();
    assert_eq!(read, line("one"));
    drop((first, server));
    // The kernel tells of the end at one of the next messages.
    let failed = (0..100).find_map(|_| sink.send(&entry("lost\n")).err());
    failed.expect("nobody listens any more");
    assert!(
        sink.send(&entry("lost\n"))
            .unwrap_err()
            .to_string()
            .contains("dial tcp")
    );
    let server = TcpListener::bind(address).unwrap();
    sink.send(&entry("two\n")).unwrap();
    let mut read = String::new();
    BufReader::new(server.accept().unwrap().0)
        .read_line(&mut read)
        .unwrap();
    assert_eq!(read, line("two"));
}

#[test]
fn tls_servers_are_verified_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let authority = directory.path().join("ca.pem");
    std::fs::write(&authority, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let config = Arc::new(config);
        let mut lines = Vec::new();
        for _ in 0..3 {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let stream = rustls::StreamOwned::new(connection, listener.accept().unwrap().0);
            let mut read = String::new();
            // A client that does not trust us says nothing.
            let _ = BufReader::new(stream).read_line(&mut read);
            lines.push(read);
        }
        lines
    });
    let address = format!("tcp+tls://localhost:{port}");
    let common = [("syslog-address", address.as_str()), ("syslog-format", "rfc5424")];
    let with = |more: (&'static str, String)| {
        let options: Vec<_> = common
            .iter()
            .copied()
            .chain([(more.0, more.1.as_str())])
            .collect();
        let mut sink = syslog(&options);
        sink.send(&entry("secret\n"))
    };
    with(("syslog-tls-ca-cert", authority.display().to_string())).unwrap();
    with(("syslog-tls-skip-verify", "true".to_owned())).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&authority, other.cert.pem()).unwrap();
    with(("syslog-tls-ca-cert", authority.display().to_string())).unwrap_err();
    let expected = "56 <30>1 2026-11-21T03:35:21Z node tag 1 tag - secret\n";
    let body = expected.split_once(' ').unwrap().1;
    let expected = format!("{} {body}", body.len());
    assert_eq!(
        server.join().unwrap(),
        [expected.clone(), expected, String::new()]
    );
}

#[test]
fn nothing_is_lost_while_a_server_is_away_or_the_engine_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let socket = directory.path().join("socket");
    let write = |text: &str| {
        let mut file = File::options().create(true).append(true).open(&log).unwrap();
        writeln!(
            file,
            r#"{{"log":"{text}\n","stream":"stdout","time":"2026-11-21T03:35:21Z"}}"#
        )
        .unwrap();
    };
    let lane = || Lane {
        log: log.clone(),
        noted: directory.path().join("noted"),
        sink: Sink::journald(Fields::for_tests(), socket.clone()),
        reader: None,
        unsent: VecDeque::new(),
    };
    let mut first = lane();
    assert!(!first.pass().unwrap());
    write("one");
    assert!(first.pass().is_err(), "nobody listens");
    let server = UnixDatagram::bind(&socket).unwrap();
    server.set_nonblocking(true).unwrap();
    let received = || {
        let mut buffer = [0; 4096];
        let length = server.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        text.lines().last()?.strip_prefix("MESSAGE=").map(str::to_owned)
    };
    assert!(first.pass().unwrap() && !first.pass().unwrap());
    assert_eq!((received().as_deref(), received()), (Some("one"), None));
    write("two");
    let mut second = lane();
    assert!(second.pass().unwrap());
    assert_eq!((received().as_deref(), received()), (Some("two"), None));
    // Rotated before it was read.
    write("three");
    std::fs::rename(&log, Path::new(&format!("{}.1", log.display()))).unwrap();
    write("four");
    let mut third = lane();
    while third.pass().unwrap() {}
    assert_eq!(
        (received().as_deref(), received().as_deref()),
        (Some("three"), Some("four"))
    );
    assert_eq!(received(), None);
}
