//! The crate's front: asynchronous operations on this node's network.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bridge::Bridges;
use crate::error::NetworkError;
use crate::firewall::{Firewalls, Way};
use crate::links::{InterfaceStats, Links};
use crate::mesh::{Mesh, MeshEntries, MeshSpec};
use crate::namespace::{self, Namespaces};
use crate::overlay::{OverlayFailures, OverlaySpec, Overlays};
use crate::port_mapping::PortMapping;
use crate::ports::Reservations;
use crate::resolver::ResolverSockets;
use crate::sandbox::{DefaultRoute, Sandbox, pin_error};
use crate::services::{Balancers, Services};
use crate::spec::{BridgeSpec, Interface, NetworkConfig, Protocol, SandboxSpec};

/// This node's network. Clones share it.
///
/// Every operation runs to its end on a thread of its own even if its future is dropped, so cancelling never leaves
/// half of one behind. Operations are idempotent where they say so.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

/// The blocking side. An operation that needs several locks takes them in the order of the fields.
pub(crate) struct Inner {
    pub(crate) pins: PathBuf,
    pub(crate) overlay_pins: PathBuf,
    pub(crate) mesh: Mutex<Mesh>,
    pub(crate) overlays: Mutex<Overlays>,
    pub(crate) balancers: Mutex<Balancers>,
    pub(crate) bridges: Mutex<Bridges>,
    pub(crate) reservations: Mutex<Reservations>,
    pub(crate) firewall: Mutex<Firewalls>,
    pub(crate) links: Mutex<Links>,
    pub(crate) namespaces: Namespaces,
    /// Makes names of interfaces differ from those of a sandbox that the kernel is still taking down.
    pub(crate) next_interface: AtomicU32,
    /// Name of the table that leads to a container's resolver, in the container's namespace.
    pub(crate) resolver_table: String,
    /// Name of the table that leads to services, in the namespaces of containers.
    pub(crate) service_table: String,
    pub(crate) guard_table: String,
    /// Name of the table that admits the tunnels of other nodes.
    pub(crate) tunnel_table: String,
    /// Name of the tables of the routing mesh, on the host and in containers.
    pub(crate) mesh_table: String,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced in single steps, so a panic elsewhere does not leave it broken.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Opens the network of the calling thread's namespace: finds what an earlier run left, repairs the packet filter
    /// and takes published ports back into reservation.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        run(move || {
            Inner::open(&config).map(|inner| Self {
                inner: Arc::new(inner),
            })
        })
        .await
    }

    /// Makes a bridge or changes it to be as specified; also turns forwarding on. Tells whether the link was made now.
    /// Idempotent.
    pub async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<bool, NetworkError> {
        let spec = spec.clone();
        self.run(move |inner| inner.ensure_bridge(&spec)).await
    }

    /// Removes a bridge and what it may do. Idempotent.
    pub async fn remove_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let name = name.to_owned();
        self.run(move |inner| inner.remove_bridge(&name)).await
    }

    /// Forgets what may pass over a bridge that somebody else made, and leaves the link. Idempotent.
    pub async fn release_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let name = name.to_owned();
        self.run(move |inner| inner.release_bridge(&name)).await
    }

    /// Makes a container's network namespace with all of its interfaces up; on failure nothing is left.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, NetworkError> {
        let spec = spec.clone();
        self.run(move |inner| inner.create_sandbox_in(&spec, None)).await
    }

    /// As [`create_sandbox`](Self::create_sandbox), in a network namespace that somebody made and that nothing is set up
    /// in.
    pub async fn create_sandbox_in(
        &self,
        spec: &SandboxSpec,
        netns: OwnedFd,
    ) -> Result<Sandbox, NetworkError> {
        let spec = spec.clone();
        self.run(move |inner| inner.create_sandbox_in(&spec, Some(netns)))
            .await
    }

    /// Opens the sandbox that was made earlier, also by a daemon that has ended since.
    pub async fn open_sandbox(&self, container_id: &str) -> Result<Option<Sandbox>, NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.open_sandbox(&id)).await
    }

    /// Drops a sandbox; its links disappear in the background once no process is inside. Does not unpublish.
    /// Idempotent.
    pub async fn remove_sandbox(&self, container_id: &str) -> Result<(), NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.remove_sandbox(&id)).await
    }

    /// The containers that have a sandbox, for finding those that nobody wants any more.
    pub async fn sandboxes(&self) -> Result<Vec<String>, NetworkError> {
        self.run(Inner::sandboxes).await
    }

    /// Attaches a running container to one more bridge.
    pub async fn attach(&self, container_id: &str, interface: &Interface) -> Result<(), NetworkError> {
        let (id, interface) = (container_id.to_owned(), interface.clone());
        self.run(move |inner| inner.attach(&id, &interface)).await
    }

    /// Takes an interface of a running container away. Idempotent; takes tens of milliseconds.
    pub async fn detach(&self, container_id: &str, name: &str) -> Result<(), NetworkError> {
        let (id, name) = (container_id.to_owned(), name.to_owned());
        self.run(move |inner| inner.detach(&id, &name)).await
    }

    /// Makes the default routes of a running container lead where `routes` say, at most one of each family, and nowhere
    /// in a family without one. Idempotent.
    pub async fn set_default_routes(
        &self,
        container_id: &str,
        routes: &[DefaultRoute],
    ) -> Result<(), NetworkError> {
        let (id, routes) = (container_id.to_owned(), routes.to_vec());
        self.run(move |inner| inner.set_default_routes(&id, &routes))
            .await
    }

    /// Opens the sockets of a container's resolver and leads port 53 of [`RESOLVER_ADDRESS`](crate::RESOLVER_ADDRESS)
    /// to them, in place of those of an earlier call or daemon.
    pub async fn open_resolver(&self, container_id: &str) -> Result<ResolverSockets, NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.open_resolver(&id)).await
    }

    /// A non-blocking socket in a namespace, not connected yet, for talking to `peer`.
    pub async fn socket_inside(
        &self,
        netns: OwnedFd,
        peer: SocketAddr,
        protocol: Protocol,
    ) -> Result<OwnedFd, NetworkError> {
        self.run(move |inner| inner.socket_inside(&netns, peer, protocol))
            .await
    }

    /// Makes sure that the parent of macvlan networks exists: `eth0.20` is made as VLAN 20 of eth0 where it does not
    /// exist. Tells whether it was made now. Idempotent.
    pub async fn ensure_parent(&self, name: &str) -> Result<bool, NetworkError> {
        let name = name.to_owned();
        self.run(move |inner| inner.ensure_parent(&name)).await
    }

    /// Makes a parent that leads nowhere. Idempotent.
    pub async fn ensure_isolated_parent(&self, name: &str) -> Result<(), NetworkError> {
        let name = name.to_owned();
        self.run(move |inner| inner.ensure_isolated_parent(&name)).await
    }

    /// Removes a parent that [`Self::ensure_parent`] or [`Self::ensure_isolated_parent`] made. Idempotent.
    pub async fn remove_parent(&self, name: &str) -> Result<(), NetworkError> {
        let name = name.to_owned();
        self.run(move |inner| inner.remove_parent(&name)).await
    }

    /// Makes the overlays of this node those that are given, as they are given, and removes all others. An overlay that
    /// fails does not keep the others from being made: the failures are returned by the overlays' ids. An error is one of
    /// all: none is made while it cannot be ensured that only nodes send into them. Idempotent; costs little where nothing
    /// changed. An identifier may be taken for a moment after its overlay was removed.
    pub async fn set_overlays(&self, wanted: Vec<OverlaySpec>) -> Result<OverlayFailures, NetworkError> {
        self.run(move |inner| inner.set_overlays(&wanted)).await
    }

    /// The overlays that this node has, those of an earlier run included.
    pub async fn overlays(&self) -> Result<Vec<String>, NetworkError> {
        self.run(Inner::overlays).await
    }

    /// Makes the virtual addresses that lead a container to services those that are given, at once. Flows to what a
    /// service no longer has are forgotten. Idempotent; costs what changed.
    pub async fn set_services(&self, container_id: &str, wanted: Services) -> Result<(), NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.set_services(&id, &wanted)).await
    }

    /// Makes the ports that lead to containers of any node those that are given, over an overlay that stands; takes them
    /// and the host's place in the overlay away where there are none. Idempotent; costs what changed.
    pub async fn set_mesh(&self, wanted: Option<MeshSpec>) -> Result<(), NetworkError> {
        self.run(move |inner| inner.set_mesh(wanted.as_ref())).await
    }

    /// Makes what a container answers over the mesh go back by the node that the connection came in by. Idempotent.
    pub async fn set_mesh_entries(
        &self,
        container_id: &str,
        entries: MeshEntries,
    ) -> Result<(), NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.set_mesh_entries(&id, &entries)).await
    }

    /// Opens ports of the host that lead into a container, all or none, in place of those it had. Returns them with
    /// the host ports that were chosen. Idempotent: a port that the container has already is kept, also where any
    /// port will do.
    pub async fn publish(
        &self,
        container_id: &str,
        ports: &[PortMapping],
    ) -> Result<Vec<PortMapping>, NetworkError> {
        let (id, ports) = (container_id.to_owned(), ports.to_vec());
        self.run(move |inner| inner.publish(&id, &ports)).await
    }

    /// Closes all ports of a container. Idempotent.
    pub async fn unpublish(&self, container_id: &str) -> Result<(), NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.unpublish(&id)).await
    }

    /// All published ports with their containers, those taken over from an earlier run included.
    pub async fn published(&self) -> Result<Vec<(String, PortMapping)>, NetworkError> {
        self.run(|inner| Ok(inner.published())).await
    }

    /// Traffic of each interface of a container, by the interface's name inside; the loopback is left out.
    pub async fn interface_stats(
        &self,
        container_id: &str,
    ) -> Result<Vec<(String, InterfaceStats)>, NetworkError> {
        let id = container_id.to_owned();
        self.run(move |inner| inner.interface_stats(&id)).await
    }

    /// Compares the packet filter with what it should hold and replaces it if others changed it; tells whether it did.
    pub async fn repair(&self) -> Result<bool, NetworkError> {
        self.run(Inner::repair).await
    }

    async fn run<R: Send + 'static>(
        &self,
        operation: impl FnOnce(&Inner) -> Result<R, NetworkError> + Send + 'static,
    ) -> Result<R, NetworkError> {
        let inner = Arc::clone(&self.inner);
        run(move || operation(&inner)).await
    }
}

