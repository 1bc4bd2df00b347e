//! A node of its own for each test.

use muster_engine::{Engine, EngineConfig, LogQuery, RemoveOptions};
use muster_images::{ImageRecipe, RecipeSource};
use muster_runtime::cgroup::CgroupRoot;
use muster_runtime::{Launcher, LauncherConfig};
use muster_types::container::{ContainerConfig, ContainerInfo, ContainerState};
use std::future::Future;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything: far more than a busy machine needs.
const DEADLINE: Duration = Duration::from_secs(60);
/// The image's name.
pub const IMAGE: &str = "box:latest";

/// A node: directories, a network namespace, control groups.
pub struct Node {
    directory: tempfile::TempDir,
    cgroup: CgroupRoot,
    parent: String,
}

/// Runs a test on a node of its own.
pub fn on_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    let node = Node::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test(node));
}

impl Node {
    /// Makes one. The calling thread gets a network of its own, and so do the threads and processes that it starts.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        let parent = format!(
            "muster-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = CgroupRoot::detect()
            .and_then(|root| root.with_parent(&parent))
            .unwrap();
        cgroup.prepare().unwrap();
        Self {
            directory: tempfile::Builder::new()
                .prefix("muster-engine-")
                .tempdir()
                .unwrap(),
            cgroup,
            parent,
        }
    }

    /// A path of the node.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens the engine, as a daemon that starts does.
    pub async fn open(&self) -> Engine {
        let run_dir = self.path("run");
        let mut launcher = LauncherConfig::new(&run_dir, self.cgroup.clone());
        launcher.executable = env!("CARGO_BIN_EXE_muster-engine-launcher").into();
        let launcher = Launcher::spawn(&launcher).unwrap();
        let mut config = EngineConfig::new(self.path("data"), run_dir, launcher, self.cgroup.clone());
        config.bridge.name = "mt0".to_owned();
        config.bridge.subnet = "10.211.0.0/24".parse().unwrap();
        Engine::open(config).await.unwrap()
    }

    /// Opens the engine with an image of a shell.
    pub async fn open_with_image(&self) -> Engine {
        let engine = self.open().await;
        engine.image_load(Cursor::new(archive(IMAGE))).await.unwrap();
        engine
    }

    /// Writes images of a shell to archives of their names.
    pub fn write_images(&self, names: &[&str]) {
        for name in names {
            let content = archive(&format!("{name}:latest"));
            std::fs::write(self.path(&format!("{name}.tar")), content).unwrap();
        }
    }

    /// Removes every container, closes the engine, and checks that nothing is left over.
    pub async fn close(self, engine: Engine) {
        for info in engine.list() {
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            let _ = engine.remove(info.id.as_str(), options).await;
        }
        until("nothing is left", || engine.list().is_empty()).await;
        let left = |name: &str| names(&self.path(name));
        until("all containers' directories are gone", || {
            left("data/containers").is_empty()
                && left("run/containers").is_empty()
                && left("run/netns").is_empty()
                && left("run/shm").is_empty()
                && left("data/images/containers").is_empty()
        })
        .await;
        engine.shutdown().await;
    }

    /// The files in which the engine keeps what it knows of running containers.
    pub fn run_facts(&self) -> Vec<PathBuf> {
        let runs = self.path("run/containers");
        let files = names(&runs)
            .into_iter()
            .map(|id| runs.join(id).join("engine.json"));
        files.collect()
    }

    /// Loses everything that the engine knows of its containers, while it is closed.
    pub fn lose_metadata(&self) {
        std::fs::remove_file(self.path("data/engine.redb")).unwrap();
    }

    /// The metadata as they are on disk, while the engine is closed.
    pub fn metadata(&self) -> Vec<u8> {
        std::fs::read(self.path("data/engine.redb")).unwrap()
    }

    /// Puts earlier metadata back, while the engine is closed: what came after is lost.
    pub fn set_metadata(&self, earlier: &[u8]) {
        std::fs::write(self.path("data/engine.redb"), earlier).unwrap();
    }

    /// What a crash in the middle of a create and a start leaves of a container; returns the paths.
    pub fn make_leftovers(&self, id: &str) -> Vec<PathBuf> {
        let [data, run] = ["data/containers", "run/containers"].map(|name| self.path(name).join(id));
        for directory in [&data, &run] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(data.join("hosts"), "").unwrap();
        std::fs::write(run.join("engine.json"), "{").unwrap();
        let pin = self.path("run/netns").join(id);
        std::fs::write(&pin, "").unwrap();
        vec![data, run, pin]
    }

    /// The name of the group that all of its groups are below.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// That group, in each hierarchy.
    pub fn groups(&self) -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let roots = names(top)
            .into_iter()
            .map(|name| top.join(name))
            .chain([top.to_owned()]);
        roots
            .map(|root| root.join(&self.parent))
            .filter(|group| group.is_dir())
            .collect()
    }
}

