//! Firewalls of others in network namespaces of their own: what they drop is admitted, and nothing of theirs is changed.

mod isolation;

use isolation::*;
use muster_network::{
    Network, OtherFirewalls, PortMapping, Protocol, admit_bridges, other_firewalls, withdraw_bridges,
};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Our own table.
const TABLE: &str = "muster";
/// Whether this namespace shows bridged packets to iptables.
const BRIDGE_CALLS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// A container with a published port, and a machine outside that it reaches and that reaches it.
struct Machine {
    network: Network,
    container: OwnedFd,
    outside: OwnedFd,
}

impl Machine {
    async fn new(run_dir: &Path) -> Self {
        let network = open(run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let container = network
            .create_sandbox(&sandbox("a", &br0, 2))
            .await
            .unwrap()
            .netns;
        serve(&container, 80, "inside");
        let beside = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        serve(&beside.netns, 80, "beside");
        let port = PortMapping {
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 8080,
            protocol: Protocol::Tcp,
            container_ip: "10.1.0.2".parse().unwrap(),
            container_port: 80,
        };
        network.publish("a", &[port]).await.unwrap();
        run("ip", &["netns", "add", "outside"]);
        let wire = [
            "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", "outside",
        ];
        run("ip", &wire);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "wire"]);
        run("ip", &["link", "set", "wire", "up"]);
        let outside = OwnedFd::from(std::fs::File::open("/run/netns/outside").unwrap());
        inside(&outside, || {
            run("ip", &["addr", "add", "192.0.2.2/24", "dev", "wire"]);
            run("ip", &["link", "set", "wire", "up"]);
        });
        serve(&outside, 80, "outside");
        Self {
            network,
            container,
            outside,
        }
    }

    #[track_caller]
    fn assert_connected(&self) {
        let out = ask_from(&self.container, "192.0.2.2:80", DEADLINE);
        assert_eq!(out.as_deref(), Some("outside 192.0.2.1"));
        let into = ask_from(&self.outside, "192.0.2.1:8080", DEADLINE);
        assert_eq!(into.as_deref(), Some("inside 192.0.2.2"));
    }

    /// Containers of one bridge reach each other, also where the kernel shows bridged packets to iptables.
    #[track_caller]
    fn assert_neighbours(&self, connected: bool) {
        for call in ["0", "1"] {
            if let Err(error) = std::fs::write(BRIDGE_CALLS, call) {
                eprintln!("this kernel has no br_netfilter ({error}): left out");
                return;
            }
            let expected = (call == "0" || connected).then_some("beside 10.1.0.2");
            let timeout = if expected.is_some() { DEADLINE } else { REFUSAL };
            let answer = ask_from(&self.container, "10.1.0.3:80", timeout);
            assert_eq!(answer.as_deref(), expected, "bridge-nf-call-iptables={call}");
        }
    }

    #[track_caller]
    fn assert_cut_off(&self) {
        assert_eq!(ask_from(&self.container, "192.0.2.2:80", REFUSAL), None);
        assert_eq!(ask_from(&self.outside, "192.0.2.1:8080", REFUSAL), None);
    }
}

/// A machine whose mounts and names in /run/netns are its own.
fn on_machine<F: Future<Output = ()>>(test: impl FnOnce(Machine) -> F + Send + 'static) {
    isolated(|run_dir| async move {
        std::fs::create_dir_all("/run/netns").unwrap();
        run("mount", &["-t", "tmpfs", "none", "/run/netns"]);
        test(Machine::new(&run_dir).await).await;
    });
}

/// The whole rule set without ours and without counters.
fn rules_of_others() -> Vec<String> {
    let listed = run("nft", &["--stateless", "list", "ruleset"]);
    let own = listed.find("table ip muster {").expect("our table is there");
    let end = own + listed[own..].find("\n}\n").unwrap() + 2;
    let others = format!("{}{}", &listed[..own], &listed[end..]);
    let lines = others.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.contains("comment \"muster "))
        .map(str::to_owned)
        .collect()
}

fn ours() -> Vec<String> {
    let rules = run("iptables-nft", &["-S", "FORWARD"]);
    let ours = rules.lines().filter(|rule| rule.contains("\"muster "));
    ours.map(str::to_owned).collect()
}

