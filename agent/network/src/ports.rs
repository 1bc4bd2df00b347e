//! Host ports held by published ports: a bound socket each, so that no other process can take the port and a port
//! that another process has is noticed. The sockets never listen; the packet filter redirects before they are asked.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use crate::error::NetworkError;
use crate::firewall::PortKey;
use crate::spec::Protocol;

/// Where the kernel keeps the range of ports that it gives out by itself.
const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The range, where the kernel's own cannot be read.
const LOCAL_RANGE_FALLBACK: (u16, u16) = (32_768, 60_999);
/// A reserved UDP socket is never read, so it should not hold memory; the kernel raises this to its minimum.
const RECEIVE_BUFFER_BYTES: usize = 1;

/// The reservations of this node.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    held: HashMap<PortKey, Held>,
    /// Where the search for a free port goes on, so that a port just given back is not given out at once.
    cursor: u16,
}

/// What keeps a port ours.
#[derive(Debug)]
enum Held {
    Socket {
        _socket: OwnedFd,
    },
    /// The kernel has no sockets of this protocol, or somebody took the port while no daemon was running.
    NameOnly,
}

impl Reservations {
    /// Reserves a port; 0 takes any free one. Returns the key with the port.
    pub fn reserve(&mut self, wanted: PortKey) -> Result<PortKey, NetworkError> {
        if wanted.port != 0 {
            return self.reserve_exactly(wanted).map(|()| wanted);
        }
        let (first, last) = local_range();
        for _ in first..=last {
            let port = self.next_port(first, last);
            match self.reserve_exactly(PortKey { port, ..wanted }) {
                Err(NetworkError::PortInUse { .. }) => {}
                other => return other.map(|()| PortKey { port, ..wanted }),
            }
        }
        Err(NetworkError::NoFreePort {
            address: wanted.address,
            protocol: wanted.protocol,
            first,
            last,
        })
    }

    /// Takes a port that the packet filter redirects already, even if its socket cannot be had.
    pub fn restore(&mut self, key: PortKey) {
        if let Err(error) = self.reserve_exactly(key) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a published port is not reserved any more"
            );
            self.held.insert(key, Held::NameOnly);
        }
    }

    /// Gives ports back.
    pub fn release(&mut self, keys: &[PortKey]) {
        for key in keys {
            self.held.remove(key);
        }
    }

    fn reserve_exactly(&mut self, key: PortKey) -> Result<(), NetworkError> {
        let PortKey {
            address,
            protocol,
            port,
        } = key;
        if self.held.keys().any(|held| overlap(held, &key)) {
            return Err(NetworkError::PortInUse {
                address,
                port,
                protocol,
            });
        }
        let held = match reserve_socket(key) {
            Ok(socket) => Held::Socket { _socket: socket },
            Err(Errno::PROTONOSUPPORT | Errno::NOPROTOOPT) if protocol == Protocol::Sctp => Held::NameOnly,
            Err(Errno::ADDRINUSE) => {
                return Err(NetworkError::PortInUse {
                    address,
                    port,
                    protocol,
                });
            }
            Err(errno) => {
                let source = io::Error::from(errno);
                return Err(NetworkError::PortUnavailable {
                    address,
                    port,
                    protocol,
                    source,
                });
            }
        };
        self.held.insert(key, held);
        Ok(())
    }

    fn next_port(&mut self, first: u16, last: u16) -> u16 {
        if !(first..=last).contains(&self.cursor) {
            self.cursor = first;
        }
        let port = self.cursor;
        self.cursor = port.checked_add(1).unwrap_or(first);
        port
    }
}

fn overlap(one: &PortKey, other: &PortKey) -> bool {
    let same_family = one.address.is_ipv4() == other.address.is_ipv4();
    let same_address =
        one.address == other.address || one.address.is_unspecified() || other.address.is_unspecified();
    one.port == other.port && one.protocol == other.protocol && same_family && same_address
}

fn reserve_socket(key: PortKey) -> Result<OwnedFd, Errno> {
    let (kind, protocol) = match key.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let family = if key.address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if key.address.is_ipv6() {
        // The same port of IPv4 is another one's.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    let address = SocketAddr::new(key.address, key.port);
    if key.protocol == Protocol::Udp {
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
    }
    match bind(&socket, &address) {
        // Connections that wait out their last minutes do not make a port taken: as servers do, allow for them, but
        // only while binding, so that nobody else can share the port later.
        Err(Errno::ADDRINUSE) if key.protocol == Protocol::Tcp => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &address)?;
            sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        other => other?,
    }
    Ok(socket)
}

fn local_range() -> (u16, u16) {
    let read = || {
        let text = std::fs::read_to_string(LOCAL_RANGE).ok()?;
        let mut parts = text.split_whitespace().map(str::parse::<u16>);
        let range = (parts.next()?.ok()?, parts.next()?.ok()?);
        (range.0 > 0 && range.0 <= range.1).then_some(range)
    };
    read().unwrap_or(LOCAL_RANGE_FALLBACK)
}
