//! Ports of the host whose connections this process passes on itself, because the packet filter cannot redirect them:
//! IPv6 routes nothing from its loopback to another link, and neither family is translated into the other.
//!
//! The container sees the host's own address. What is passed on ends with the process; the port is opened again by the
//! next one.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{listen, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::firewall::{PortKey, Target, Way};
use crate::spec::Protocol;

/// Connections that wait to be accepted; more than any client opens at once.
const BACKLOG: i32 = 1024;
/// Connections, or UDP clients, of one port at a time. Each holds two descriptors, and the daemon has some ten thousand.
const CLIENTS_MAX: usize = 1024;
/// How long a container may take to accept; it is on this host.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a UDP client is remembered after the last answer; dockerd's.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// Between two attempts to accept when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Who comes into a container by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// The packet filter redirects all.
    Nobody,
    /// The packet filter redirects those that do not come over the loopback.
    Loopback,
    /// The packet filter redirects none.
    Everybody,
}

impl Clients {
    /// Those of a published port.
    pub fn of(key: &PortKey, target: &Target) -> Self {
        let Way::Led(to) = target.way else {
            return Self::Nobody;
        };
        match key.address {
            IpAddr::V6(own) if to.is_ipv4() || own.is_loopback() => Self::Everybody,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if key.protocol != Protocol::Sctp => Self::Loopback,
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Nobody,
        }
    }

    fn include(self, peer: IpAddr) -> bool {
        match self {
            Self::Nobody => false,
            Self::Loopback => peer.is_loopback(),
            Self::Everybody => true,
        }
    }
}

/// One port that is passed on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    task: JoinHandle<()>,
}

impl Relay {
    /// Passes on what comes to a bound socket. To be called within a runtime.
    pub fn start(
        socket: OwnedFd,
        protocol: Protocol,
        target: SocketAddr,
        clients: Clients,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let task = match protocol {
            Protocol::Tcp => {
                listen(&socket, BACKLOG)?;
                // It is for the connections, so that the port can be bound again while the last ones wait out their
                // minutes.
                sockopt::set_socket_reuseaddr(&socket, true)?;
                let listener = TcpListener::from_std(socket.into())?;
                tokio::spawn(accept(listener, target, clients))
            }
            Protocol::Udp => {
                let socket = UdpSocket::from_std(socket.into())?;
                tokio::spawn(receive(socket, target, clients))
            }
            Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { task })
    }

    /// Ends it, connections included; the port is free when this returns. Blocks, within a runtime, for no longer than
    /// the relay is at work on what it has received.
    pub fn stop(mut self) {
        self.task.abort();
        // It ends cancelled, which is what was wanted.
        drop(Handle::current().block_on(&mut self.task));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, clients: Clients) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CLIENTS_MAX => match accepted {
                Ok((client, peer)) if clients.include(peer.ip()) => {
                    connections.spawn(pass_on(client, target));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%target, %error, "a connection to a published port is not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes on one connection, each direction until its end. Connections rest as long as their ends want; a peer that is
/// gone is found by the kernel's own questions.
async fn pass_on(mut client: TcpStream, target: SocketAddr) {
    let Ok(Ok(mut server)) = timeout(CONNECT_LIMIT, TcpStream::connect(target)).await else {
        return;
    };
    for end in [&client, &server] {
        // Without them, a connection is only slower, and kept longer than needed.
        let _ = sockopt::set_socket_keepalive(end, true);
        let _ = end.set_nodelay(true);
    }
    // One that breaks off ends here, for both of its ends.
    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
}

async fn receive(socket: UdpSocket, target: SocketAddr, clients: Clients) {
    let socket = Arc::new(socket);
    let mut known: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answering = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                let Ok((length, client)) = received else { continue };
                if !clients.include(client.ip()) {
                    continue;
                }
                if !known.contains_key(&client) {
                    // As any datagram that finds no room, it is lost.
                    if known.len() >= CLIENTS_MAX {
                        continue;
                    }
                    let Ok(server) = connected(target).await else { continue };
                    let server = Arc::new(server);
                    answering.spawn(answer(Arc::clone(&socket), Arc::clone(&server), client));
                    known.insert(client, server);
                }
                if let Some(server) = known.get(&client) {
                    drop(server.send(&datagram[..length]).await);
                }
            }
            Some(Ok(client)) = answering.join_next() => {
                known.remove(&client);
            }
        }
    }
}

async fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Gives a client its answers until there were none for a while; returns the client.
async fn answer(socket: Arc<UdpSocket>, server: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    let deadline = || tokio::time::Instant::now() + IDLE_LIMIT;
    let mut until = deadline();
    while let Ok(received) = tokio::time::timeout_at(until, server.recv(&mut datagram)).await {
        // An error tells that nobody listened when a datagram came; somebody may when the next one does.
        if let Ok(length) = received {
            until = deadline();
            drop(socket.send_to(&datagram[..length], client).await);
        }
    }
    client
}
