//! Runs a test in network and mount namespaces of its own, on a thread of its own.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use muster_network::{
    Attachment, BridgeSpec, Families, Interface, IpNet, MacAddress, Network, NetworkConfig, SandboxSpec,
    address_from, bits_of,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// How long anything in a test may take before it counts as not happening.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection that is to fail is given; packets between namespaces take microseconds.
pub const REFUSAL: Duration = Duration::from_millis(300);

/// Runs `test` as if on a machine of its own; mounts, links and tables end with it.
pub fn isolated<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path().to_owned();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests run as root");
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        // Files below /sys/class/net are those of the namespace that mounted them.
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(run_dir));
    })
    .join()
    .unwrap();
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub async fn open(run_dir: &std::path::Path) -> Network {
    Network::open(NetworkConfig::new(run_dir)).await.unwrap()
}

pub fn bridge(name: &str, gateway: &str) -> BridgeSpec {
    BridgeSpec {
        name: name.to_owned(),
        gateways: gateway.split(' ').map(|text| text.parse().unwrap()).collect(),
        mtu: None,
        internal: false,
        masquerade: true,
        icc: true,
        unprotected: Families::default(),
        routed: Families::default(),
    }
}

/// The `n`th address of a network.
pub fn nth(network: IpNet, n: u32) -> IpNet {
    let first = bits_of(network.network().address());
    network
        .with_address(address_from(first + u128::from(n), network.is_ipv4()))
        .unwrap()
}

/// A container on the bridge with the `n`th address of each of its networks.
pub fn sandbox(id: &str, bridge: &BridgeSpec, n: u32) -> SandboxSpec {
    SandboxSpec {
        container_id: id.to_owned(),
        interfaces: vec![interface("eth0", bridge, n)],
        sysctls: Vec::new(),
    }
}

/// An interface on the bridge with the `n`th address of each of its networks.
pub fn interface(name: &str, bridge: &BridgeSpec, n: u32) -> Interface {
    let addresses: Vec<IpNet> = bridge.gateways.iter().map(|gateway| nth(*gateway, n)).collect();
    Interface {
        attachment: Attachment::Bridge(bridge.name.clone()),
        name: name.to_owned(),
        mac: MacAddress::for_address(addresses[0].address()),
        addresses,
        gateways: bridge.gateways.iter().map(IpNet::address).collect(),
        mtu: None,
    }
}

/// Runs `job` on a thread inside the namespace.
pub fn inside<R: Send + 'static>(netns: impl AsFd, job: impl FnOnce() -> R + Send + 'static) -> R {
    let netns: OwnedFd = netns.as_fd().try_clone_to_owned().unwrap();
    std::thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        job()
    })
    .join()
    .unwrap()
}

/// Serves connections inside the namespace, each with the name and the peer's address, until the test ends.
pub fn serve(netns: impl AsFd, port: u16, name: &'static str) {
    let listener = inside(netns, move || {
        // A namespace without IPv6 has no address of both families.
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .unwrap()
    });
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let peer = connection.peer_addr().unwrap().ip().to_canonical();
            // The client may have gone; the next one is served all the same.
            drop(write!(connection, "{name} {peer}"));
        }
    });
}

/// What the server at the address says, asked from inside the namespace.
pub fn ask_from(netns: impl AsFd, address: &str, timeout: Duration) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    inside(netns, move || ask(address, timeout))
}

/// What the server at the address says, asked from the calling thread's namespace.
pub fn ask(address: SocketAddr, timeout: Duration) -> Option<String> {
    let mut connection = TcpStream::connect_timeout(&address, timeout).ok()?;
    connection.set_read_timeout(Some(timeout)).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer)
}
