//! Firewalls of others in network namespaces of their own: what they drop is admitted, and nothing of theirs is changed.

mod isolation;

use isolation::*;
use muster_network::{
    Entry, Network, OtherFirewalls, PortMapping, Protocol, admit_bridges, other_firewalls, withdraw_bridges,
};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
            entry: Entry::Host {
                ip: "0.0.0.0".parse().unwrap(),
                port: 8080,
            },
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
    fn assert_kept_in(&self) {
        assert_eq!(ask_from(&self.container, "192.0.2.2:80", REFUSAL), None);
    }

    #[track_caller]
    fn assert_cut_off(&self) {
        self.assert_kept_in();
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

/// Lays a directory that can be changed over these, the first before the others; what is changed lies at `place`.
fn changeable(directory: &str, lower: &str, place: &Path) {
    let [upper, work] = ["upper", "work"].map(|name| place.join(name));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    run("mount", &["-t", "overlay", "overlay", "-o", &options, directory]);
}

/// A program that runs until it is dropped.
struct Service(Child);

impl Service {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(started.unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

/// Debian's firewalld with a message bus of its own, which both end with the test.
struct Firewalld {
    service: Option<Service>,
    _bus: Service,
    _place: tempfile::TempDir,
}

/// A bus on which everybody may do everything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
    "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>"#;

impl Firewalld {
    /// Must be called where packages can be fetched, which is not so on a test's machine.
    fn unpack() -> &'static str {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/firewalld");
        let unpacked = concat!(env!("CARGO_TARGET_TMPDIR"), "/firewalld");
        run(script, &[unpacked]);
        unpacked
    }

    fn start(unpacked: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        for directory in ["/usr", "/etc"] {
            let lower = format!("{unpacked}/root{directory}:{directory}");
            if Path::new(unpacked).join(format!("root{directory}")).exists() {
                changeable(directory, &lower, &place.path().join(&directory[1..]));
            } else {
                changeable(directory, directory, &place.path().join(&directory[1..]));
            }
        }
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        std::fs::create_dir("/run/dbus").unwrap();
        std::fs::write("/run/bus.conf", BUS).unwrap();
        let bus = Service::start(
            "dbus-daemon",
            &["--config-file=/run/bus.conf", "--nofork", "--nopidfile"],
        );
        let mut firewalld = Self {
            service: None,
            _bus: bus,
            _place: place,
        };
        until("a message bus", || {
            Path::new("/run/dbus/system_bus_socket").exists()
        });
        firewalld.restart();
        firewalld
    }

    fn restart(&mut self) {
        drop(self.service.take());
        self.service = Some(Service::start("firewalld", &["--nofork", "--nopid"]));
        until("firewalld", || {
            let asked = Command::new("firewall-cmd").arg("--state").output();
            asked.unwrap().status.success()
        });
    }

    fn zones() -> String {
        run("firewall-cmd", &["--list-all-zones"])
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
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
        changeable("/etc", "/etc", &place.path().join("etc"));
        changeable("/usr/lib/ufw", "/usr/lib/ufw", &place.path().join("lib"));
        run("mount", &["-t", "tmpfs", "none", "/run"]);
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
fn firewalld_admits_bridges_in_a_zone_that_comes_and_goes() {
    let unpacked = Firewalld::unpack();
    on_machine(async |machine| {
        let mut firewalld = Firewalld::start(unpacked);
        machine.assert_kept_in();
        machine.assert_neighbours(false);
        let before = Firewalld::zones();
        let admitted = admit_bridges(TABLE).unwrap();
        assert_eq!(admitted.admitted, ["zone muster of firewalld: br0"]);
        assert!(admitted.found.contains(&"firewalld".to_owned()) && admitted.warnings.is_empty());
        machine.assert_connected();
        machine.assert_neighbours(true);
        // It is done once, and only looking does nothing.
        assert_eq!(admit_bridges(TABLE).unwrap(), admitted);
        assert_eq!(other_firewalls(TABLE).unwrap(), admitted);
        for again in ["--reload", "--complete-reload"] {
            run("firewall-cmd", &[again]);
            assert_eq!(admit_bridges(TABLE).unwrap(), admitted, "{again}");
            machine.assert_connected();
        }
        firewalld.restart();
        machine.assert_kept_in();
        assert_eq!(admit_bridges(TABLE).unwrap(), admitted);
        machine.assert_connected();

        // A bridge that is gone goes from the zone; one that the administrator has put elsewhere stays there.
        machine
            .network
            .ensure_bridge(&bridge("br1", "10.2.0.1/24"))
            .await
            .unwrap();
        machine
            .network
            .ensure_bridge(&bridge("br2", "10.3.0.1/24"))
            .await
            .unwrap();
        run("firewall-cmd", &["--zone=block", "--add-interface=br2"]);
        let zone = ["--zone=muster", "--list-interfaces"];
        admit_bridges(TABLE).unwrap();
        let listed = run("firewall-cmd", &zone);
        assert!(
            listed.contains("br0") && listed.contains("br1") && !listed.contains("br2"),
            "{listed}"
        );
        for gone in ["br1", "br2"] {
            machine.network.remove_bridge(gone).await.unwrap();
        }
        admit_bridges(TABLE).unwrap();
        assert_eq!(run("firewall-cmd", &zone).trim(), "br0");
        run("firewall-cmd", &["--zone=block", "--remove-interface=br2"]);

        assert_eq!(withdraw_bridges(TABLE).unwrap(), 1);
        assert_eq!(Firewalld::zones(), before);
        machine.assert_kept_in();
        assert_eq!(withdraw_bridges(TABLE).unwrap(), 0);
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
