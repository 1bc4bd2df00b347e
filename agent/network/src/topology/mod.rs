//! The network between the nodes of a lab: a bridge in a namespace of its own, a cable to each node, and faults.
//!
//! Everything about a topology can be found again by its name: the namespace is pinned and a record says which node
//! has which address, so that a lab whose maker crashed can be taken down. Calls block for some milliseconds.

mod faults;
mod record;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::address::{Ipv4Net, MacAddress};
use crate::firewall::{NetlinkTables, Tables};
use crate::links::{Links, Veth, ignoring};
use crate::namespace::{self, NamespaceError, Namespaces, open_namespace, open_pinned};
use crate::netlink::NetlinkError;
use crate::nft::Change;
use crate::spec::{InvalidSpec, Protocol, check_container_id};

use record::{Node, Record};

const BRIDGE: &str = "lab";
/// What a node calls its interface.
const UPLINK: &str = "eth0";
const PIN: &str = "netns";

/// Why an operation on a topology failed.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A name cannot be used.
    #[error("{name:?} is no name: it takes letters, digits, \"_\" and \"-\"")]
    Name {
        /// What was given.
        name: String,
    },
    /// There is one of that name.
    #[error("a topology named {name} exists already; remove it or choose another name")]
    Exists {
        /// Its name.
        name: String,
    },
    /// The topology has no such node.
    #[error("the topology has no node {node}")]
    NoSuchNode {
        /// What was asked for.
        node: String,
    },
    /// The subnet has no address left.
    #[error("no address is free in {subnet}")]
    Full {
        /// The topology's network.
        subnet: Ipv4Net,
    },
    /// The record or the pin could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A namespace could not be made or entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused a change.
    #[error("cannot {operation}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
}

/// A network of nodes.
pub struct Topology {
    directory: PathBuf,
    record: Record,
    netns: OwnedFd,
    namespaces: Namespaces,
    links: Links,
    tables: NetlinkTables,
}

impl Topology {
    /// Makes a topology without nodes. Its first address is the bridge's own, where a client that should reach all
    /// nodes can live: [`Topology::netns`]. `root` holds all topologies of this host.
    pub fn create(root: &Path, name: &str, subnet: Ipv4Net) -> Result<Self, TopologyError> {
        let directory = directory_of(root, name)?;
        if directory.join(PIN).exists() {
            return Err(TopologyError::Exists {
                name: name.to_owned(),
            });
        }
        let gateway = subnet.nth(1).ok_or(TopologyError::Full { subnet })?;
        std::fs::create_dir_all(&directory).map_err(file_error("create", &directory))?;
        let namespaces = Namespaces::start(0, quiet())?;
        let fresh = namespaces.take()?;
        let mut links = fresh.links;
        lay_bridge(&mut links, gateway).map_err(kernel_error("make the bridge of the topology"))?;
        let tables = open_tables(&namespaces, &fresh.descriptor)?;
        let record = Record {
            subnet,
            nodes: Default::default(),
            cables: 0,
        };
        record.write(&directory)?;
        let mut topology = Self {
            directory,
            record,
            netns: fresh.descriptor,
            namespaces,
            links,
            tables,
        };
        topology.change(faults::install())?;
        let pin = topology.directory.join(PIN);
        namespace::pin(topology.netns.as_fd(), &pin).map_err(file_error("pin the namespace at", &pin))?;
        Ok(topology)
    }

    /// Finds a topology that was made earlier, by whatever process.
    pub fn find(root: &Path, name: &str) -> Result<Option<Self>, TopologyError> {
        let directory = directory_of(root, name)?;
        let pin = directory.join(PIN);
        let Some(netns) = open_pinned(&pin).map_err(file_error("open", &pin))? else {
            return Ok(None);
        };
        let record = Record::read(&directory)?;
        let namespaces = Namespaces::start(0, quiet())?;
        let links = open_links(&namespaces, &netns)?;
        let tables = open_tables(&namespaces, &netns)?;
        Ok(Some(Self {
            directory,
            record,
            netns,
            namespaces,
            links,
            tables,
        }))
    }

