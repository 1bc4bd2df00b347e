//! One stage: its base, and its steps one after the other.

use super::describe;
use super::output::Output;
use super::run::{Ends, own_platform};
use super::{Build, step::Made};
use crate::commit_config::RunConfig;
use crate::error::{Error, Result};
use crate::spec::PATH_DEFAULT;
use muster_build::{Base, Instruction, Scope, Step};
use muster_images::{Digest, Image, ImageId, Lease, NewImage};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What a stage made, for those that need it.
pub(super) struct StageEnd {
    pub image: ImageId,
    state: State,
}

/// Where a stage is.
#[derive(Clone)]
pub(super) struct State {
    /// The image so far.
    pub image: ImageId,
    /// Nothing was done on nothing yet: `FROM scratch`.
    is_empty: bool,
    pub config: RunConfig,
    pub author: String,
    pub scope: Scope,
    /// The stage has a `CMD` of its own.
    has_cmd: bool,
    /// Keeps what the stage needs.
    pub leases: Vec<Arc<Lease>>,
}

/// One `COPY` or `ADD`, once its sources are known.
pub(super) struct Shaped {
    /// `file:…`, `dir:…` or `multi:…`
    pub content: String,
    pub destination: String,
    pub chown: Option<String>,
    pub chmod: Option<u32>,
}

/// A stage under way.
pub(super) struct StageRun {
    pub build: Arc<Build>,
    pub index: usize,
    pub output: Output,
    pub first_number: usize,
    pub total: usize,
    pub ends: Arc<[Ends]>,
    pub cancel: CancellationToken,
    /// Steps that the request adds.
    pub extra: Vec<Step>,
    /// Keeps the images that it copies from.
    pub kept: Mutex<Vec<Arc<Lease>>>,
}

impl StageRun {
    /// Waits for the stages that it needs, then performs it.
    pub async fn perform(&self, slots: &Semaphore, announces: bool) -> Result<StageEnd> {
        for need in &self.build.plan.needs[self.index] {
            self.end_of(*need).await?;
        }
        let _slot = slots.acquire().await.map_err(|_| Error::BuildCancelled)?;
        if announces {
            for (index, step) in self.build.dockerfile.arguments.iter().enumerate() {
                self.announce(1 + index, &step.text).await;
            }
        }
        let stage = &self.build.dockerfile.stages[self.index];
        self.announce(self.first_number, &stage.text).await;
        let at = |error: Error, line: usize| error.in_line(line);
        let (mut state, triggers) = self.begin().await.map_err(|error| at(error, stage.line))?;
        if !triggers.is_empty() {
            let word = if triggers.len() == 1 {
                "trigger"
            } else {
                "triggers"
            };
            self.output
                .line(format!("# Executing {} build {word}", triggers.len()))
                .await;
        }
        for trigger in triggers {
            let instruction = Instruction::parse(&trigger).map_err(|error| Error::invalid(error.problem))?;
            self.step(&mut state, instruction)
                .await
                .map_err(|error| at(error, stage.line))?;
        }
        for (place, step) in stage.steps.iter().chain(&self.extra).enumerate() {
            self.announce(self.first_number + 1 + place, &step.text).await;
            self.step(&mut state, step.instruction.clone())
                .await
                .map_err(|error| at(error, step.line))?;
        }
        if state.is_empty {
            return Err(Error::invalid(
                "No image was generated. Is your Dockerfile empty?",
            ));
        }
        Ok(StageEnd {
            image: state.image,
            state,
        })
    }

    async fn announce(&self, number: usize, text: &str) {
        let total = self.total;
        self.output.line(format!("Step {number}/{total} : {text}")).await;
    }

    /// What another stage made.
    pub async fn end_of(&self, index: usize) -> Result<Arc<StageEnd>> {
        let mut end = self.ends[index].clone();
        let reached = tokio::select! {
            reached = end.wait_for(Option::is_some) => reached,
            () = self.cancel.cancelled() => return Err(Error::BuildCancelled),
        };
        let reached = reached.map_err(|_| Error::BuildCancelled)?;
        reached.clone().ok_or(Error::BuildCancelled)
    }

    /// The state at the beginning, and the triggers of the base.
    async fn begin(&self) -> Result<(State, Vec<String>)> {
        let plan = &self.build.plan;
        let platform = plan.platforms[self.index].as_deref();
        match &plan.bases[self.index] {
            Base::Scratch => {
                let state = self.nothing().await?;
                self.output.line(" ---> ").await;
                Ok((state, Vec::new()))
            }
            Base::Stage(index) => {
                let mut state = self.end_of(*index).await?.state.clone();
                self.output.line(format!(" ---> {}", state.image.short())).await;
                state.has_cmd = false;
                let triggers = state.config.on_build.take().unwrap_or_default();
                Ok((state, triggers))
            }
            Base::Image(name) => {
                let image = self.image(name, platform).await?;
                let mut state = self.of_image(&image).await?;
                self.output.line(format!(" ---> {}", state.image.short())).await;
                let triggers = state.config.on_build.take().unwrap_or_default();
                Ok((state, triggers))
            }
        }
    }

