//! The networks of one node, as users of the docker CLI see them.

use crate::support::{Docker, IMAGE, LONG, Lab, Output, SERVER, WAITER, eventually};

/// Starts a web server that answers with its host name.
fn serve(docker: &Docker, name: &str, args: &[&str]) {
    let own = ["run", "-d", "--name", name, "--hostname", name];
    docker.run(&[&own[..], args, &[IMAGE, "sh", "-c", SERVER]].concat());
}

/// The first address that a container's resolver gives for a name. The image's own programs are linked statically, and
/// of them only `nslookup` can ask.
fn resolved(docker: &Docker, from: &str, name: &str) -> Option<String> {
    let told = looks_up(docker, from, &["-type=a", name]);
    let (_, answer) = told.split_once("Name:")?;
    let line = answer.lines().find_map(|line| line.strip_prefix("Address:"))?;
    Some(line.trim().to_owned())
}

/// Asks a web server, with a program that looks nothing up.
fn fetch(docker: &Docker, from: &str, address: &str, timeout_s: u32) -> Output {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or("80")),
        None => address.split_once(':').unwrap_or((address, "80")),
    };
    let script = format!("printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w {timeout_s} {host} {port}");
    docker.try_run(&["exec", from, "sh", "-c", &script])
}

/// What a container gets from a web server, in the end: by name, or by address with or without a port.
#[track_caller]
fn gets(docker: &Docker, from: &str, server: &str, expected: &str) {
    eventually(&format!("{from} gets {expected} from {server}"), LONG, || {
        // Names of these tests have no colon, and only their addresses begin with a digit and have a dot.
        let is_address = server.contains(':')
            || server.starts_with(|first: char| first.is_ascii_digit()) && server.contains('.');
        let address = match is_address {
            true => server.to_owned(),
            false => resolved(docker, from, server).ok_or("no address".to_owned())?,
        };
        let got = fetch(docker, from, &address, 5);
        if got.stdout.trim().ends_with(expected) && got.stdout.contains(" 200 ") {
            Ok(())
        } else {
            Err(format!("{got:?}"))
        }
    });
}

/// That a container gets nothing from an address.
#[track_caller]
fn is_cut_off(docker: &Docker, from: &str, address: &str) {
    let got = fetch(docker, from, address, 1);
    assert!(!got.stdout.contains(" 200 "), "{from} reaches {address}: {got:?}");
}

fn inspect(docker: &Docker, name: &str, template: &str) -> String {
    docker.run(&["inspect", "--format", template, name])
}

/// What a container's resolver says, without what it says of itself.
fn looks_up(docker: &Docker, from: &str, args: &[&str]) -> String {
    let told = docker.try_run(&[&["exec", from, "nslookup"], args].concat());
    told.stdout
}

#[test]
fn networks_are_made_listed_used_and_removed() {
    let lab = Lab::with_image("e2enet", 1, 1);
    let docker = &lab.docker("node-1");
    definitions(docker);
    names(docker);
    connecting(docker);
    isolation(docker);
    published(&lab, docker);
    links(docker);
    macvlan(docker);
    restart(&lab, docker);
}

