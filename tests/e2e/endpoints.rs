//! Endpoints that leave, by themselves and with their node: who sends requests notices as little as can be.

use crate::support::{IMAGE, LONG, Lab, eventually};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// Serves its own name, and stops as servers should: it ends once the connections that it has are served.
const GRACEFUL: &str = "mkdir -p /www; hostname > /www/who; httpd -f -p 80 -h /www & server=$!; \
    busy() { cat /proc/net/tcp /proc/net/tcp6 | grep -q ':0050 [0-9A-F]*:[0-9A-F]* 0[138] '; }; \
    trap 'while busy; do :; done; kill $server; exit 0' TERM; wait";
/// Asks a service by its name until it is told to stop, and notes what went wrong.
const ASKING: &str = "while true; do \
    /bin/busybox timeout 10 /bin/busybox wget -qO- http://web/who > /answer 2>&1 && echo >> /served || cat /answer >> /lost; done";
/// Requests that a test at least makes while something changes.
const REQUESTS_MIN: usize = 300;

/// The service `web` on the network `open` and on port 8080 of every node, one task on each.
fn serve(lab: &Lab) {
    let docker = lab.docker("node-1");
    docker.run(&["network", "create", "-d", "overlay", "--attachable", "open"]);
    let create = ["service", "create", "-d", "--name", "web", "--replicas", "3"];
    let what = [
        "--network",
        "open",
        "--publish",
        "8080:80",
        "--hostname",
        "{{.Task.Name}}",
        "--health-cmd",
        "/bin/busybox wget -qO- http://127.0.0.1/who",
        "--health-interval",
        "300ms",
        "--health-timeout",
        "10s",
        IMAGE,
        "sh",
        "-c",
        GRACEFUL,
    ];
    docker.run(&[&create[..], &what].concat());
    lab.await_running("node-1", "web", 3, |tasks| {
        tasks.values().collect::<BTreeSet<_>>().len() == 3
    });
    eventually("every node leads to the service", LONG, || {
        let asked = NODES.iter().map(|node| lab.fetch(node, 8080, "who"));
        asked.collect::<Result<Vec<_>, _>>()
    });
}

/// How many requests were answered, and what went wrong with others, while `change` was carried out.
fn under_load(lab: &Lab, change: impl FnOnce()) -> (usize, Vec<String>) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ask = |node: &'static str| {
            let (mut served, mut lost) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match lab.fetch(node, 8080, "who") {
                    Ok(_) => served += 1,
                    Err(error) => lost.push(format!("{node}: {error}")),
                }
            }
            (served, lost)
        };
        let asking: Vec<_> = NODES.map(|node| scope.spawn(move || ask(node))).into();
        change();
        stop.store(true, Ordering::Relaxed);
        let ended = asking.into_iter().map(|thread| thread.join().expect("it ends"));
        ended.fold((0, Vec::new()), |(served, mut all), (more, lost)| {
            all.extend(lost);
            (served + more, all)
        })
    })
}

#[test]
fn a_rolling_update_loses_no_request() {
    let lab = Lab::with_image("e2eroll", 3, 1);
    serve(&lab);
    let docker = lab.docker("node-2");
    let asking = [
        "run",
        "-d",
        "--name",
        "asking",
        "--network",
        "open",
        IMAGE,
        "sh",
        "-c",
        ASKING,
    ];
    docker.run(&asking);
    let count = |file: &str| {
        let counted = docker.try_run(&["exec", "asking", "/bin/busybox", "wc", "-l", file]);
        let number = counted
            .stdout
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        number.unwrap_or(0usize)
    };
    eventually("the first requests by name", LONG, || match count("/served") {
        0 => Err("none"),
        some => Ok(some),
    });
    let (served, lost) = under_load(&lab, || {
        for round in ["1", "2"] {
            let env = format!("ROUND={round}");
            let update = [
                "service",
                "update",
                "-d",
                "--update-delay",
                "0s",
                "--env-add",
                &env,
                "web",
            ];
            lab.docker("node-1").run(&update);
            eventually("the update is done", LONG, || {
                let state = "{{.UpdateStatus.State}} {{json .Spec.TaskTemplate.ContainerSpec.Env}}";
                let state = lab
                    .docker("node-1")
                    .run(&["service", "inspect", "-f", state, "web"]);
                let is_done = state.starts_with("completed") && state.contains(&env);
                is_done.then_some(()).ok_or(state)
            });
        }
    });
    let by_name = count("/served");
    let lost_by_name = docker.try_run(&["exec", "asking", "cat", "/lost"]);
    eprintln!("{served} requests through ports, {by_name} by name");
    assert_eq!(lost, [""; 0], "of {served}");
    assert_ne!(lost_by_name.code, 0, "of {by_name}: {lost_by_name:?}");
    assert!(served > REQUESTS_MIN && by_name > 20, "{served} {by_name}");
    docker.run(&["rm", "-f", "asking"]);
}

#[test]
fn connections_to_a_lost_node_end_and_new_ones_go_elsewhere() {
    let lab = Lab::with_image("e2edown", 3, 1);
    serve(&lab);
    // Connections from a node's host through its port: begun, and not ended.
    let begun: Vec<TcpStream> = (0..6).map(|_| begin(&lab)).collect();
    let killed = Instant::now();
    // Nobody hears of its end: a machine that loses its power closes no connection.
    lab.command(&["partition", "node-3", "node-1,node-2"]);
    lab.kill("node-3");
    lab.await_listed("node-1", "node-3", "Down Active");
    let mut last_lost = Duration::ZERO;
    eventually("every new connection is answered", LONG, || {
        let asked = Instant::now();
        let probes: Vec<_> = (0..6).map(|_| lab.fetch("node-1", 8080, "who")).collect();
        match probes.iter().find(|probe| probe.is_err()) {
            Some(lost) => {
                last_lost = asked.duration_since(killed);
                Err(format!("{lost:?}"))
            }
            None => Ok(()),
        }
    });
    eprintln!("the last connection to the lost node was begun {last_lost:?} after its end");
    let (mut answered, mut ended) = (0, 0);
    for mut stream in begun {
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time-out can be set");
        let mut answer = String::new();
        let said = stream
            .write_all(b"\r\n")
            .and_then(|()| stream.read_to_string(&mut answer));
        match said {
            Ok(_) if answer.contains(" 200 ") => answered += 1,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => ended += 1,
            other => panic!("{other:?} {answer}"),
        }
    }
    // The port leads to one endpoint after the other, so that two of the six were the lost node's.
    assert_eq!((answered, ended), (4, 2));
}

/// A request without its end.
fn begin(lab: &Lab) -> TcpStream {
    let mut stream = lab.connect("node-1", 8080);
    stream
        .write_all(b"GET /who HTTP/1.0\r\n")
        .expect("it is connected");
    stream
}