    /// An image that the stage begins with or copies from.
    pub async fn image(&self, name: &str, platform: Option<&str>) -> Result<Image> {
        let inner = &self.build.inner;
        let look = |name: String| inner.blocking(move |inner| Ok(inner.images.resolve(&name)?));
        let here = match look(name.to_owned()).await {
            Err(Error::Image(error)) if error.kind() == muster_images::ErrorKind::NotFound => None,
            looked => Some(looked?),
        };
        let image = match here.filter(|_| !self.build.request.pull) {
            Some(image) => image,
            None => {
                let fetched = tokio::select! {
                    fetched = self.build.bases.fetch(name) => fetched,
                    () = self.cancel.cancelled() => return Err(Error::BuildCancelled),
                };
                fetched?;
                look(name.to_owned()).await?
            }
        };
        let asked = platform.unwrap_or(&self.build.request.platform);
        check_platform(name, &image, asked)?;
        Ok(image)
    }

    /// Keeps an image while the build needs it.
    pub fn hold(&self, image: &Image) -> Arc<Lease> {
        let digests = Digest::chain_ids(&image.diff_ids)
            .into_iter()
            .chain(image.diff_ids.iter().copied())
            .chain([image.id, image.manifest_digest]);
        Arc::new(self.build.inner.images.lease(digests))
    }

    /// Keeps a lease until the stage is done.
    pub fn keep(&self, lease: Arc<Lease>) {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(lease);
    }

    async fn of_image(&self, image: &Image) -> Result<State> {
        let id = image.id;
        let document = self
            .build
            .inner
            .blocking(move |inner| Ok(inner.images.config_bytes(&id)?))
            .await?;
        let mut document: Value = serde_json::from_slice(&document).map_err(|source| Error::DamagedRow {
            key: id.to_string(),
            source,
        })?;
        let mut config = RunConfig::read(document["config"].take())?;
        with_path(&mut config);
        Ok(State {
            image: id,
            is_empty: false,
            config,
            author: image.config.author().clone().unwrap_or_default(),
            scope: Scope::default(),
            has_cmd: false,
            leases: vec![self.hold(image)],
        })
    }

    /// An image without files, to put the first ones on.
    async fn nothing(&self) -> Result<State> {
        let image = NewImage {
            config: serde_json::json!({}),
            created: muster_types::Timestamp::ZERO.to_string(),
            architecture: crate::commit::architecture("")?,
            is_step: true,
            ..NewImage::default()
        };
        let (id, lease) = self
            .build
            .inner
            .blocking(move |inner| Ok(inner.images.empty_image(&image)?))
            .await?;
        let mut config = RunConfig::default();
        with_path(&mut config);
        Ok(State {
            image: id,
            is_empty: true,
            config,
            author: String::new(),
            scope: Scope::default(),
            has_cmd: false,
            leases: vec![Arc::new(lease)],
        })
    }

    /// Performs one instruction.
    async fn step(&self, state: &mut State, instruction: Instruction) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::BuildCancelled);
        }
        let expanded = {
            let env = state.config.env.clone().unwrap_or_default();
            let lookup = |name: &str| state.scope.value(&env, name);
            instruction.expanded(self.build.dockerfile.escape, &lookup)
        };
        let instruction = expanded.map_err(|error| Error::invalid(error.problem))?;
        let made = match instruction {
            Instruction::Run(run) => Box::pin(self.run(state, run)).await?,
            Instruction::Transfer(transfer) => Box::pin(self.transfer(state, transfer)).await?,
            Instruction::Workdir(_) => {
                self.apply(state, &instruction)?;
                Box::pin(self.working_dir(state, &instruction)).await?
            }
            other => {
                self.apply(state, &other)?;
                let words = describe::words(&other, &state.config);
                let description = describe::described(&state.config.shell(), &words);
                self.configured(state, &description).await?
            }
        };
        state.is_empty = false;
        self.settle(state, made).await
    }

    /// Takes a step's image over and tells of it.
    async fn settle(&self, state: &mut State, made: Made) -> Result<()> {
        if made.is_cached {
            self.output.line(" ---> Using cache").await;
        }
        state.image = made.image;
        state.leases.push(Arc::new(made.lease));
        self.output.line(format!(" ---> {}", made.image.short())).await;
        Ok(())
    }

    /// Changes what the stage knows.
    fn apply(&self, state: &mut State, instruction: &Instruction) -> Result<()> {
        match instruction {
            Instruction::Arg(args) => {
                for (name, default) in args {
                    state
                        .scope
                        .declare(&self.build.args, &self.build.plan.global, name, default.clone());
                }
                return Ok(());
            }
            Instruction::Maintainer(name) => {
                state.author.clone_from(name);
                return Ok(());
            }
            Instruction::Cmd(_) => state.has_cmd = true,
            // A command of the base was meant for its own entrypoint.
            Instruction::Entrypoint(_) if !state.has_cmd => state.config.cmd = None,
            _ => {}
        }
        state.config.apply(instruction.clone()).map(drop)
    }
}

/// Programs are found where the base says nothing.
fn with_path(config: &mut RunConfig) {
    if config.variable("PATH").is_none() {
        config
            .env
            .get_or_insert_default()
            .push(format!("PATH={PATH_DEFAULT}"));
    }
}

/// Refuses an image of another platform than the one that is asked for, and one that does not run here.
fn check_platform(name: &str, image: &Image, asked: &str) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut parts = asked.split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    // `amd64` alone is an architecture, `linux` alone a system.
    let (os, architecture) = match second {
        Some(architecture) => (first, Some(architecture)),
        None if first == "linux" => (first, None),
        None => ("linux", Some(first)),
    };
    let architecture = architecture.map(|name| match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        name => name,
    });
    let fits = image.os == os && architecture.is_none_or(|name| name == image.architecture);
    match fits {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "image with reference {name} was found but its platform ({}/{}) does not match the specified platform \
             ({asked}); this machine runs {}",
            image.os,
            image.architecture,
            own_platform()
        ))),
    }
}
