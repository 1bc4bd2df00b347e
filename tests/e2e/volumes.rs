//! Volumes and mounts, and what they and everything else take on disk.

use crate::support::{Docker, IMAGE, LONG, Lab, WAITER, eventually};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn volumes_hold_data_and_give_it_back() {
    let lab = Lab::with_image("e2evols", 1, 1);
    let docker = lab.docker("node-1");
    let desk = lab.directory().join("desk");
    fs::create_dir_all(&desk).unwrap();
    let furnish =
        "mkdir -p /seed/sub; echo seeded > /seed/file; busybox chmod 1770 /seed; busybox chown -R 7:8 /seed";
    docker.run(&["run", "--name", "seed", IMAGE, "sh", "-c", furnish]);
    docker.run(&["commit", "seed", "seeded:1"]);
    docker.run(&["rm", "seed"]);
    names_and_labels(&docker);
    driver_options(&docker, &desk);
    copies_up(&docker);
    subpaths(&docker);
    borrows(&docker);
    anonymous_ones_go(&docker);
    images_as_mounts(&docker);
    tells_events(&docker);
    binds(&lab, &docker, &desk);
    disk_usage(&docker);
    prunes(&docker);
}

fn tells_events(docker: &Docker) {
    let events = docker.run(&[
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "type=volume",
        "--format",
        "{{.Action}} {{.Actor.ID}}",
    ]);
    for expected in ["create first", "destroy first"] {
        assert!(
            events.lines().any(|line| line == expected),
            "{expected} in {events}"
        );
    }
}

fn names_and_labels(docker: &Docker) {
    docker.run(&[
        "volume", "create", "--label", "kind=a", "--label", "more", "first",
    ]);
    docker.run(&["volume", "create", "--label", "kind=b", "second"]);
    assert_eq!(docker.run(&["volume", "create", "first"]), "first");
    assert_eq!(
        docker.run(&[
            "volume",
            "inspect",
            "-f",
            "{{.Labels.kind}} {{.Driver}} {{.Scope}}",
            "first"
        ]),
        "a local local"
    );
    for (filter, expected) in [
        ("label=kind=a", "first"),
        ("label=more", "first"),
        ("name=eco", "second"),
        ("driver=local", "first\nsecond"),
        ("driver=other", ""),
        ("dangling=true", "first\nsecond"),
        ("dangling=false", ""),
    ] {
        assert_eq!(
            docker.run(&["volume", "ls", "-q", "--filter", filter]),
            expected,
            "{filter}"
        );
    }
    for (args, message) in [
        (&["volume", "create", "x"][..], "volume name is too short"),
        (
            &["volume", "create", "a/b"],
            "includes invalid characters for a local volume name",
        ),
        (
            &["volume", "create", "-d", "nosuch", "x1"],
            "plugin \"nosuch\" not found",
        ),
        (
            &["volume", "create", "-o", "colour=red", "x2"],
            "invalid option: \"colour\"",
        ),
        (
            &["volume", "create", "-o", "type=tmpfs", "x3"],
            "missing required option: \"device\"",
        ),
        (&["volume", "rm", "nosuch"], "get nosuch: no such volume"),
    ] {
        let refused = docker.refuse(args);
        assert!(refused.contains(message), "{refused}");
    }
    docker.run(&[
        "run", "-d", "--name", "user", "-v", "first:/v", IMAGE, "sh", "-c", WAITER,
    ]);
    let id = docker.run(&["inspect", "-f", "{{.Id}}", "user"]);
    let used = docker.refuse(&["volume", "rm", "first"]);
    assert!(
        used.contains(&format!("remove first: volume is in use - [{id}]")),
        "{used}"
    );
    assert_eq!(
        docker.run(&["volume", "ls", "-q", "--filter", "dangling=false"]),
        "first"
    );
    docker.run(&["rm", "-f", "user"]);
    docker.run(&["volume", "rm", "first", "second"]);
}

