//! Files of containers: cp, diff, export, commit, save, load and import.

use crate::support::{Docker, IMAGE, LONG, Lab, WAITER, eventually};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The image of the tests: one with more commands and directories.
const BASE: &str = "files:base";

/// A directory of the host for a test's files.
struct Desk {
    directory: PathBuf,
}

impl Desk {
    fn new(lab: &Lab) -> Desk {
        let directory = lab.directory().join("desk");
        fs::create_dir_all(&directory).unwrap();
        Desk { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// The names of the entries of an archive.
fn listed(archive: &Path) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let names = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        String::from_utf8(entry.path_bytes().into_owned()).unwrap()
    });
    names.collect()
}

fn in_container(docker: &Docker, container: &str, command: &str) -> String {
    docker.run(&["exec", container, "sh", "-c", command])
}

#[test]
fn files_go_in_and_out_of_containers() {
    let lab = Lab::with_image("e2efiles", 1, 1);
    let docker = lab.docker("node-1");
    let desk = Desk::new(&lab);
    let furnish = "busybox mkdir /tmp /var; busybox --install -s /bin";
    docker.run(&["run", "--name", "base", IMAGE, "sh", "-c", furnish]);
    docker.run(&["commit", "base", BASE]);
    docker.run(&["rm", "base"]);
    copies_both_ways(&docker, &desk);
    copies_through_mounts(&docker, &desk);
    refuses_like_docker(&docker, &desk);
    stays_inside(&docker, &desk);
    keeps_owners_and_streams(&docker, &desk);
    lists_changes_and_exports(&docker, &desk);
    commits(&docker, &desk);
    saves_and_imports(&docker, &desk);
}

fn copies_both_ways(docker: &Docker, desk: &Desk) {
    docker.run(&["create", "--name", "cc", BASE, "sh", "-c", WAITER]);
    let file = desk.write("file", "from the host");
    // Into one that never ran, that runs, that is frozen, and that ended.
    docker.run(&["cp", &file, "cc:/before"]);
    docker.run(&["start", "cc"]);
    assert_eq!(in_container(docker, "cc", "cat /before"), "from the host");
    docker.run(&["cp", &file, "cc:/tmp"]);
    assert_eq!(in_container(docker, "cc", "cat /tmp/file"), "from the host");
    docker.run(&["pause", "cc"]);
    docker.run(&["cp", "cc:/tmp/file", &desk.path("frozen")]);
    docker.run(&["unpause", "cc"]);
    assert_eq!(desk.read("frozen"), "from the host");
    // Directories: the directory itself, its content, into a new and into an old place.
    fs::create_dir_all(desk.path("tree/sub")).unwrap();
    desk.write("tree/sub/a", "a");
    fs::set_permissions(desk.path("tree/sub/a"), PermissionsExt::from_mode(0o4750)).unwrap();
    symlink("sub/a", desk.path("tree/link")).unwrap();
    docker.run(&["cp", &desk.path("tree"), "cc:/tmp"]);
    docker.run(&["cp", &desk.path("tree/."), "cc:/tmp/new"]);
    assert_eq!(
        in_container(
            docker,
            "cc",
            "cat /tmp/tree/link; stat -c %a /tmp/new/sub/a; readlink /tmp/new/link"
        ),
        "a4750\nsub/a"
    );
    docker.run(&["cp", "cc:/tmp/tree", &desk.path("back")]);
    assert_eq!(desk.read("back/sub/a"), "a");
    assert_eq!(
        fs::metadata(desk.path("back/sub/a")).unwrap().mode() & 0o7777,
        0o4750
    );
    assert_eq!(fs::read_link(desk.path("back/link")).unwrap(), Path::new("sub/a"));
    // A link as it is, and what it leads to.
    docker.run(&["cp", "cc:/tmp/tree/link", &desk.path("link")]);
    assert!(fs::symlink_metadata(desk.path("link")).unwrap().is_symlink());
    docker.run(&["cp", "-L", "cc:/tmp/tree/link", &desk.path("followed")]);
    assert_eq!(desk.read("followed"), "a");
    in_container(docker, "cc", "ln -s /tmp/tree /short");
    docker.run(&["cp", &file, "cc:/short/sub/"]);
    assert_eq!(
        in_container(docker, "cc", "cat /tmp/tree/sub/file"),
        "from the host"
    );
    docker.run(&["stop", "cc"]);
    docker.run(&["cp", &file, "cc:/after"]);
    docker.run(&["cp", "cc:/before", &desk.path("stopped")]);
    assert_eq!(desk.read("stopped"), "from the host");
    docker.run(&["start", "cc"]);
    assert_eq!(in_container(docker, "cc", "cat /after"), "from the host");
    docker.run(&["rm", "-f", "cc"]);
}

