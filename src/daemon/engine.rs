//! The engine behind the Engine API's trait: nothing but conversions.

use super::input_writer::InputWriter;
use super::registry;
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use muster_engine::{self as own, Engine};
use muster_engine_api::backend::{
    AttachOptions, AttachSession, BackendError, BlockCount, ContainerCreated, ContainerFilterHint,
    ContainerStats, CpuStats, EngineInfo, ErrorKind, EventStream, ExecConfig, ExecInfo, ImageLayer,
    ImageUsage, InputStream, InterfaceStats, LoadedImage, LocalEngine, LogEntry, LogOptions, LogSession,
    LogStream, MemoryStats, OutputChunk, OutputStream, PidsStats, ProcessTable, RemoveOptions, RemovedImage,
    Result, StopOptions, StreamKind, UploadStream, VolumeInfo, VolumeRequest, WaitCondition, WaitResult,
};
use muster_registry::Registries;
use muster_types::Timestamp;
use muster_types::container::{ContainerConfig, ContainerInfo, EndpointSpec};
use muster_types::container_update::ContainerUpdate;
use muster_types::image::ImageSummary;
use muster_types::network::{NetworkInfo, NetworkSpec};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// The engine as the Engine API sees it.
pub struct EngineBackend {
    pub(super) engine: Engine,
    pub(super) registries: Registries,
}

impl EngineBackend {
    /// Wraps the engine, and the client that fetches images for it.
    pub fn new(engine: Engine, registries: Registries) -> Self {
        Self { engine, registries }
    }
}

/// The error as the Engine API tells it.
pub(super) fn failed(error: own::Error) -> BackendError {
    let kind = match error.kind() {
        own::ErrorKind::NotFound => ErrorKind::NotFound,
        own::ErrorKind::Conflict => ErrorKind::Conflict,
        own::ErrorKind::Invalid => ErrorKind::Invalid,
        own::ErrorKind::Forbidden => ErrorKind::Forbidden,
        own::ErrorKind::NotModified => ErrorKind::NotModified,
        own::ErrorKind::Unavailable => ErrorKind::Unavailable,
        own::ErrorKind::NotImplemented => ErrorKind::NotImplemented,
        own::ErrorKind::Internal => ErrorKind::Internal,
    };
    BackendError {
        kind,
        message: error.chain(),
    }
}

fn stop_options(options: StopOptions) -> own::StopOptions {
    own::StopOptions {
        signal: options.signal,
        grace: options.grace,
    }
}

fn attach_session(session: own::AttachSession) -> AttachSession {
    let output = ReceiverStream::new(session.output).map(|piece| match piece {
        Ok(chunk) => Ok(OutputChunk {
            stream: match chunk.stream {
                own::OutputKind::Stdout => StreamKind::Stdout,
                own::OutputKind::Stderr => StreamKind::Stderr,
            },
            data: chunk.data,
        }),
        Err(error) => Err(io::Error::other(error.chain())),
    });
    let input = session
        .input
        .map(|sender| Box::new(InputWriter::new(sender)) as InputStream);
    AttachSession {
        tty: session.tty,
        output: output.boxed(),
        input,
    }
}

fn log_session(session: own::LogSession) -> LogSession {
    let entries = ReceiverStream::new(session.entries).map(|entry| match entry {
        Ok(entry) => Ok(LogEntry {
            stream: match entry.stream {
                own::LogStreamKind::Stdout => StreamKind::Stdout,
                own::LogStreamKind::Stderr => StreamKind::Stderr,
            },
            at: entry.at,
            data: entry.data,
            attributes: entry.attributes,
        }),
        Err(error) => Err(failed(error)),
    });
    LogSession {
        tty: session.tty,
        entries: entries.boxed(),
    }
}

fn log_query(options: LogOptions) -> own::LogQuery {
    own::LogQuery {
        stdout: options.stdout,
        stderr: options.stderr,
        follow: options.follow,
        since: options.since,
        until: options.until,
        tail: options.tail,
    }
}

/// What was logged, as output.
fn logged(entries: LogStream) -> OutputStream {
    entries
        .map_ok(|entry| OutputChunk {
            stream: entry.stream,
            data: entry.data,
        })
        .map_err(|error| io::Error::other(error.message))
        .boxed()
}

fn exec_config(config: ExecConfig) -> own::ExecConfig {
    own::ExecConfig {
        command: config.command,
        env: config.env,
        working_dir: config.working_dir,
        user: config.user,
        tty: config.tty,
        privileged: config.privileged,
        stdin: config.stdin,
        stdout: config.stdout,
        stderr: config.stderr,
        size: config.size,
        detach_keys: config.detach_keys,
    }
}

