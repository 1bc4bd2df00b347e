//! Sandboxes: a network namespace for each container, pinned by a file named after it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::bridge::Bridge;
use crate::error::NetworkError;
use crate::links::{Detail, InterfaceStats, Link, Links, Veth};
use crate::namespace::{self, FreshNamespace, NamespaceError, open_pinned};
use crate::network::{Inner, lock};
use crate::spec::{Attachment, Interface, SandboxSpec, check_container_id, check_interface_name};
use crate::sysctl;

/// How often a host-side interface name may turn out to be taken before something else is wrong.
pub(crate) const NAME_ATTEMPTS: usize = 8;

/// A container's network namespace.
#[derive(Debug)]
pub struct Sandbox {
    /// The namespace, to be joined by the container. Closing it does not end the sandbox.
    pub netns: OwnedFd,
}

/// Where a container's default route of one family should lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface inside the container.
    pub interface: String,
    /// The next hop.
    pub gateway: IpAddr,
}

impl Inner {
    /// Makes a sandbox in this namespace, or in a fresh one.
    pub(crate) fn create_sandbox_in(
        &self,
        spec: &SandboxSpec,
        netns: Option<OwnedFd>,
    ) -> Result<Sandbox, NetworkError> {
        spec.check()?;
        let path = self.pin_path(&spec.container_id);
        let exists = open_pinned(&path).map_err(pin_error("open", &path))?;
        if exists.is_some() {
            return Err(NetworkError::SandboxExists {
                container_id: spec.container_id.clone(),
            });
        }
        if let Some(netns) = netns {
            return self.furnish(self.namespaces.adopt(netns)?, spec, &path);
        }
        let fresh = self.namespaces.take()?;
        let created = self.furnish(fresh, spec, &path);
        self.namespaces.refill();
        created
    }

    /// Whatever fails here drops the namespace, and with it every interface in it.
    fn furnish(
        &self,
        mut fresh: FreshNamespace,
        spec: &SandboxSpec,
        path: &Path,
    ) -> Result<Sandbox, NetworkError> {
        for interface in &spec.interfaces {
            self.add_interface(&fresh.descriptor, &mut fresh.links, &spec.container_id, interface)?;
        }
        if !spec.sysctls.is_empty() {
            self.set_sysctls(&fresh.descriptor, spec.sysctls.clone())?;
        }
        namespace::pin(fresh.descriptor.as_fd(), path).map_err(pin_error("pin the namespace at", path))?;
        Ok(Sandbox {
            netns: fresh.descriptor,
        })
    }

    pub(crate) fn open_sandbox(&self, container_id: &str) -> Result<Option<Sandbox>, NetworkError> {
        check_container_id(container_id)?;
        let path = self.pin_path(container_id);
        let opened = open_pinned(&path).map_err(pin_error("open", &path))?;
        Ok(opened.map(|netns| Sandbox { netns }))
    }

    pub(crate) fn remove_sandbox(&self, container_id: &str) -> Result<(), NetworkError> {
        check_container_id(container_id)?;
        let path = self.pin_path(container_id);
        namespace::unpin(&path).map_err(pin_error("remove", &path))?;
        // An open socket would keep the namespace. Only now: nobody opens another one without the pin.
        lock(&self.balancers).remove(container_id);
        Ok(())
    }

    pub(crate) fn sandboxes(&self) -> Result<Vec<String>, NetworkError> {
        namespace::pins_in(&self.pins).map_err(pin_error("list", &self.pins))
    }