fn copies_through_mounts(docker: &Docker, desk: &Desk) {
    fs::create_dir_all(desk.path("bound")).unwrap();
    let bind = format!("{}:/bound:ro", desk.path("bound"));
    docker.run(&[
        "create",
        "--name",
        "mm",
        "-v",
        "files:/data",
        "-v",
        &bind,
        "--tmpfs",
        "/mem",
        BASE,
        "sh",
        "-c",
        WAITER,
    ]);
    let file = desk.write("one", "1");
    desk.write("bound/seen", "seen");
    for state in ["created", "running", "exited"] {
        if state == "running" {
            docker.run(&["start", "mm"]);
            docker.run(&["cp", &file, "mm:/mem/one"]);
            assert_eq!(in_container(docker, "mm", "cat /mem/one"), "1");
        }
        if state == "exited" {
            docker.run(&["stop", "mm"]);
        }
        docker.run(&["cp", &file, &format!("mm:/data/{state}")]);
        docker.run(&["cp", "mm:/bound/seen", &desk.path(state)]);
        assert_eq!(desk.read(state), "seen");
        let refused = docker.refuse(&["cp", &file, "mm:/bound/x"]);
        assert!(
            refused.contains("mounted volume is marked read-only"),
            "{state}: {refused}"
        );
    }
    let volume = docker.run(&["run", "--rm", "-v", "files:/v", BASE, "ls", "/v"]);
    assert_eq!(volume, "created\nexited\nrunning");
    assert!(fs::read_dir(desk.path("bound")).unwrap().count() == 1);
    docker.run(&["rm", "mm"]);
    docker.run(&["volume", "rm", "files"]);
}

fn refuses_like_docker(docker: &Docker, desk: &Desk) {
    docker.run(&[
        "run",
        "-d",
        "--read-only",
        "--tmpfs",
        "/t",
        "--name",
        "ro",
        BASE,
        "sh",
        "-c",
        WAITER,
    ]);
    let file = desk.write("two", "2");
    for container in ["running", "stopped"] {
        let refused = docker.refuse(&["cp", &file, "ro:/tmp"]);
        assert!(
            refused.contains("container rootfs is marked read-only"),
            "{container}: {refused}"
        );
        docker.run(&["stop", "ro"]);
    }
    let missing = docker.refuse(&["cp", "ro:/nosuch", &desk.path("x")]);
    assert!(
        missing.contains("Could not find the file /nosuch in container ro"),
        "{missing}"
    );
    let kernel = docker.refuse(&["cp", "ro:/proc/version", &desk.path("x")]);
    assert!(kernel.contains("Could not find the file"), "{kernel}");
    let nobody = docker.refuse(&["cp", "nobody:/x", &desk.path("x")]);
    assert!(nobody.contains("No such container: nobody"), "{nobody}");
    docker.run(&["rm", "ro"]);
    docker.run(&["create", "--name", "rr", BASE, "true"]);
    let over = docker.refuse(&["cp", &desk.path("tree"), "rr:/bin/busybox"]);
    assert!(over.contains("cannot copy directory"), "{over}");
    docker.run(&["rm", "rr"]);
}

/// The container's links point at the host's files; its process swaps a directory for a link while files are copied.
fn stays_inside(docker: &Docker, desk: &Desk) {
    let secret = desk.write("secret", "the host's");
    let outside = desk.path("outside");
    fs::create_dir_all(&outside).unwrap();
    let swapping = format!(
        "mkdir -p /race /other; ln -s {outside} /link; ln -s {secret} /steal; ln -s ../../../../../..{outside} /up; \
         while :; do mv /race /a; mv /link /race; mv /race /link; mv /a /race; done"
    );
    docker.run(&["run", "-d", "--name", "evil", BASE, "sh", "-c", &swapping]);
    let tree = desk.path("tree");
    for attempt in 0..15 {
        // Whether a copy succeeds depends on the moment. Each has a place of its own: the CLI itself follows a link that
        // an earlier copy made on the host.
        docker.try_run(&["cp", &tree, "evil:/race/"]);
        docker.try_run(&["cp", "evil:/race", &desk.path(&format!("raced-{attempt}"))]);
        docker.try_run(&["cp", &secret, "evil:/up/planted"]);
    }
    let stolen = docker.refuse(&["cp", "-L", "evil:/steal", &desk.path("stolen")]);
    assert!(
        stolen.contains("Could not find the file") || stolen.contains("no such file"),
        "{stolen}"
    );
    docker.run(&["rm", "-f", "evil"]);
    let written: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(written.is_empty(), "something was written outside: {written:?}");
    assert!(!Path::new(&desk.path("stolen")).exists());
}

