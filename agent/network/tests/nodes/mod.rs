//! Several nodes with a wire between them, each in a network namespace of its own.
#![allow(dead_code, reason = "each test binary uses a part")]

use crate::isolation::*;
use muster_network::{
    Attachment, Interface, IpNet, MacAddress, Network, NetworkConfig, OverlaySpec, Sandbox, SandboxSpec,
    Station,
};
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::runtime::Runtime;

/// A node; what it does happens in its namespace.
pub struct Node {
    pub network: Network,
    pub netns: OwnedFd,
    runtime: Option<Runtime>,
}

/// Makes the wire, in the calling thread's namespace.
pub fn wire() {
    run("ip", &["link", "add", "wire", "type", "bridge"]);
    run("ip", &["link", "set", "wire", "up"]);
}

/// A node on the wire.
pub fn node(run_dir: &Path, name: &str, addresses: &[&str]) -> Node {
    let directory = run_dir.join(name);
    let (runtime, network, netns) = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        // Threads of the runtime are children of this one, so they are in its namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let opening = runtime.spawn(Network::open(NetworkConfig::new(directory)));
        let network = runtime.block_on(opening).unwrap().unwrap();
        let netns: OwnedFd = File::open("/proc/thread-self/ns/net").unwrap().into();
        (runtime, network, netns)
    })
    .join()
    .unwrap();
    let pin = run_dir.join(format!("{name}.pin"));
    File::create(&pin).unwrap();
    let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&netns));
    nix::mount::mount(
        Some(source.as_str()),
        &pin,
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    let pin = pin.to_str().unwrap();
    run(
        "ip",
        &[
            "link", "add", name, "master", "wire", "type", "veth", "peer", "name", "eth0", "netns", pin,
        ],
    );
    run("ip", &["link", "set", name, "up"]);
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    inside(&netns, move || {
        for address in &addresses {
            run("ip", &["addr", "add", address, "dev", "eth0", "nodad"]);
        }
        run("ip", &["link", "set", "eth0", "up"]);
    });
    Node {
        network,
        netns,
        runtime: Some(runtime),
    }
}

impl Node {
    /// Runs an operation as this node.
    pub async fn run<R: Send + 'static, F: Future<Output = R> + Send + 'static>(
        &self,
        operation: impl FnOnce(Network) -> F,
    ) -> R {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.spawn(operation(self.network.clone())).await.unwrap()
    }

    pub async fn set_overlays(&self, overlays: &[OverlaySpec]) {
        let overlays = overlays.to_vec();
        let made = self.run(|network| async move { network.set_overlays(overlays).await });
        let failures = made.await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// A container on overlays, with these addresses.
    pub async fn container(&self, id: &str, places: &[(&str, &[&str])]) -> Sandbox {
        let interfaces = places.iter().enumerate().map(|(n, (overlay, addresses))| {
            let addresses: Vec<IpNet> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            Interface {
                attachment: Attachment::Overlay((*overlay).to_owned()),
                name: format!("eth{n}"),
                mac: MacAddress::for_address(addresses[0].address()),
                addresses,
                gateways: Vec::new(),
                mtu: None,
            }
        });
        let spec = SandboxSpec {
            container_id: id.to_owned(),
            interfaces: interfaces.collect(),
            sysctls: Vec::new(),
        };
        self.run(|network| async move { network.create_sandbox(&spec).await })
            .await
            .unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An overlay as a node with this address needs it: `stations` are the addresses of others' containers and their nodes.
pub fn overlay(
    id: &str,
    vni: u32,
    gateways: &[&str],
    underlay: &str,
    stations: &[(&[&str], &str)],
) -> OverlaySpec {
    let station = |(addresses, node): &(&[&str], &str)| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Station {
            mac: MacAddress::for_address(addresses[0]),
            addresses,
            node: node.parse().unwrap(),
        }
    };
    OverlaySpec {
        id: id.to_owned(),
        vni,
        gateways: gateways.iter().map(|gateway| gateway.parse().unwrap()).collect(),
        mtu: None,
        underlay: underlay.parse().unwrap(),
        port: 4789,
        stations: stations.iter().map(station).collect(),
    }
}