    /// Connects a node's namespace and returns the node's address. A node that was there before, under that name,
    /// keeps its address and gets a new cable.
    pub fn add_node(&mut self, name: &str, node: OwnedFd) -> Result<Ipv4Addr, TopologyError> {
        check_name(name)?;
        let address = match self.record.nodes.get(name) {
            Some(known) => {
                Ipv4Net::new(known.address, self.record.subnet.prefix()).ok_or(TopologyError::Full {
                    subnet: self.record.subnet,
                })?
            }
            None => self.record.free_address().ok_or(TopologyError::Full {
                subnet: self.record.subnet,
            })?,
        };
        self.pull_cable(name)?;
        self.record.cables += 1;
        let cable = format!("node{}", self.record.cables);
        self.record.nodes.insert(
            name.to_owned(),
            Node {
                address: address.address(),
                cable: cable.clone(),
            },
        );
        self.record.write(&self.directory)?;
        self.lay_cable(&cable, node, address)?;
        Ok(address.address())
    }

    /// Connects the namespace of a process.
    pub fn add_node_of_process(&mut self, name: &str, pid: i32) -> Result<Ipv4Addr, TopologyError> {
        let node = open_namespace(Path::new(&format!("/proc/{pid}/ns/net")))?;
        self.add_node(name, node)
    }

    /// Disconnects a node and forgets its address. Idempotent.
    pub fn remove_node(&mut self, name: &str) -> Result<(), TopologyError> {
        self.pull_cable(name)?;
        self.record.nodes.remove(name);
        self.record.write(&self.directory)
    }

    /// The nodes with their addresses.
    pub fn nodes(&self) -> Vec<(String, Ipv4Addr)> {
        self.record
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), node.address))
            .collect()
    }

    /// The namespace of the bridge, from which every node can be reached.
    pub fn netns(&self) -> &OwnedFd {
        &self.netns
    }

    /// Runs `job` on a thread inside the bridge's namespace; sockets made there stay there.
    pub fn run_inside<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, TopologyError> {
        Ok(self.namespaces.run_in(duplicate(&self.netns)?, job)?)
    }

    /// Lets nothing pass between the two groups, either way, until [`Topology::heal`]. Nothing is refused: packets
    /// get lost.
    pub fn partition(&mut self, one: &[&str], other: &[&str]) -> Result<(), TopologyError> {
        self.block(one, other)?;
        self.block(other, one)
    }

    /// Lets nothing pass from one group to the other; the way back stays open.
    pub fn block(&mut self, from: &[&str], to: &[&str]) -> Result<(), TopologyError> {
        let (from, to) = (self.addresses(from)?, self.addresses(to)?);
        self.change(faults::block(&from, &to))
    }

    /// Lets nothing pass from one group to one port of the other.
    pub fn block_port(
        &mut self,
        from: &[&str],
        to: &[&str],
        protocol: Protocol,
        port: u16,
    ) -> Result<(), TopologyError> {
        let (from, to) = (self.addresses(from)?, self.addresses(to)?);
        self.change(faults::block_port(&from, &to, protocol, port))
    }

    /// Cuts a node off from all others and from the bridge.
    pub fn cut(&mut self, node: &str) -> Result<(), TopologyError> {
        let addresses = self.addresses(&[node])?;
        self.change(faults::cut(&addresses))
    }

    /// Ends every fault.
    pub fn heal(&mut self) -> Result<(), TopologyError> {
        self.change(faults::heal())
    }

    /// Removes the topology; the nodes' interfaces vanish with it.
    pub fn remove(self) -> Result<(), TopologyError> {
        remove_directory(&self.directory)
    }

    /// Removes what there is of a topology, whole or not. Idempotent.
    pub fn remove_by_name(root: &Path, name: &str) -> Result<(), TopologyError> {
        remove_directory(&directory_of(root, name)?)
    }

    fn addresses(&self, names: &[&str]) -> Result<Vec<Ipv4Addr>, TopologyError> {
        let address = |name: &&str| {
            let node = self.record.nodes.get(*name);
            node.map(|node| node.address)
                .ok_or_else(|| TopologyError::NoSuchNode {
                    node: (*name).to_owned(),
                })
        };
        names.iter().map(address).collect()
    }

    /// Asks for the old cable first: two cables of one node would confuse the bridge.
    fn pull_cable(&mut self, name: &str) -> Result<(), TopologyError> {
        let Some(node) = self.record.nodes.get(name) else {
            return Ok(());
        };
        let pulled = match self.links.find(&node.cable) {
            Ok(Some(link)) => self.links.delete(link.index),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        pulled.map_err(kernel_error("disconnect a node"))
    }

    fn lay_cable(&mut self, cable: &str, node: OwnedFd, address: Ipv4Net) -> Result<(), TopologyError> {
        let mac = MacAddress::for_ipv4(address.address());
        let bridge = self.index_of(BRIDGE)?;
        let veth = Veth {
            name: cable,
            bridge_index: bridge,
            mtu: None,
            peer_name: UPLINK,
            peer_mac: mac,
            peer_namespace: node.as_fd(),
        };
        self.links
            .create_veth(&veth)
            .map_err(kernel_error("connect a node"))?;
        let configured = self.namespaces.run_in(node, move || {
            let mut links = Links::open()?;
            links.loopback_up()?;
            let uplink = links.find(UPLINK)?;
            uplink.map_or(Ok(()), |uplink| {
                links.configure(uplink.index, &[address.into()], &[])
            })
        })?;
        configured.map_err(kernel_error("give a node its address"))?;
        let port = self.index_of(cable)?;
        self.links
            .open_port(port, mac, false)
            .map_err(kernel_error("open a node's port"))
    }

    fn index_of(&mut self, name: &str) -> Result<u32, TopologyError> {
        let found = self
            .links
            .find(name)
            .map_err(kernel_error("look up a link of the topology"))?;
        let gone = || TopologyError::NoSuchNode {
            node: name.to_owned(),
        };
        found.map(|link| link.index).ok_or_else(gone)
    }

    fn change(&mut self, changes: Vec<Change>) -> Result<(), TopologyError> {
        self.tables
            .commit(&faults::batch(changes))
            .map_err(kernel_error("change the faults of the topology"))
    }
}