fn exec_info(info: own::ExecInfo) -> ExecInfo {
    let config = info.config;
    ExecInfo {
        id: info.id,
        container: info.container,
        config: ExecConfig {
            command: config.command,
            env: config.env,
            working_dir: config.working_dir,
            user: config.user,
            tty: config.tty,
            privileged: config.privileged,
            stdin: config.stdin,
            stdout: config.stdout,
            stderr: config.stderr,
            size: config.size,
            detach_keys: config.detach_keys,
        },
        running: info.running,
        exit_code: info.exit_code,
        pid: info.pid,
    }
}

fn volume(volume: own::Volume) -> VolumeInfo {
    VolumeInfo {
        name: volume.name,
        driver: "local".to_owned(),
        mountpoint: volume.mountpoint.display().to_string(),
        created: volume.created,
        labels: volume.labels,
        options: volume.options,
        anonymous: volume.anonymous,
    }
}

fn container_stats(stats: own::ContainerStats) -> ContainerStats {
    // It does not run.
    let Some(cgroup) = stats.cgroup else {
        return ContainerStats::default();
    };
    let block_count = |count: muster_runtime::cgroup::DeviceCount| BlockCount {
        major: count.major,
        minor: count.minor,
        operation: count.operation,
        value: count.value,
    };
    let networks = stats.networks.into_iter().map(|(name, interface)| {
        let interface = InterfaceStats {
            rx_bytes: interface.rx_bytes,
            rx_packets: interface.rx_packets,
            rx_errors: interface.rx_errors,
            rx_dropped: interface.rx_dropped,
            tx_bytes: interface.tx_bytes,
            tx_packets: interface.tx_packets,
            tx_errors: interface.tx_errors,
            tx_dropped: interface.tx_dropped,
        };
        (name, interface)
    });
    ContainerStats {
        at: stats.at,
        cpu: CpuStats {
            total_ns: cgroup.cpu.usage_ns,
            by_cpu_ns: cgroup.cpu.per_cpu_ns,
            user_ns: cgroup.cpu.user_ns,
            kernel_ns: cgroup.cpu.system_ns,
            host_ns: stats.host_cpu_ns,
            cpus: u32::try_from(stats.cpus).unwrap_or(u32::MAX),
            periods: cgroup.cpu.periods,
            throttled_periods: cgroup.cpu.throttled_periods,
            throttled_ns: cgroup.cpu.throttled_ns,
        },
        memory: MemoryStats {
            usage_bytes: cgroup.memory.usage_bytes,
            usage_bytes_max: cgroup.memory.usage_bytes_max,
            limit_bytes: cgroup
                .memory
                .limit_bytes
                .unwrap_or(stats.host_memory_bytes)
                .min(stats.host_memory_bytes),
            failures: cgroup.memory.limit_hits,
            detail: cgroup.memory.detail,
        },
        pids: PidsStats {
            current: cgroup.pids.current,
            limit: cgroup.pids.limit.unwrap_or(0),
        },
        block_bytes: cgroup.blkio.service_bytes.into_iter().map(block_count).collect(),
        block_operations: cgroup.blkio.serviced.into_iter().map(block_count).collect(),
        networks: networks.collect(),
    }
}

#[async_trait]
impl LocalEngine for EngineBackend {
    async fn info(&self) -> Result<EngineInfo> {
        let facts = self.engine.info();
        Ok(EngineInfo {
            id: facts.id,
            name: facts.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("MUSTER_COMMIT").unwrap_or_default().to_owned(),
            data_dir: facts.data_dir,
            storage_driver: "overlayfs".to_owned(),
            kernel_version: facts.kernel_version,
            operating_system: facts.operating_system,
            os_version: facts.os_version,
            architecture: std::env::consts::ARCH.to_owned(),
            cpus: facts.cpus,
            memory_bytes: facts.memory_bytes,
            labels: facts.labels,
            log_driver: facts.log_driver,
            cgroup_version: facts.cgroup_version,
            security: facts.security,
            warnings: facts.warnings,
            swap_limit: facts.swap_limit,
            ip_forwarding: facts.ip_forwarding,
            registries: registry::facts(&self.registries),
            started_at: facts.started_at,
        })
    }