fn definitions(docker: &Docker) {
    let id = docker.run(&[
        "network",
        "create",
        "--subnet",
        "10.80.0.0/24",
        "--ip-range",
        "10.80.0.128/25",
        "--gateway",
        "10.80.0.9",
        "--aux-address",
        "printer=10.80.0.130",
        "--label",
        "team=a",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "lan",
    ]);
    let shown = "{{.Id}} {{.Driver}} {{.Scope}} {{range .IPAM.Config}}{{.Subnet}} {{.IPRange}} {{.Gateway}}{{end}} \
                 {{index .Labels \"team\"}}";
    assert_eq!(
        docker.run(&["network", "inspect", "--format", shown, "lan"]),
        format!("{id} bridge local 10.80.0.0/24 10.80.0.128/25 10.80.0.9 a")
    );
    let conflict = docker.refuse(&["network", "create", "lan"]);
    assert!(
        conflict.contains("network with name lan already exists"),
        "{conflict}"
    );
    let overlap = docker.refuse(&["network", "create", "--subnet", "10.80.0.0/16", "other"]);
    assert!(
        overlap.contains("Pool overlaps with other one on this address space"),
        "{overlap}"
    );
    let built_in = docker.refuse(&["network", "rm", "bridge"]);
    assert!(
        built_in.contains("bridge is a pre-defined network and cannot be removed"),
        "{built_in}"
    );
    let missing = docker.refuse(&["network", "inspect", "nope"]);
    assert!(missing.contains("network nope not found"), "{missing}");
    let crooked = docker.refuse(&["network", "create", "--subnet", "10.81.0.1/24", "x"]);
    assert!(
        crooked.contains("invalid subnet 10.81.0.1/24: it should be 10.81.0.0/24"),
        "{crooked}"
    );
    let unknown = docker.refuse(&["network", "create", "-o", "foo=bar", "x"]);
    assert!(
        unknown.contains("the option \"foo\" of bridge networks"),
        "{unknown}"
    );
    let nowhere = docker.refuse(&["run", "--rm", "--network", "nope", IMAGE, "true"]);
    assert!(nowhere.contains("network nope not found"), "{nowhere}");
    assert!(!nowhere.contains("Unable to find image"), "{nowhere}");

    let listed = |filter: &str| docker.lines(&["network", "ls", "--filter", filter, "--format", "{{.Name}}"]);
    assert_eq!(listed("label=team=a"), ["lan"]);
    assert_eq!(listed("type=builtin"), ["bridge", "host", "none"]);
    assert_eq!(listed("dangling=true"), ["lan"]);
    assert_eq!(listed("driver=null"), ["none"]);
    assert_eq!(listed(&format!("id={}", &id[..12])), ["lan"]);

    serve(
        docker,
        "web",
        &[
            "--network",
            "lan",
            "--network-alias",
            "www",
            "--ip",
            "10.80.0.200",
        ],
    );
    let endpoint = "{{with .NetworkSettings.Networks.lan}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}} \
                    {{.IPAMConfig.IPv4Address}} {{.Aliases}} {{index .DNSNames 0}} {{len .EndpointID}}{{end}}";
    assert_eq!(
        inspect(docker, "web", endpoint),
        "10.80.0.200/24 10.80.0.9 02:42:0a:50:00:c8 10.80.0.200 [www] web 64"
    );
    let member = "{{range .Containers}}{{.Name}} {{.IPv4Address}} {{len .EndpointID}}{{end}}";
    assert_eq!(
        docker.run(&["network", "inspect", "--format", member, "lan"]),
        "web 10.80.0.200/24 64"
    );
    assert!(
        docker
            .run(&["exec", "web", "ip", "link", "show", "eth0"])
            .contains("mtu 1400")
    );
    let taken = docker.refuse(&[
        "run",
        "--rm",
        "--network",
        "lan",
        "--ip",
        "10.80.0.200",
        IMAGE,
        "true",
    ]);
    assert!(taken.contains("Address already in use"), "{taken}");
    let elsewhere = docker.refuse(&[
        "run",
        "--rm",
        "--network",
        "lan",
        "--ip",
        "10.90.0.2",
        IMAGE,
        "true",
    ]);
    assert!(
        elsewhere.contains("no configured subnet contains IP address 10.90.0.2"),
        "{elsewhere}"
    );
    let busy = docker.refuse(&["network", "rm", "lan"]);
    assert!(busy.contains("network lan has active endpoints"), "{busy}");
    assert_eq!(listed("dangling=true"), Vec::<String>::new());
}

