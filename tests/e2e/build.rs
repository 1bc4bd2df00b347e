//! Builds with the real CLI: what a Dockerfile says is in the image, steps are used again, and failures are told.

use crate::support::{Docker, IMAGE, LONG, Lab, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A build context of a test.
struct Project {
    directory: PathBuf,
}

impl Project {
    fn new(lab: &Lab, name: &str) -> Project {
        let directory = lab.directory().join("projects").join(name);
        fs::create_dir_all(&directory).unwrap();
        Project { directory }
    }

    fn write(&self, name: &str, content: &str) -> &Project {
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn path(&self) -> &str {
        self.directory.to_str().unwrap()
    }

    /// Builds it under a name; returns what was printed.
    #[track_caller]
    fn build(&self, docker: &Docker, name: &str, more: &[&str]) -> String {
        docker.run(&[&["build", "-t", name], more, &[self.path()]].concat())
    }

    /// Builds it, which must fail; returns the complaint.
    #[track_caller]
    fn refuse(&self, docker: &Docker, more: &[&str]) -> String {
        docker.refuse(&[&["build"], more, &[self.path()]].concat())
    }
}

fn image_id(docker: &Docker, name: &str) -> String {
    docker.run(&["image", "inspect", "--format", "{{.Id}}", name])
}

#[test]
fn dockerfiles_become_images() {
    let lab = Lab::with_image("e2ebuild", 1, 1);
    let docker = lab.docker("node-1");
    steps_are_told_and_used_again(&lab, &docker);
    every_instruction_is_in_the_image(&lab, &docker);
    stages_are_skipped_and_copied_from(&lab, &docker);
    files_are_copied_as_docker_copies(&lab, &docker);
    triggers_run_in_the_child(&lab, &docker);
    arguments_have_their_scope(&lab, &docker);
    mounts_are_there_for_one_step(&lab, &docker);
    failures_are_told(&lab, &docker);
    limits_hold_in_steps(&lab, &docker);
    fixed_dates_give_equal_images(&lab, &docker);
    the_cache_is_counted_and_pruned(&lab, &docker);
    assert!(
        docker.lines(&["ps", "-aq"]).is_empty(),
        "no container of a build is left"
    );
    let left = fs::read_dir(lab.node_directory("node-1").join("data/builds")).map(Iterator::count);
    assert_eq!(left.unwrap_or(0), 0, "no context is left");
}

fn steps_are_told_and_used_again(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "first");
    project
        .write(
            "Dockerfile",
            &format!(
                "FROM {IMAGE}\nENV GREETING=hello\nCOPY file /srv/\nRUN echo $GREETING > /out && echo told\n\
                 CMD [\"cat\", \"/out\"]\n"
            ),
        )
        .write("file", "content");
    let first = project.build(docker, "first", &[]);
    for expected in [
        &format!("Step 1/5 : FROM {IMAGE}\n ---> "),
        "Step 2/5 : ENV GREETING=hello\n ---> ",
        "Step 4/5 : RUN echo $GREETING > /out && echo told\n ---> Running in ",
        "\ntold\n",
        "Removed intermediate container ",
        "Step 5/5 : CMD [\"cat\", \"/out\"]",
        "Successfully built ",
        "Successfully tagged first:latest",
    ] {
        assert!(first.contains(expected), "{expected:?} in {first}");
    }
    assert_eq!(docker.run(&["run", "--rm", "first"]), "hello");
    assert_eq!(
        docker.run(&["run", "--rm", "first", "cat", "/srv/file"]),
        "content"
    );
    let id = image_id(docker, "first");
    // Content counts, not times.
    project.write("file", "content");
    let second = project.build(docker, "first", &[]);
    assert_eq!(second.matches(" ---> Using cache").count(), 4, "{second}");
    assert_eq!(image_id(docker, "first"), id);
    project.write("file", "other");
    let third = project.build(docker, "first", &[]);
    assert_eq!(third.matches(" ---> Using cache").count(), 1, "{third}");
    let fresh = project.build(docker, "first", &["--no-cache"]);
    assert!(!fresh.contains("Using cache"), "{fresh}");
    let history = docker.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "first"]);
    assert!(
        history.contains("/bin/sh -c #(nop)  CMD [\"cat\" \"/out\"]"),
        "{history}"
    );
    assert!(history.contains("/bin/sh -c echo $GREETING > /out"), "{history}");
    let listed = docker.run(&["images", "-q", "--filter", "dangling=true"]);
    assert!(
        listed.lines().count() <= 3,
        "steps are no images of their own: {listed}"
    );
    let quiet = docker.run(&["build", "-q", project.path()]);
    assert!(quiet.starts_with("sha256:"), "{quiet}");
    let piped = docker.piped(
        format!("FROM {IMAGE}\nRUN echo piped > /p\n").as_bytes(),
        &["build", "-t", "piped", "-"],
    );
    assert_eq!(piped.code, 0, "{piped:?}");
    assert_eq!(docker.run(&["run", "--rm", "piped", "cat", "/p"]), "piped");
    let archive = Command::new("tar")
        .args(["-czf", "-", "-C", project.path(), "."])
        .output()
        .unwrap();
    let packed = docker.piped(&archive.stdout, &["build", "-t", "packed", "-"]);
    assert_eq!(packed.code, 0, "{packed:?}");
}

