//! The registry in the box: every node serves what was pushed to any, to docker and to other clients.

use crate::support::{IMAGE, LONG, Lab, Output, PASSWORD, USER, busybox, eventually};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A registry at the node's loopback address, the same name on every node.
const LOCAL: &str = "127.0.0.1:5000";

/// Restarts daemons with these settings.
fn restart_with(lab: &Lab, nodes: &[&str], settings: &str) {
    for node in nodes {
        fs::write(lab.node_directory(node).join("muster.toml"), settings).unwrap();
        lab.kill_daemon(node);
        lab.start(node);
    }
    for node in nodes {
        lab.await_daemon(node);
        lab.await_listed(
            "node-1",
            node,
            if *node == "node-1" {
                "Ready Active Leader"
            } else {
                "Ready Active"
            },
        );
    }
}

/// A lab whose nodes have a registry each, and the test image on the first.
fn with_registries(name: &'static str, nodes: &[&str]) -> Lab {
    let lab = Lab::with_image(name, nodes.len(), 1);
    restart_with(&lab, nodes, &format!("registry-listen = [{LOCAL:?}]\n"));
    lab
}

/// Runs a program in the network of a node.
fn in_network(lab: &Lab, node: &str, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", lab.netns(node).display()))
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("`nsenter` is in the path");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
fn run(lab: &Lab, node: &str, program: &str, arguments: &[&str]) -> String {
    let output = in_network(lab, node, program, arguments);
    assert_eq!(output.code, 0, "{program} {arguments:?}: {output:?}");
    output.stdout
}

/// Status and body of a request to a node's registry.
fn request(lab: &Lab, node: &str, method: &str, path: &str) -> (String, String) {
    let url = format!("http://{LOCAL}/v2/{path}");
    let options = ["-s", "-w", "\n%{http_code}", "-X", method, url.as_str()];
    let output = run(lab, node, "curl", &options);
    let (body, status) = output.rsplit_once('\n').expect("curl prints the status");
    (status.to_owned(), body.trim().to_owned())
}

fn forget_images(lab: &Lab, node: &str) {
    let docker = lab.docker(node);
    for id in docker
        .lines(&["images", "-q", "--no-trunc"])
        .into_iter()
        .collect::<BTreeSet<_>>()
    {
        docker.run(&["rmi", "-f", &id]);
    }
    assert_eq!(docker.run(&["images", "-q"]), "");
}

#[test]
fn what_is_pushed_to_one_node_is_on_all() {
    let lab = with_registries("e2eoreg", &["node-1", "node-2"]);
    let (first, second) = (lab.docker("node-1"), lab.docker("node-2"));
    let name = format!("{LOCAL}/team/app");
    let tagged = format!("{name}:1");
    first.run(&["tag", IMAGE, &tagged]);
    let pushed = first.run(&["push", &tagged]);
    assert!(
        pushed.contains(": Pushed") && pushed.contains("digest: sha256:"),
        "{pushed}"
    );
    let again = first.run(&["push", &tagged]);
    assert!(again.contains("Layer already exists"), "{again}");
    let other = format!("{LOCAL}/other:1");
    first.run(&["tag", IMAGE, &other]);
    let mounted = first.run(&["push", &other]);
    assert!(mounted.contains("Mounted from team/app"), "{mounted}");
    // The node's own images go; those of the registry stay, whatever is collected.
    forget_images(&lab, "node-1");
    first.run(&["system", "prune", "-a", "-f"]);

    let pulled = second.run(&["pull", &tagged]);
    assert!(pulled.contains("Status: Downloaded newer image"), "{pulled}");
    assert_eq!(second.run(&["run", "--rm", &tagged, "echo", "here"]), "here");
    forget_images(&lab, "node-2");

    // Each node asks its own registry, by the same name.
    let create = [
        "service",
        "create",
        "-d",
        "-q",
        "--replicas",
        "2",
        "--name",
        "web",
    ];
    first.run(&[&create[..], &[tagged.as_str()]].concat());
    let tasks = lab.await_running("node-1", "web", 2, |tasks| {
        tasks.values().collect::<BTreeSet<_>>().len() == 2
    });
    assert_eq!(tasks.len(), 2);
    first.run(&["service", "rm", "web"]);

    // What one node says of a tag counts on the other at once.
    second.run(&["pull", &tagged]);
    let image = second.run(&["create", &tagged, "sh"]);
    second.run(&["commit", &image, &tagged]);
    second.run(&["rm", &image]);
    let newer = second.run(&["inspect", "--format", "{{.Id}}", &tagged]);
    second.run(&["push", &tagged]);
    first.run(&["pull", &tagged]);
    assert_eq!(first.run(&["inspect", "--format", "{{.Id}}", &tagged]), newer);
    assert_eq!(
        request(&lab, "node-1", "GET", "_catalog"),
        (
            "200".to_owned(),
            r#"{"repositories":["other","team/app"]}"#.to_owned()
        )
    );
    let deleted = request(&lab, "node-1", "DELETE", "team/app/manifests/1");
    assert_eq!(deleted.0, "202", "{deleted:?}");
    for node in ["node-1", "node-2"] {
        let tags = request(&lab, node, "GET", "team/app/tags/list");
        assert_eq!(tags.1, r#"{"name":"team/app","tags":[]}"#, "{node}");
        assert_eq!(
            request(&lab, node, "GET", "team/app/manifests/1").0,
            "404",
            "{node}"
        );
    }
    let missing = second.refuse(&["pull", &tagged]);
    assert!(missing.contains("not found"), "{missing}");
}

#[test]
fn a_registry_comes_back_with_what_it_had() {
    let lab = with_registries("e2eorek", &["node-1"]);
    let docker = lab.docker("node-1");
    let tagged = format!("{LOCAL}/app:1");
    docker.run(&["tag", IMAGE, &tagged]);
    docker.run(&["push", &tagged]);
    forget_images(&lab, "node-1");
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    eventually("a pull", LONG, || {
        let pulled = docker.try_run(&["pull", &tagged]);
        if pulled.code == 0 { Ok(()) } else { Err(pulled) }
    });
    assert_eq!(docker.run(&["run", "--rm", &tagged, "echo", "here"]), "here");
}

/// A file of passwords as `htpasswd -B` writes it.
fn passwords(lab: &Lab) -> PathBuf {
    let path = lab.directory().join("htpasswd");
    let hashed = Command::new("htpasswd").args(["-nbB", USER, PASSWORD]).output();
    let hashed = hashed.expect("htpasswd is in the path: install apache2-utils");
    fs::write(&path, hashed.stdout).unwrap();
    path
}

#[test]
fn nodes_accept_each_others_registries_and_passwords_are_asked_for() {
    let lab = Lab::with_image("e2eoreq", 2, 1);
    let settings = format!(
        "registry-listen = [\"0.0.0.0:5443\"]\nregistry-htpasswd = {:?}\n",
        passwords(&lab).display().to_string()
    );
    restart_with(&lab, &["node-1", "node-2"], &settings);
    let registry = format!("{}:5443", lab.address("node-1"));
    let docker = lab.docker("node-2");
    let tagged = format!("{registry}/secret:1");
    let archive = busybox(lab.directory());
    docker.run(&["load", "-i", &archive.to_string_lossy()]);
    docker.run(&["tag", IMAGE, &tagged]);
    let refused = docker.refuse(&["push", &tagged]);
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    let login = ["login", "-u", USER, "--password-stdin", &registry];
    let wrong = docker.piped(b"wrong", &login);
    assert!(
        wrong.code != 0 && wrong.stderr.contains("unauthorized"),
        "{wrong:?}"
    );
    let right = docker.piped(PASSWORD.as_bytes(), &login);
    assert!(right.stdout.contains("Login Succeeded"), "{right:?}");
    // The certificate is the one that the cluster gave to the node: nothing was set for it.
    docker.run(&["push", &tagged]);
    for node in ["node-1", "node-2"] {
        forget_images(&lab, node);
    }
    let create = [
        "service",
        "create",
        "-d",
        "-q",
        "--replicas",
        "2",
        "--with-registry-auth",
        "--name",
        "web",
    ];
    lab.docker("node-1")
        .run(&[&create[..], &[tagged.as_str()]].concat());
    lab.await_running("node-1", "web", 2, |_| true);
    // Others do not know the cluster, and nobody is told anything in clear.
    let url = format!("https://{registry}/v2/");
    let stranger = in_network(&lab, "node-2", "curl", &["-s", &url]);
    assert_eq!(stranger.code, 60, "{stranger:?}");
    let unchecked = ["-k", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
    assert_eq!(run(&lab, "node-2", "curl", &unchecked), "401");
    let plain = format!("http://{registry}/v2/");
    assert_ne!(in_network(&lab, "node-2", "curl", &["-s", &plain]).code, 0);
    for node in ["node-1", "node-2"] {
        let log = fs::read_to_string(lab.node_directory(node).join("daemon.log")).unwrap();
        assert!(!log.contains(PASSWORD), "the password is in the log of {node}");
    }
}

#[test]
fn a_certificate_of_ones_own_is_shown_to_everybody() {
    let lab = Lab::with_image("e2eores", 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![lab.address("node-1")]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = ["own.crt", "own.key"].map(|name| lab.directory().join(name));
    fs::write(&files[0], certificate.pem()).unwrap();
    fs::write(&files[1], key.serialize_pem()).unwrap();
    let registry = format!("{}:5443", lab.address("node-1"));
    let settings = format!(
        "registry-listen = [{registry:?}, {LOCAL:?}]\nregistry-tlscert = {:?}\nregistry-tlskey = {:?}\n",
        files[0].display().to_string(),
        files[1].display().to_string()
    );
    restart_with(&lab, &["node-1"], &settings);
    let url = format!("https://{registry}/v2/");
    let authority = files[0].display().to_string();
    assert_eq!(
        run(&lab, "node-1", "curl", &["-s", "--cacert", &authority, &url]),
        "{}"
    );
    // What is pushed by one name is there by the other.
    let docker = lab.docker("node-1");
    let local = format!("{LOCAL}/app:1");
    docker.run(&["tag", IMAGE, &local]);
    docker.run(&["push", &local]);
    let out = format!("oci:{}:1", lab.directory().join("out").display());
    let source = format!("docker://{registry}/app:1");
    let directory = lab.directory().join("certificates");
    fs::create_dir(&directory).unwrap();
    fs::copy(&files[0], directory.join("ca.crt")).unwrap();
    let directory = directory.display().to_string();
    let copy = [
        "--insecure-policy",
        "copy",
        "--src-cert-dir",
        &directory,
        &source,
        &out,
    ];
    run(&lab, "node-1", "skopeo", &copy);
}

/// The label `made-by` of an image that a node has pulled, after it ran.
#[track_caller]
fn pulled(lab: &Lab, name: &str) -> String {
    let docker = lab.docker("node-1");
    docker.run(&["pull", name]);
    assert_eq!(docker.run(&["run", "--rm", name, "cat", "/who"]), "they");
    docker.run(&[
        "inspect",
        "--format",
        r#"{{index .Config.Labels "made-by"}}"#,
        name,
    ])
}

#[test]
fn skopeo_copies_in_and_out() {
    let lab = with_registries("e2eosko", &["node-1"]);
    let skopeo = |arguments: &[&str]| {
        run(
            &lab,
            "node-1",
            "skopeo",
            &[&["--insecure-policy"], arguments].concat(),
        )
    };
    let place = |name: &str| lab.directory().join(name).display().to_string();
    let archive = format!("docker-archive:{}", busybox(lab.directory()).display());
    let remote = format!("docker://{LOCAL}/skopeo/busybox:1");
    skopeo(&["copy", "--dest-tls-verify=false", &archive, &remote]);
    let inspected = skopeo(&["inspect", "--tls-verify=false", &remote]);
    assert!(
        inspected.contains(r#""RepoTags""#) && inspected.contains(r#""1""#),
        "{inspected}"
    );
    let name = format!("{LOCAL}/skopeo/busybox:1");
    let docker = lab.docker("node-1");
    forget_images(&lab, "node-1");
    docker.run(&["pull", &name]);
    assert_eq!(docker.run(&["run", "--rm", &name, "echo", "here"]), "here");
    // Each form of its manifests, and compression by zstd.
    for (format, tag) in [("v2s2", "docker"), ("oci", "oci")] {
        let copied = format!("docker://{LOCAL}/skopeo/busybox:{tag}");
        skopeo(&[
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--format",
            format,
            &remote,
            &copied,
        ]);
        docker.run(&["pull", &format!("{LOCAL}/skopeo/busybox:{tag}")]);
    }
    let small = format!("docker://{LOCAL}/skopeo/small:1");
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--dest-compress-format",
        "zstd",
        &archive,
        &small,
    ]);
    docker.run(&["pull", &format!("{LOCAL}/skopeo/small:1")]);
    // Out, in the forms that `docker load` reads.
    forget_images(&lab, "node-1");
    for (kind, file) in [("docker-archive", "out.tar"), ("oci-archive", "out-oci.tar")] {
        let target = format!("{kind}:{}:saved:{kind}", place(file));
        skopeo(&["copy", "--src-tls-verify=false", &remote, &target]);
        let loaded = docker.run(&["load", "-i", &place(file)]);
        assert!(loaded.contains(&format!("saved:{kind}")), "{loaded}");
    }
    let tags = skopeo(&[
        "list-tags",
        "--tls-verify=false",
        &format!("docker://{LOCAL}/skopeo/busybox"),
    ]);
    assert!(tags.contains("oci") && tags.contains("docker"), "{tags}");
    skopeo(&[
        "delete",
        "--tls-verify=false",
        &format!("docker://{LOCAL}/skopeo/busybox:oci"),
    ]);
    let gone = docker.refuse(&["pull", &format!("{LOCAL}/skopeo/busybox:oci")]);
    assert!(gone.contains("not found"), "{gone}");
}

#[test]
fn images_made_by_umoci_run() {
    let lab = with_registries("e2eoumo", &["node-1"]);
    let layout = lab.directory().join("umoci").display().to_string();
    let image = format!("{layout}:1");
    let archive = format!("docker-archive:{}", busybox(lab.directory()).display());
    let skopeo = |arguments: &[&str]| {
        run(
            &lab,
            "node-1",
            "skopeo",
            &[&["--insecure-policy"], arguments].concat(),
        )
    };
    skopeo(&["copy", &archive, &format!("oci:{image}")]);
    let umoci = |arguments: &[&str]| run(&lab, "node-1", "umoci", arguments);
    let file = lab.directory().join("who");
    fs::write(&file, "they\n").unwrap();
    umoci(&["insert", "--image", &image, &file.display().to_string(), "/who"]);
    umoci(&["config", "--image", &image, "--config.label", "made-by=umoci"]);
    // A layer that takes a file away, from a root that was unpacked and changed.
    let bundle = lab.directory().join("bundle").display().to_string();
    umoci(&["unpack", "--image", &image, &bundle]);
    fs::remove_file(Path::new(&bundle).join("rootfs/bin/true")).unwrap();
    umoci(&["repack", "--image", &image, &bundle]);
    let name = format!("{LOCAL}/umoci:1");
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("oci:{image}"),
        &format!("docker://{name}"),
    ]);
    assert_eq!(pulled(&lab, &name), "umoci");
    let listed = lab.docker("node-1").run(&["run", "--rm", &name, "ls", "/bin"]);
    assert!(!listed.lines().any(|applet| applet == "true"), "{listed}");
}

#[test]
fn images_made_by_buildah_run() {
    let lab = with_registries("e2eobah", &["node-1"]);
    let place = |name: &str| lab.directory().join(name).display().to_string();
    let (root, run_root) = (place("buildah"), place("buildah-run"));
    let buildah = |arguments: &[&str]| {
        let options = ["--root", &root, "--runroot", &run_root, "--storage-driver", "vfs"];
        run(&lab, "node-1", "buildah", &[&options[..], arguments].concat())
    };
    let docker = lab.docker("node-1");
    let base = format!("{LOCAL}/base:1");
    docker.run(&["tag", IMAGE, &base]);
    docker.run(&["push", &base]);
    fs::write(place("who"), "they\n").unwrap();
    let container = buildah(&["from", "--tls-verify=false", &base]);
    buildah(&["copy", &container, &place("who"), "/who"]);
    buildah(&["config", "--label", "made-by=buildah", &container]);
    for format in ["oci", "docker"] {
        buildah(&[
            "commit",
            "--format",
            format,
            &container,
            &format!("made-{format}"),
        ]);
        let name = format!("{LOCAL}/buildah:{format}");
        buildah(&[
            "push",
            "--tls-verify=false",
            &format!("made-{format}"),
            &format!("docker://{name}"),
        ]);
        assert_eq!(pulled(&lab, &name), "buildah", "{format}");
    }
}
