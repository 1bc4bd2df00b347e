//! One image to many nodes: it enters the cluster about once, and the nodes give it to each other.

use crate::registry::{trust, with_tls};
use crate::support::{IMAGE, LONG, Lab, Registry, eventually};
use muster_images::{ImageRecipe, RecipeSource};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::process::Command;

/// Bytes of the random file in each image.
const CONTENT_BYTES: usize = 48 << 20;
const NODES: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];

/// Loads an image of busybox and a file that cannot be compressed.
fn load_large(lab: &Lab, node: &str, name: &str) {
    let mut content = vec![0; CONTENT_BYTES];
    let mut random = File::open("/dev/urandom").unwrap();
    random.read_exact(&mut content).unwrap();
    let recipe = ImageRecipe {
        reference: name.to_owned(),
        cmd: ["busybox", "sleep", "100000"].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        stop_signal: "KILL".to_owned(),
        ..ImageRecipe::default()
    };
    let recipe = recipe
        .with("bin/busybox", 0o755, RecipeSource::File("/bin/busybox".into()))
        .with("content", 0o644, RecipeSource::Bytes(content));
    let archive = lab.directory().join("large.tar");
    recipe.write(File::create(&archive).unwrap()).unwrap();
    lab.docker(node).run(&["load", "-i", &archive.to_string_lossy()]);
}

