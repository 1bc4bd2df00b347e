//! Access to the kernel's tables, as a trait so that tests see what would be done.

use crate::netlink::{Framing, NetlinkError, Protocol, Socket};
use crate::nft::{self, Batch, Element, Family};

/// The packet filter of one network namespace.
pub(crate) trait Tables: Send {
    /// Carries out a batch: all of it or nothing.
    fn commit(&mut self, batch: &Batch) -> Result<(), NetlinkError>;
    /// The elements of a set; none if there is no such set or table.
    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError>;
}

/// The real thing.
pub(crate) struct NetlinkTables {
    socket: Socket,
}

impl NetlinkTables {
    /// Opens the tables of the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
        })
    }

    /// The socket, for other words with the same namespace's netfilter.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Tables for NetlinkTables {
    fn commit(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        self.socket.transact(nft::encode(batch), Framing::Batch)
    }

    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
        match nft::read_elements(&mut self.socket, family, table, set) {
            Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => Ok(Vec::new()),
            other => other,
        }
    }
}
