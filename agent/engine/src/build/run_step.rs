//! `RUN`: a container over the stage's image, whose changes become the next one.

use super::describe;
use super::stage::{StageRun, State};
use super::step::{Made, now_s};
use crate::attach::OutputKind;
use crate::container::Container;
use crate::engine::{Inner, RemoveOptions};
use crate::error::{Error, Result};
use crate::wait::WaitCondition;
use bytes::Bytes;
use muster_build::{Run, RunNetwork};
use muster_images::{Digest, NewImage};
use muster_runtime::AttachRequest;
use muster_types::container::{ContainerConfig, HealthCheck, NetworkMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

impl StageRun {
    pub async fn run(&self, state: &State, run: Run) -> Result<Made> {
        let env = state.config.env.clone().unwrap_or_default();
        let variables = state.scope.variables(&self.build.args, &env);
        let command = match &run.script {
            Some(script) => vec![format!("/dev/pipes/{}", script.name)],
            None => run.command.clone().in_shell(&state.config.shell()),
        };
        let description = describe::run(&variables.remembered, &command);
        let mut mounts = self.step_mounts(&run).await?;
        let mut more = mounts.key.clone();
        more.push(format!("{:?}", run.network));
        more.push(describe::run_key(&variables.remembered, &command));
        let key = self.key(state, &description, &more)?;
        if let Some(made) = self.cached(key).await? {
            return Ok(made);
        }
        self.lock_caches(&mut mounts, &run).await?;
        let mut host = self.build.request.host.clone();
        host.mounts.clone_from(&mounts.list);
        match run.network {
            RunNetwork::Default => {}
            RunNetwork::None => host.network = NetworkMode::None,
            RunNetwork::Host => host.network = NetworkMode::Host,
        }
        let config = ContainerConfig {
            image: state.image.to_string(),
            entrypoint: Some(Vec::new()),
            cmd: Some(command.clone()),
            env: [variables.remembered, variables.passing].concat(),
            // The image's check is for those who use it.
            health: Some(HealthCheck {
                test: vec!["NONE".to_owned()],
                ..HealthCheck::default()
            }),
            attach: (false, true, true),
            host,
            ..ContainerConfig::default()
        };
        let container = self.create(config).await?;
        let ran = self.run_to_its_end(&container).await;
        let places = mounts.places();
        drop(mounts);
        let committed = match ran {
            Ok(0) => {
                let image = NewImage {
                    mount_places: places,
                    ..self.new_image(state, &description)?
                };
                self.commit(&container, key, image).await
            }
            Ok(code) => Err(Error::StepFailed {
                command: command.join(" "),
                code,
            }),
            Err(error) => Err(error),
        };
        self.clear_away(&container, committed.as_ref().err()).await;
        committed
    }

    async fn create(&self, config: ContainerConfig) -> Result<Arc<Container>> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let inner = &self.build.inner;
        let name = self.build.member(NUMBER.fetch_add(1, Ordering::Relaxed));
        let created = inner.create(&name, config).await?;
        inner.find(created.id.as_str())
    }

    /// Starts it, passes on what it writes, and returns its exit code, unless the build is cancelled before.
    async fn run_to_its_end(&self, container: &Arc<Container>) -> Result<i32> {
        let inner = &self.build.inner;
        self.output
            .line(format!(" ---> Running in {}", container.id.short()))
            .await;
        let request = AttachRequest {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let mut session = inner.attach(container, request).await?;
        let ended = inner.wait(container, WaitCondition::NextExit);
        // A start that was cut short would leave a container that is neither started nor not.
        Box::pin(inner.start(container)).await?;
        let exit_code = async {
            while let Some(chunk) = session.output.recv().await {
                let chunk = chunk?;
                let data = match chunk.stream {
                    OutputKind::Stdout => chunk.data,
                    OutputKind::Stderr => red(&chunk.data),
                };
                self.output.bytes(data).await;
            }
            Ok(ended.await?.exit_code)
        };
        tokio::select! {
            exit_code = exit_code => exit_code,
            () = self.cancel.cancelled() => Err(Error::BuildCancelled),
        }
    }

    async fn commit(&self, container: &Arc<Container>, key: Digest, image: NewImage) -> Result<Made> {
        // Nobody starts or removes it meanwhile.
        let _owned = container.operation.lock().await;
        let id = container.id.to_string();
        let (image, lease) = self
            .build
            .inner
            .blocking(move |inner| {
                let (made, lease) = inner.images.commit(&id, &image)?;
                inner
                    .images
                    .remember_step(&key, made, &image.created_by, now_s())?;
                Ok((made, lease))
            })
            .await?;
        Ok(Made {
            image,
            lease,
            is_cached: false,
        })
    }

    /// As Docker: after a failure the container stays for whoever wants to know why, unless the request says otherwise.
    async fn clear_away(&self, container: &Arc<Container>, failure: Option<&Error>) {
        let request = &self.build.request;
        let goes = match failure {
            None => request.remove || request.force_remove,
            Some(Error::BuildCancelled) => true,
            Some(_) => request.force_remove,
        };
        if !goes {
            return;
        }
        remove(&self.build.inner, container).await;
        if failure.is_none() {
            self.output
                .line(format!(
                    " ---> Removed intermediate container {}",
                    container.id.short()
                ))
                .await;
        }
    }
}

/// Docker's way of telling errors from output.
fn red(text: &[u8]) -> Bytes {
    Bytes::from([b"\x1b[91m", text, b"\x1b[0m"].concat())
}

/// Removes a container of a build, whatever it does.
pub(super) async fn remove(inner: &Arc<Inner>, container: &Arc<Container>) {
    let options = RemoveOptions {
        force: true,
        volumes: true,
    };
    match inner.remove(container, options).await {
        Ok(()) | Err(Error::NoSuchContainer { .. }) => {}
        Err(error) => tracing::warn!(
            container = container.id.short(),
            error = error.chain(),
            "a container of a build is left over"
        ),
    }
}