/// Bounds what each node sends to others, so that an image is seconds under way and all nodes want it meanwhile: on a
/// link of gigabytes per second the first may have all of it before the second asks.
fn slow_links(lab: &Lab) {
    for node in NODES {
        let within = |arguments: &[&str]| {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", lab.netns(node).display()));
            let output = command.args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let addresses = within(&["ip", "-o", "addr", "show", "to", &lab.address(node)]);
        let device = addresses.split_whitespace().nth(1).unwrap();
        within(&[
            "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", "100mbit", "burst", "256k",
            "latency", "50ms",
        ]);
    }
}

/// A figure of a node's metrics.
#[track_caller]
fn metric(lab: &Lab, node: &str, name: &str) -> u64 {
    let page = lab.fetch(node, 9323, "metrics").unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    value.trim().parse::<f64>().unwrap() as u64
}

/// Bytes of blobs that all nodes took from registries, from other nodes, and gave to others.
fn traffic(lab: &Lab, nodes: &[&str]) -> (u64, u64, u64) {
    let sum = |name| nodes.iter().map(|node| metric(lab, node, name)).sum();
    (
        sum("muster_image_fetched_bytes_total{from=\"registry\"}"),
        sum("muster_image_fetched_bytes_total{from=\"node\"}"),
        sum("muster_image_served_bytes_total"),
    )
}

/// Bytes of blobs that the registry's log says it sent.
fn sent_by(lab: &Lab, port: u16) -> u64 {
    let log = lab.directory().join(format!("registry-{port}/log"));
    let log = std::fs::read_to_string(log).unwrap();
    let sent = log.lines().filter_map(|line| {
        let is_blob = line.contains("response completed")
            && line.contains("http.request.method=GET")
            && line.contains("/blobs/");
        let written = line.split("http.response.written=").nth(1)?;
        let written = written.split_whitespace().next()?.parse::<u64>().ok();
        written.filter(|_| is_blob)
    });
    sent.sum()
}

#[test]
fn a_rollout_takes_a_layer_from_the_registry_about_once() {
    let lab = Lab::up("e2erollo", NODES.len(), 1);
    let docker = lab.docker("node-1");
    let (setup, certificate) = with_tls(&lab, "node-1", 5443);
    let registry = Registry::start(&lab, "node-1", &setup);
    for node in NODES {
        trust(&lab, node, &registry, &certificate);
    }
    let name = format!("{}/large:1", registry.name);
    load_large(&lab, "node-1", &name);
    docker.run(&["push", &name]);
    docker.run(&["rmi", "-f", &docker.run(&["images", "-q", &name])]);
    assert_eq!(sent_by(&lab, 5443), 0);

    slow_links(&lab);
    docker.run(&[
        "service", "create", "-d", "-q", "--mode", "global", "--name", "web", &name,
    ]);
    lab.await_running("node-1", "web", NODES.len(), |_| true);
    let image = CONTENT_BYTES as u64;
    let (from_registry, from_nodes, served) = traffic(&lab, &NODES);
    let sent = sent_by(&lab, 5443);
    assert!(
        sent >= image && sent < image * 3 / 2,
        "the registry sent {sent} bytes for an image of {image}"
    );
    // Who creates a service looks at the configuration, which no metric counts.
    assert!(
        from_registry <= sent && sent - from_registry < 4096,
        "{sent} bytes were sent, {from_registry} counted"
    );
    assert!(from_nodes >= image * 2, "{from_nodes}");
    assert!(served >= from_nodes, "{served} served, {from_nodes} fetched");

    // One node gave it to one other, not to all.
    let by_node: BTreeMap<_, _> = NODES
        .iter()
        .map(|node| (*node, traffic(&lab, &[node]).2))
        .collect();
    assert!(
        by_node.values().all(|served| *served < image * 5 / 2),
        "{by_node:?}"
    );

    // Also who pulls by hand takes it from the others, and hears from the registry what it is called.
    let second = lab.docker("node-3");
    let id = second.run(&["images", "-q"]);
    let digests = "{{.RepoDigests}}";
    let expected = second.run(&["inspect", "--format", digests, &id]);
    docker.run(&["service", "rm", "web"]);
    eventually("the image is in no use", LONG, || {
        let output = second.try_run(&["rmi", "-f", &id]);
        match output.code {
            0 => Ok(()),
            _ => Err(format!("{output:?}")),
        }
    });
    second.run(&["pull", &name]);
    assert_eq!(second.run(&["inspect", "--format", digests, &name]), expected);
    assert!(
        sent_by(&lab, 5443) < sent + image / 2,
        "it came from the registry again"
    );
}

#[test]
fn an_image_reaches_all_nodes_from_the_one_that_has_it() {
    let lab = Lab::up("e2erolse", NODES.len(), 1);
    load_large(&lab, "node-1", "large:1");
    slow_links(&lab);
    let docker = lab.docker("node-1");
    docker.run(&[
        "service", "create", "-d", "-q", "--mode", "global", "--name", "web", "large:1",
    ]);
    lab.await_running("node-1", "web", NODES.len(), |_| true);
    let image = CONTENT_BYTES as u64;
    let served = traffic(&lab, &["node-1"]).2;
    assert!(
        served >= image && served < image * 5 / 2,
        "the one that had it gave {served} bytes of an image of {image} to three nodes"
    );
    let (from_registry, from_nodes, _) = traffic(&lab, &NODES);
    assert_eq!(from_registry, 0);
    assert!(from_nodes >= image * 3, "{from_nodes}");
}

#[test]
fn a_node_that_dies_while_it_gives_an_image_on_holds_nobody_up() {
    let lab = Lab::up("e2erolki", NODES.len(), 1);
    load_large(&lab, "node-1", "large:1");
    slow_links(&lab);
    let docker = lab.docker("node-1");
    docker.run(&[
        "service", "create", "-d", "-q", "--mode", "global", "--name", "web", "large:1",
    ]);
    let image = CONTENT_BYTES as u64;
    let giver = eventually("a node gives on what it takes", LONG, || {
        let is_amid = |node: &&&str| {
            let (_, fetched, served) = traffic(&lab, &[node]);
            served > 1 << 20 && fetched < image / 2
        };
        NODES[1..].iter().find(is_amid).copied().ok_or("nobody does")
    });
    lab.kill(giver);
    lab.await_running("node-1", "web", NODES.len() - 1, |_| true);
    for node in NODES[1..].iter().filter(|node| **node != giver) {
        let (_, fetched, _) = traffic(&lab, &[node]);
        assert!(
            fetched >= image && fetched < image * 3 / 2,
            "{node} took {fetched} bytes for an image of {image}: it began anew"
        );
    }
}

#[test]
fn the_image_of_another_platform_comes_from_a_node_while_its_registry_is_out_of_reach() {
    let lab = Lab::with_image("e2erolpl", 2, 1);
    let (one, two) = (lab.docker("node-1"), lab.docker("node-2"));
    let (setup, certificate) = with_tls(&lab, "node-1", 5443);
    let registry = Registry::start(&lab, "node-1", &setup);
    trust(&lab, "node-1", &registry, &certificate);
    trust(&lab, "node-2", &registry, &certificate);
    let (native, foreign) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "arm64"),
        _ => ("arm64", "amd64"),
    };
    let place = lab.directory();
    std::fs::write(place.join("file"), "for another platform").unwrap();
    let archive = place.join("file.tar").to_string_lossy().into_owned();
    let packed = Command::new("tar")
        .arg("-C")
        .arg(place)
        .args(["-cf", &archive, "file"])
        .status();
    assert!(packed.unwrap().success());
    let platform = format!("linux/{foreign}");
    let name = format!("{}/app", registry.name);
    one.run(&[
        "import",
        "--platform",
        &platform,
        &archive,
        &format!("{name}:{foreign}"),
    ]);
    one.run(&["tag", IMAGE, &format!("{name}:{native}")]);
    let entries: Vec<String> = [native, foreign]
        .iter()
        .map(|architecture| {
            let pushed = one.run(&["push", &format!("{name}:{architecture}")]);
            let digest = &pushed[pushed.find("digest: ").unwrap() + 8..][..71];
            let size = std::fs::metadata(registry.blob(digest)).unwrap().len();
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},
                "platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
            )
        })
        .collect();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.join(",")
    );
    let put = Command::new("nsenter")
        .arg(format!("--net={}", lab.netns("node-1").display()))
        .args(["curl", "-fsSk", "-X", "PUT", "-d", &index])
        .args(["-H", "Content-Type: application/vnd.oci.image.index.v1+json"])
        .arg(format!("https://{}/v2/app/manifests/all", registry.name))
        .output()
        .unwrap();
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let all = format!("{name}:all");
    one.run(&["pull", "--platform", &platform, &all]);
    drop(registry);

    two.run(&["pull", "--platform", &platform, &all]);
    let shown = "{{.Architecture}} {{.RepoDigests}} {{.Id}}";
    let expected = one.run(&["inspect", "--format", shown, &all]);
    assert!(expected.starts_with(foreign), "{expected}");
    assert_eq!(two.run(&["inspect", "--format", shown, &all]), expected);
    // By the digest of the index, too.
    let digest = &expected[expected.find("@sha256:").unwrap()..][..72];
    two.run(&["rmi", "-f", &all]);
    two.run(&["pull", "--platform", &platform, &format!("{name}{digest}")]);
    let none = two.refuse(&["pull", "--platform", "linux/s390x", &all]);
    assert!(none.contains("no node of the cluster has"), "{none}");
}

