//! Limits, users and terminals of containers.

use crate::support::Runtime;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn limits_are_set_and_changed() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "exec sleep 1000");
    config["linux"]["resources"] = json!({ "pids": { "limit": 20 }, "memory": { "limit": 64 << 20 } });
    runtime.create("one", &config);
    let limit = || std::fs::read_to_string(runtime.group_path("one").join("pids.max")).expect("it is there");
    assert_eq!(limit(), "20\n");
    runtime.ok(&["start", "one"]);
    runtime.ok(&["update", "--pids-limit", "30", "one"]);
    assert_eq!(limit(), "30\n");
    let file = runtime.path("resources");
    std::fs::write(&file, json!({ "pids": { "limit": 40 } }).to_string()).expect("the directory is writable");
    runtime.ok(&["update", "-r", file.to_str().expect("UTF-8"), "one"]);
    assert_eq!(limit(), "40\n");
    let event: serde_json::Value =
        serde_json::from_str(&runtime.ok(&["events", "--stats", "one"]).out()).expect("it is JSON");
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!("one")));
    assert_eq!(event["data"]["pids"]["limit"], 40);
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 64 << 20);
    runtime.ok(&["delete", "-f", "one"]);
    let refused = runtime.call(&["update", "--pids-limit", "many", "one"]);
    assert!(refused.err.contains("does not exist"), "{}", refused.err);
}

#[test]
fn user_namespace_has_the_hosts_devices_and_nothing_else_of_it() {
    let runtime = Runtime::new();
    let mut config = runtime.config(
        "one",
        "id -u; cat /proc/self/uid_map; stat -c %t:%T /dev/null; : > /dev/null && echo usable",
    );
    config["linux"]["namespaces"]
        .as_array_mut()
        .expect("a list")
        .push(json!({ "type": "user" }));
    let maps = json!([{ "containerID": 0, "hostID": 400_000, "size": 1000 }]);
    config["linux"]["uidMappings"] = maps.clone();
    config["linux"]["gidMappings"] = maps;
    let own = std::os::unix::fs::chown(runtime.rootfs(), Some(400_000), Some(400_000));
    own.expect("root may give files away");
    let called = runtime.run("one", &config);
    assert_eq!(called.code, 0, "{}", called.err);
    let out = called.out();
    assert!(
        out.starts_with("0\n") && out.contains("400000") && out.ends_with("1:3\nusable\n"),
        "{out}"
    );
}

#[test]
fn terminal_goes_to_the_callers_socket() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "tty; printf 'done\\n'; read line");
    config["process"]["terminal"] = json!(true);
    let bundle = runtime.bundle("one", &config);
    let bundle = bundle.to_str().expect("UTF-8");
    assert!(
        runtime
            .call(&["create", "-b", bundle, "one"])
            .err
            .contains("console socket")
    );
    let path = runtime.path("console");
    let listener = UnixListener::bind(&path).expect("the directory is writable");
    runtime.ok(&[
        "create",
        "-b",
        bundle,
        "--console-socket",
        path.to_str().expect("UTF-8"),
        "one",
    ]);
    let (connection, _) = listener.accept().expect("the runtime connected");
    let terminal = receive(&connection);
    runtime.ok(&["start", "one"]);
    let mut shown = String::new();
    while !shown.contains("done") {
        let mut piece = [0; 256];
        let count = rustix::io::read(&terminal, &mut piece[..]).expect("it is open");
        shown.push_str(std::str::from_utf8(&piece[..count]).expect("UTF-8"));
    }
    assert!(shown.starts_with("/dev/pts/0"), "{shown}");
    runtime.ok(&["delete", "-f", "one"]);
}

fn receive(connection: &std::os::unix::net::UnixStream) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut buffers = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(connection, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .expect("a message");
    let rights = ancillary.drain().find_map(|item| match item {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    rights.expect("a descriptor came with it")
}

#[test]
fn scheduling_and_personality_are_the_programs() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "cat /proc/self/personality /proc/self/oom_score_adj");
    config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    config["process"]["oomScoreAdj"] = json!(100);
    config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let called = runtime.run("one", &config);
    assert_eq!(
        (called.code, called.out().as_str()),
        (0, "00000008\n100\n"),
        "{}",
        called.err
    );
    config["process"]["ioPriority"]["priority"] = json!(8);
    assert!(runtime.run("two", &config).err.contains("I/O priority 8"));
}

#[test]
fn bind_mounts_take_recursive_attributes_and_id_maps() {
    let runtime = Runtime::new();
    let shared = runtime.path("shared");
    std::fs::create_dir(&shared).expect("the directory is writable");
    std::fs::write(shared.join("file"), "content").expect("the directory is writable");
    let mut config = runtime.config(
        "one",
        "stat -c %u /mnt/file; (echo x > /mnt/file) 2>/dev/null || echo refused; cat /mnt/file",
    );
    config["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": "/mnt", "type": "bind", "source": shared, "options": ["rbind", "rro", "idmap"],
        "uidMappings": [{ "containerID": 0, "hostID": 55, "size": 1 }],
        "gidMappings": [{ "containerID": 0, "hostID": 55, "size": 1 }],
    }));
    let called = runtime.run("one", &config);
    assert_eq!(
        (called.code, called.out().as_str()),
        (0, "55\nrefused\ncontent"),
        "{}",
        called.err
    );
}

/// A mount of the host that what is mounted below travels from and to, until the test ends.
struct SharedMount(PathBuf);