    /// Removes the files that stand for no namespace: a reboot leaves them where the run directory survives it.
    pub(crate) fn remove_stale_pins(&self) -> Result<(), NetworkError> {
        for (directory, names) in [
            (&self.pins, self.sandboxes()?),
            (&self.overlay_pins, self.overlays()?),
        ] {
            for path in names.iter().map(|name| directory.join(name)) {
                let opened = open_pinned(&path).map_err(pin_error("open", &path))?;
                if opened.is_none() {
                    std::fs::remove_file(&path).map_err(pin_error("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn attach(&self, container_id: &str, interface: &Interface) -> Result<(), NetworkError> {
        interface.check()?;
        let sandbox = self.require_sandbox(container_id)?;
        let mut links = self.links_of(&sandbox)?;
        let present = links
            .find(&interface.name)
            .map_err(NetworkError::link("look up", &interface.name))?;
        if present.is_some() {
            let name = interface.name.clone();
            return Err(crate::spec::InvalidSpec::DuplicateInterface { name }.into());
        }
        self.add_interface(&sandbox.netns, &mut links, container_id, interface)
    }

    pub(crate) fn detach(&self, container_id: &str, name: &str) -> Result<(), NetworkError> {
        check_interface_name(name)?;
        let sandbox = self.require_sandbox(container_id)?;
        let mut links = self.links_of(&sandbox)?;
        match links.find(name).map_err(NetworkError::link("look up", name))? {
            Some(link) => links
                .delete(link.index)
                .map_err(NetworkError::link("remove interface", name)),
            None => Ok(()),
        }
    }

    /// Makes the default routes of a running container lead where `routes` say, and nowhere in a family without one.
    pub(crate) fn set_default_routes(
        &self,
        container_id: &str,
        routes: &[DefaultRoute],
    ) -> Result<(), NetworkError> {
        let sandbox = self.require_sandbox(container_id)?;
        let mut links = self.links_of(&sandbox)?;
        let failed = || NetworkError::link("set the default route of", container_id);
        let mut wanted = Vec::with_capacity(routes.len());
        for route in routes {
            let found = links.find(&route.interface).map_err(failed())?;
            let missing = || NetworkError::NoSuchInterface {
                name: route.interface.clone(),
            };
            wanted.push((found.ok_or_else(missing)?.index, route.gateway));
        }
        for is_ipv4 in [true, false] {
            if !routes.iter().any(|route| route.gateway.is_ipv4() == is_ipv4) {
                links.remove_default_route(is_ipv4).map_err(failed())?;
            }
        }
        links.replace_default_routes(&wanted).map_err(failed())
    }

    pub(crate) fn interface_stats(
        &self,
        container_id: &str,
    ) -> Result<Vec<(String, InterfaceStats)>, NetworkError> {
        let sandbox = self.require_sandbox(container_id)?;
        let mut links = self.links_of(&sandbox)?;
        let listed = links
            .list(Detail::Statistics)
            .map_err(NetworkError::link("list the interfaces of", container_id))?;
        let attached = listed
            .into_iter()
            .filter(|link| matches!(link.kind.as_deref(), Some("veth" | "macvlan")));
        Ok(attached.map(|link| (link.name, link.statistics)).collect())
    }

    pub(crate) fn require_sandbox(&self, container_id: &str) -> Result<Sandbox, NetworkError> {
        let opened = self.open_sandbox(container_id)?;
        opened.ok_or_else(|| NetworkError::NoSandbox {
            container_id: container_id.to_owned(),
        })
    }

    pub(crate) fn links_of(&self, sandbox: &Sandbox) -> Result<Links, NetworkError> {
        let netns = duplicate(&sandbox.netns)?;
        let opened = self.namespaces.run_in(netns, Links::open)?;
        opened.map_err(NetworkError::link("open a socket for", "links"))
    }

    pub(crate) fn set_sysctls(
        &self,
        netns: &OwnedFd,
        sysctls: Vec<(String, String)>,
    ) -> Result<(), NetworkError> {
        let write_all = move || {
            sysctls
                .iter()
                .try_for_each(|(name, value)| sysctl::write(name, value))
        };
        Ok(self.namespaces.run_in(duplicate(netns)?, write_all)??)
    }

    /// Makes one interface, with its addresses and routes, and tells the bridge where it is.
    fn add_interface(
        &self,
        netns: &OwnedFd,
        inside: &mut Links,
        container_id: &str,
        interface: &Interface,
    ) -> Result<(), NetworkError> {
        let bridge = match &interface.attachment {
            Attachment::Bridge(name) => {
                Some(self.create_pair(netns.as_fd(), container_id, interface, name)?)
            }
            Attachment::Macvlan { parent, mode } => {
                self.create_macvlan(netns.as_fd(), interface, (parent, *mode))?;
                None
            }
            Attachment::Overlay(id) => {
                self.create_overlay_pair(id, container_id, interface, netns.as_fd())?;
                None
            }
        };
        let name = interface.name.as_str();
        let found = inside.find(name).map_err(NetworkError::link("look up", name))?;
        let missing = || NetworkError::NoSuchInterface {
            name: name.to_owned(),
        };
        let link = found.ok_or_else(missing)?;
        if interface.addresses.iter().any(|address| !address.is_ipv4()) {
            let set = |parameter: &str, value: &str| {
                (format!("net/ipv6/conf/{name}/{parameter}"), value.to_owned())
            };
            let enabled = vec![
                set("disable_ipv6", "0"),
                set("accept_dad", "0"),
                set("accept_ra", "0"),
            ];
            self.set_sysctls(netns, enabled)?;
        }
        inside
            .configure(link.index, &interface.addresses, &interface.gateways)
            .map_err(NetworkError::link("give an address to interface", name))?;
        match (bridge, &interface.attachment, link.peer_index) {
            (Some(bridge), _, _) => self
                .settle_port(&link, bridge, interface)
                .map_err(NetworkError::link("set up the bridge port of", name)),
            (None, Attachment::Overlay(id), Some(port)) => self.settle_overlay_port(id, port, interface.mac),
            (None, _, _) => Ok(()),
        }
    }

    /// A bridge that was removed and made again by others has another index than the one remembered.
    fn create_pair(
        &self,
        netns: BorrowedFd<'_>,
        container_id: &str,
        interface: &Interface,
        bridge_name: &str,
    ) -> Result<Bridge, NetworkError> {
        let mut refreshed = false;
        let mut attempts = 0;
        loop {
            let bridge = self.bridge(bridge_name)?;
            let host_name = self.host_interface_name(container_id);
            let veth = Veth {
                name: &host_name,
                bridge_index: bridge.index,
                mtu: interface.mtu,
                peer_name: &interface.name,
                peer_mac: interface.mac,
                peer_namespace: netns,
            };
            let created = lock(&self.links).create_veth(&veth);
            attempts += 1;
            match created {
                Ok(()) => return Ok(bridge),
                Err(error) if error.errno() == Some(Errno::EXIST) && attempts < NAME_ATTEMPTS => {}
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(Errno::NODEV | Errno::INVAL | Errno::OPNOTSUPP)
                    ) && !refreshed =>
                {
                    refreshed = true;
                    lock(&self.bridges).remove(bridge_name);
                }
                Err(error) => return Err(NetworkError::link("create interface", &interface.name)(error)),
            }
        }
    }

    fn settle_port(
        &self,
        link: &Link,
        bridge: Bridge,
        interface: &Interface,
    ) -> Result<(), crate::NetlinkError> {
        let Some(port) = link.peer_index else {
            return Ok(());
        };
        lock(&self.links).open_port(port, interface.mac, bridge.isolated)
    }

    /// Names only have to differ: eight characters tell the container to a person, the rest counts.
    pub(crate) fn host_interface_name(&self, container_id: &str) -> String {
        let count = self.next_interface.fetch_add(1, Ordering::Relaxed) & 0xffff;
        let start: String = container_id.chars().take(8).collect();
        format!("mv{start}-{count:x}")
    }

    fn pin_path(&self, container_id: &str) -> PathBuf {
        self.pins.join(container_id)
    }
}

pub(crate) fn duplicate(descriptor: &OwnedFd) -> Result<OwnedFd, NetworkError> {
    let copy = descriptor.try_clone();
    copy.map_err(|source| {
        NamespaceError::Kernel {
            operation: "duplicate the descriptor of",
            source,
        }
        .into()
    })
}

pub(crate) fn pin_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Pin {
        operation,
        path,
        source,
    }
}