    async fn events(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<EventStream> {
        let feed = self.engine.events(since);
        let events = futures::stream::unfold(feed, |mut feed| async move {
            let event = feed.next().await?;
            Some((event, feed))
        });
        // Events that are remembered come at once; what is later than `until` does not count.
        let events = events
            .take_while(move |event| std::future::ready(until.is_none_or(|until| event.at <= until)))
            .take_until(crate::node::events::reached(until));
        Ok(events.map(Ok).boxed())
    }

    async fn container_create(
        &self,
        name: Option<&str>,
        config: ContainerConfig,
    ) -> Result<ContainerCreated> {
        let created = self.engine.create(name, config).await.map_err(failed)?;
        Ok(ContainerCreated {
            id: created.id,
            warnings: created.warnings,
        })
    }

    async fn container_start(&self, reference: &str) -> Result<()> {
        self.engine.start(reference).await.map_err(failed)
    }

    async fn container_stop(&self, reference: &str, options: StopOptions) -> Result<()> {
        self.engine
            .stop(reference, stop_options(options))
            .await
            .map_err(failed)
    }

    async fn container_restart(&self, reference: &str, options: StopOptions) -> Result<()> {
        self.engine
            .restart(reference, stop_options(options))
            .await
            .map_err(failed)
    }

    async fn container_kill(&self, reference: &str, signal: &str) -> Result<()> {
        self.engine.kill(reference, signal).await.map_err(failed)
    }

    async fn container_pause(&self, reference: &str) -> Result<()> {
        self.engine.pause(reference).await.map_err(failed)
    }

    async fn container_unpause(&self, reference: &str) -> Result<()> {
        self.engine.unpause(reference).await.map_err(failed)
    }

    async fn container_rename(&self, reference: &str, name: &str) -> Result<()> {
        self.engine.rename(reference, name).await.map_err(failed)
    }

    async fn container_unlink(&self, reference: &str, alias: &str) -> Result<()> {
        self.engine.unlink(reference, alias).await.map_err(failed)
    }

    async fn container_update(&self, reference: &str, update: ContainerUpdate) -> Result<Vec<String>> {
        self.engine.update(reference, update).await.map_err(failed)
    }

    async fn container_remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        let options = own::RemoveOptions {
            force: options.force,
            volumes: options.volumes,
        };
        self.engine.remove(reference, options).await.map_err(failed)
    }

