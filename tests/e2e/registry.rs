//! Pulling and pushing with the docker CLI, against Debian's docker-registry.

use crate::support::{IMAGE, LONG, Lab, PASSWORD, Registry, Setup, USER, eventually};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn plain(port: u16) -> Setup {
    Setup {
        port,
        ..Setup::default()
    }
}

fn digest_in(text: &str) -> String {
    let at = text
        .find("sha256:")
        .unwrap_or_else(|| panic!("no digest in {text}"));
    text[at..at + 71].to_owned()
}

#[test]
fn what_is_pushed_is_pulled_by_tag_and_digest() {
    let lab = Lab::with_image("e2ereg", 1, 1);
    let registry = Registry::start(&lab, "node-1", &plain(5000));
    let docker = lab.docker("node-1");
    assert!(docker.run(&["info"]).contains("127.0.0.0/8"));
    let name = format!("{}/tools/busybox", registry.name);
    let tagged = format!("{name}:1");
    docker.run(&["tag", IMAGE, &tagged]);
    let pushed = docker.run(&["push", &tagged]);
    assert!(
        pushed.contains(&format!("The push refers to repository [{name}]")) && pushed.contains(": Pushed"),
        "{pushed}"
    );
    let digest = digest_in(&pushed);
    let manifest = std::fs::read(registry.blob(&digest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        // As Docker sends them, though this one was loaded uncompressed.
        let content = std::fs::read(registry.blob(layer["digest"].as_str().unwrap())).unwrap();
        assert_eq!(content[..3], [0x1f, 0x8b, 8]);
    }
    let again = docker.run(&["push", &tagged]);
    assert!(
        again.contains("Layer already exists") && again.contains(&digest),
        "{again}"
    );
    // The same layers under another name are taken over by the registry, not sent.
    let other = format!("{}/other:1", registry.name);
    docker.run(&["tag", IMAGE, &other]);
    let mounted = docker.run(&["push", &other]);
    assert!(mounted.contains("Mounted from tools/busybox"), "{mounted}");

    let id = docker.run(&["inspect", "--format", "{{.Id}}", &tagged]);
    docker.run(&["rmi", "-f", &id]);
    assert_eq!(docker.run(&["images", "-q"]), "");
    let pulled = docker.run(&["pull", &tagged]);
    for expected in [
        "1: Pulling from tools/busybox",
        ": Pulling fs layer",
        ": Download complete",
        ": Pull complete",
        &format!("Digest: {digest}"),
        &format!("Status: Downloaded newer image for {tagged}"),
    ] {
        assert!(pulled.contains(expected), "{expected}: {pulled}");
    }
    assert_eq!(docker.run(&["inspect", "--format", "{{.Id}}", &tagged]), id);
    let digests = docker.run(&["inspect", "--format", "{{.RepoDigests}}", &tagged]);
    assert_eq!(digests, format!("[{name}@{digest}]"));
    let again = docker.run(&["pull", &tagged]);
    assert!(
        again.contains(&format!("Status: Image is up to date for {tagged}")),
        "{again}"
    );

    docker.run(&["rmi", &tagged]);
    let by_digest = format!("{name}@{digest}");
    assert_eq!(docker.run(&["run", "--rm", &by_digest, "echo", "here"]), "here");
    docker.run(&["tag", &by_digest, &format!("{name}:2")]);
    docker.run(&["push", "-q", "-a", &name]);
    docker.run(&["rmi", "-f", &id]);
    docker.run(&["pull", "-a", &name]);
    let tags = docker.run(&["images", "--format", "{{.Tag}}", &name]);
    assert_eq!(tags.lines().collect::<BTreeSet<_>>(), ["1", "2"].into());

    let missing = docker.refuse(&["pull", &format!("{name}:nosuch")]);
    assert!(
        missing.contains(&format!("manifest for {name}:nosuch not found")),
        "{missing}"
    );
    let nothing = docker.refuse(&["push", &format!("{}/nosuch:1", registry.name)]);
    assert!(
        nothing.contains("An image does not exist locally with the tag"),
        "{nothing}"
    );
}

#[test]
fn what_was_pulled_is_pushed_to_a_registry_that_has_nothing_of_it() {
    let lab = Lab::with_image("e2eregag", 1, 1);
    let first = Registry::start(&lab, "node-1", &plain(5000));
    let second = Registry::start(&lab, "node-1", &plain(5001));
    let docker = lab.docker("node-1");
    let (from, to) = (format!("{}/app:1", first.name), format!("{}/app:1", second.name));
    docker.run(&["tag", IMAGE, &from]);
    docker.run(&["push", &from]);
    let id = docker.run(&["inspect", "--format", "{{.Id}}", IMAGE]);
    docker.run(&["rmi", "-f", &id]);
    docker.run(&["pull", &from]);
    drop(first);

    // Its blobs are no longer here: the layers' archives are made again of their files.
    docker.run(&["tag", &from, &to]);
    let digest = digest_in(&docker.run(&["push", &to]));
    let manifest = std::fs::read(second.blob(&digest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let contents: Vec<String> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            let blob = second.blob(layer["digest"].as_str().unwrap());
            let file = std::fs::File::open(blob).unwrap();
            let unpacked = Command::new("gzip").arg("-dc").stdin(file).output();
            muster_images::Digest::of(&unpacked.unwrap().stdout).to_string()
        })
        .collect();
    let layers = docker.run(&["inspect", "--format", "{{json .RootFS.Layers}}", &to]);
    assert_eq!(serde_json::json!(contents).to_string(), layers);
    docker.run(&["rmi", "-f", &id]);
    docker.run(&["pull", &to]);
    assert_eq!(docker.run(&["inspect", "--format", "{{.Id}}", &to]), id);
    assert_eq!(docker.run(&["run", "--rm", &to, "echo", "here"]), "here");
}

#[test]
fn services_run_by_the_digest_that_the_registry_has() {
    let lab = Lab::with_image("e2eregsv", 1, 1);
    let registry = Registry::start(&lab, "node-1", &plain(5000));
    let docker = lab.docker("node-1");
    let name = format!("{}/app:1", registry.name);
    docker.run(&["tag", IMAGE, &name]);
    let digest = digest_in(&docker.run(&["push", &name]));
    docker.run(&[
        "rmi",
        "-f",
        &docker.run(&["inspect", "--format", "{{.Id}}", IMAGE]),
    ]);
    docker.run(&["service", "create", "-d", "-q", "--name", "web", &name]);
    let image = "{{.Spec.TaskTemplate.ContainerSpec.Image}}";
    assert_eq!(
        docker.run(&["service", "inspect", "--format", image, "web"]),
        format!("{name}@{digest}")
    );
    lab.await_running("node-1", "web", 1, |_| true);
}

#[test]
fn a_registry_that_is_out_of_reach_holds_nobody() {
    let lab = Lab::with_image("e2eregaw", 1, 1);
    let docker = lab.docker("node-1");
    let began = Instant::now();
    let refused = docker.refuse(&["pull", "127.0.0.1:1/app:1"]);
    assert!(
        refused.contains("cannot reach the registry") && refused.contains("refused"),
        "{refused}"
    );
    // Nothing answers at this address of the lab's network.
    let silent = docker.refuse(&["pull", "10.255.255.1:5000/app:1"]);
    assert!(silent.contains("cannot reach the registry"), "{silent}");
    docker.run(&["service", "create", "-d", "-q", "--name", "web", IMAGE]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    lab.await_running("node-1", "web", 1, |_| true);
}

#[test]
fn a_password_is_asked_for_and_kept_by_the_client_alone() {
    let lab = Lab::with_image("e2ereglo", 1, 1);
    let setup = Setup {
        password: true,
        ..plain(5000)
    };
    let registry = Registry::start(&lab, "node-1", &setup);
    let docker = lab.docker("node-1");
    let name = format!("{}/secret:1", registry.name);
    docker.run(&["tag", IMAGE, &name]);
    let refused = docker.refuse(&["push", &name]);
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    let wrong = docker.piped(
        b"wrong",
        &["login", "-u", USER, "--password-stdin", &registry.name],
    );
    assert_ne!(wrong.code, 0, "{wrong:?}");
    assert!(wrong.stderr.contains("unauthorized"), "{wrong:?}");
    let right = docker.piped(
        PASSWORD.as_bytes(),
        &["login", "-u", USER, "--password-stdin", &registry.name],
    );
    assert!(right.stdout.contains("Login Succeeded"), "{right:?}");
    docker.run(&["push", &name]);
    docker.run(&["rmi", &name]);
    docker.run(&["pull", &name]);
    let log = std::fs::read_to_string(lab.node_directory("node-1").join("daemon.log")).unwrap();
    assert!(!log.contains(PASSWORD), "the password is in the log");
}

/// A registry with TLS at a node's address, and its certificate.
pub fn with_tls(lab: &Lab, node: &str, port: u16) -> (Setup, PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![lab.address(node)]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = ["registry.crt", "registry.key"].map(|name| lab.directory().join(name));
    std::fs::write(&files[0], certificate.pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    let setup = Setup {
        tls: Some((files[0].clone(), files[1].clone())),
        ..plain(port)
    };
    (setup, files[0].clone())
}

/// Has a node accept the certificate.
pub fn trust(lab: &Lab, node: &str, registry: &Registry, certificate: &Path) {
    let place = lab.node_directory(node).join("data/certs.d").join(&registry.name);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(certificate, place.join("ca.crt")).unwrap();
}

#[test]
fn the_authority_of_a_registry_lies_with_the_daemon() {
    let lab = Lab::with_image("e2eregtl", 1, 1);
    let docker = lab.docker("node-1");
    let (setup, certificate) = with_tls(&lab, "node-1", 5443);
    let registry = Registry::start(&lab, "node-1", &setup);
    let name = format!("{}/app:1", registry.name);
    docker.run(&["tag", IMAGE, &name]);
    let refused = docker.refuse(&["push", &name]);
    assert!(
        refused.contains("its certificate is not accepted") && refused.contains("certs.d"),
        "{refused}"
    );
    trust(&lab, "node-1", &registry, &certificate);
    docker.run(&["push", &name]);
    docker.run(&["rmi", &name]);
    docker.run(&["pull", &name]);
}

#[test]
fn nodes_pull_as_the_user_of_the_service() {
    let lab = Lab::with_image("e2eregau", 2, 1);
    let docker = lab.docker("node-1");
    let (setup, certificate) = with_tls(&lab, "node-1", 5443);
    let setup = Setup {
        password: true,
        ..setup
    };
    let registry = Registry::start(&lab, "node-1", &setup);
    for node in ["node-1", "node-2"] {
        trust(&lab, node, &registry, &certificate);
    }
    let name = format!("{}/app:1", registry.name);
    docker.run(&["tag", IMAGE, &name]);
    let login = ["login", "-u", USER, "--password-stdin", &registry.name];
    assert_eq!(docker.piped(PASSWORD.as_bytes(), &login).code, 0);
    docker.run(&["push", &name]);
    docker.run(&[
        "rmi",
        "-f",
        &docker.run(&["inspect", "--format", "{{.Id}}", IMAGE]),
    ]);
    let create = ["service", "create", "-d", "-q", "--replicas", "2", "--name"];
    docker.run(&[&create[..], &["anonymous", &name]].concat());
    eventually("a task that is rejected", LONG, || {
        let tasks = docker.run(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.Error}}",
            "anonymous",
        ]);
        match tasks.contains("no basic auth credentials") {
            true => Ok(()),
            false => Err(tasks),
        }
    });
    docker.run(&["service", "rm", "anonymous"]);
    docker.run(&[&create[..], &["web", "--with-registry-auth", &name]].concat());
    let tasks = lab.await_running("node-1", "web", 2, |_| true);
    assert_eq!(tasks.values().collect::<BTreeSet<_>>().len(), 2, "{tasks:?}");
    let shown = docker.run(&["service", "inspect", "web"]);
    assert!(
        !shown.contains("egistryAuth") && !shown.contains("egistry_auth"),
        "{shown}"
    );
    // A change without credentials keeps those that it has.
    docker.run(&["service", "update", "-d", "-q", "--env-add", "a=b", "web"]);
    lab.await_running("node-1", "web", 2, |_| true);
}
