//! Containers in user namespaces: `userns-remap`.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Users of the node whose subordinate ids are given out.
const SUBUID: &str = "remap:700000:65536\nother:900000:65536\n";
const SUBGID: &str = "remap:800000:65536\nother:900000:65536\n";
const PASSWD: &str =
    "root:x:0:0::/root:/bin/sh\nremap:x:990:990::/:/bin/false\nother:x:991:991::/:/bin/false\n";
const GROUP: &str = "root:x:0:\nremap:x:990:\nother:x:991:\n";

#[test]
fn root_in_a_container_is_a_common_user_of_the_host() {
    let lab = Lab::with_image("e2eusers", 1, 1);
    let docker = lab.docker("node-1");
    // Made before, with the host's users.
    docker.run(&[
        "run",
        "--rm",
        "-v",
        "old:/v",
        IMAGE,
        "sh",
        "-c",
        "echo old > /v/old; chown 5:6 /v/old",
    ]);
    give_out_ids(&lab);
    restart_with(&lab, Some("remap:remap"));
    let options = docker.run(&["info", "--format", "{{.SecurityOptions}}"]);
    assert!(options.contains("name=userns"), "{options}");
    maps_ids(&docker);
    owns_what_it_writes(&docker, &lab);
    cannot_touch_the_host(&docker, &lab);
    keeps_volumes(&docker);
    copies_with_its_own_ids(&docker, &lab);
    has_the_networks_rights(&docker);
    shares_namespaces(&docker);
    refuses_what_needs_the_host(&docker);
    survives_another_setting(&docker, &lab);
}

/// Puts user databases of its own in front of the node's daemon.
fn give_out_ids(lab: &Lab) {
    let init = lab.init("node-1").to_string();
    for (name, content) in [
        ("subuid", SUBUID),
        ("subgid", SUBGID),
        ("passwd", PASSWD),
        ("group", GROUP),
    ] {
        let file = lab.directory().join(name);
        fs::write(&file, content).unwrap();
        let place = Path::new("/etc").join(name);
        assert!(
            place.exists(),
            "{} is needed to put another one over it",
            place.display()
        );
        let mounted = Command::new("nsenter")
            .args(["-t", &init, "-m", "mount", "--bind"])
            .args([&file, &place])
            .status();
        assert!(mounted.unwrap().success());
    }
}

/// Restarts the daemon with this setting.
fn restart_with(lab: &Lab, remap: Option<&str>) {
    let settings = remap.map(|remap| format!("userns-remap = {remap:?}\n"));
    let file = lab.node_directory("node-1").join("muster.toml");
    fs::write(file, settings.unwrap_or_default()).unwrap();
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
}

fn output(docker: &Docker, options: &[&str], script: &str) -> String {
    docker.run(&[&["run", "--rm"], options, &[IMAGE, "sh", "-c", script]].concat())
}

/// Owner and group of a file of the host.
fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let found = fs::symlink_metadata(path.as_ref()).unwrap();
    (found.uid(), found.gid())
}

fn maps_ids(docker: &Docker) {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let maps = output(docker, &[], "cat /proc/self/uid_map /proc/self/gid_map");
    assert_eq!(words(maps), ["0", "700000", "65536", "0", "800000", "65536"]);
    let hosts = output(docker, &["--userns=host"], "cat /proc/self/uid_map");
    assert_eq!(words(hosts), ["0", "0", "4294967295"]);
    assert!(output(docker, &[], "id").starts_with("uid=0"));
    // Files of the image and those that the engine makes are root's.
    let look = "busybox stat -c %u:%g /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm /";
    let owners = output(docker, &["--ipc=shareable"], look);
    assert!(owners.lines().all(|owner| owner == "0:0"), "{owners}");
    // A process on the host.
    docker.run(&["run", "-d", "--name", "plain", "-u", "7:8", IMAGE]);
    let pid = docker.run(&["inspect", "--format", "{{.State.Pid}}", "plain"]);
    let ids = output(
        docker,
        &["--userns=host", "--pid=host"],
        &format!("cat /proc/{pid}/status"),
    );
    assert!(
        ids.contains("Uid:\t700007\t") && ids.contains("Gid:\t800008\t"),
        "{ids}"
    );
    // A process that comes later is in the same namespace.
    let link = |pid: &str| {
        docker.run(&[
            "exec",
            "plain",
            "busybox",
            "readlink",
            &format!("/proc/{pid}/ns/user"),
        ])
    };
    assert_eq!(link("self"), link("1"));
    docker.run(&["rm", "-f", "plain"]);
}

