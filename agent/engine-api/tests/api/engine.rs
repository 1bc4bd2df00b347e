//! An engine in memory. Containers run one of four programs: `echo TEXT`, `cat`, `exit CODE`, and anything else, which
//! runs until it is stopped.

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use muster_engine_api::backend::*;
use muster_types::container::{ContainerConfig, ContainerInfo, ContainerState, NetworkEndpoint};
use muster_types::container_update::ContainerUpdate;
use muster_types::event::{Event, EventKind, EventScope};
use muster_types::network::{NetworkInfo, NetworkSpec};
use muster_types::{ContainerId, Timestamp, image::ImageSummary};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{BroadcastStream, UnboundedReceiverStream};

type Output = mpsc::UnboundedSender<OutputChunk>;

struct Container {
    info: ContainerInfo,
    log: Vec<LogEntry>,
    attached: Vec<Output>,
    /// What is written to its input; `cat` takes the other end.
    input: Option<tokio::io::DuplexStream>,
    taken: Option<tokio::io::DuplexStream>,
    ends: watch::Sender<u64>,
}

struct Exec {
    info: ExecInfo,
}

#[derive(Clone)]
pub struct FakeEngine(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    events: tokio::sync::broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    containers: Vec<Container>,
    execs: Vec<Exec>,
    images: Vec<ImageSummary>,
    past: Vec<Event>,
    made: u8,
}

impl Default for FakeEngine {
    fn default() -> Self {
        let state = State {
            images: vec![image("whoami:latest", 1)],
            ..State::default()
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            events: tokio::sync::broadcast::channel(100).0,
        }))
    }
}

fn image(name: &str, number: u8) -> ImageSummary {
    ImageSummary {
        id: format!("sha256:{}", hex(number)),
        repo_tags: vec![name.to_owned()],
        created: now(),
        size_bytes: 1234,
        architecture: "amd64".into(),
        os: "linux".into(),
        layers: vec![format!("sha256:{}", hex(9))],
        ..ImageSummary::default()
    }
}

fn hex(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

pub fn now() -> Timestamp {
    Timestamp::ZERO.after(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap(),
    )
}

fn output() -> (Output, OutputStream) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, UnboundedReceiverStream::new(receiver).map(Ok).boxed())
}

impl State {
    fn position(&self, reference: &str) -> Result<usize> {
        let reference = reference.trim_start_matches('/');
        resolve(
            "container",
            reference,
            self.containers.iter().map(|c| Candidate {
                id: c.info.id.as_str(),
                name: &c.info.name,
            }),
        )
        .map_err(|_| BackendError::not_found(format!("No such container: {reference}")))
    }

    fn container(&mut self, reference: &str) -> Result<&mut Container> {
        let position = self.position(reference)?;
        Ok(&mut self.containers[position])
    }

    fn image(&self, reference: &str) -> Result<usize> {
        let tagged = format!("{reference}:latest");
        self.images
            .iter()
            .position(|image| {
                image
                    .repo_tags
                    .iter()
                    .any(|tag| tag == reference || *tag == tagged)
                    || image.id == reference
                    || image.id.starts_with(&format!("sha256:{reference}"))
            })
            .ok_or_else(|| BackendError::not_found(format!("No such image: {reference}")))
    }
}

impl Inner {
    fn event(&self, state: &mut State, action: &str, info: &ContainerInfo) {
        let event = Event {
            kind: EventKind::Container,
            action: action.to_owned(),
            actor_id: info.id.to_string(),
            attributes: [
                ("name".to_owned(), info.name.clone()),
                ("image".to_owned(), info.config.image.clone()),
            ]
            .into(),
            scope: EventScope::Local,
            at: now(),
        };
        state.past.push(event.clone());
        let _ = self.events.send(event);
    }

    fn write(&self, id: &ContainerId, stream: StreamKind, data: Bytes) {
        let mut state = self.state.lock().unwrap();
        let Ok(container) = state.container(id.as_str()) else {
            return;
        };
        container.log.push(LogEntry {
            stream,
            at: now(),
            data: data.clone(),
            attributes: [("role".to_owned(), "a b".to_owned())].into(),
        });
        container.attached.retain(|client| {
            client
                .send(OutputChunk {
                    stream,
                    data: data.clone(),
                })
                .is_ok()
        });
    }

