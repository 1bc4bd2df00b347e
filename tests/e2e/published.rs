//! Published ports that the packet filter cannot redirect, asked with curl on the node itself.

use crate::support::{Docker, IMAGE, LONG, Lab, SERVER, WAITER, eventually};
use std::process::Command;

/// What each address answers, from the node itself.
const OPEN: [(&str, &str); 5] = [
    ("[::1]:8081", "four"),
    ("[fd00:77::9]:8082", "four"),
    ("[::1]:8083", "six"),
    ("[::1]:8084", "six"),
    ("127.0.0.1:8084", "six"),
];

#[test]
fn ports_on_addresses_of_ipv6_lead_to_containers_with_and_without_it() {
    let lab = Lab::with_image("e2epub", 1, 1);
    let docker = &lab.docker("node-1");
    on_node(
        &lab,
        "ip",
        &["-6", "address", "add", "fd00:77::9/128", "dev", "lo"],
    );
    serve(
        docker,
        "four",
        &["-p", "[::1]:8081:80", "-p", "[fd00:77::9]:8082:80"],
    );
    docker.run(&["network", "create", "--ipv6", "dual"]);
    serve(
        docker,
        "six",
        &["--network", "dual", "-p", "[::1]:8083:80", "-p", "8084:80"],
    );
    assert_eq!(
        docker.lines(&["port", "four"]),
        ["80/tcp -> [::1]:8081", "80/tcp -> [fd00:77::9]:8082"]
    );
    all_answer(&lab);
    let taken = docker.refuse(&["run", "-p", "[::1]:8081:80", IMAGE]);
    assert!(
        taken.contains("Bind for [::1]:8081 failed: port is already allocated"),
        "{taken}"
    );
    let of_one_link = docker.refuse(&["run", "-p", "[fe80::1]:8085:80", IMAGE]);
    assert!(
        of_one_link.contains("fe80::1 is an address of one link only; publish the port on another address"),
        "{of_one_link}"
    );
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    all_answer(&lab);
    docker.run(&["restart", "-t", "0", "four", "six"]);
    all_answer(&lab);
    docker.run(&["rm", "-f", "four", "six"]);
    docker.run(&[
        "run",
        "-d",
        "--name",
        "later",
        "-p",
        "[::1]:8081:80",
        IMAGE,
        "sh",
        "-c",
        WAITER,
    ]);
    let answers = |(address, _): &(&str, &str)| curl(&lab, address).is_ok();
    assert_eq!(
        OPEN.iter().find(|open| answers(open)),
        None,
        "nothing of them is left"
    );
}

fn serve(docker: &Docker, name: &str, args: &[&str]) {
    let own = ["run", "-d", "--name", name, "--hostname", name];
    docker.run(&[&own[..], args, &[IMAGE, "sh", "-c", SERVER]].concat());
}

#[track_caller]
fn all_answer(lab: &Lab) {
    for (address, name) in OPEN {
        eventually(address, LONG, || match curl(lab, address) {
            Ok(page) if page == name => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

fn curl(lab: &Lab, address: &str) -> Result<String, String> {
    let url = format!("http://{address}/name");
    let output = node_command(lab, "curl", &["-gsSf", "-m", "5", &url])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[track_caller]
fn on_node(lab: &Lab, program: &str, args: &[&str]) {
    let output = node_command(lab, program, args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn node_command(lab: &Lab, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", lab.netns("node-1").display()));
    command.arg("--").arg(program).args(args);
    command
}
