//! A node's daemon: where it listens and to whom, how it stops, and what it measures.

use crate::support::{Docker, IMAGE, LONG, Lab, Output, eventually, send_inside};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stops the daemon in order and starts it with these settings.
fn restart_with(lab: &Lab, settings: &str) {
    std::fs::write(lab.node_directory("node-1").join("muster.toml"), settings).unwrap();
    let daemon = lab.daemon("node-1");
    kill(Pid::from_raw(i32::try_from(daemon).unwrap()), Signal::SIGTERM).unwrap();
    let socket = lab.docker("node-1").socket().to_owned();
    eventually("the daemon to end", LONG, || {
        let gone = !Path::new(&format!("/proc/{daemon}/exe")).exists();
        if gone && !socket.exists() {
            Ok(())
        } else {
            Err(socket.exists())
        }
    });
    lab.start("node-1");
}

/// The group that may use the socket.
fn docker_group() -> u32 {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let row = groups.lines().find(|line| line.starts_with("docker:"));
    row.and_then(|row| row.split(':').nth(2))
        .map_or(0, |id| id.parse().unwrap())
}

/// An authority with a certificate for the daemon and one for a client, in a directory of its own.
fn certificates(directory: PathBuf) -> PathBuf {
    std::fs::create_dir(&directory).unwrap();
    let named = |names: Vec<String>, common: &str| {
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params
    };
    let key = KeyPair::generate().unwrap();
    let mut params = named(Vec::new(), "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let certificate = named(vec!["127.0.0.1".to_owned()], name)
            .signed_by(&key, &issuer)
            .unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
    directory
}

/// The docker CLI inside the node's network, over TLS, with these files of a client.
fn over_tls(lab: &Lab, authority: &Path, client: Option<&Path>) -> Output {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", lab.netns("node-1").display()));
    command.args([
        "docker",
        "-H",
        "tcp://127.0.0.1:2376",
        "--tlsverify",
        "--tlscacert",
    ]);
    command.arg(authority.join("ca.pem"));
    if let Some(client) = client {
        command.arg("--tlscert").arg(client.join("client.pem"));
        command.arg("--tlskey").arg(client.join("client-key.pem"));
    }
    command.args(["ps", "--format", "{{.Names}}"]);
    command.env("DOCKER_CONFIG", lab.directory().join("docker"));
    command.env_remove("DOCKER_HOST").env_remove("DOCKER_CERT_PATH");
    let output = command.output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_engine_api_is_served_where_and_to_whom_the_settings_say() {
    let lab = Lab::with_image("e2elist", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&["run", "-d", "--name", "own", IMAGE]);
    let before = lab.containers("node-1");
    let second = lab.node_directory("node-1").join("second.sock");
    let sockets = [docker.socket(), &second];
    let hosts = format!(
        "hosts = [\"unix://{}\", \"unix://{}\"",
        sockets[0].display(),
        sockets[1].display()
    );

    restart_with(
        &lab,
        &format!("insecure-loopback = true\n{hosts}, \"tcp://127.0.0.1:2375\"]\n"),
    );
    assert_eq!(
        lab.containers("node-1"),
        before,
        "an orderly stop leaves containers alone"
    );
    for socket in sockets {
        let docker = Docker::new(socket, &lab.directory().join("docker"));
        assert_eq!(docker.run(&["ps", "--format", "{{.Names}}"]), "own");
        let found = socket.metadata().unwrap();
        assert_eq!(
            (found.permissions().mode() & 0o777, found.gid()),
            (0o660, docker_group())
        );
    }
    let ask = |port: u16, headers: &str| {
        let request = format!("GET /_ping HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        send_inside(&lab.netns("node-1"), &format!("127.0.0.1:{port}"), request).unwrap_or_default()
    };
    assert!(ask(2375, "Host: localhost:2375\r\n").starts_with("HTTP/1.1 200"));
    for foreign in [
        "Host: evil.example\r\n",
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
    ] {
        let answer = ask(2375, foreign);
        assert!(answer.starts_with("HTTP/1.1 403"), "{foreign}: {answer}");
    }

    let own = certificates(lab.directory().join("own"));
    let foreign = certificates(lab.directory().join("foreign"));
    let files = [
        "tlscacert = \"@/ca.pem\"",
        "tlscert = \"@/server.pem\"",
        "tlskey = \"@/server-key.pem\"",
    ];
    let files = files.join("\n").replace('@', &own.to_string_lossy());
    restart_with(
        &lab,
        &format!("tlsverify = true\n{files}\n{hosts}, \"tcp://0.0.0.0:2376\"]\n"),
    );
    let shown = over_tls(&lab, &own, Some(&own));
    assert_eq!((shown.code, shown.stdout.as_str()), (0, "own"), "{shown:?}");
    for client in [None, Some(foreign.as_path())] {
        let refused = over_tls(&lab, &own, client);
        assert!(
            refused.code != 0 && refused.stdout.is_empty(),
            "{client:?}: {refused:?}"
        );
    }
    let distrusted = over_tls(&lab, &foreign, Some(&own));
    assert!(distrusted.stderr.contains("certificate"), "{distrusted:?}");
    let plain = ask(2376, "Host: localhost\r\n");
    assert!(!plain.contains("200 OK"), "{plain}");
}

#[test]
fn every_documented_metric_is_served() {
    let lab = Lab::with_image("e2emetr", 1, 1);
    restart_with(&lab, "registry-listen = [\"127.0.0.1:5000\"]\n");
    lab.await_listed("node-1", "node-1", "Ready Active Leader");
    lab.create_web(2);
    lab.await_running("node-1", "web", 2, |_| true);
    let failed = lab.docker("node-1").try_run(&["run", "--rm", IMAGE, "nosuch"]);
    assert_eq!(failed.code, 127, "{failed:?}");
    let page = lab.fetch("node-1", 9323, "metrics").unwrap();
    let served: BTreeSet<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `muster_"));
    let documented: BTreeSet<(&str, &str)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`'), cells[2])
        })
        .collect();
    assert!(documented.len() > 20, "{documented:?}");
    let missing: Vec<_> = documented.difference(&served).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{page}");

    let value = |name: &str| {
        let mut lines = page.lines().filter_map(|line| line.rsplit_once(' '));
        let (_, value) = lines.find(|(own, _)| *own == name)?;
        value.parse::<f64>().ok()
    };
    for (name, expected) in [
        ("muster_raft_leading", 1.0),
        ("muster_sessions", 1.0),
        ("muster_leases", 1.0),
        ("muster_scheduling_tasks_sum", 2.0),
        ("muster_tasks{state=\"running\"}", 2.0),
        ("muster_engine_containers{state=\"running\"}", 2.0),
    ] {
        assert_eq!(value(name), Some(expected), "{name} in\n{page}");
    }
    for name in [
        "muster_raft_apply_seconds_count",
        "muster_raft_apply_seconds_sum",
        "muster_reconcile_seconds_sum",
        "muster_scheduling_seconds_sum",
        "muster_image_bytes",
    ] {
        assert!(value(name).is_some_and(|value| value > 0.0), "{name} in\n{page}");
    }
}