    fn end(&self, id: &ContainerId, code: i32) {
        let mut state = self.state.lock().unwrap();
        let Ok(container) = state.container(id.as_str()) else {
            return;
        };
        container.info.state = ContainerState::Exited;
        container.info.exit_code = code;
        container.info.finished_at = now();
        container.info.pid = 0;
        container.attached.clear();
        container.input = None;
        let info = container.info.clone();
        container.ends.send_modify(|ends| *ends += 1);
        self.event(&mut state, "die", &info);
        if info.config.host.auto_remove {
            state.containers.retain(|c| c.info.id != info.id);
            self.event(&mut state, "destroy", &info);
        }
    }
}

impl ContainerFiles for FakeEngine {}
impl ImageBuilder for FakeEngine {}
#[async_trait]
impl LocalEngine for FakeEngine {
    async fn info(&self) -> Result<EngineInfo> {
        Ok(EngineInfo {
            id: "engine".into(),
            name: "node-1".into(),
            version: "0.1.0".into(),
            storage_driver: "overlayfs".into(),
            kernel_version: "6.1".into(),
            operating_system: "Test Linux".into(),
            architecture: "x86_64".into(),
            cpus: 2,
            memory_bytes: 4 << 30,
            cgroup_version: 2,
            security: vec!["name=seccomp,profile=builtin".into()],
            ..EngineInfo::default()
        })
    }