    async fn container_wait(
        &self,
        reference: &str,
        condition: WaitCondition,
    ) -> Result<BoxFuture<'static, Result<WaitResult>>> {
        let condition = match condition {
            WaitCondition::NotRunning => own::WaitCondition::NotRunning,
            WaitCondition::NextExit => own::WaitCondition::NextExit,
            WaitCondition::Removed => own::WaitCondition::Removed,
        };
        let wait = self.engine.wait(reference, condition).map_err(failed)?;
        Ok(Box::pin(async move {
            let result = wait.await.map_err(failed)?;
            Ok(WaitResult {
                exit_code: result.exit_code,
                error: result.error,
            })
        }))
    }

    async fn container_list(&self, hint: ContainerFilterHint) -> Result<Vec<Arc<ContainerInfo>>> {
        let mut listed = self.engine.list();
        if hint.size {
            for info in &mut listed {
                // One that is removed meanwhile has no size.
                if let Ok(measured) = self.engine.inspect(info.id.as_str(), true).await {
                    *info = measured;
                }
            }
        }
        Ok(listed.into_iter().map(Arc::new).collect())
    }

    async fn container_inspect(&self, reference: &str, size: bool) -> Result<Arc<ContainerInfo>> {
        self.engine
            .inspect(reference, size)
            .await
            .map(Arc::new)
            .map_err(failed)
    }

    async fn container_top(&self, reference: &str, arguments: &str) -> Result<ProcessTable> {
        let table = self.engine.top(reference, arguments).await.map_err(failed)?;
        Ok(ProcessTable {
            titles: table.titles,
            processes: table.processes,
        })
    }

    async fn container_stats(&self, reference: &str) -> Result<ContainerStats> {
        self.engine
            .stats(reference)
            .await
            .map(container_stats)
            .map_err(failed)
    }

    async fn container_attach(&self, reference: &str, options: AttachOptions) -> Result<AttachSession> {
        let AttachOptions {
            stdin,
            stdout,
            stderr,
            logs,
            stream,
        } = options;
        let earlier = match logs {
            true => {
                let query = own::LogQuery {
                    stdout,
                    stderr,
                    ..own::LogQuery::default()
                };
                Some(log_session(
                    self.engine.logs(reference, query).await.map_err(failed)?,
                ))
            }
            false => None,
        };
        if !stream {
            let (tty, entries) = earlier.map_or((false, futures::stream::empty().boxed()), |log| {
                (log.tty, log.entries)
            });
            return Ok(AttachSession {
                tty,
                output: logged(entries),
                input: None,
            });
        }
        let request = own::AttachRequest {
            stdin,
            stdout,
            stderr,
        };
        let mut session = attach_session(self.engine.attach(reference, request).await.map_err(failed)?);
        if let Some(earlier) = earlier {
            session.output = logged(earlier.entries).chain(session.output).boxed();
        }
        Ok(session)
    }

    async fn container_logs(&self, reference: &str, options: LogOptions) -> Result<LogSession> {
        self.engine
            .logs(reference, log_query(options))
            .await
            .map(log_session)
            .map_err(failed)
    }

    async fn container_resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        self.engine.resize(reference, rows, columns).await.map_err(failed)
    }

    async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
        self.engine
            .exec_create(container, exec_config(config))
            .await
            .map_err(failed)
    }

    async fn exec_start(
        &self,
        id: &str,
        attach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>> {
        let session = self.engine.exec_start(id, attach, size).await.map_err(failed)?;
        Ok(session.map(attach_session))
    }

    async fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        self.engine.exec_inspect(id).map(exec_info).map_err(failed)
    }

    async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        self.engine.exec_resize(id, rows, columns).await.map_err(failed)
    }

    async fn image_load(&self, archive: UploadStream) -> Result<Vec<LoadedImage>> {
        let reader = SyncIoBridge::new(StreamReader::new(archive));
        let loaded = self.engine.image_load(reader).await.map_err(failed)?;
        let images = loaded.into_iter().map(|image| LoadedImage {
            reference: image.reference,
            id: image.id.to_string(),
        });
        Ok(images.collect())
    }

    async fn image_list(&self) -> Result<Vec<Arc<ImageSummary>>> {
        let images = self.engine.image_list().await.map_err(failed)?;
        Ok(images.into_iter().map(Arc::new).collect())
    }

    async fn image_inspect(&self, reference: &str) -> Result<Arc<ImageSummary>> {
        self.engine
            .image_inspect(reference)
            .await
            .map(Arc::new)
            .map_err(failed)
    }

    async fn image_history(&self, reference: &str) -> Result<Vec<ImageLayer>> {
        let steps = self.engine.image_history(reference).await.map_err(failed)?;
        let layers = steps.into_iter().map(|step| ImageLayer {
            id: step.id,
            created: Timestamp::from_secs(step.created_unix_s),
            created_by: step.created_by,
            size_bytes: step.size_bytes,
            comment: step.comment,
            tags: step.tags,
        });
        Ok(layers.collect())
    }

    async fn image_tag(&self, reference: &str, target: &str) -> Result<()> {
        self.engine.image_tag(reference, target).await.map_err(failed)
    }

    async fn image_remove(&self, reference: &str, force: bool) -> Result<Vec<RemovedImage>> {
        let removed = self.engine.image_remove(reference, force).await.map_err(failed)?;
        let removed = removed.into_iter().map(|event| match event {
            own::RemovedEvent::Untagged(name) => RemovedImage::Untagged(name),
            own::RemovedEvent::Deleted(id) => RemovedImage::Deleted(id),
        });
        Ok(removed.collect())
    }

    async fn network_list(&self) -> Result<Vec<NetworkInfo>> {
        Ok(self.engine.network_list())
    }

    async fn network_create(&self, spec: NetworkSpec) -> Result<String> {
        self.engine.network_create(spec).await.map_err(failed)
    }

    async fn network_remove(&self, reference: &str) -> Result<()> {
        self.engine.network_remove(reference).await.map_err(failed)
    }

    async fn network_connect(&self, reference: &str, container: &str, spec: EndpointSpec) -> Result<()> {
        self.engine
            .network_connect(reference, container, spec)
            .await
            .map_err(failed)
    }

    async fn network_disconnect(&self, reference: &str, container: &str, force: bool) -> Result<()> {
        self.engine
            .network_disconnect(reference, container, force)
            .await
            .map_err(failed)
    }

    async fn volume_list(&self) -> Result<Vec<VolumeInfo>> {
        Ok(self.engine.volume_list().into_iter().map(volume).collect())
    }

    async fn volume_sizes(&self) -> Result<BTreeMap<String, u64>> {
        self.engine.volume_sizes().await.map_err(failed)
    }

    async fn image_usage(&self) -> Result<ImageUsage> {
        let (layers_bytes, shared_bytes) = self.engine.image_usage().await.map_err(failed)?;
        Ok(ImageUsage {
            layers_bytes,
            shared_bytes,
        })
    }

    async fn volume_create(&self, request: VolumeRequest) -> Result<VolumeInfo> {
        if !matches!(request.driver.as_str(), "" | "local") {
            let driver = &request.driver;
            return Err(BackendError::not_found(format!(
                "create {}: plugin {driver:?} not found",
                request.name
            )));
        }
        let spec = own::VolumeSpec {
            name: request.name,
            labels: request.labels,
            options: request.options,
        };
        self.engine.volume_create(spec).await.map(volume).map_err(failed)
    }

    async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        self.engine.volume_remove(name, force).await.map_err(failed)
    }
}