fn names(docker: &Docker) {
    docker.run(&[
        "run",
        "-d",
        "--name",
        "client",
        "--network",
        "lan",
        "--link",
        "web:db",
        IMAGE,
        "sh",
        "-c",
        WAITER,
    ]);
    assert!(
        docker
            .run(&["exec", "client", "cat", "/etc/resolv.conf"])
            .contains("nameserver 127.0.0.11")
    );
    let short = inspect(docker, "web", "{{.Id}}")[..12].to_owned();
    for name in ["web", "WEB", "www", "db", "web.lan", &short] {
        gets(docker, "client", name, "web");
    }
    assert!(looks_up(docker, "client", &["-type=ptr", "200.0.80.10.in-addr.arpa"]).contains("web.lan"));
    let none = looks_up(docker, "client", &["-type=aaaa", "web"]);
    assert!(!none.contains("NXDOMAIN") && !none.contains("SERVFAIL"), "{none}");
    // Two containers share an alias, and each is the first answer sometimes.
    serve(docker, "web2", &["--network", "lan", "--network-alias", "www"]);
    for either in ["web", "web2"] {
        gets(docker, "client", "www", either);
    }
    docker.run(&["rename", "web2", "web3"]);
    gets(docker, "client", "web3", "web2");
    docker.run(&["rm", "-f", "web3"]);
    assert_eq!(resolved(docker, "client", "web3"), None);
}

fn connecting(docker: &Docker) {
    docker.run(&[
        "network",
        "create",
        "--subnet",
        "10.81.0.0/24",
        "--ipv6",
        "--subnet",
        "fd00:81::/64",
        "wan",
    ]);
    serve(docker, "far", &["--network", "wan"]);
    is_cut_off(
        docker,
        "client",
        &inspect(docker, "far", "{{.NetworkSettings.Networks.wan.IPAddress}}"),
    );
    docker.run(&["network", "connect", "--alias", "near", "wan", "client"]);
    gets(docker, "client", "far", "far");
    let far = inspect(
        docker,
        "far",
        "{{.NetworkSettings.Networks.wan.GlobalIPv6Address}}",
    );
    gets(docker, "client", &format!("[{far}]"), "far");
    gets(docker, "client", "web", "web");
    let hosts = docker.run(&["exec", "client", "cat", "/etc/hosts"]);
    assert!(hosts.contains("10.81.0.3\t"), "{hosts}");
    let routes = docker.run(&["exec", "client", "ip", "route"]);
    assert!(routes.contains("default via 10.80.0.9 dev eth0"), "{routes}");
    let again = docker.refuse(&["network", "connect", "wan", "client"]);
    assert!(
        again.contains("endpoint with name client already exists in network wan"),
        "{again}"
    );
    docker.run(&["network", "disconnect", "lan", "client"]);
    let routes = docker.run(&["exec", "client", "ip", "route"]);
    assert!(routes.contains("default via 10.81.0.1 dev eth1"), "{routes}");
    gets(docker, "client", "far", "far");
    assert_eq!(resolved(docker, "client", "web"), None);
    is_cut_off(docker, "client", "10.80.0.200");
    docker.run(&["network", "connect", "--gw-priority", "1", "lan", "client"]);
    let routes = docker.run(&["exec", "client", "ip", "route"]);
    assert!(routes.contains("default via 10.80.0.9"), "{routes}");

    // One that does not run is put on its networks by its next start.
    docker.run(&["create", "--name", "later", IMAGE, "sh", "-c", WAITER]);
    docker.run(&["network", "connect", "--ip", "10.80.0.77", "lan", "later"]);
    docker.run(&["network", "disconnect", "bridge", "later"]);
    docker.run(&["start", "later"]);
    let networks =
        "{{range $name, $place := .NetworkSettings.Networks}}{{$name}} {{$place.IPAddress}}{{end}}";
    assert_eq!(inspect(docker, "later", networks), "lan 10.80.0.77");
    docker.run(&["rm", "-f", "later"]);

    let until = (std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 1)
    .to_string();
    let events = docker.lines(&[
        "events",
        "--since",
        "10m",
        "--until",
        &until,
        "--filter",
        "type=network",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ]);
    for expected in ["create wan", "connect wan", "disconnect lan"] {
        assert!(
            events.iter().any(|event| event == expected),
            "no {expected}: {events:?}"
        );
    }
}