fn driver_options(docker: &Docker, desk: &Path) {
    docker.run(&[
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=1m,uid=7",
        "mem",
    ]);
    assert_eq!(
        docker.run(&["volume", "inspect", "-f", "{{index .Options \"o\"}}", "mem"]),
        "size=1m,uid=7"
    );
    docker.run(&[
        "run",
        "-d",
        "--name",
        "one",
        "-v",
        "mem:/m",
        IMAGE,
        "sh",
        "-c",
        &format!("echo kept > /m/file; {WAITER}"),
    ]);
    eventually("the file", LONG, || {
        let seen = docker.try_run(&[
            "run",
            "--rm",
            "-v",
            "mem:/m",
            IMAGE,
            "sh",
            "-c",
            "cat /m/file; grep -c ' /m tmpfs .*size=1024k' /proc/mounts",
        ]);
        if seen.stdout == "kept\n1\n" {
            Ok(())
        } else {
            Err(seen)
        }
    });
    // With its last user the memory goes.
    docker.run(&["rm", "-f", "one"]);
    assert_eq!(
        docker.run(&["run", "--rm", "-v", "mem:/m", IMAGE, "ls", "/m"]),
        ""
    );
    docker.run(&["volume", "rm", "mem"]);
    // A directory of the host under a volume's name; what it holds stays.
    let device = desk.join("shared");
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("file"), "the host's").unwrap();
    let option = format!("device={}", device.display());
    docker.run(&[
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        &option,
        "shared",
    ]);
    assert_eq!(
        docker.run(&["run", "--rm", "-v", "shared:/s", IMAGE, "cat", "/s/file"]),
        "the host's"
    );
    docker.run(&["create", "--name", "idle", "-v", "shared:/s", IMAGE, "true"]);
    docker.run(&["cp", &device.join("file").to_string_lossy(), "idle:/s/copied"]);
    assert!(device.join("copied").exists());
    docker.run(&["rm", "idle"]);
    docker.run(&["volume", "rm", "shared"]);
    assert_eq!(fs::read_to_string(device.join("file")).unwrap(), "the host's");
    let missing = desk.join("nosuch");
    let option = format!("device={}", missing.display());
    docker.run(&[
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        &option,
        "broken",
    ]);
    let failed = docker.refuse(&["run", "--rm", "-v", "broken:/s", IMAGE, "true"]);
    assert!(failed.contains("failed to mount local volume"), "{failed}");
    docker.run(&["volume", "rm", "broken"]);
}

fn copies_up(docker: &Docker) {
    let look = "busybox stat -c '%a %u:%g' /seed; cat /seed/file";
    assert_eq!(
        docker.run(&["run", "--rm", "-v", "filled:/seed", "seeded:1", "sh", "-c", look]),
        "1770 7:8\nseeded"
    );
    docker.run(&[
        "run",
        "--rm",
        "-v",
        "filled:/seed",
        IMAGE,
        "sh",
        "-c",
        "busybox rm -r /seed/file; echo own > /seed/other",
    ]);
    assert_eq!(
        docker.run(&["run", "--rm", "-v", "filled:/seed", "seeded:1", "ls", "/seed"]),
        "other\nsub"
    );
    assert_eq!(
        docker.run(&[
            "run",
            "--rm",
            "-v",
            "bare:/seed:nocopy",
            "seeded:1",
            "ls",
            "/seed"
        ]),
        ""
    );
    // One that was made before and is empty is filled, too.
    docker.run(&["volume", "create", "made"]);
    assert_eq!(
        docker.run(&[
            "run",
            "--rm",
            "--mount",
            "source=made,target=/seed",
            "seeded:1",
            "cat",
            "/seed/file"
        ]),
        "seeded"
    );
    docker.run(&["volume", "rm", "filled", "bare", "made"]);
}

fn subpaths(docker: &Docker) {
    let script = "mkdir -p /v/a/b; echo deep > /v/a/b/file; busybox ln -s / /v/root; busybox ln -s ../../.. /v/up; busybox ln -s a /v/alias";
    docker.run(&["run", "--rm", "-v", "parts:/v", IMAGE, "sh", "-c", script]);
    let mount = |subpath: &str| format!("type=volume,source=parts,target=/p,volume-subpath={subpath}");
    for (subpath, command, expected) in [
        ("a/b", "/p/file", "deep"),
        ("alias/b", "/p/file", "deep"),
        ("a/b/file", "/p", "deep"),
    ] {
        assert_eq!(
            docker.run(&["run", "--rm", "--mount", &mount(subpath), IMAGE, "cat", command]),
            expected,
            "{subpath}"
        );
    }
    for (subpath, message) in [
        ("root", "leads out of it"),
        ("root/etc", "leads out of it"),
        ("up", "leads out of it"),
        ("nosuch", "No such file or directory"),
        ("../x", "subpath must be a relative path within the volume"),
    ] {
        let refused = docker.refuse(&["run", "--rm", "--mount", &mount(subpath), IMAGE, "true"]);
        assert!(refused.contains(message), "{subpath}: {refused}");
    }
    eventually("no container", LONG, || {
        let left = docker.run(&["ps", "-aq"]);
        if left.is_empty() {
            Ok(())
        } else {
            docker.try_run(&["rm", "-f", &left]);
            Err(left)
        }
    });
    docker.run(&["volume", "rm", "parts"]);
}

