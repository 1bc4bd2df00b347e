//! The sockets by which a container's names are resolved: opened inside its namespace, served by whoever asked.
//!
//! They listen on a high port of 127.0.0.11, and a translation in the container's own packet filter leads port 53 of
//! that address to them, so that the container itself may have a name server on port 53.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::NetworkError;
use crate::firewall::{NetlinkTables, Tables};
use crate::netlink::NetlinkError;
use crate::network::Inner;
use crate::nft::{
    Batch, Change, Expression, Family, Header, Hook, HookPoint, MetaKey, Register, Translation, Verdict,
};
use crate::sandbox::duplicate;
use crate::spec::Protocol;

/// The address that a container's resolver configuration names; Docker's.
pub const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Tried first, so that the translation of flows that began before a daemon's restart stays right.
const PREFERRED_PORT: u16 = 40_053;
/// Priority of the translation: where destinations are translated.
const PRIORITY: i32 = -100;
const DOMAIN_PORT: u16 = 53;

/// A container's resolver, seen from its server.
#[derive(Debug)]
pub struct ResolverSockets {
    /// Queries by datagram; non-blocking.
    pub udp: UdpSocket,
    /// Queries by connection; non-blocking.
    pub tcp: TcpListener,
    /// The container's network namespace.
    pub netns: OwnedFd,
}

impl Inner {
    pub(crate) fn open_resolver(&self, container_id: &str) -> Result<ResolverSockets, NetworkError> {
        let netns = self.require_sandbox(container_id)?.netns;
        let table = self.resolver_table.clone();
        let opened = self.namespaces.run_in(duplicate(&netns)?, move || {
            let listening = |source| NetworkError::Resolver {
                operation: "open the sockets of",
                source,
            };
            let udp = preferred(UdpSocket::bind).map_err(listening)?;
            let tcp = preferred(TcpListener::bind).map_err(listening)?;
            udp.set_nonblocking(true).map_err(listening)?;
            tcp.set_nonblocking(true).map_err(listening)?;
            let ports = (
                udp.local_addr().map_err(listening)?.port(),
                tcp.local_addr().map_err(listening)?.port(),
            );
            translate(table, ports).map_err(NetworkError::firewall("lead to the resolver"))?;
            Ok::<_, NetworkError>((udp, tcp))
        })?;
        let (udp, tcp) = opened?;
        Ok(ResolverSockets { udp, tcp, netns })
    }

    /// A socket of the container's namespace, for talking to `peer` as the container would.
    pub(crate) fn socket_inside(
        &self,
        netns: &OwnedFd,
        peer: SocketAddr,
        protocol: Protocol,
    ) -> Result<OwnedFd, NetworkError> {
        let family = if peer.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let kind = match protocol {
            Protocol::Udp => SocketType::DGRAM,
            Protocol::Tcp | Protocol::Sctp => SocketType::STREAM,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let opened = self
            .namespaces
            .run_in(duplicate(netns)?, move || socket_with(family, kind, flags, None))?;
        opened.map_err(|errno: Errno| NetworkError::Resolver {
            operation: "open a socket for",
            source: errno.into(),
        })
    }
}

/// Binds the usual port of the resolver's address, or any other where a process has that.
fn preferred<T>(bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let at = |port| SocketAddr::V4(SocketAddrV4::new(RESOLVER_ADDRESS, port));
    bind(at(PREFERRED_PORT)).or_else(|_| bind(at(0)))
}

/// Replaces the table that leads to the resolver.
fn translate(table: String, (udp, tcp): (u16, u16)) -> Result<(), NetlinkError> {
    let output = Hook {
        kind: "nat",
        point: HookPoint::Output,
        priority: PRIORITY,
    };
    let changes = vec![
        Change::AddTable,
        Change::DeleteTable,
        Change::AddTable,
        Change::AddChain {
            name: "output".into(),
            hook: Some(output),
        },
        lead(Protocol::Udp, udp),
        lead(Protocol::Tcp, tcp),
    ];
    NetlinkTables::open()?.commit(&Batch {
        family: Family::Ipv4,
        table,
        changes,
    })
}

fn lead(protocol: Protocol, port: u16) -> Change {
    let first = Register(0);
    let equal = |value: &[u8]| Expression::Equal {
        from: first,
        value: value.to_vec(),
    };
    let payload = |header, offset, length| Expression::Payload {
        header,
        offset,
        length,
        to: first,
    };
    Change::AddRule {
        chain: "output".into(),
        expressions: vec![
            payload(Header::Network, 16, 4),
            equal(&RESOLVER_ADDRESS.octets()),
            Expression::Meta {
                key: MetaKey::TransportProtocol,
                to: first,
            },
            equal(&[protocol.number()]),
            payload(Header::Transport, 2, 2),
            equal(&DOMAIN_PORT.to_be_bytes()),
            Expression::Immediate {
                to: first,
                value: RESOLVER_ADDRESS.octets().to_vec(),
            },
            Expression::Immediate {
                to: Register(1),
                value: port.to_be_bytes().to_vec(),
            },
            Expression::Translate(Translation::Destination {
                family: Family::Ipv4,
                address: first,
                port: Some(Register(1)),
            }),
            Expression::Verdict(Verdict::Accept),
        ],
    }
}