#[test]
fn a_late_node_takes_the_content_of_layers_whose_blobs_nobody_keeps() {
    let lab = Lab::with_image("e2erolco", 2, 1);
    let (one, two) = (lab.docker("node-1"), lab.docker("node-2"));
    let (setup, certificate) = with_tls(&lab, "node-1", 5443);
    let registry = Registry::start(&lab, "node-1", &setup);
    trust(&lab, "node-1", &registry, &certificate);
    trust(&lab, "node-2", &registry, &certificate);
    let name = format!("{}/app:1", registry.name);
    one.run(&["tag", IMAGE, &name]);
    let pushed = one.run(&["push", &name]);
    let digest = &pushed[pushed.find("digest: ").unwrap() + 8..][..71];
    let manifest = std::fs::read(registry.blob(digest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let compressed: u64 = layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
    let id = one.run(&["inspect", "--format", "{{.Id}}", &name]);
    // The one node has it as it came from the registry, without the blobs; the other has nothing of it.
    one.run(&["rmi", "-f", &id]);
    two.run(&["rmi", "-f", &id]);
    one.run(&["pull", &name]);
    drop(registry);

    two.run(&["pull", &name]);
    assert_eq!(two.run(&["inspect", "--format", "{{.Id}}", &name]), id);
    assert_eq!(two.run(&["run", "--rm", &name, "echo", "here"]), "here");
    let (from_registry, from_nodes, _) = traffic(&lab, &["node-2"]);
    assert_eq!(from_registry, 0);
    assert!(
        from_nodes > compressed,
        "{from_nodes} bytes came of layers that were {compressed} at the registry"
    );
}