impl SharedMount {
    fn new(place: PathBuf) -> SharedMount {
        std::fs::create_dir(&place).expect("the directory is writable");
        let shared = SharedMount(place);
        shared.call("mount", &["--bind", shared.place(), shared.place()]);
        shared.call("mount", &["--make-shared", shared.place()]);
        shared
    }

    fn place(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn call(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).status();
        assert!(status.expect("util-linux is there").success(), "{arguments:?}");
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        // A test that failed may have left nothing to unmount.
        let _ = Command::new("umount")
            .args(["--recursive", self.place()])
            .status();
    }
}

#[test]
fn mounts_are_listed_in_the_order_of_the_configuration() {
    let runtime = Runtime::new();
    let shared = SharedMount::new(runtime.path("shared"));
    let file = runtime.path("file");
    std::fs::write(&file, "content").expect("the directory is writable");
    let mut config = runtime.config("one", "cat /proc/self/mountinfo");
    let mounts = config["mounts"].as_array_mut().expect("a list");
    for (place, source, options) in [
        ("/b1", shared.place(), json!(["bind", "rshared"])),
        ("/t1", "tmpfs", json!([])),
        ("/b2", shared.place(), json!(["rbind", "rslave"])),
        ("/b3", file.to_str().expect("UTF-8"), json!(["bind", "ro"])),
        ("/t2", "tmpfs", json!([])),
        ("/b4", shared.place(), json!(["bind", "unbindable"])),
        ("/b5", shared.place(), json!(["rbind", "runbindable"])),
        ("/b6", shared.place(), json!(["rbind"])),
    ] {
        let kind = if source == "tmpfs" { "tmpfs" } else { "bind" };
        mounts.push(json!({ "destination": place, "type": kind, "source": source, "options": options }));
    }
    let wanted: Vec<String> = mounts
        .iter()
        .map(|mount| mount["destination"].as_str().expect("a path").to_owned())
        .collect();
    let called = runtime.run("one", &config);
    assert_eq!(called.code, 0, "{}", called.err);
    let shown = called.out();
    let places = shown
        .lines()
        .map(|line| line.split(' ').nth(4).expect("a mount point"));
    let places: Vec<_> = places.filter(|place| *place != "/").collect();
    assert_eq!(places, wanted, "{shown}");
    let propagation = |place: &str| {
        let line = shown.lines().find(|line| line.split(' ').nth(4) == Some(place));
        let fields = line.expect("it is mounted").split(' ').skip(6);
        let names = fields
            .take_while(|field| *field != "-")
            .map(|field| field.split(':').next());
        names.flatten().collect::<Vec<_>>().join(" ")
    };
    let found = ["/b1", "/b2", "/b3", "/b4", "/b5", "/b6"].map(propagation);
    assert_eq!(found, ["shared", "master", "", "unbindable", "unbindable", ""]);
    assert_eq!(mounts_below(shared.place()), 1, "nothing came back");
}

/// The mounts of this namespace at or below a place.
fn mounts_below(place: &str) -> usize {
    let host = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs is mounted");
    let places = host.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|found| found.starts_with(place)).count()
}

/// A mount two levels below the source is a child of one that is shared with the host.
#[test]
fn shared_trees_stay_as_they_are_on_the_host() {
    let runtime = Runtime::new();
    let shared = SharedMount::new(runtime.path("shared"));
    let below = [format!("{}/a", shared.place()), format!("{}/a/b", shared.place())];
    for place in &below {
        std::fs::create_dir(place).expect("the directory is writable");
        shared.call("mount", &["-t", "tmpfs", "tmpfs", place]);
    }
    for propagation in ["rshared", "rslave", "rprivate", "runbindable"] {
        let mut config = runtime.config("one", "cat /proc/self/mountinfo");
        let mount = json!({ "destination": "/tree", "type": "bind", "source": shared.place(),
                            "options": ["rbind", propagation] });
        config["mounts"].as_array_mut().expect("a list").push(mount);
        let called = runtime.run("one", &config);
        assert_eq!(called.code, 0, "{propagation}: {}", called.err);
        for place in ["/tree", "/tree/a", "/tree/a/b"] {
            let shown = called.out();
            assert!(
                shown.contains(&format!(" {place} ")),
                "{propagation} {place}: {shown}"
            );
        }
        assert_eq!(mounts_below(shared.place()), 3, "{propagation}");
    }
}

#[test]
fn container_in_the_hosts_mount_namespace_leaves_no_mount_there() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "readlink /proc/self/ns/mnt; ls /; exec sleep 1000");
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "mount");
    let created = runtime.create("one", &config);
    runtime.ok(&["start", "one"]);
    let own = std::fs::read_link("/proc/self/ns/mnt").expect("procfs is mounted");
    let wanted = format!("{}\nbin\ndev\netc\nproc\nsys\ntmp\n", own.display());
    crate::support::until("its output", || created.out() == wanted);
    let mounts = || {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("procfs is mounted");
        mounts.matches(runtime.rootfs().to_str().expect("UTF-8")).count()
    };
    assert!(mounts() > 1, "its mounts are the host's");
    let exec = runtime.call(&["exec", "one", "true"]);
    assert!(exec.err.contains("mount namespace"), "{}", exec.err);
    runtime.ok(&["delete", "-f", "one"]);
    assert_eq!(mounts(), 0);
    config["process"]["args"] = json!(["/no/such/program"]);
    assert_eq!(runtime.run("two", &config).code, 1);
    assert_eq!(mounts(), 0, "nor after a failure");
}