fn owns_what_it_writes(docker: &Docker, lab: &Lab) {
    let desk = lab.directory().join("open");
    fs::create_dir(&desk).unwrap();
    std::os::unix::fs::chown(&desk, Some(700_000), Some(800_000)).unwrap();
    let bind = format!("{}:/b", desk.display());
    output(
        docker,
        &["-v", &bind],
        "touch /b/root; touch /b/web; chown 33:44 /b/web",
    );
    assert_eq!(owner(desk.join("root")), (700_000, 800_000));
    assert_eq!(owner(desk.join("web")), (700_033, 800_044));
    // What is made for a bind mount belongs to the container's root.
    let made = lab.directory().join("made/deep");
    output(
        docker,
        &["-v", &format!("{}:/b", made.display())],
        "touch /b/file",
    );
    assert_eq!(owner(made.parent().unwrap()), (700_000, 800_000));
    assert_eq!(owner(made.join("file")), (700_000, 800_000));
}

fn cannot_touch_the_host(docker: &Docker, lab: &Lab) {
    let desk = lab.directory().join("closed");
    fs::create_dir(&desk).unwrap();
    fs::write(desk.join("secret"), "secret").unwrap();
    fs::set_permissions(
        desk.join("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let bind = format!("{}:/b", desk.display());
    let all = [
        "-v",
        bind.as_str(),
        "--cap-add=ALL",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
    ];
    for attempt in [
        "cat /b/secret",
        "echo x > /b/secret",
        "touch /b/new",
        "chmod 777 /b",
        "chown 0:0 /b/secret",
        "rm /b/secret",
        "busybox mknod /node b 8 0",
        "busybox mkdir /m && busybox mount -t ext4 /dev/vda /m",
        "echo 1 > /proc/sys/kernel/panic",
        "echo c > /proc/sysrq-trigger",
        "busybox dmesg",
    ] {
        let script = format!("({attempt}) 2>&1 && echo DONE");
        let output = docker.try_run(&[&["run", "--rm"][..], &all, &[IMAGE, "sh", "-c", &script]].concat());
        assert!(!output.stdout.contains("DONE"), "{attempt}: {output:?}");
    }
    assert_eq!(fs::read_to_string(desk.join("secret")).unwrap(), "secret");
    assert_eq!((owner(&desk), fs::read_dir(&desk).unwrap().count()), ((0, 0), 1));
    // The same container with the host's users may.
    assert_eq!(
        output(docker, &["--userns=host", "-v", &bind], "cat /b/secret"),
        "secret"
    );
}

fn keeps_volumes(docker: &Docker) {
    let place = |name: &str| docker.run(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]);
    output(
        docker,
        &["-v", "new:/v"],
        "touch /v/root /v/web; chown 33:44 /v/web",
    );
    let new = place("new");
    assert_eq!(owner(&new), (700_000, 800_000));
    assert_eq!(owner(Path::new(&new).join("web")), (700_033, 800_044));
    let stat = "cd /v; busybox stat -c '%n %u:%g' *";
    // A volume shows every container the ids of containers, whoever made it.
    for options in [&["-v", "new:/v"][..], &["--userns=host", "-v", "new:/v"]] {
        assert_eq!(output(docker, options, stat), "root 0:0\nweb 33:44");
    }
    assert_eq!(output(docker, &["-v", "old:/v"], stat), "old 5:6");
    output(docker, &["-v", "old:/v"], "touch /v/more");
    assert_eq!(
        owner(Path::new(&place("old")).join("more")),
        (0, 0),
        "as the rest of it"
    );
    // With the image's content.
    output(
        docker,
        &["-v", "filled:/bin"],
        "busybox stat -c %u:%g /bin/busybox | grep -x 0:0",
    );
    assert_eq!(
        owner(Path::new(&place("filled")).join("busybox")),
        (700_000, 800_000)
    );
}

fn copies_with_its_own_ids(docker: &Docker, lab: &Lab) {
    docker.run(&["run", "-d", "--name", "files", "-v", "new:/v", IMAGE]);
    let in_container = |command: &str| docker.run(&["exec", "files", "sh", "-c", command]);
    in_container("touch /mine; chown 9:10 /mine");
    let archived = |path: &str| {
        let output = docker.try_run(&["cp", path, "-"]);
        let bytes = output.stdout.into_bytes();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        (entry.header().uid().unwrap(), entry.header().gid().unwrap())
    };
    let file = lab.directory().join("file");
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(3), Some(4)).unwrap();
    let file = file.to_string_lossy().into_owned();
    for name in ["running", "stopped"] {
        assert_eq!(archived("files:/mine"), (9, 10), "{name}");
        assert_eq!(archived("files:/v/web"), (33, 44), "{name}");
        docker.run(&["cp", &file, &format!("files:/{name}")]);
        docker.run(&["cp", &file, &format!("files:/v/{name}")]);
        assert_eq!(archived(&format!("files:/{name}")), (3, 4));
        docker.run(&["stop", "-t", "0", "files"]);
    }
    let changes = docker.lines(&["diff", "files"]);
    for change in ["A /mine", "A /running", "A /stopped"] {
        assert!(changes.iter().any(|line| line == change), "{changes:?}");
    }
    docker.run(&["commit", "files", "files:committed"]);
    let exported = lab.directory().join("exported.tar");
    docker.run(&["export", "-o", &exported.to_string_lossy(), "files"]);
    let mut archive = tar::Archive::new(fs::File::open(&exported).unwrap());
    let mut owners = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        (name, entry.header().uid().unwrap(), entry.header().gid().unwrap())
    });
    assert_eq!(
        owners.find(|(name, ..)| name == "mine"),
        Some(("mine".to_owned(), 9, 10))
    );
    for options in [&[][..], &["--userns=host"]] {
        let look = "busybox stat -c %u:%g /mine /running /stopped";
        let run = [&["run", "--rm"], options, &["files:committed", "sh", "-c", look]].concat();
        assert_eq!(docker.run(&run), "9:10\n3:4\n3:4");
    }
    docker.run(&["start", "files"]);
    assert_eq!(
        in_container("busybox stat -c %u:%g /stopped /v/stopped"),
        "3:4\n3:4"
    );
    docker.run(&["rm", "-f", "files"]);
}