fn isolation(docker: &Docker) {
    docker.run(&[
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.82.0.0/24",
        "inner",
    ]);
    docker.run(&[
        "network",
        "create",
        "--subnet",
        "10.83.0.0/24",
        "-o",
        "com.docker.network.bridge.enable_icc=false",
        "-o",
        "com.docker.network.bridge.name=mylone0",
        "lonely",
    ]);
    for (name, network) in [
        ("in1", "inner"),
        ("in2", "inner"),
        ("lo1", "lonely"),
        ("lo2", "lonely"),
    ] {
        serve(docker, name, &["--network", network]);
    }
    gets(docker, "in1", "in2", "in2");
    let address = |name: &str, network: &str| {
        inspect(
            docker,
            name,
            &format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}"),
        )
    };
    is_cut_off(docker, "lo1", &address("lo2", "lonely"));
    is_cut_off(docker, "in1", "10.80.0.200");
    is_cut_off(docker, "client", &address("in2", "inner"));
    assert!(!docker.run(&["exec", "in1", "ip", "route"]).contains("default"));
    let outside = looks_up(docker, "in1", &["example.com"]);
    assert!(!outside.contains("Address: 93."), "{outside}");
    docker.run(&["rm", "-f", "in1", "in2", "lo1", "lo2"]);
    docker.run(&["network", "rm", "lonely"]);
    let mode = "com.docker.network.bridge.gateway_mode_ipv4=isolated";
    let open = docker.refuse(&["network", "create", "-o", mode, "alone"]);
    assert!(
        open.contains("can only be used for an internal network"),
        "{open}"
    );
    let subnet = "10.86.0.0/24";
    docker.run(&[
        "network",
        "create",
        "--internal",
        "-o",
        mode,
        "--subnet",
        subnet,
        "alone",
    ]);
    serve(docker, "al1", &["--network", "alone"]);
    serve(docker, "al2", &["--network", "alone"]);
    gets(docker, "al1", "al2", "al2");
    // The host has no address there.
    assert!(
        !docker
            .run(&["run", "--rm", "--network", "host", IMAGE, "ip", "address"])
            .contains("10.86.0.")
    );
    docker.run(&["rm", "-f", "al1", "al2"]);
    docker.run(&["network", "rm", "alone"]);
    let pruned = docker.run(&["network", "prune", "-f"]);
    assert!(pruned.contains("inner") && !pruned.contains("lan"), "{pruned}");
}

fn published(lab: &Lab, docker: &Docker) {
    serve(docker, "front", &["--network", "wan", "-p", "8080:80"]);
    let ports = docker.run(&["port", "front"]);
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    eventually("the page from outside", LONG, || {
        match lab.fetch("node-1", 8080, "name") {
            Ok(page) if page == "front" => Ok(()),
            other => Err(other),
        }
    });
    for (from, address) in [
        ("far", "10.81.0.1:8080"),
        ("far", "[fd00:81::1]:8080"),
        ("front", "10.81.0.1:8080"),
        ("web", "10.80.0.9:8080"),
    ] {
        gets(docker, from, address, "front");
    }
    let taken = docker.refuse(&["run", "-d", "--name", "second", "-p", "8080:80", IMAGE]);
    assert!(
        taken.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"),
        "{taken}"
    );
    docker.run(&["rm", "second"]);
    // The port follows the default gateway to another network.
    docker.run(&["network", "connect", "lan", "front"]);
    docker.run(&["network", "disconnect", "wan", "front"]);
    eventually("the page over another network", LONG, || {
        match lab.fetch("node-1", 8080, "name") {
            Ok(page) if page == "front" => Ok(()),
            other => Err(other),
        }
    });
    docker.run(&["rm", "-f", "front"]);
    let warned = docker.try_run(&[
        "create",
        "--name",
        "hosted",
        "--network",
        "host",
        "-p",
        "81:81",
        IMAGE,
    ]);
    assert!(
        warned
            .stderr
            .contains("Published ports are discarded when using host network mode"),
        "{warned:?}"
    );
    docker.run(&["rm", "hosted"]);
    let shared = docker.refuse(&["run", "--network", "container:web", "--hostname", "x", IMAGE]);
    assert!(
        shared.contains("conflicting options: hostname and the network mode"),
        "{shared}"
    );
}