fn borrows(docker: &Docker) {
    docker.run(&[
        "create",
        "--name",
        "owner",
        "-v",
        "lent:/lent",
        "-v",
        "/nameless",
        IMAGE,
        "true",
    ]);
    let write = "echo x > /lent/file && cat /lent/file; ls -d /nameless";
    assert_eq!(
        docker.run(&["run", "--rm", "--volumes-from", "owner", IMAGE, "sh", "-c", write]),
        "x\n/nameless"
    );
    let refused = docker.try_run(&[
        "run",
        "--rm",
        "--volumes-from",
        "owner:ro",
        IMAGE,
        "touch",
        "/lent/other",
    ]);
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    let unknown = docker.refuse(&["create", "--volumes-from", "nosuch", IMAGE, "true"]);
    assert!(unknown.contains("No such container: nosuch"), "{unknown}");
    assert_eq!(
        docker.run(&["volume", "ls", "-q", "--filter", "name=lent"]),
        "lent"
    );
    docker.run(&["rm", "-v", "owner"]);
    assert_eq!(docker.run(&["volume", "ls", "-q"]), "lent");
    docker.run(&["volume", "rm", "lent"]);
}

fn anonymous_ones_go(docker: &Docker) {
    docker.run(&["run", "--rm", "-v", "/a", IMAGE, "touch", "/a/x"]);
    docker.run(&[
        "create", "--name", "aa", "-v", "/a", "-v", "named:/n", IMAGE, "true",
    ]);
    let anonymous = docker.run(&[
        "inspect",
        "-f",
        "{{range .Mounts}}{{if eq .Destination \"/a\"}}{{.Name}}{{end}}{{end}}",
        "aa",
    ]);
    eventually("the volume of --rm goes", LONG, || {
        let left = docker.lines(&["volume", "ls", "-q"]);
        if left.len() == 2 && left.contains(&anonymous) {
            Ok(())
        } else {
            Err(left)
        }
    });
    docker.run(&["rm", "-v", "aa"]);
    assert_eq!(docker.run(&["volume", "ls", "-q"]), "named");
    docker.run(&["volume", "rm", "named"]);
}

fn images_as_mounts(docker: &Docker) {
    let mount = "type=image,source=seeded:1,target=/image";
    let mounted = docker.try_run(&[
        "run", "-d", "--name", "ii", "--mount", mount, IMAGE, "sh", "-c", WAITER,
    ]);
    if mounted.stderr.contains("unknown mount type")
        || mounted.stderr.contains("invalid argument \"type=image")
    {
        // A CLI from before image mounts: the API is asked without it.
        let body = format!(
            "{{\"Image\":\"{IMAGE}\",\"Cmd\":[\"sh\",\"-c\",\"{WAITER}\"],\"HostConfig\":{{\"Mounts\":[{{\"Type\":\"image\",\"Source\":\"seeded:1\",\"Target\":\"/image\"}}]}}}}"
        );
        let (status, answer) =
            crate::support::json_request(docker.socket(), "POST /v1.51/containers/create?name=ii", &body);
        assert!(status.contains("201"), "{status} {answer}");
        docker.run(&["start", "ii"]);
    } else {
        assert_eq!(mounted.code, 0, "{mounted:?}");
    }
    assert_eq!(docker.run(&["exec", "ii", "cat", "/image/seed/file"]), "seeded");
    let refused = docker.try_run(&["exec", "ii", "touch", "/image/new"]);
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    assert_eq!(
        docker.run(&["inspect", "-f", "{{range .Mounts}}{{.Type}} {{.RW}}{{end}}", "ii"]),
        "image false"
    );
    let used = docker.refuse(&["rmi", "seeded:1"]);
    assert!(used.contains("conflict"), "{used}");
    docker.run(&["restart", "-t", "0", "ii"]);
    assert_eq!(docker.run(&["exec", "ii", "cat", "/image/seed/file"]), "seeded");
    docker.run(&["rm", "-f", "ii"]);
}

