//! Log drivers: those that send logs on, `journald` and `syslog`, and what files become.

use crate::support::{Docker, IMAGE, LONG, Lab, WAITER, eventually};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn logs_go_where_their_driver_says_and_can_still_be_read() {
    let lab = Lab::with_image("e2elogs", 1, 1);
    let docker = lab.docker("node-1");
    refuses_what_cannot_be(&docker);
    sends_to_syslog(&docker, &lab);
    sends_to_the_journal(&docker, &lab);
}

/// A server of datagrams.
struct Server {
    socket: UnixDatagram,
    got: Vec<String>,
}

impl Server {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let got = Vec::new();
        Self { socket, got }
    }

    /// Waits for a datagram that contains this, and returns it.
    #[track_caller]
    fn await_one(&mut self, text: &str) -> String {
        eventually(&format!("a message with {text:?}"), LONG, || {
            let mut buffer = [0; 64 << 10];
            if let Ok(length) = self.socket.recv(&mut buffer) {
                self.got
                    .push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            let found = self.got.iter().find(|message| message.contains(text));
            found.cloned().ok_or_else(|| self.got.clone())
        })
    }
}

fn refuses_what_cannot_be(docker: &Docker) {
    for (options, why) in [
        (
            &["--log-driver=gelf"][..],
            "no log driver named 'gelf' is registered",
        ),
        (
            &["--log-driver=syslog", "--log-opt", "syslog-facility=x"],
            "invalid syslog facility",
        ),
        (
            &["--log-driver=syslog", "--log-opt", "syslog-format=x"],
            "Invalid syslog format",
        ),
        (
            &["--log-driver=syslog", "--log-opt", "syslog-address=ftp://x"],
            "syslog-address must be",
        ),
        (
            &["--log-driver=syslog", "--log-opt", "max-size=1m"],
            "unknown log opt 'max-size' for syslog log driver",
        ),
        (
            &["--log-driver=journald", "--log-opt", "syslog-format=x"],
            "unknown log opt",
        ),
        // Nothing listens in a lab's node.
        (
            &["--log-driver=journald"],
            "failed to initialize logging driver: journald is not enabled on this host",
        ),
        (
            &[
                "--log-driver=syslog",
                "--log-opt",
                "syslog-address=tcp://127.0.0.1:1",
            ],
            "failed to initialize logging driver: dial tcp 127.0.0.1:1",
        ),
    ] {
        let refused = docker.refuse(&[&["run", "--rm"], options, &[IMAGE, "true"]].concat());
        assert!(refused.contains(why), "{options:?}: {refused}");
    }
}

fn sends_to_syslog(docker: &Docker, lab: &Lab) {
    let path = lab.directory().join("syslog");
    let mut server = Server::at(&path);
    let address = format!("syslog-address=unixgram://{}", path.display());
    let run = |name: &str, options: &[&str], script: &str| {
        let driver = [
            "run",
            "-d",
            "--name",
            name,
            "--log-driver=syslog",
            "--log-opt",
            &address,
        ];
        docker.run(&[&driver[..], options, &[IMAGE, "sh", "-c", script]].concat())
    };
    let id = run("one", &[], "echo out; echo err >&2");
    let short = &id[..12];
    let out = server.await_one("out");
    assert!(
        out.starts_with("<30>") && out.contains(&format!(" {short}[")) && out.ends_with("]: out\n"),
        "{out}"
    );
    assert!(server.await_one("err").starts_with("<27>"));
    docker.run(&["wait", "one"]);
    assert_eq!(docker.run(&["logs", "one"]), "out", "from the cache");
    let options = [
        "--log-opt=syslog-format=rfc5424",
        "--log-opt=syslog-facility=local0",
        "--log-opt=tag=app/{{.Name}}",
    ];
    let script = format!("echo begins; (while ! [ -e /go ]; do sleep 0.05; done; echo goes on) & {WAITER}");
    run("two", &options, &script);
    let message = server.await_one("begins");
    assert!(
        message.starts_with("<134>1 ") && message.contains(" app/two "),
        "{message}"
    );
    // The engine is away while the container writes, and goes on where it was.
    let pid = docker.run(&["inspect", "--format", "{{.State.Pid}}", "two"]);
    lab.kill_daemon("node-1");
    let init = lab.init("node-1").to_string();
    let go = format!("touch /proc/{pid}/root/go");
    let touched = Command::new("nsenter")
        .args(["-t", &init, "-m", "-p", "sh", "-c", &go])
        .status();
    assert!(touched.unwrap().success());
    lab.start("node-1");
    lab.await_daemon("node-1");
    server.await_one("goes on");
    let begun = server
        .got
        .iter()
        .filter(|message| message.contains("begins"))
        .count();
    assert_eq!(begun, 1, "{:?}", server.got);
    docker.run(&["rm", "-f", "one", "two"]);
    // One that is gone at once is sent all the same; without a cache nobody reads it here.
    docker.run(&[
        "run",
        "--rm",
        "--log-driver=syslog",
        "--log-opt",
        &address,
        IMAGE,
        "echo",
        "short life",
    ]);
    server.await_one("short life");
    run("three", &["--log-opt=cache-disabled=true"], "echo unread");
    server.await_one("unread");
    let refused = docker.refuse(&["logs", "three"]);
    assert!(
        refused.contains("configured logging driver does not support reading"),
        "{refused}"
    );
    docker.run(&["rm", "-f", "three"]);
}