fn links(docker: &Docker) {
    docker.run(&[
        "run", "-d", "--name", "db", "--expose", "5432", "-e", "SECRET=1", IMAGE, "sh", "-c", WAITER,
    ]);
    docker.run(&[
        "run",
        "-d",
        "--name",
        "app",
        "--link",
        "db:store",
        "--add-host",
        "gate:host-gateway",
        IMAGE,
        "sh",
        "-c",
        WAITER,
    ]);
    let address = inspect(docker, "db", "{{.NetworkSettings.IPAddress}}");
    let hosts = docker.run(&["exec", "app", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{address}\tstore ")), "{hosts}");
    let gateway = inspect(docker, "db", "{{.NetworkSettings.Gateway}}");
    assert!(hosts.contains(&format!("{gateway}\tgate")), "{hosts}");
    let variables = docker.run(&["exec", "app", "env"]);
    for expected in [
        format!("STORE_PORT=tcp://{address}:5432"),
        format!("STORE_PORT_5432_TCP_ADDR={address}"),
        "STORE_NAME=/app/store".to_owned(),
        "STORE_ENV_SECRET=1".to_owned(),
    ] {
        assert!(
            variables.lines().any(|line| line == expected),
            "no {expected}: {variables}"
        );
    }
    let missing = docker.refuse(&["create", "--link", "nobody", IMAGE]);
    assert!(
        missing.contains("could not get container for nobody"),
        "{missing}"
    );
    docker.run(&["rm", "-f", "app", "db"]);
}

fn macvlan(docker: &Docker) {
    docker.run(&[
        "network",
        "create",
        "-d",
        "macvlan",
        "--internal",
        "--subnet",
        "10.84.0.0/24",
        "flat",
    ]);
    serve(docker, "m1", &["--network", "flat"]);
    serve(
        docker,
        "m2",
        &["--network", "flat", "--mac-address", "02:00:00:00:84:02"],
    );
    gets(docker, "m1", "m2", "m2");
    assert_eq!(
        inspect(docker, "m2", "{{.NetworkSettings.Networks.flat.MacAddress}}"),
        "02:00:00:00:84:02"
    );
    docker.run(&["rm", "-f", "m1", "m2"]);
    docker.run(&["network", "rm", "flat"]);
    let missing = docker.refuse(&["network", "create", "-d", "macvlan", "-o", "parent=nolink0", "x"]);
    assert!(
        missing.contains("there is no network interface nolink0"),
        "{missing}"
    );
}

fn restart(lab: &Lab, docker: &Docker) {
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    gets(docker, "client", "web", "web");
    gets(docker, "client", "far", "far");
    docker.run(&["network", "disconnect", "wan", "client"]);
    docker.run(&["rm", "-f", "far"]);
    docker.run(&["network", "rm", "wan"]);
    lab.kill("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    let listed = docker.lines(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(
        listed,
        ["bridge", "docker_gwbridge", "host", "ingress", "lan", "none"]
    );
    docker.run(&["start", "web"]);
    docker.run(&["start", "client"]);
    gets(docker, "client", "web", "web");
    docker.run(&["rm", "-f", "web", "client"]);
    docker.run(&["network", "rm", "lan"]);
}