/// The bridge should not chat about IPv6 by itself, nor track the nodes' connections: a tracked connection that loses
/// packets to a fault would be judged by more than the fault.
fn quiet() -> Vec<(String, String)> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        set("net.ipv6.conf.default.disable_ipv6", "1"),
        set("net.bridge.bridge-nf-call-iptables", "0"),
    ]
}

fn lay_bridge(links: &mut Links, gateway: Ipv4Net) -> Result<(), NetlinkError> {
    let created = links.create_bridge(BRIDGE, MacAddress::for_ipv4(gateway.address()), None);
    ignoring(created, rustix::io::Errno::EXIST)?;
    let bridge = links.find(BRIDGE)?;
    bridge.map_or(Ok(()), |bridge| {
        links.configure(bridge.index, &[gateway.into()], &[])
    })
}

fn open_links(namespaces: &Namespaces, netns: &OwnedFd) -> Result<Links, TopologyError> {
    namespaces
        .run_in(duplicate(netns)?, Links::open)?
        .map_err(kernel_error("open a socket for links"))
}

fn open_tables(namespaces: &Namespaces, netns: &OwnedFd) -> Result<NetlinkTables, TopologyError> {
    let opened = namespaces.run_in(duplicate(netns)?, NetlinkTables::open)?;
    opened.map_err(kernel_error("open a socket for the packet filter"))
}

fn duplicate(descriptor: &OwnedFd) -> Result<OwnedFd, NamespaceError> {
    let copy = descriptor.try_clone();
    copy.map_err(|source| NamespaceError::Kernel {
        operation: "duplicate the descriptor of",
        source,
    })
}

fn directory_of(root: &Path, name: &str) -> Result<PathBuf, TopologyError> {
    check_name(name)?;
    Ok(root.join(name))
}

fn check_name(name: &str) -> Result<(), TopologyError> {
    check_container_id(name).map_err(|_: InvalidSpec| TopologyError::Name {
        name: name.to_owned(),
    })
}

fn remove_directory(directory: &Path) -> Result<(), TopologyError> {
    let pin = directory.join(PIN);
    namespace::unpin(&pin).map_err(file_error("remove", &pin))?;
    Record::remove(directory)?;
    match std::fs::remove_dir(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(file_error("remove", directory)(source))
        }
        _ => Ok(()),
    }
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TopologyError {
    let path = path.to_owned();
    move |source| TopologyError::File {
        operation,
        path,
        source,
    }
}

fn kernel_error(operation: &'static str) -> impl FnOnce(NetlinkError) -> TopologyError {
    move |source| TopologyError::Kernel { operation, source }
}