    async fn events(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<EventStream> {
        let state = self.0.state.lock().unwrap();
        let past: Vec<Event> = match since {
            Some(since) => state
                .past
                .iter()
                .filter(|event| event.at >= since)
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        let past = stream::iter(past.into_iter().map(Ok));
        if until.is_some_and(|until| until <= now()) {
            return Ok(past.boxed());
        }
        let new = BroadcastStream::new(self.0.events.subscribe())
            .map_err(|error| BackendError::internal(error.to_string()));
        Ok(past.chain(new).boxed())
    }

    async fn container_create(
        &self,
        name: Option<&str>,
        config: ContainerConfig,
    ) -> Result<ContainerCreated> {
        let mut state = self.0.state.lock().unwrap();
        let image = state.image(&config.image)?;
        let image_id = state.images[image].id.clone();
        state.made += 1;
        let name = name.map_or_else(|| format!("made_{}", state.made), str::to_owned);
        if state.containers.iter().any(|c| c.info.name == name) {
            return Err(BackendError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use"
            )));
        }
        let id = ContainerId::from_bytes([state.made; 32]);
        let (near, far) = tokio::io::duplex(1 << 16);
        let command = config.cmd.clone().unwrap_or_default();
        let info = ContainerInfo {
            id: id.clone(),
            name,
            image_id,
            command,
            env: config.env.clone(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            created: now(),
            state: ContainerState::Created,
            pid: 0,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            started_at: Timestamp::ZERO,
            finished_at: Timestamp::ZERO,
            restart_count: 0,
            health: None,
            networks: BTreeMap::from([(
                "bridge".to_owned(),
                NetworkEndpoint {
                    network_id: hex(0xb0),
                    endpoint_id: hex(0xe0),
                    address: Some([172, 17, 0, 2].into()),
                    prefix_len: 16,
                    ..NetworkEndpoint::default()
                },
            )]),
            ports: config.host.ports.clone(),
            mounts: Vec::new(),
            log_path: String::new(),
            hostname_path: String::new(),
            hosts_path: String::new(),
            resolv_conf_path: String::new(),
            size_rw: None,
            size_root: None,
            apparmor_profile: String::new(),
            selinux_labels: Default::default(),
            execs: Vec::new(),
            directories: None,
            config,
        };
        self.0.event(&mut state, "create", &info);
        state.containers.push(Container {
            info,
            log: Vec::new(),
            attached: Vec::new(),
            input: Some(near),
            taken: Some(far),
            ends: watch::channel(0).0,
        });
        Ok(ContainerCreated {
            id,
            warnings: Vec::new(),
        })
    }

    async fn container_start(&self, reference: &str) -> Result<()> {
        let (id, command, input, tty) = {
            let mut state = self.0.state.lock().unwrap();
            let container = state.container(reference)?;
            if container.info.state == ContainerState::Running {
                return Err(BackendError::not_modified("already running"));
            }
            container.info.state = ContainerState::Running;
            container.info.started_at = now();
            container.info.pid = 4242;
            let taken = container.taken.take();
            let info = container.info.clone();
            self.0.event(&mut state, "start", &info);
            (info.id, info.command, taken, info.config.tty)
        };
        let inner = self.0.clone();
        tokio::spawn(async move {
            match command.first().map(String::as_str) {
                Some("echo") => {
                    let line = command[1..].join(" ") + if tty { "\r\n" } else { "\n" };
                    inner.write(&id, StreamKind::Stdout, Bytes::from(line));
                    if !tty {
                        inner.write(&id, StreamKind::Stderr, Bytes::from_static(b"to stderr\n"));
                    }
                    inner.end(&id, 0);
                }
                Some("exit") => inner.end(&id, command[1].parse().unwrap()),
                Some("cat") => {
                    let mut input = input.unwrap();
                    let mut buffer = vec![0; 4096];
                    loop {
                        match input.read(&mut buffer).await {
                            Ok(0) | Err(_) => break,
                            // Ctrl-D ends the input of a terminal.
                            Ok(count) if tty && buffer[..count].contains(&4) => break,
                            Ok(count) => {
                                inner.write(
                                    &id,
                                    StreamKind::Stdout,
                                    Bytes::copy_from_slice(&buffer[..count]),
                                );
                            }
                        }
                    }
                    inner.end(&id, 0);
                }
                _ => {}
            }
        });
        Ok(())
    }

    async fn container_stop(&self, reference: &str, _: StopOptions) -> Result<()> {
        let id = {
            let mut state = self.0.state.lock().unwrap();
            let container = state.container(reference)?;
            if container.info.state != ContainerState::Running {
                return Err(BackendError::not_modified("not running"));
            }
            container.info.id.clone()
        };
        self.0.end(&id, 143);
        Ok(())
    }

    async fn container_restart(&self, reference: &str, options: StopOptions) -> Result<()> {
        let _ = self.container_stop(reference, options).await;
        self.container_start(reference).await
    }

    async fn container_kill(&self, reference: &str, signal: &str) -> Result<()> {
        let id = {
            let mut state = self.0.state.lock().unwrap();
            let container = state.container(reference)?;
            if container.info.state != ContainerState::Running {
                return Err(BackendError::conflict(format!(
                    "container {reference} is not running"
                )));
            }
            container.info.id.clone()
        };
        self.0.end(&id, if signal.ends_with("KILL") { 137 } else { 143 });
        Ok(())
    }

    async fn container_pause(&self, reference: &str) -> Result<()> {
        self.0.state.lock().unwrap().container(reference)?.info.state = ContainerState::Paused;
        Ok(())
    }

    async fn container_unpause(&self, reference: &str) -> Result<()> {
        self.0.state.lock().unwrap().container(reference)?.info.state = ContainerState::Running;
        Ok(())
    }

    async fn container_rename(&self, reference: &str, name: &str) -> Result<()> {
        name.clone_into(&mut self.0.state.lock().unwrap().container(reference)?.info.name);
        Ok(())
    }

    async fn container_update(&self, reference: &str, update: ContainerUpdate) -> Result<Vec<String>> {
        let mut state = self.0.state.lock().unwrap();
        let host = &mut state.container(reference)?.info.config.host;
        host.resources = update
            .applied_to(&host.resources)
            .map_err(|conflict| BackendError::conflict(conflict.0))?;
        Ok(vec!["a warning".to_owned()])
    }

    async fn container_remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        let mut state = self.0.state.lock().unwrap();
        let position = state.position(reference)?;
        let running = state.containers[position].info.state == ContainerState::Running;
        if running && !options.force {
            return Err(BackendError::conflict(format!(
                "cannot remove container {reference:?}: container is running: stop the container before removing or force remove"
            )));
        }
        let removed = state.containers.remove(position);
        self.0.event(&mut state, "destroy", &removed.info);
        Ok(())
    }

