//! Where logs are sent: the journal's socket, a syslog server.

use super::tls;
use crate::log_driver::journald::Fields;
use crate::log_driver::syslog::{Address, Sender, Syslog};
use crate::logs::LogEntry;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a server may take to answer a connection, or to take a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most addresses of a server that are tried.
const ADDRESSES_MAX: usize = 3;
/// Where the host's own syslog listens; Docker's order.
const LOCAL_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// A destination. Blocking; what could not be sent may be sent again.
pub(super) enum Sink {
    Journald {
        fields: Fields,
        path: PathBuf,
        socket: Option<UnixDatagram>,
    },
    Syslog {
        syslog: Syslog,
        sender: Sender,
        connection: Option<Connection>,
    },
}

/// A way to a syslog server.
pub(super) enum Connection {
    Datagrams(UnixDatagram),
    Udp(UdpSocket),
    Stream(Box<dyn Write + Send>),
}

impl Sink {
    pub fn journald(fields: Fields, path: PathBuf) -> Self {
        Self::Journald {
            fields,
            path,
            socket: None,
        }
    }

    pub fn syslog(syslog: Syslog, sender: Sender) -> Self {
        Self::Syslog {
            syslog,
            sender,
            connection: None,
        }
    }

    /// Connects, unless it is.
    pub fn connect(&mut self) -> io::Result<()> {
        match self {
            Self::Journald { path, socket, .. } => {
                if !path.exists() {
                    return Err(io::Error::other("journald is not enabled on this host"));
                }
                if socket.is_none() {
                    *socket = Some(datagrams()?);
                }
            }
            Self::Syslog {
                syslog, connection, ..
            } => {
                if connection.is_none() {
                    *connection = Some(Connection::open(&syslog.address)?);
                }
            }
        }
        Ok(())
    }

    /// Sends an entry. After an error the next one connects anew.
    pub fn send(&mut self, entry: &LogEntry) -> io::Result<()> {
        self.connect()?;
        match self {
            Self::Journald {
                fields, path, socket, ..
            } => match socket {
                Some(socket) => send_to_journal(socket, path, &fields.entry(entry)),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
            Self::Syslog {
                syslog,
                sender,
                connection,
            } => {
                let sent = match connection {
                    Some(connection) => connection.send(&syslog.message(entry, sender)),
                    None => Err(io::ErrorKind::NotConnected.into()),
                };
                if sent.is_err() {
                    *connection = None;
                }
                sent
            }
        }
    }
}

fn datagrams() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends an entry as a datagram, or in a sealed file where it is too large for one.
fn send_to_journal(socket: &UnixDatagram, path: &Path, entry: &[u8]) -> io::Result<()> {
    match socket.send_to(entry, path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) => {}
        sent => return sent.map(drop),
    }
    let file = rustix::fs::memfd_create("journal-entry", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(entry)?;
    // The journal takes a file only if nobody can change it any more.
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    let file = OwnedFd::from(file);
    let (descriptors, nothing) = ([file.as_raw_fd()], [IoSlice::new(&[])]);
    let address = UnixAddr::new(path)?;
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg(
        socket.as_raw_fd(),
        &nothing,
        &rights,
        MsgFlags::empty(),
        Some(&address),
    )?;
    Ok(())
}

impl Connection {
    fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Local => {
                let opened = LOCAL_SOCKETS
                    .iter()
                    .find_map(|path| Self::local(Path::new(path)).ok());
                opened.ok_or_else(|| {
                    io::Error::other("Unix syslog delivery error: no syslog listens on this host")
                })
            }
            Address::Unix { path, stream: false } => {
                let socket = datagrams()?;
                socket.connect(path)?;
                Ok(Self::Datagrams(socket))
            }
            Address::Unix { path, stream: true } => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Stream(Box::new(stream)))
            }
            Address::Udp(to) => {
                let socket = reach(to, |to| {
                    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(own)?;
                    socket.connect(to)?;
                    Ok(socket)
                })?;
                Ok(Self::Udp(socket))
            }
            Address::Tcp(to) => Ok(Self::Stream(Box::new(tcp(to)?))),
            Address::Tls { to, trust } => {
                let (host, _) = host_and_port(to)?;
                let stream = tls::connect(tcp(to)?, host, trust)?;
                Ok(Self::Stream(Box::new(stream)))
            }
        }
    }

    fn local(path: &Path) -> io::Result<Self> {
        let unix = |stream| Address::Unix {
            path: path.to_path_buf(),
            stream,
        };
        Self::open(&unix(false)).or_else(|_| Self::open(&unix(true)))
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => socket.send(message).map(drop),
            // Nobody there is told by the next message only, and is no reason to keep this one.
            Self::Udp(socket) => match socket.send(message) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                sent => sent.map(drop),
            },
            Self::Stream(stream) => {
                stream.write_all(message)?;
                stream.flush()
            }
        }
    }
}

/// The parts of `host:port` or `[address]:port`.
fn host_and_port(to: &str) -> io::Result<(&str, u16)> {
    let parts = to.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse().ok()?;
        Some((host.trim_matches(['[', ']']), port))
    });
    parts.ok_or_else(|| io::Error::other(format!("{to:?} is no host and port")))
}

/// Connects to the first address of a server that can be connected to.
fn reach<T>(to: &str, connect: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let (host, port) = host_and_port(to)?;
    let mut reached = Err(io::Error::other(format!("{host} has no address")));
    for address in muster_outbound::lookup_within(host, PATIENCE)?
        .into_iter()
        .take(ADDRESSES_MAX)
    {
        reached = connect(SocketAddr::new(address, port));
        if reached.is_ok() {
            break;
        }
    }
    reached
}

fn tcp(to: &str) -> io::Result<TcpStream> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("dial tcp {to}: {error}"));
    let stream = reach(to, |to| TcpStream::connect_timeout(&to, PATIENCE)).map_err(named)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}