#[test]
fn iptables_that_drop_admit_bridges_and_keep_their_own_rules() {
    on_machine(async |machine| {
        assert_eq!(admit_bridges(TABLE).unwrap(), OtherFirewalls::default());
        // As dockerd leaves it.
        for rule in [
            &["-N", "DOCKER-USER"][..],
            &["-A", "FORWARD", "-j", "DOCKER-USER"],
            &["-A", "DOCKER-USER", "-s", "203.0.113.7", "-j", "DROP"],
            &["-A", "DOCKER-USER", "-j", "RETURN"],
            &["-P", "FORWARD", "DROP"],
        ] {
            run("iptables-nft", rule);
        }
        machine.assert_cut_off();
        machine.assert_neighbours(false);
        let before = rules_of_others();
        let admitted = admit_bridges(TABLE).unwrap();
        machine.assert_connected();
        machine.assert_neighbours(true);
        assert_eq!(rules_of_others(), before);
        assert_eq!(
            ours(),
            [
                "-A FORWARD -i br0 -m comment --comment \"muster from br0\" -j ACCEPT",
                "-A FORWARD -o br0 -m comment --comment \"muster to br0\" -j ACCEPT",
            ]
        );
        assert_eq!(admitted.admitted.len(), 2);
        assert!(admitted.found.contains(&"dockerd".to_owned()) && admitted.warnings.is_empty());
        // It is done once, and only looking does nothing.
        assert_eq!(admit_bridges(TABLE).unwrap(), admitted);
        assert_eq!(other_firewalls(TABLE).unwrap(), admitted);
        // What others refuse stays refused, behind our rules or not.
        run("iptables-nft", &["-I", "DOCKER-USER", "-i", "br0", "-j", "DROP"]);
        assert_eq!(ask_from(&machine.container, "192.0.2.2:80", REFUSAL), None);
        run("iptables-nft", &["-D", "DOCKER-USER", "-i", "br0", "-j", "DROP"]);

        run("iptables-nft", &["-F", "FORWARD"]);
        machine.assert_cut_off();
        admit_bridges(TABLE).unwrap();
        machine.assert_connected();
        assert_eq!(withdraw_bridges(TABLE).unwrap(), 2);
        machine.assert_cut_off();
        admit_bridges(TABLE).unwrap();
        run("iptables-nft", &["-P", "FORWARD", "ACCEPT"]);
        assert_eq!(admit_bridges(TABLE).unwrap().admitted, Vec::<String>::new());
        assert_eq!(ours(), Vec::<String>::new());
        machine.assert_connected();
        machine.network.unpublish("a").await.unwrap();
    });
}

#[test]
fn ufw_admits_bridges_and_keeps_them_over_a_reload() {
    on_machine(async |machine| {
        // Its files change when it is enabled: those of this mount namespace only.
        let place = tempfile::tempdir().unwrap();
        for (number, directory) in ["/etc", "/usr/lib/ufw", "/run"].into_iter().enumerate() {
            let [upper, work] = ["upper", "work"].map(|name| place.path().join(format!("{name}-{number}")));
            if directory == "/run" {
                run("mount", &["-t", "tmpfs", "none", directory]);
                continue;
            }
            std::fs::create_dir(&upper).unwrap();
            std::fs::create_dir(&work).unwrap();
            let options = format!(
                "lowerdir={directory},upperdir={},workdir={}",
                upper.display(),
                work.display()
            );
            run("mount", &["-t", "overlay", "overlay", "-o", &options, directory]);
        }
        run("ufw", &["--force", "enable"]);
        machine.assert_cut_off();
        let before = rules_of_others();
        let admitted = admit_bridges(TABLE).unwrap();
        assert!(admitted.found.contains(&"ufw".to_owned()), "{admitted:?}");
        machine.assert_connected();
        assert_eq!(rules_of_others(), before);
        run("ufw", &["reload"]);
        admit_bridges(TABLE).unwrap();
        machine.assert_connected();
        assert_eq!(ours().len(), 2);
        // It drops what is IPv6, too.
        assert_eq!(withdraw_bridges(TABLE).unwrap(), 4);
        machine.assert_cut_off();
    });
}

#[test]
fn chains_that_only_their_owner_changes_are_told_of_with_the_command() {
    on_machine(async |machine| {
        run("nft", &["add", "table", "inet", "mine"]);
        let chain = "{ type filter hook forward priority 10; policy drop; }";
        run("nft", &["add", "chain", "inet", "mine", "forward", chain]);
        let before = rules_of_others();
        let found = admit_bridges(TABLE).unwrap();
        assert_eq!((rules_of_others(), found.admitted.len()), (before, 0));
        machine.assert_cut_off();
        let [warning] = found.warnings.as_slice() else {
            panic!("{found:?}");
        };
        let (_, command) = warning.split_once("add to it ").unwrap();
        run("sh", &["-c", command]);
        // Answers and what is on its way to a published port.
        machine.assert_connected();
        assert_eq!(admit_bridges(TABLE).unwrap().warnings, Vec::<String>::new());
    });
}