    async fn container_wait(
        &self,
        reference: &str,
        condition: WaitCondition,
    ) -> Result<BoxFuture<'static, Result<WaitResult>>> {
        let mut state = self.0.state.lock().unwrap();
        let container = state.container(reference)?;
        let running = container.info.state == ContainerState::Running;
        if condition == WaitCondition::NotRunning && !running {
            let exit_code = container.info.exit_code;
            return Ok(Box::pin(async move {
                Ok(WaitResult {
                    exit_code,
                    error: None,
                })
            }));
        }
        let mut ends = container.ends.subscribe();
        let mut events = self.0.events.subscribe();
        let (id, inner) = (container.info.id.clone(), self.0.clone());
        Ok(Box::pin(async move {
            let _ = ends.changed().await;
            let mut code = None;
            while code.is_none() {
                if let Ok(container) = inner.state.lock().unwrap().container(id.as_str()) {
                    code = Some(container.info.exit_code);
                    continue;
                }
                // Removed already: its last run ended well, as every program here that is removed by itself.
                if events.recv().await.is_ok_and(|event| event.action == "destroy") {
                    code = Some(0);
                }
            }
            Ok(WaitResult {
                exit_code: code.unwrap_or(0),
                error: None,
            })
        }))
    }

    async fn container_list(&self, _: ContainerFilterHint) -> Result<Vec<Arc<ContainerInfo>>> {
        let state = self.0.state.lock().unwrap();
        Ok(state
            .containers
            .iter()
            .rev()
            .map(|c| Arc::new(c.info.clone()))
            .collect())
    }

    async fn container_inspect(&self, reference: &str, _: bool) -> Result<Arc<ContainerInfo>> {
        let mut state = self.0.state.lock().unwrap();
        Ok(Arc::new(state.container(reference)?.info.clone()))
    }

    async fn container_top(&self, _: &str, _: &str) -> Result<ProcessTable> {
        Ok(ProcessTable {
            titles: vec!["PID".into(), "CMD".into()],
            processes: vec![vec!["1".into(), "sleep".into()]],
        })
    }

    async fn container_stats(&self, _: &str) -> Result<ContainerStats> {
        Ok(ContainerStats {
            at: now(),
            memory: MemoryStats {
                usage_bytes: 1 << 20,
                limit_bytes: 4 << 20,
                ..MemoryStats::default()
            },
            pids: PidsStats { current: 3, limit: 0 },
            ..ContainerStats::default()
        })
    }

    async fn container_attach(&self, reference: &str, options: AttachOptions) -> Result<AttachSession> {
        let mut state = self.0.state.lock().unwrap();
        let container = state.container(reference)?;
        let (sender, output) = output();
        if options.stream {
            container.attached.push(sender);
        }
        let input: Option<InputStream> = match container.input.take() {
            Some(input) if options.stdin => Some(Box::new(input)),
            kept => {
                container.input = kept;
                None
            }
        };
        Ok(AttachSession {
            tty: container.info.config.tty,
            output,
            input,
        })
    }

    async fn container_logs(&self, reference: &str, options: LogOptions) -> Result<LogSession> {
        let mut state = self.0.state.lock().unwrap();
        let container = state.container(reference)?;
        let wanted = |entry: &&LogEntry| match entry.stream {
            StreamKind::Stderr => options.stderr,
            StreamKind::Stdin | StreamKind::Stdout => options.stdout,
        };
        let entries: Vec<_> = container.log.iter().filter(wanted).cloned().map(Ok).collect();
        Ok(LogSession {
            tty: container.info.config.tty,
            entries: stream::iter(entries).boxed(),
        })
    }

    async fn container_resize(&self, reference: &str, _: u16, _: u16) -> Result<()> {
        self.0.state.lock().unwrap().container(reference).map(|_| ())
    }

    async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
        let mut state = self.0.state.lock().unwrap();
        let container = state.container(container)?.info.id.clone();
        let id = hex(u8::try_from(state.execs.len()).unwrap());
        state.execs.push(Exec {
            info: ExecInfo {
                id: id.clone(),
                container,
                config,
                running: false,
                exit_code: None,
                pid: 0,
            },
        });
        Ok(id)
    }

    async fn exec_start(
        &self,
        id: &str,
        attach: bool,
        _: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>> {
        let config = {
            let mut state = self.0.state.lock().unwrap();
            let exec = state.execs.iter_mut().find(|exec| exec.info.id == id).unwrap();
            if exec.info.config.command == ["missing"] {
                exec.info.exit_code = Some(127);
                return Err(BackendError::invalid("executable file not found in $PATH"));
            }
            exec.info.exit_code = Some(7);
            exec.info.config.clone()
        };
        if !attach {
            return Ok(None);
        }
        let (sender, output) = output();
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let wants_input = config.stdin;
        tokio::spawn(async move {
            let mut data = config.command.join(" ").into_bytes();
            if wants_input {
                far.read_to_end(&mut data).await.unwrap();
            }
            let _ = sender.send(OutputChunk {
                stream: StreamKind::Stdout,
                data: Bytes::from(data),
            });
        });
        Ok(Some(AttachSession {
            tty: config.tty,
            output,
            input: wants_input.then(|| Box::new(near) as InputStream),
        }))
    }

    async fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        let state = self.0.state.lock().unwrap();
        let exec = state.execs.iter().find(|exec| exec.info.id == id);
        exec.map(|exec| exec.info.clone())
            .ok_or_else(|| BackendError::not_found(format!("No such exec instance: {id}")))
    }

    async fn exec_resize(&self, _: &str, _: u16, _: u16) -> Result<()> {
        Ok(())
    }

    async fn volume_list(&self) -> Result<Vec<VolumeInfo>> {
        Ok(Vec::new())
    }

    async fn volume_sizes(&self) -> Result<BTreeMap<String, u64>> {
        Ok(BTreeMap::new())
    }

    async fn image_usage(&self) -> Result<ImageUsage> {
        Ok(ImageUsage::default())
    }

    async fn image_load(&self, mut archive: UploadStream) -> Result<Vec<LoadedImage>> {
        let mut bytes = 0;
        while let Some(part) = archive.next().await {
            bytes += part
                .map_err(|error| BackendError::invalid(error.to_string()))?
                .len();
        }
        if bytes == 0 {
            return Err(BackendError::invalid("the archive is empty"));
        }
        let loaded = image("loaded:1", 2);
        let answer = LoadedImage {
            reference: Some("loaded:1".into()),
            id: loaded.id.clone(),
        };
        self.0.state.lock().unwrap().images.push(loaded);
        Ok(vec![answer])
    }

    async fn image_list(&self) -> Result<Vec<Arc<ImageSummary>>> {
        let state = self.0.state.lock().unwrap();
        Ok(state.images.iter().cloned().map(Arc::new).collect())
    }

    async fn image_inspect(&self, reference: &str) -> Result<Arc<ImageSummary>> {
        let state = self.0.state.lock().unwrap();
        Ok(Arc::new(state.images[state.image(reference)?].clone()))
    }

    async fn image_history(&self, reference: &str) -> Result<Vec<ImageLayer>> {
        self.0.state.lock().unwrap().image(reference)?;
        Ok(vec![ImageLayer {
            created_by: "COPY whoami".into(),
            ..ImageLayer::default()
        }])
    }

    async fn image_tag(&self, reference: &str, target: &str) -> Result<()> {
        let mut state = self.0.state.lock().unwrap();
        let position = state.image(reference)?;
        state.images[position].repo_tags.push(target.to_owned());
        Ok(())
    }

    async fn image_remove(&self, reference: &str, _: bool) -> Result<Vec<RemovedImage>> {
        let mut state = self.0.state.lock().unwrap();
        let position = state.image(reference)?;
        let image = &mut state.images[position];
        let tag = image.repo_tags.iter().position(|tag| tag == reference);
        let mut removed = Vec::new();
        if !image.repo_tags.is_empty() {
            let tag = image.repo_tags.remove(tag.unwrap_or(0));
            removed.push(RemovedImage::Untagged(tag));
        }
        if image.repo_tags.is_empty() {
            let image = state.images.remove(position);
            removed.push(RemovedImage::Deleted(image.id));
        }
        Ok(removed)
    }

    async fn network_list(&self) -> Result<Vec<NetworkInfo>> {
        let network = |name: &str, driver: &str, number: u8| NetworkInfo {
            id: hex(number),
            spec: NetworkSpec {
                name: name.to_owned(),
                driver: driver.to_owned(),
                ..NetworkSpec::default()
            },
            ..NetworkInfo::default()
        };
        Ok(vec![
            network("bridge", "bridge", 0xb0),
            network("host", "host", 0xb1),
            network("none", "null", 0xb2),
        ])
    }
}