/// The archive of an image of a shell.
fn archive(reference: &str) -> Vec<u8> {
    let mut recipe = ImageRecipe {
        reference: reference.to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        ..ImageRecipe::default()
    }
    .with("bin", 0o755, RecipeSource::Directory)
    .with(
        "bin/busybox",
        0o755,
        RecipeSource::File("/usr/bin/busybox".into()),
    )
    .with("etc", 0o755, RecipeSource::Directory)
    .with(
        "etc/passwd",
        0o644,
        RecipeSource::Bytes(b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:\n".to_vec()),
    )
    .with("tmp", 0o1777, RecipeSource::Directory)
    .with("srv", 0o755, RecipeSource::Directory)
    .with(
        "srv/name",
        0o644,
        RecipeSource::Bytes(reference.as_bytes().to_vec()),
    )
    .with("srv/page", 0o644, RecipeSource::Bytes(b"from the image".to_vec()))
    .with("bin/noexec", 0o644, RecipeSource::Bytes(b"text".to_vec()));
    for applet in [
        "sh", "true", "false", "sleep", "echo", "cat", "id", "hostname", "ip", "env", "nc", "ls", "wc",
        "stat",
    ] {
        recipe = recipe.with(
            &format!("bin/{applet}"),
            0o755,
            RecipeSource::Symlink("busybox".to_owned()),
        );
    }
    let mut archive = Vec::new();
    recipe.write(&mut archive).unwrap();
    archive
}

impl Drop for Node {
    /// Leaves nothing behind, also when the test failed: processes, control groups, mounts.
    fn drop(&mut self) {
        let began = Instant::now();
        for group in self.groups() {
            while !cleared(&group) && began.elapsed() < DEADLINE {
                std::thread::yield_now();
            }
        }
        for pins in ["run/netns", "run/overlays"].map(|name| self.path(name)) {
            for name in names(&pins) {
                let _ = nix::mount::umount2(&pins.join(name), nix::mount::MntFlags::MNT_DETACH);
            }
            let _ = nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH);
        }
        let shared = self.path("run/shm");
        for name in names(&shared) {
            let _ = nix::mount::umount2(&shared.join(name), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Kills what is in a control group and those below it, and removes them; true once they are gone.
fn cleared(group: &Path) -> bool {
    for name in names(group) {
        let below = group.join(name);
        if below.is_dir() && !cleared(&below) {
            return false;
        }
    }
    let processes = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for process in processes.lines().filter_map(|line| line.parse().ok()) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(process),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    std::fs::remove_dir(group).is_ok() || !group.exists()
}

/// Names in a directory; none where there is no directory.
pub fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A container that runs a shell script.
pub fn shell(script: &str) -> ContainerConfig {
    ContainerConfig {
        image: IMAGE.to_owned(),
        cmd: Some(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()]),
        ..ContainerConfig::default()
    }
}

/// Creates and starts a container, waits for its end and returns its exit code with its output.
pub async fn run(engine: &Engine, config: ContainerConfig) -> (i32, String) {
    let created = engine.create(None, config).await.unwrap();
    let id = created.id.as_str();
    engine.start(id).await.unwrap();
    let ended = engine.wait(id, Default::default()).unwrap().await.unwrap();
    let output = output(engine, id, LogQuery::default()).await;
    (ended.exit_code, output)
}

/// What a container logged.
pub async fn output(engine: &Engine, reference: &str, query: LogQuery) -> String {
    let mut session = engine.logs(reference, query).await.unwrap();
    let mut text = String::new();
    while let Some(entry) = session.entries.recv().await {
        text.push_str(&String::from_utf8_lossy(&entry.unwrap().data));
    }
    text
}

/// A container's info.
pub async fn info(engine: &Engine, reference: &str) -> ContainerInfo {
    engine.inspect(reference, false).await.unwrap()
}

/// A container's state.
pub async fn state(engine: &Engine, reference: &str) -> ContainerState {
    info(engine, reference).await.state
}