fn sends_to_the_journal(docker: &Docker, lab: &Lab) {
    let path = lab.directory().join("journal");
    let mut server = Server::at(&path);
    let place = "/run/systemd/journal";
    let prepare = format!(
        "mkdir -p {place}; touch {place}/socket; mount --bind {} {place}/socket",
        path.display()
    );
    let init = lab.init("node-1").to_string();
    let prepared = Command::new("nsenter")
        .args(["-t", &init, "-m", "sh", "-c", &prepare])
        .status();
    assert!(prepared.unwrap().success());
    let id = docker.run(&[
        "run",
        "-d",
        "--name=logged",
        "--log-driver=journald",
        "--log-opt=labels=com.example.team",
        "--log-opt=env-regex=^MODE",
        "--label=com.example.team=a",
        "-e=MODE_X=fast",
        IMAGE,
        "sh",
        "-c",
        "echo to the journal >&2",
    ]);
    let entry = server.await_one("to the journal");
    let lines: Vec<&str> = entry.lines().collect();
    for expected in [
        "MESSAGE=to the journal",
        "PRIORITY=3",
        "CONTAINER_NAME=logged",
        "COM_EXAMPLE_TEAM=a",
        "MODE_X=fast",
        &format!("CONTAINER_ID_FULL={id}"),
        &format!("CONTAINER_ID={}", &id[..12]),
        &format!("SYSLOG_IDENTIFIER={}", &id[..12]),
        &format!("IMAGE_NAME={IMAGE}"),
    ] {
        assert!(lines.contains(&expected), "{expected}: {entry}");
    }
    docker.run(&["wait", "logged"]);
    let read = docker.try_run(&["logs", "logged"]);
    assert_eq!(read.stderr, "to the journal\n");
    docker.run(&["rm", "logged"]);
}

#[test]
fn nodes_have_a_log_driver_and_rotated_files_are_compressed() {
    let lab = Lab::with_image("e2elogz", 1, 1);
    let docker = lab.docker("node-1");
    let driver = || docker.run(&["info", "--format", "{{.LoggingDriver}}"]);
    assert_eq!(driver(), "json-file");
    docker.run(&["create", "--name", "before", IMAGE]);
    let settings = "log-driver = \"local\"\nlog-opts = { max-size = \"80k\", max-file = \"4\" }\n";
    let restart = || {
        std::fs::write(lab.node_directory("node-1").join("muster.toml"), settings).unwrap();
        lab.kill_daemon("node-1");
        lab.start("node-1");
        lab.await_daemon("node-1");
    };
    restart();
    assert_eq!(driver(), "local");
    let log_of = |name: &str| docker.run(&["inspect", "--format", "{{json .HostConfig.LogConfig}}", name]);
    assert_eq!(log_of("before"), r#"{"Type":"json-file","Config":{}}"#);
    docker.run(&[
        "create",
        "--name",
        "own",
        "--log-driver=json-file",
        "--log-opt=tag=x",
        IMAGE,
    ]);
    assert_eq!(log_of("own"), r#"{"Type":"json-file","Config":{"tag":"x"}}"#);

    // More than 70 bytes a line: four files hold less than 5000 of them.
    let script = "seq 6000; sleep 1000";
    docker.run(&[
        "run", "-d", "--init", "--name", "chatty", IMAGE, "sh", "-c", script,
    ]);
    assert_eq!(
        log_of("chatty"),
        r#"{"Type":"local","Config":{"max-file":"4","max-size":"80k"}}"#
    );
    let path = docker.run(&["inspect", "--format", "{{.LogPath}}", "chatty"]);
    let files = |suffix: &str| {
        let there = |number: &u32| Path::new(&format!("{path}.{number}{suffix}")).exists();
        (1..5).filter(there).collect::<Vec<_>>()
    };
    let compressed = || {
        eventually("all rotated files compressed", LONG, || {
            match (files(".gz").as_slice(), files("").as_slice()) {
                ([1, 2, 3], []) => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
    };
    compressed();
    let logs = docker.lines(&["logs", "chatty"]);
    assert!((1000..5000).contains(&logs.len()), "{}", logs.len());
    let expected: Vec<_> = (6001 - logs.len()..=6000)
        .map(|number| number.to_string())
        .collect();
    assert_eq!(logs, expected);
    for lines in [10, logs.len() - 1] {
        let tail = docker.lines(&["logs", "--tail", &lines.to_string(), "chatty"]);
        assert_eq!(tail, expected[expected.len() - lines..]);
    }

    // What an engine that was killed left half done, and what was rotated while none was there, the next one finishes.
    let unpacked = Command::new("gunzip").arg(format!("{path}.2.gz")).status();
    assert!(unpacked.unwrap().success());
    std::fs::copy(format!("{path}.2"), format!("{path}.2.gz")).unwrap();
    std::fs::write(format!("{path}.packing"), "half").unwrap();
    docker.run(&["kill", "chatty"]);
    restart();
    compressed();
    assert!(!Path::new(&format!("{path}.packing")).exists());
    assert_eq!(docker.lines(&["logs", "chatty"]), expected);
    docker.run(&["rm", "-f", "chatty"]);
}