fn has_the_networks_rights(docker: &Docker) {
    let ping = "busybox ping -c 1 -W 5 127.0.0.1 | grep -q '1 packets received' && echo pong";
    assert_eq!(output(docker, &[], ping), "pong");
    let group = "cat /proc/sys/net/ipv4/ping_group_range";
    assert_eq!(output(docker, &["--userns=host"], group), "0\t2147483647");
    docker.run(&[
        "run",
        "-d",
        "--name",
        "web",
        "-u",
        "7",
        IMAGE,
        "sh",
        "-c",
        "exec httpd -f -p 80 -h /etc",
    ]);
    let address = docker.run(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web"]);
    let fetch = format!("wget -q -O - http://{address}/hostname");
    let id = docker.run(&["inspect", "--format", "{{.Config.Hostname}}", "web"]);
    eventually("the server", LONG, || {
        let run = ["run", "--rm", IMAGE, "sh", "-c", &fetch];
        let output = docker.try_run(&run);
        if output.stdout.trim() == id {
            Ok(())
        } else {
            Err(output)
        }
    });
    docker.run(&["rm", "-f", "web"]);
    let sysctl = [
        "--sysctl",
        "net.ipv4.ip_forward=0",
        "--sysctl",
        "kernel.msgmax=9000",
    ];
    let read = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax";
    assert_eq!(output(docker, &sysctl, read), "0\n9000");
    // Its network belongs to its user namespace.
    let own = ["--cap-add=NET_ADMIN"];
    assert_eq!(
        output(
            docker,
            &own,
            "ip link set lo mtu 1000 && ip link show lo | grep -c 'mtu 1000'"
        ),
        "1"
    );
    assert_eq!(
        output(docker, &["--net=none"], "ip link | grep -c ether || true"),
        "0"
    );
}

fn shares_namespaces(docker: &Docker) {
    docker.run(&["run", "-d", "--name", "donor", "--ipc=shareable", IMAGE]);
    let users =
        |container: &str| docker.run(&["exec", container, "busybox", "readlink", "/proc/self/ns/user"]);
    for option in [
        "--pid=container:donor",
        "--net=container:donor",
        "--ipc=container:donor",
    ] {
        let link = output(docker, &[option], "busybox readlink /proc/self/ns/user");
        assert_eq!(link, users("donor"), "{option}");
    }
    docker.run(&["run", "-d", "--name", "hosts", "--userns=host", IMAGE]);
    let refused = docker.refuse(&["run", "--rm", "--pid=container:hosts", IMAGE, "true"]);
    assert!(refused.contains("it runs with other users"), "{refused}");
    docker.run(&["rm", "-f", "donor", "hosts"]);
}

fn refuses_what_needs_the_host(docker: &Docker) {
    for (option, why) in [
        (
            "--privileged",
            "privileged mode is incompatible with user namespaces",
        ),
        (
            "--net=host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (
            "--pid=host",
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
    ] {
        let refused = docker.refuse(&["run", "--rm", option, IMAGE, "true"]);
        assert!(refused.contains(why), "{option}: {refused}");
        docker.run(&["run", "--rm", "--userns=host", option, IMAGE, "true"]);
    }
}

fn survives_another_setting(docker: &Docker, lab: &Lab) {
    docker.run(&["run", "-d", "--name", "stays", "-v", "new:/v", IMAGE]);
    let in_container = |command: &str| docker.run(&["exec", "stays", "sh", "-c", command]);
    in_container("touch /mine; chown 9:10 /mine");
    let first = || {
        in_container("cat /proc/self/uid_map")
            .split_whitespace()
            .nth(1)
            .map(str::to_owned)
    };
    let look = "busybox stat -c %u:%g /mine /v/web";
    let other = lab.directory().join("other");
    for (setting, before, after) in [(None, "700000", "0"), (Some("other"), "0", "900000")] {
        restart_with(lab, setting);
        // What runs keeps its users; what starts gets the new ones. The files are its own either way.
        assert_eq!(first().as_deref(), Some(before));
        assert_eq!(in_container(look), "9:10\n33:44");
        docker.run(&["cp", "stays:/mine", &other.to_string_lossy()]);
        docker.run(&["restart", "-t", "0", "stays"]);
        assert_eq!(first().as_deref(), Some(after));
        assert_eq!(in_container(look), "9:10\n33:44");
    }
    docker.run(&["rm", "-f", "stays"]);
    refuses_to_start(lab);
}

fn refuses_to_start(lab: &Lab) {
    let run = Command::new("nsenter")
        .args(["-t", &lab.init("node-1").to_string(), "-m", "-p", "-n"])
        .arg(env!("CARGO_BIN_EXE_muster"))
        .args([
            "daemon",
            "--data-dir",
            "relative",
            "--userns-remap",
            "eve:nobodies",
        ])
        .output();
    let run = run.unwrap();
    assert!(!run.status.success());
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    for problem in [
        "data-dir",
        "user \"eve\" has no entry in /etc/passwd",
        "group \"nobodies\" has no entry",
    ] {
        assert!(told.contains(problem), "{told}");
    }
}