fn keeps_owners_and_streams(docker: &Docker, desk: &Desk) {
    docker.run(&[
        "run", "-d", "--user", "7:8", "--name", "uu", BASE, "sh", "-c", WAITER,
    ]);
    let file = desk.write("owned", "x");
    std::os::unix::fs::chown(&file, Some(21), Some(22)).unwrap();
    docker.run(&["cp", &file, "uu:/tmp/plain"]);
    docker.run(&["cp", "-a", &file, "uu:/tmp/mine"]);
    assert_eq!(
        in_container(docker, "uu", "stat -c %u:%g /tmp/plain /tmp/mine"),
        "21:22\n7:8"
    );
    let archive = docker.to_file(&["cp", "uu:/tmp/.", "-"], &desk.path("stream.tar"));
    assert_eq!(listed(&archive), ["./", "./mine", "./plain"]);
    docker.fed_from(&["cp", "-", "uu:/var"], &archive);
    assert_eq!(in_container(docker, "uu", "cat /var/mine"), "x");
    // A file larger than any buffer, compared by content.
    let large = desk.path("large");
    let content: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(&large, &content).unwrap();
    docker.run(&["cp", &large, "uu:/tmp/large"]);
    docker.run(&["cp", "uu:/tmp/large", &desk.path("large-back")]);
    assert!(fs::read(desk.path("large-back")).unwrap() == content);
    docker.run(&["rm", "-f", "uu"]);
}

fn lists_changes_and_exports(docker: &Docker, desk: &Desk) {
    let script = "echo x > /etc/new; rm /bin/ls; mkdir -p /made/deep; ln /etc/new /made/hard";
    docker.run(&["run", "--name", "dd", "-v", "/mounted", BASE, "sh", "-c", script]);
    let changes = docker.run(&["diff", "dd"]);
    let lines: Vec<&str> = changes.lines().filter(|line| !line.contains("/etc")).collect();
    assert_eq!(
        lines,
        [
            "C /bin",
            "D /bin/ls",
            "A /made",
            "A /made/deep",
            "A /made/hard",
            "A /mounted"
        ],
        "{changes}"
    );
    assert!(changes.contains("A /etc/new"), "{changes}");
    let archive = PathBuf::from(desk.path("export.tar"));
    docker.run(&["export", "-o", &desk.path("export.tar"), "dd"]);
    let names = listed(&archive);
    assert!(names.iter().any(|name| name == "made/hard") && !names.iter().any(|name| name == "bin/ls"));
    docker.run(&["rm", "-v", "dd"]);
    // Of a running one, without what is mounted in it.
    docker.run(&[
        "run",
        "-d",
        "--name",
        "dd",
        "-v",
        "kept:/mounted",
        BASE,
        "sh",
        "-c",
        &format!("touch /mounted/x; {WAITER}"),
    ]);
    docker.run(&["export", "-o", &desk.path("export.tar"), "dd"]);
    let names = listed(&archive);
    assert!(names.contains(&"mounted/".to_owned()), "{names:?}");
    for prefix in ["mounted/x", "proc/1", "sys/kernel"] {
        assert!(!names.iter().any(|name| name.starts_with(prefix)), "{prefix}");
    }
    docker.run(&["rm", "-f", "dd"]);
    docker.run(&["volume", "rm", "kept"]);
}