async fn run<R: Send + 'static>(
    operation: impl FnOnce() -> Result<R, NetworkError> + Send + 'static,
) -> Result<R, NetworkError> {
    tokio::task::spawn_blocking(operation)
        .await
        .map_err(|_| NetworkError::Interrupted)?
}

impl Inner {
    fn open(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let (pins, overlay_pins) = (config.run_dir.join("netns"), config.run_dir.join("overlays"));
        namespace::prepare_pin_directory(&pins).map_err(pin_error("prepare", &pins))?;
        let firewall =
            Firewalls::open(&config.table_prefix).map_err(NetworkError::firewall("install our rules"))?;
        let mut reservations = Reservations::default();
        let of_host = firewall
            .published()
            .filter(|(_, target)| target.way != Way::Opened);
        of_host.for_each(|(key, target)| reservations.restore(*key, target));
        let links = Links::open().map_err(NetworkError::link("open a socket for", "links"))?;
        let inner = Self {
            pins,
            overlay_pins,
            mesh: Mutex::default(),
            overlays: Mutex::default(),
            balancers: Mutex::default(),
            bridges: Mutex::default(),
            reservations: Mutex::new(reservations),
            firewall: Mutex::new(firewall),
            links: Mutex::new(links),
            namespaces: Namespaces::start(config.prepared_namespaces, config.sysctls.clone())?,
            next_interface: AtomicU32::new(0),
            resolver_table: format!("{}-resolver", config.table_prefix),
            service_table: format!("{}-services", config.table_prefix),
            guard_table: format!("{}-guard", config.table_prefix),
            tunnel_table: format!("{}-tunnels", config.table_prefix),
            mesh_table: format!("{}-mesh", config.table_prefix),
        };
        inner.remove_stale_pins()?;
        Ok(inner)
    }

    fn repair(&self) -> Result<bool, NetworkError> {
        lock(&self.firewall)
            .repair()
            .map_err(NetworkError::firewall("repair our rules"))
    }
}