fn every_instruction_is_in_the_image(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "all");
    project.write(
        "Dockerfile",
        &format!(
            "# syntax=docker/dockerfile:1\n# escape=`\nFROM {IMAGE} AS all\nMAINTAINER me\nLABEL a=1 `\n  # inside\n  b=\"two `\n words\"\n\
             EXPOSE 80 53/udp\nVOLUME /data\nWORKDIR /srv\nWORKDIR sub\nRUN touch here\nUSER 7:8\nSTOPSIGNAL SIGINT\n\
             HEALTHCHECK --interval=5s CMD true\nONBUILD RUN touch /child\nSHELL [\"/bin/sh\", \"-ec\"]\n\
             ENTRYPOINT echo entry\nCMD cmd\n"
        ),
    );
    project.build(docker, "all", &["--label", "added=yes"]);
    let config = |path: &str| {
        docker.run(&[
            "image",
            "inspect",
            "--format",
            &format!("{{{{json .{path}}}}}"),
            "all",
        ])
    };
    for (path, expected) in [
        ("Config.Labels", r#"{"a":"1","added":"yes","b":"two  words"}"#),
        ("Config.ExposedPorts", r#"{"53/udp":{},"80/tcp":{}}"#),
        ("Config.Volumes", r#"{"/data":{}}"#),
        ("Config.WorkingDir", r#""/srv/sub""#),
        ("Config.User", r#""7:8""#),
        ("Config.StopSignal", r#""SIGINT""#),
        ("Config.Entrypoint", r#"["/bin/sh","-ec","echo entry"]"#),
        ("Config.Cmd", r#"["/bin/sh","-ec","cmd"]"#),
        ("Config.OnBuild", r#"["RUN touch /child"]"#),
        ("Config.Shell", r#"["/bin/sh","-ec"]"#),
        ("Author", r#""me""#),
    ] {
        assert_eq!(config(path), expected, "{path}");
    }
    let history = docker.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "all"]);
    for words in [
        "#(nop)  EXPOSE 53/udp 80",
        "#(nop) WORKDIR /srv/sub",
        "#(nop)  VOLUME [/data]",
        r#"#(nop)  HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" '\x00'}"#,
    ] {
        assert!(history.contains(words), "{words}: {history}");
    }
    assert!(config("Config.Healthcheck").contains("5000000000"));
    let found = docker.run(&["run", "--rm", "--entrypoint", "ls", "all", "/srv/sub"]);
    assert_eq!(found, "here");
}

fn stages_are_skipped_and_copied_from(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "stages");
    project.write(
        "Dockerfile",
        &format!(
            "ARG BASE={IMAGE}\nFROM ${{BASE}} AS make\nRUN echo made > /made && busybox chown 7:8 /made\n\
             FROM $BASE AS never\nRUN false\n\
             FROM scratch\nCOPY --from=make /made /from/stage\nCOPY --from={IMAGE} /bin/busybox /bin/\nCMD [\"/bin/busybox\", \"cat\", \"/from/stage\"]\n"
        ),
    );
    let told = project.build(docker, "stages", &[]);
    assert!(!told.contains("RUN false"), "{told}");
    assert_eq!(docker.run(&["run", "--rm", "stages"]), "made");
    let owner = ["/bin/busybox", "stat", "-c", "%u:%g", "/from/stage"];
    assert_eq!(
        docker.run(&[&["run", "--rm", "stages"], &owner[..]].concat()),
        "7:8"
    );
    project.build(docker, "made", &["--target", "make"]);
    assert_eq!(docker.run(&["run", "--rm", "made", "cat", "/made"]), "made");
    let refused = project.refuse(docker, &["--target", "none"]);
    assert!(
        refused.contains("target stage \"none\" could not be found"),
        "{refused}"
    );
}

fn files_are_copied_as_docker_copies(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "files");
    for name in ["a.txt", "b.txt", "dir/sub/c", "secret", "keep.md"] {
        project.write(name, name);
    }
    project.write(".dockerignore", "secret\nDockerfile\n*.md\n!keep.md\n");
    std::os::unix::fs::symlink("a.txt", project.directory.join("link")).unwrap();
    let packed = Command::new("tar")
        .args([
            "-czf",
            &format!("{}/packed.tar.gz", project.path()),
            "-C",
            project.path(),
            "dir",
        ])
        .status()
        .unwrap();
    assert!(packed.success());
    project.write(
        "Dockerfile",
        &format!(
            "FROM {IMAGE}\nWORKDIR /w\nCOPY *.txt ./\nCOPY dir /d\nCOPY --chown=7:9 --chmod=640 a.txt /owned/x\n\
             ADD packed.tar.gz /unpacked\nCOPY packed.tar.gz /packed\nCOPY . /all/\nCOPY [\"link\", \"/followed\"]\n\
             COPY <<A <<\"B\" /inline/\nhome is $PATH\nA\nhome is $PATH\nB\n\
             RUN <<EOF\necho one > /script\necho two >> /script\nEOF\n"
        ),
    );
    project.build(docker, "files", &[]);
    let inside = |command: &str| docker.run(&["run", "--rm", "files", "sh", "-c", command]);
    assert_eq!(inside("ls /w"), "a.txt\nb.txt");
    assert_eq!(inside("cat /d/sub/c /unpacked/dir/sub/c"), "dir/sub/cdir/sub/c");
    assert_eq!(inside("busybox stat -c '%u:%g %a' /owned/x"), "7:9 640");
    assert_eq!(
        inside("ls /all"),
        "a.txt\nb.txt\ndir\nkeep.md\nlink\npacked.tar.gz"
    );
    assert_eq!(inside("cat /followed"), "a.txt");
    assert_eq!(inside("cat /inline/A"), "home is /bin");
    assert_eq!(inside("cat /inline/B"), "home is $PATH");
    assert_eq!(inside("cat /script"), "one\ntwo");
    for (line, said) in [
        ("COPY missing /x", "COPY failed: file not found in build context"),
        (
            "COPY <<run/evil /var/\nx\nrun/evil",
            "its name must not be a path",
        ),
        ("COPY ../secret /x", "forbidden path outside the build context"),
        (
            "COPY *.txt /x",
            "destination must be a directory and end with a /",
        ),
        ("COPY --from=127.0.0.1:1/nowhere:1 /a /b", "127.0.0.1:1"),
        (
            "ADD https://example.com/x /x",
            "ADD of addresses is not supported",
        ),
        ("COPY --chmod=999 a.txt /x", "invalid chmod parameter"),
    ] {
        project.write("Dockerfile", &format!("FROM {IMAGE}\n{line}\n"));
        let refused = project.refuse(docker, &[]);
        assert!(refused.contains(said), "{line}: {refused}");
    }
}

fn triggers_run_in_the_child(lab: &Lab, docker: &Docker) {
    let parent = Project::new(lab, "parent");
    parent.write(
        "Dockerfile",
        &format!("FROM {IMAGE}\nONBUILD COPY given /taken\nONBUILD RUN echo ran > /ran\n"),
    );
    parent.build(docker, "parent", &[]);
    let child = Project::new(lab, "child");
    child.write("Dockerfile", "FROM parent\n").write("given", "it");
    let told = child.build(docker, "child", &[]);
    assert!(told.contains("# Executing 2 build triggers"), "{told}");
    assert_eq!(
        docker.run(&["run", "--rm", "child", "cat", "/taken", "/ran"]),
        "itran"
    );
    let left = docker.run(&[
        "image",
        "inspect",
        "--format",
        "{{json .Config.OnBuild}}",
        "child",
    ]);
    assert!(left == "null" || left == "[]", "{left}");
}

fn arguments_have_their_scope(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "arguments");
    project.write(
        "Dockerfile",
        &format!(
            "ARG A=global\nFROM {IMAGE}\nRUN echo \"[$A]\" > /before\nARG A\nARG B=b\nENV C=${{B:-none}}-${{D:+set}}\n\
             RUN echo \"[$A][$B][$http_proxy]\" > /after\n"
        ),
    );
    let arguments = [
        "--build-arg",
        "B=given",
        "--build-arg",
        "http_proxy=http://p",
        "--build-arg",
        "U=unused",
    ];
    let told = project.build(docker, "arguments", &arguments);
    assert!(told.contains("build-args [U] were not consumed"), "{told}");
    let inside = |command: &str| docker.run(&["run", "--rm", "arguments", "sh", "-c", command]);
    assert_eq!(
        inside("cat /before /after; echo $C"),
        "[]\n[global][given][http://p]\ngiven-"
    );
    let again = project.build(docker, "arguments", &arguments[..2]);
    assert_eq!(
        again.matches("Using cache").count(),
        5,
        "a proxy changes nothing: {again}"
    );
    let other = project.build(docker, "arguments", &["--build-arg", "B=other"]);
    assert!(other.matches("Using cache").count() < 5, "{other}");
    let history = docker.run(&["history", "--no-trunc", "arguments"]);
    assert!(!history.contains("http://p"), "{history}");
}

fn mounts_are_there_for_one_step(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "mounts");
    project.write("file", "bound").write(
        "Dockerfile",
        &format!(
            "FROM {IMAGE} AS other\nRUN echo staged > /staged\nFROM {IMAGE}\nARG N\n\
             RUN --mount=type=cache,target=/cache echo $N >> /cache/log; cat /cache/log > /seen\n\
             RUN --mount=target=/context --mount=from=other,source=/staged,target=/staged --mount=type=tmpfs,target=/t \
             cat /context/file /staged > /both; touch /t/x\n\
             RUN --network=none ip addr > /links\n"
        ),
    );
    project.build(docker, "mounts", &["--build-arg", "N=1"]);
    project.build(docker, "mounts", &["--build-arg", "N=2"]);
    let inside = |command: &str| docker.run(&["run", "--rm", "mounts", "sh", "-c", command]);
    assert_eq!(inside("cat /seen"), "1\n2");
    assert_eq!(inside("cat /both"), "boundstaged");
    assert_eq!(inside("ls -d /cache /t /context /staged 2>/dev/null; true"), "");
    assert!(!inside("cat /links").contains("eth0"));
    project.write(
        "Dockerfile",
        &format!("FROM {IMAGE}\nRUN --mount=type=secret,id=x true\n"),
    );
    let refused = project.refuse(docker, &[]);
    assert!(
        refused.contains("line 2") && refused.contains("BuildKit"),
        "{refused}"
    );
}

fn failures_are_told(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "failures");
    project.write("Dockerfile", &format!("FROM {IMAGE}\nRUN echo before; exit 3\n"));
    let failed = docker.try_run(&["build", "--force-rm", project.path()]);
    assert_eq!(failed.code, 3, "{failed:?}");
    assert!(failed.stdout.contains("before"), "{failed:?}");
    let said = "The command '/bin/sh -c echo before; exit 3' returned a non-zero code: 3";
    assert!(failed.stderr.contains(said), "{failed:?}");
    for (text, said) in [
        (
            "FROM x\n\nNONSENSE y\n",
            "dockerfile parse error on line 3: unknown instruction: NONSENSE",
        ),
        ("FROM 127.0.0.1:1/nowhere:none\n", "127.0.0.1:1"),
        ("RUN x\n", "no build stage in current context"),
        (
            "FROM busybox:e2e\nEXPOSE x\n",
            "invalid containerPort: x (line 2 of the Dockerfile)",
        ),
    ] {
        project.write("Dockerfile", text);
        let refused = project.refuse(docker, &[]);
        assert!(refused.contains(said), "{text}: {refused}");
    }
    project.write("Dockerfile", &format!("FROM {IMAGE}\n"));
    for (more, said) in [
        (&["--squash"][..], "squash"),
        (&["-f", "none"], "none"),
        (
            &["--platform", "linux/s390x"],
            "does not match the specified platform",
        ),
    ] {
        let refused = project.refuse(docker, more);
        assert!(refused.contains(said), "{more:?}: {refused}");
    }
}

fn limits_hold_in_steps(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "limits");
    project.write(
        "Dockerfile",
        &format!(
            "FROM {IMAGE}\nRUN ulimit -n > /files; hostname > /name; grep box /etc/hosts > /hosts; \
             cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max > /memory 2>/dev/null; true\n"
        ),
    );
    let limits = [
        "--ulimit",
        "nofile=100:200",
        "--memory",
        "64m",
        "--add-host",
        "box:10.9.8.7",
    ];
    project.build(docker, "limits", &limits);
    let inside = |path: &str| docker.run(&["run", "--rm", "limits", "cat", path]);
    assert_eq!(inside("/files"), "100");
    assert_eq!(inside("/memory"), (64 << 20).to_string());
    assert!(inside("/hosts").contains("10.9.8.7"));
}

fn fixed_dates_give_equal_images(lab: &Lab, docker: &Docker) {
    let project = Project::new(lab, "dates");
    project.write("file", "x").write(
        "Dockerfile",
        &format!("FROM {IMAGE}\nCOPY file /f\nWORKDIR /new\nRUN echo y > /y; mkdir /z\nENV A=b\n"),
    );
    let date = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    project.build(docker, "dated", &date);
    let first = image_id(docker, "dated");
    // Another time, and files that are newer.
    project.write("file", "x");
    project.build(docker, "dated", &date);
    assert_eq!(image_id(docker, "dated"), first);
    let created = docker.run(&["image", "inspect", "--format", "{{.Created}}", "dated"]);
    assert!(created.starts_with("2023-11-14T22:13:20"), "{created}");
}

fn the_cache_is_counted_and_pruned(lab: &Lab, docker: &Docker) {
    let usage = docker.run(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"]);
    let cache = usage
        .lines()
        .find(|line| line.starts_with("Build Cache"))
        .unwrap()
        .to_owned();
    assert!(!cache.starts_with("Build Cache 0"), "{usage}");
    let pruned = docker.run(&["builder", "prune", "--all", "--force"]);
    assert!(pruned.contains("Total"), "{pruned}");
    let usage = docker.run(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]);
    assert!(usage.contains("Build Cache 0"), "{usage}");
    // What was built before runs on, and the next build makes its steps anew.
    assert_eq!(docker.run(&["run", "--rm", "stages"]), "made");
    let project = Project {
        directory: Path::new(&lab.directory().join("projects/stages")).to_owned(),
    };
    let told = project.build(docker, "stages", &[]);
    assert!(!told.contains("Using cache"), "{told}");
}

/// What was built anew under the same name runs on every node after the next update, without a registry.
#[test]
fn a_service_runs_what_its_image_was_when_it_was_deployed() {
    let lab = Lab::with_image("e2erebld", 3, 3);
    let docker = lab.docker("node-1");
    let project = Project::new(&lab, "again");
    let build = |text: &str| {
        project.write("Dockerfile", &format!("FROM {IMAGE}\nRUN echo {text} > /built\n"));
        project.build(&docker, "again:1", &["-q"]);
    };
    let running = || {
        let mut told = Vec::new();
        for node in ["node-1", "node-2", "node-3"] {
            let docker = lab.docker(node);
            for id in docker.lines(&[
                "ps",
                "-q",
                "--filter",
                "label=com.docker.swarm.service.name=again",
            ]) {
                // One that is being replaced may be gone by now.
                let output = docker.try_run(&["exec", &id, "cat", "/built"]);
                told.push(output.stdout.trim().to_owned());
            }
        }
        told
    };
    build("first");
    let create = [
        "service", "create", "-d", "-q", "--name", "again", "--mode", "global", "again:1",
    ];
    docker.run(&[&create[..], &["sleep", "100000"]].concat());
    lab.await_running("node-1", "again", 3, |_| true);
    eventually("the first on every node", LONG, || match running() {
        found if found == ["first"; 3] => Ok(()),
        found => Err(found),
    });
    build("second");
    docker.run(&["service", "update", "-d", "-q", "--image", "again:1", "again"]);
    eventually("the second on every node", LONG, || match running() {
        found if found == ["second"; 3] => Ok(()),
        found => Err(found),
    });
    let inspect = [
        "service",
        "inspect",
        "--format",
        "{{.Spec.TaskTemplate.ContainerSpec.Image}}",
    ];
    let image = docker.run(&[&inspect[..], &["again"]].concat());
    assert!(image.starts_with("again:1@sha256:"), "{image}");
}
