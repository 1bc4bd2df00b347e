//! What a service asks for is what its containers have, and where they are.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually};

/// Creates a service with these options, words apart by blanks.
fn create(docker: &Docker, options: &str) {
    let options: Vec<&str> = options.split_whitespace().collect();
    docker.run(&[&["service", "create", "-d", "-q"], &options[..], &[IMAGE]].concat());
}

/// Waits until `service ps` says why a service's only task is pending.
fn await_reason(docker: &Docker, service: &str, reason: &str) {
    eventually(reason, LONG, || {
        let format = "{{.CurrentState}} {{.Error}}";
        let row = docker.run(&["service", "ps", "--no-trunc", "--format", format, service]);
        if row.starts_with("Pending") && row.contains(reason) {
            Ok(())
        } else {
            Err(row)
        }
    });
}

#[test]
fn options_of_a_service_reach_its_containers() {
    let lab = Lab::with_image("e2esopt", 1, 1);
    let docker = lab.docker("node-1");
    create(
        &docker,
        "--name web --hostname box --env A=b --workdir /bin --user 7:8 --group 9 --init --read-only \
         --limit-memory 64m --limit-cpu 0.5 --limit-pids 50 --reserve-memory 32m --ulimit nofile=123:456 \
         --cap-add NET_ADMIN --cap-drop MKNOD --sysctl net.ipv4.ip_default_ttl=77 --container-label mine=yes \
         --stop-signal SIGUSR1 --stop-grace-period 7s --host db:10.9.8.7 --dns 10.9.8.1 --dns-search example.org \
         --mount type=tmpfs,target=/mine",
    );
    lab.await_running("node-1", "web", 1, |_| true);
    let container = docker.run(&["ps", "-q"]);
    for (format, expected) in [
        (
            "{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}}",
            "67108864 33554432",
        ),
        (
            "{{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
            "500000000 50",
        ),
        (
            "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}",
            "[CAP_NET_ADMIN] [CAP_MKNOD]",
        ),
        ("{{.Config.StopSignal}} {{.Config.StopTimeout}}", "SIGUSR1 7"),
        (
            "{{.Config.Labels.mine}} {{.HostConfig.ReadonlyRootfs}}",
            "yes true",
        ),
    ] {
        assert_eq!(
            docker.run(&["inspect", "--format", format, &container]),
            expected,
            "{format}"
        );
    }
    let script = "hostname; echo $A; pwd; id -u; id -G; cat /proc/sys/net/ipv4/ip_default_ttl; ulimit -n; \
                  grep -o 'db$' /etc/hosts; grep -c ' /mine tmpfs ' /proc/mounts; \
                  grep -E '^(search|nameserver)' /etc/resolv.conf; touch /file 2>/dev/null || echo read-only";
    let output = docker.lines(&["exec", &container, "sh", "-c", script]);
    let expected = [
        "box",
        "b",
        "/bin",
        "7",
        "8 9",
        "77",
        "123",
        "db",
        "1",
        "nameserver 10.9.8.1",
        "search example.org",
        "read-only",
    ];
    assert_eq!(output, expected);
}

#[test]
fn replicas_spread_over_what_is_preferred_and_reasons_are_counted() {
    let lab = Lab::with_image("e2espre", 3, 1);
    let docker = lab.docker("node-1");
    for (node, zone) in [
        ("node-1", "zone=east"),
        ("node-2", "zone=east"),
        ("node-3", "zone=west"),
    ] {
        docker.run(&["node", "update", "--label-add", zone, node]);
    }
    create(
        &docker,
        "--name web --replicas 4 --placement-pref spread=node.labels.zone",
    );
    lab.await_running("node-1", "web", 4, |tasks| {
        tasks.values().filter(|node| *node == "node-3").count() == 2
    });
    docker.run(&["node", "update", "--availability", "pause", "node-2"]);
    create(&docker, "--name far --constraint node.labels.zone==north");
    await_reason(
        &docker,
        "far",
        "2 nodes: constraint node.labels.zone==north; 1 node: availability pause",
    );
    create(&docker, "--name big --reserve-memory 10000g");
    await_reason(&docker, "big", "MiB memory short; 1 node: availability pause");
    create(
        &docker,
        "--name wide --reserve-cpu 9999 --constraint node.labels.zone==west",
    );
    await_reason(&docker, "wide", "CPU short");
}