fn commits(docker: &Docker, desk: &Desk) {
    docker.run(&[
        "run",
        "-d",
        "--name",
        "kk",
        "-e",
        "A=1",
        "-l",
        "own=1",
        BASE,
        "sh",
        "-c",
        &format!("echo v1 > /state; chmod 4711 /state; {WAITER}"),
    ]);
    let file = desk.write("three", "3");
    docker.run(&["cp", &file, "kk:/three"]);
    let id = docker.run(&[
        "commit",
        "-m",
        "a message",
        "-a",
        "an author",
        "-c",
        "CMD [\"cat\", \"/state\", \"/three\"]",
        "-c",
        "ENV B=2",
        "-c",
        "EXPOSE 80",
        "-c",
        "HEALTHCHECK NONE",
        "-c",
        "WORKDIR /made/here",
        "kk",
        "made:1",
    ]);
    assert_eq!(docker.run(&["images", "-q", "--no-trunc", "made:1"]), id);
    assert_eq!(
        docker.run(&["inspect", "-f", "{{.State.Status}}", "kk"]),
        "running"
    );
    assert_eq!(docker.run(&["run", "--rm", "made:1"]), "v1\n3");
    let config = docker.run(&[
        "image",
        "inspect",
        "-f",
        "{{.Author}} {{.Config.Env}} {{.Config.Labels.own}} {{.Config.WorkingDir}} {{.Config.ExposedPorts}}",
        "made:1",
    ]);
    assert_eq!(
        config, "an author [PATH=/bin A=1 B=2] 1 /made/here map[80/tcp:{}]",
        "{config}"
    );
    assert_eq!(
        docker.run(&["run", "--rm", "made:1", "stat", "-c", "%a", "/state"]),
        "4711"
    );
    assert!(docker.run(&["history", "made:1"]).contains("a message"));
    // Deletions and opaque directories go over into the next container.
    in_container(
        docker,
        "kk",
        "rm -r /state; rm -r /bin/cat; rm -rf /tmp; mkdir /tmp; touch /tmp/only",
    );
    docker.run(&["commit", "--pause=false", "kk", "made:2"]);
    assert_eq!(
        docker.run(&[
            "run",
            "--rm",
            "made:2",
            "sh",
            "-c",
            "ls /tmp; [ ! -e /state ] && [ ! -e /bin/cat ] && echo gone"
        ]),
        "only\ngone"
    );
    let refused = docker.refuse(&["commit", "-c", "FROM x", "kk"]);
    assert!(
        refused.contains("FROM is not a valid change command"),
        "{refused}"
    );
    eventually("the events of both commits", LONG, || {
        let events = docker.run(&[
            "events",
            "--since",
            "10m",
            "--until",
            "0s",
            "--filter",
            "event=commit",
            "--format",
            "{{.Actor.Attributes.imageRef}}",
        ]);
        if events == "files:base\nmade:1\nmade:2" {
            Ok(())
        } else {
            Err(events)
        }
    });
    docker.run(&["rm", "-f", "kk"]);
}

fn saves_and_imports(docker: &Docker, desk: &Desk) {
    let (archive, again) = (desk.path("saved.tar"), desk.path("again.tar"));
    docker.run(&["tag", "made:1", "other.example/made:x"]);
    docker.run(&["save", "-o", &archive, "made:1", "other.example/made:x"]);
    docker.run(&["save", "-o", &again, "made:1", "other.example/made:x"]);
    assert!(
        fs::read(&archive).unwrap() == fs::read(&again).unwrap(),
        "digests are stable"
    );
    let names = listed(Path::new(&archive));
    for name in [
        "manifest.json",
        "index.json",
        "oci-layout",
        "repositories",
        "blobs/sha256/",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    let id = docker.run(&["images", "-q", "--no-trunc", "made:1"]);
    docker.run(&["rmi", "made:1", "made:2", "other.example/made:x"]);
    docker.run(&["load", "-i", &archive]);
    assert_eq!(docker.run(&["images", "-q", "--no-trunc", "made:1"]), id);
    assert_eq!(
        docker.run(&["images", "-q", "--no-trunc", "other.example/made:x"]),
        id
    );
    assert!(
        docker
            .refuse(&["save", "-o", &again, "nosuch"])
            .contains("No such image: nosuch")
    );
    let imported = docker.run(&[
        "import",
        "-c",
        "CMD [\"sh\", \"-c\", \"echo imported\"]",
        "-c",
        "ENV PATH=/bin",
        "-m",
        "mine",
        &desk.path("export.tar"),
        "flat:1",
    ]);
    assert_eq!(docker.run(&["images", "-q", "--no-trunc", "flat:1"]), imported);
    assert_eq!(docker.run(&["run", "--rm", "flat:1"]), "imported");
    assert!(docker.run(&["history", "flat:1"]).contains("mine"));
    docker.run(&["rmi", "made:1", "other.example/made:x", "flat:1"]);
}

impl Docker {
    /// Runs `docker ARGS…` with its output in a file.
    fn to_file(&self, args: &[&str], path: &str) -> PathBuf {
        let file = fs::File::create(path).unwrap();
        let status = self.shell(args).stdout(file).status().unwrap();
        assert!(status.success(), "docker {}", args.join(" "));
        path.into()
    }

    /// Runs `docker ARGS…` with its input from a file.
    fn fed_from(&self, args: &[&str], path: &Path) {
        let file = fs::File::open(path).unwrap();
        let status = self.shell(args).stdin(Stdio::from(file)).status().unwrap();
        assert!(status.success(), "docker {}", args.join(" "));
    }

    fn shell(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["120", "docker", "-H"]);
        command
            .arg(format!("unix://{}", self.socket().display()))
            .args(args);
        command
    }
}
