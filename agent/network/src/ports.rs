//! Host ports held by published ports: a bound socket each, so that no other process can take the port and a port
//! that another process has is noticed. The packet filter redirects before they are asked, but for what it cannot
//! redirect: that is passed on by a [`Relay`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use crate::error::NetworkError;
use crate::firewall::{PortKey, Target, Way};
use crate::relay::{Clients, Relay};
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
    /// The socket is served.
    Relay {
        relay: Relay,
        target: Target,
    },
    /// The kernel has no sockets of this protocol, or somebody took the port while no daemon was running.
    NameOnly,
}

impl Reservations {
    /// Reserves a port; 0 takes any free one. Returns the key with the port. What the packet filter cannot redirect is
    /// passed on to the target.
    pub fn reserve(&mut self, wanted: PortKey, target: Option<&Target>) -> Result<PortKey, NetworkError> {
        if wanted.port != 0 {
            return self.reserve_exactly(wanted, target).map(|()| wanted);
        }
        let (first, last) = local_range();
        for _ in first..=last {
            let port = self.next_port(first, last);
            match self.reserve_exactly(PortKey { port, ..wanted }, target) {
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
    pub fn restore(&mut self, key: PortKey, target: &Target) {
        if let Err(error) = self.reserve_exactly(key, Some(target)) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a published port is not reserved any more"
            );
            self.held.insert(key, Held::NameOnly);
        }
    }

    /// Gives ports back. Blocks, within a runtime, until they are free.
    pub fn release(&mut self, keys: &[PortKey]) {
        for key in keys {
            if let Some(Held::Relay { relay, .. }) = self.held.remove(key) {
                relay.stop();
            }
        }
    }

    /// The ports that the packet filter knows nothing of.
    pub fn relayed(&self) -> impl Iterator<Item = (&PortKey, &Target)> {
        self.held.iter().filter_map(|(key, held)| match held {
            Held::Relay { target, .. } => {
                (Clients::of(key, target) == Clients::Everybody).then_some((key, target))
            }
            Held::Socket { .. } | Held::NameOnly => None,
        })
    }

    fn reserve_exactly(&mut self, key: PortKey, target: Option<&Target>) -> Result<(), NetworkError> {
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
        let served = target.map(|target| (target, Clients::of(&key, target)));
        let served = served.filter(|(_, clients)| *clients != Clients::Nobody);
        let socket = reserve_socket(key, served.is_some());
        let held = match socket.and_then(|socket| hold(socket, key.protocol, served)) {
            Ok(held) => held,
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

fn hold(socket: OwnedFd, protocol: Protocol, served: Option<(&Target, Clients)>) -> Result<Held, Errno> {
    let Some((target, clients)) = served else {
        return Ok(Held::Socket { _socket: socket });
    };
    let Way::Led(to) = target.way else {
        return Err(Errno::INVAL);
    };
    let relay = Relay::start(socket, protocol, to, clients);
    Ok(Held::Relay {
        relay: relay.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?,
        target: target.clone(),
    })
}

fn reserve_socket(key: PortKey, is_served: bool) -> Result<OwnedFd, Errno> {
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
    if key.protocol == Protocol::Udp && !is_served {
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
    }
    match bind(&socket, &address) {
        // Connections that wait out their last minutes do not make a port taken: as servers do, allow for them, but
        // only while binding, so that nobody else can share the port later; nobody can share one that is listened on.
        Err(Errno::ADDRINUSE) if key.protocol == Protocol::Tcp => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &address)?;
            sockopt::set_socket_reuseaddr(&socket, is_served)?;
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