fn binds(lab: &Lab, docker: &Docker, desk: &Path) {
    let (source, below) = (desk.join("bind"), desk.join("bind/below"));
    fs::create_dir_all(&below).unwrap();
    let text = source.display();
    let read_only = docker.try_run(&[
        "run",
        "--rm",
        "-v",
        &format!("{text}:/b:ro,z"),
        IMAGE,
        "touch",
        "/b/x",
    ]);
    assert!(
        read_only.stderr.contains("Read-only file system"),
        "{read_only:?}"
    );
    for propagation in ["rslave", "rshared"] {
        let bind = format!("{text}:/b:{propagation}");
        let refused = docker.refuse(&["run", "--rm", "-v", &bind, IMAGE, "true"]);
        assert!(refused.contains("but it is not a shared"), "{refused}");
    }
    let node = lab.init("node-1").to_string();
    let place = text.to_string();
    for mount in [["--bind", &place, &place], ["--make-shared", &place, ""]] {
        let words = mount.into_iter().filter(|word| !word.is_empty());
        let mut command = Command::new("nsenter");
        command.args(["-t", &node, "-m", "mount"]).args(words);
        assert!(command.status().expect("`nsenter` is in the path").success());
    }
    for (propagation, field) in [("rslave", "master:"), ("rshared", "shared:"), ("rprivate", "")] {
        let command = "grep ' /b ' /proc/self/mountinfo";
        let line = docker.try_run(&[
            "run",
            "--rm",
            "-v",
            &format!("{text}:/b:{propagation}"),
            IMAGE,
            "sh",
            "-c",
            command,
        ]);
        assert_eq!(line.code, 0, "{propagation}: {line:?}");
        assert!(line.stdout.contains(field), "{propagation}: {line:?}");
        if field.is_empty() {
            assert!(
                !line.stdout.contains("master:") && !line.stdout.contains("shared:"),
                "{line:?}"
            );
        }
    }
    for (bind, message) in [
        (format!("{text}:/b:ro,rw"), "invalid mode"),
        (format!("{text}:/b:what"), "invalid mode"),
    ] {
        let refused = docker.refuse(&["create", "-v", &bind, IMAGE, "true"]);
        assert!(refused.contains(message), "{refused}");
    }
    let twice = docker.refuse(&[
        "create",
        "-v",
        &format!("{text}:/b"),
        "-v",
        "v1:/b",
        IMAGE,
        "true",
    ]);
    assert!(twice.contains("Duplicate mount point: /b"), "{twice}");
}

fn disk_usage(docker: &Docker) {
    docker.run(&["run", "--name", "big", "-v", "sized:/v", IMAGE, "sh", "-c", "busybox dd if=/dev/zero of=/file bs=1000 count=300; busybox dd if=/dev/zero of=/v/file bs=1000 count=200"]);
    let size = docker.run(&["ps", "-as", "--filter", "name=big", "--format", "{{.Size}}"]);
    assert!(size.starts_with("300kB (virtual "), "{size}");
    let usage = docker.run(&["system", "df", "-v", "--format", "{{json .}}"]);
    let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
    let find = |kind: &str, key: &str, name: &str| {
        let list = usage[kind].as_array().unwrap();
        list.iter()
            .find(|entry| entry[key] == name)
            .cloned()
            .unwrap_or_else(|| panic!("{name} in {usage}"))
    };
    let volume = find("Volumes", "Name", "sized");
    assert_eq!(
        (&volume["Links"], &volume["Size"]),
        (&"1".into(), &"200kB".into()),
        "{volume}"
    );
    let container = find("Containers", "Names", "big");
    assert!(
        container["Size"].as_str().unwrap().starts_with("300kB"),
        "{container}"
    );
    let image = find("Images", "Repository", "seeded");
    assert_ne!(image["SharedSize"], "0B", "{image}");
    let (_, answer) = crate::support::json_request(docker.socket(), "GET /v1.51/system/df?type=volume", "");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert!(
        answer["Images"].is_null() && answer["Volumes"][0]["UsageData"]["Size"] == 200_000,
        "{answer}"
    );
    docker.run(&["rm", "big"]);
}

fn prunes(docker: &Docker) {
    docker.run(&["volume", "create", "--label", "keep", "labelled"]);
    docker.run(&[
        "create",
        "--name",
        "pp",
        "-v",
        "/nameless",
        "-v",
        "used:/u",
        IMAGE,
        "true",
    ]);
    let nameless = docker.run(&[
        "inspect",
        "-f",
        "{{range .Mounts}}{{if ne .Name \"used\"}}{{.Name}}{{end}}{{end}}",
        "pp",
    ]);
    assert!(
        !docker.run(&["volume", "prune", "-f"]).contains(&nameless),
        "it is in use"
    );
    docker.run(&["rm", "pp"]);
    let pruned = docker.run(&["volume", "prune", "-f"]);
    assert!(
        pruned.contains(&nameless) && !pruned.contains("labelled"),
        "{pruned}"
    );
    let pruned = docker.run(&["volume", "prune", "-f", "-a", "--filter", "label!=keep"]);
    assert!(
        pruned.contains("used") && pruned.contains("sized") && pruned.contains("200kB"),
        "{pruned}"
    );
    assert_eq!(docker.run(&["volume", "ls", "-q"]), "labelled");
    docker.run(&["create", "--name", "old", "-v", "/nameless", IMAGE, "true"]);
    let pruned = docker.run(&["system", "prune", "-f", "--volumes", "--filter", "label!=keep"]);
    assert!(
        pruned.contains("Deleted Containers") && pruned.contains("Deleted Volumes"),
        "{pruned}"
    );
    docker.run(&["volume", "prune", "-f", "-a"]);
    assert_eq!(docker.run(&["volume", "ls", "-q"]), "");
}
