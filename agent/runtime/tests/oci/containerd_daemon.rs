//! A containerd whose containers Muster runs.

use super::{Runtime, make_root, printed, until};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The image's name as containerd completes it.
const IMAGE: &str = "docker.io/library/box:test";

/// A containerd with files and a socket of its own.
pub struct Containerd {
    pub runtime: Runtime,
    process: Child,
    socket: PathBuf,
}

impl Containerd {
    pub fn new() -> Containerd {
        let runtime = Runtime::new();
        let socket = runtime.path("containerd.sock");
        let plugins = [
            "cri",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.zfs",
            "snapshotter.v1.aufs",
            "snapshotter.v1.devmapper",
        ];
        let plugins: Vec<String> = plugins
            .iter()
            .map(|name| match name.contains('.') {
                true => format!("\"io.containerd.{name}\""),
                false => format!("\"io.containerd.grpc.v1.{name}\""),
            })
            .collect();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{}]\n[grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
            runtime.path("containerd"),
            runtime.path("containerd-state"),
            plugins.join(", "),
            socket,
            runtime.path("ttrpc.sock"),
        );
        let file = runtime.path("containerd.toml");
        std::fs::write(&file, config).expect("the directory is writable");
        let log = std::fs::File::create(runtime.path("containerd.log")).expect("the directory is writable");
        let process = Command::new("containerd")
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let containerd = Containerd {
            runtime,
            process,
            socket,
        };
        until("containerd", || containerd.call(&["version"]).status.success());
        containerd
    }

    pub fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(&self.socket)
            .args(arguments)
            .stdin(Stdio::null());
        command.output().expect("ctr comes with containerd")
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        printed(&format!("ctr {arguments:?}"), &self.call(arguments))
    }

    /// Runs a container; `options` go before the image, `command` after.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        let program = self.runtime.program.to_str().expect("UTF-8");
        let first = ["run", "--snapshotter", "native", "--runc-binary", program];
        self.call(&[&first[..], options, &[IMAGE], command].concat())
    }

    /// Pauses and resumes the container's task, kills it and removes it.
    pub fn pause_and_end(&self, container: &str) {
        self.ok(&["tasks", "pause", container]);
        assert!(self.ok(&["tasks", "list"]).contains("PAUSED"));
        self.ok(&["tasks", "resume", container]);
        self.ok(&["tasks", "kill", "--signal", "KILL", container]);
        until("its end", || self.ok(&["tasks", "list"]).contains("STOPPED"));
        self.ok(&["tasks", "delete", container]);
    }

    /// Makes an archive as `docker save` does, and imports it.
    pub fn import(&self) {
        let root = self.runtime.path("image");
        make_root(&root);
        let archive = self.runtime.path("archive");
        std::fs::create_dir(&archive).expect("the directory is writable");
        let layer = archive.join("layer.tar");
        pack(&root, &layer, ".");
        let sum = Command::new("sha256sum")
            .arg(&layer)
            .output()
            .expect("coreutils are there");
        let sum = printed("sha256sum", &sum);
        let digest = sum.split(' ').next().expect("a digest");
        let config = json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        });
        let manifest =
            json!([{ "Config": "config.json", "RepoTags": ["box:test"], "Layers": ["layer.tar"] }]);
        for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
            std::fs::write(archive.join(name), content.to_string()).expect("the directory is writable");
        }
        let image = self.runtime.path("image.tar");
        pack(&archive, &image, "config.json layer.tar manifest.json");
        self.ok(&[
            "images",
            "import",
            "--snapshotter",
            "native",
            image.to_str().expect("UTF-8"),
        ]);
    }
}

fn pack(directory: &Path, archive: &Path, names: &str) {
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(directory)
        .arg("-cf")
        .arg(archive)
        .args(names.split(' '));
    printed("tar", &command.output().expect("tar is there"));
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.call(&["tasks", "kill", "--signal", "KILL", "one"]);
        self.call(&["tasks", "delete", "--force", "one"]);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
