//! A node beside the firewalls and the engine that other people run on the same host.

use crate::support::{Docker, IMAGE, LONG, Lab, Output, SERVER, busybox, eventually};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Enters the namespaces of a node, and runs a program there as one of its host.
fn on_host(lab: &Lab, program: &str, args: &[&str]) -> Output {
    let output = host_command(lab, program).args(args).output();
    let output = output.expect("nsenter is in the path");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn host_command(lab: &Lab, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    let init = lab.init("node-1").to_string();
    command.args([
        "--target", &init, "--mount", "--net", "--pid", "--uts", "--ipc", "--",
    ]);
    command.arg(program).stdin(Stdio::null());
    command
}

#[track_caller]
fn done_on_host(lab: &Lab, program: &str, args: &[&str]) -> String {
    let output = on_host(lab, program, args);
    assert_eq!(output.code, 0, "{program} {args:?}: {output:?}");
    output.stdout
}

/// The real dockerd on the host of a node. What is left of it ends with the node.
struct Dockerd<'a> {
    lab: &'a Lab,
    directory: PathBuf,
}

impl<'a> Dockerd<'a> {
    fn start(lab: &'a Lab) -> Self {
        let directory = lab.directory().join("dockerd");
        std::fs::create_dir(&directory).expect("the test's directory can be written");
        let dockerd = Self { lab, directory };
        // As on a host where it was there first: where others forward already, it does not drop what it does not know.
        done_on_host(lab, "sh", &["-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
        dockerd.begin();
        dockerd
    }

    fn begin(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("the test's directory can be written");
        let path = |name: &str| self.directory.join(name).display().to_string();
        // dockerd's own process becomes the node's: nsenter's child, which nobody here waits for.
        let started = host_command(self.lab, "sh")
            .args(["-c", "\"$@\" & ", "sh", "dockerd"])
            .args(["--data-root", &path("data"), "--exec-root", "/run/docker"])
            .args(["--pidfile", "/run/docker.pid", "--storage-driver", "overlay2"])
            .args(["--cgroup-parent", "/muster-lab/e2efw/dockerd"])
            .args(["--host", &format!("unix://{}", path("sock"))])
            .stdout(log.try_clone().expect("it was opened"))
            .stderr(log)
            .status();
        assert!(started.expect("nsenter is in the path").success());
        eventually("dockerd answers", LONG, || {
            let output = self.docker().try_run(&["info", "--format", "{{.ServerVersion}}"]);
            let log = || std::fs::read_to_string(self.directory.join("log"));
            if output.code == 0 { Ok(()) } else { Err(log()) }
        });
    }

    fn docker(&self) -> Docker {
        Docker::new(&self.directory.join("sock"), &self.directory)
    }

    fn end(&self) {
        done_on_host(self.lab, "sh", &["-c", "kill $(cat /run/docker.pid)"]);
        let pid_file = format!("/proc/{}/root/run/docker.pid", self.lab.init("node-1"));
        eventually("dockerd's end", LONG, || {
            if Path::new(&pid_file).exists() {
                Err("it runs")
            } else {
                Ok(())
            }
        });
    }
}

/// Whoever asks gets this from a web server, in the end: it may take until the daemon looks at its neighbours again.
#[track_caller]
fn eventually_gets(who: &str, expected: &str, ask: impl Fn() -> String) {
    eventually(&format!("{who} gets {expected}"), LONG, || {
        let got = ask();
        if got.trim().ends_with(expected) {
            Ok(())
        } else {
            Err(got)
        }
    });
}

/// The containers of both engines reach outside, and are reached at their published ports from everywhere.
#[track_caller]
fn all_are_connected(lab: &Lab, mine: &Docker, theirs: &Docker) {
    let outside = format!("{}:9000", lab.address("node-2"));
    let script = |address: &str| {
        let (host, port) = address.split_once(':').expect("it has a port");
        format!("printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port}")
    };
    for (docker, name, port) in [(mine, "mine", 8081), (theirs, "theirs", 8082)] {
        let from = |address: String| {
            move || {
                docker
                    .try_run(&["exec", name, "sh", "-c", &script(&address)])
                    .stdout
            }
        };
        eventually_gets(name, "outside", from(outside.clone()));
        eventually_gets("a machine outside", name, || {
            lab.fetch("node-1", port, "name").unwrap_or_else(|error| error)
        });
        eventually_gets("the host", name, || {
            on_host(
                lab,
                "curl",
                &["-sS", "--max-time", "3", &format!("http://127.0.0.1:{port}/name")],
            )
            .stdout
        });
        eventually_gets(
            "a container itself",
            name,
            from(format!("{}:{port}", lab.address("node-1"))),
        );
        eventually_gets("a neighbour", name, || {
            let address = docker.run(&[
                "inspect",
                "--format",
                "{{.NetworkSettings.Networks.bridge.IPAddress}}",
                name,
            ]);
            let neighbour = format!("{name}-2");
            docker
                .try_run(&["exec", &neighbour, "sh", "-c", &script(&format!("{address}:80"))])
                .stdout
        });
    }
}

/// What iptables holds, without our rules in it and without counters.
fn rules_of_others(lab: &Lab) -> String {
    let rules = done_on_host(lab, "iptables-save", &[]);
    let others = rules
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("--comment \"muster "));
    let uncounted = others.map(|line| line.split(" [").next().unwrap_or_default());
    uncounted.collect::<Vec<_>>().join("\n")
}

fn rules_of_ours(lab: &Lab) -> usize {
    let rules = done_on_host(lab, "iptables-save", &[]);
    rules.matches("--comment \"muster ").count()
}

#[test]
fn dockerd_on_the_same_host_is_lived_with() {
    let lab = Lab::with_image("e2efw", 2, 1);
    let mine = &lab.docker("node-1");
    let image = busybox(lab.directory()).display().to_string();
    let serve = |docker: &Docker, name: &str, published: &str| {
        docker.run(&[
            "run",
            "-d",
            "--name",
            name,
            "--hostname",
            name,
            "-p",
            published,
            IMAGE,
            "sh",
            "-c",
            SERVER,
        ]);
    };
    lab.docker("node-2").run(&["load", "-q", "-i", &image]);
    serve(&lab.docker("node-2"), "outside", "9000:80");
    serve(mine, "mine", "8081:80");
    serve(mine, "mine-2", "80");

    let dockerd = Dockerd::start(&lab);
    let theirs = &dockerd.docker();
    theirs.run(&["load", "-q", "-i", &image]);
    serve(theirs, "theirs", "8082:80");
    serve(theirs, "theirs-2", "80");
    for calls in ["0", "1"] {
        let set = format!(
            "[ ! -e /proc/sys/net/bridge ] || echo {calls} > /proc/sys/net/bridge/bridge-nf-call-iptables"
        );
        done_on_host(&lab, "sh", &["-c", &set]);
        all_are_connected(&lab, mine, theirs);
    }
    // Into and out of each: the default bridge, that of containers on cluster networks, and the mesh's.
    assert_eq!(rules_of_ours(&lab), 6);
    // It makes its chains anew when it starts, and its containers end with it.
    dockerd.end();
    dockerd.begin();
    theirs.run(&["start", "theirs", "theirs-2"]);
    all_are_connected(&lab, mine, theirs);
    // Somebody flushes the chain, so that dockerd's own rules come back with its next start only.
    done_on_host(&lab, "iptables", &["-F", "FORWARD"]);
    dockerd.end();
    dockerd.begin();
    theirs.run(&["start", "theirs", "theirs-2"]);
    all_are_connected(&lab, mine, theirs);

    lab.kill_daemon("node-1");
    let before = rules_of_others(&lab);
    let removed = done_on_host(
        &lab,
        env!("CARGO_BIN_EXE_muster"),
        &["system", "firewall", "remove"],
    );
    assert_eq!(removed.trim(), "removed 6 rules and interfaces");
    assert_eq!((rules_of_ours(&lab), rules_of_others(&lab)), (0, before));
    theirs.run(&["rm", "-f", "theirs", "theirs-2"]);
    dockerd.end();
}
