//! One build: its stages side by side, each as soon as those that it needs are done.

use super::output::{Output, pass_on};
use super::stage::{StageEnd, StageRun};
use super::{Build, BuildOutput};
use crate::commit::{architecture, familiar};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::future::join_all;
use muster_build::{Instruction, Step};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Stages that are built at once: more would only make each slower.
const STAGES_AT_ONCE_MAX: usize = 4;

/// The platform of this machine, as images name it.
pub(super) fn own_platform() -> String {
    format!("linux/{}", architecture("").unwrap_or_default())
}

/// Runs a build to its end, or until nobody reads its output.
pub(super) async fn run(build: Build, client: mpsc::Sender<Result<BuildOutput>>) {
    let build = Arc::new(build);
    let cancel = build.inner.stopping.child_token();
    let outcome = {
        let building = std::pin::pin!(stages(&build, &client, &cancel));
        let mut building = building;
        tokio::select! {
            outcome = &mut building => outcome,
            () = client.closed() => {
                cancel.cancel();
                building.await
            }
        }
    };
    let outcome = match outcome {
        Ok(end) => finish(&build, end, &client).await,
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        // A client that is gone needs no error.
        let _ = client.send(Err(error)).await;
    }
    // The client has all that it waits for.
    drop(client);
    let inner = Arc::clone(&build.inner);
    let trimmed = inner
        .blocking(move |inner| {
            // Of a build that failed.
            build.note_used()?;
            let made_any = build.made_any.load(Ordering::Relaxed);
            // Its context goes with it.
            drop(build);
            match made_any {
                true => Ok(inner.images.trim_steps(&inner.images_in_use())?),
                false => Ok(()),
            }
        })
        .await;
    if let Err(error) = trimmed {
        tracing::warn!(
            error = error.chain(),
            "the build cache is larger than it should be"
        );
    }
}

/// What a stage made; `None` while it is not done.
pub(super) type Ends = watch::Receiver<Option<Arc<StageEnd>>>;

async fn stages(
    build: &Arc<Build>,
    client: &mpsc::Sender<Result<BuildOutput>>,
    cancel: &CancellationToken,
) -> Result<Arc<StageEnd>> {
    let built = &build.plan.built;
    let (senders, ends): (Vec<_>, Vec<Ends>) = build
        .dockerfile
        .stages
        .iter()
        .map(|_| watch::channel(None))
        .unzip();
    let ends: Arc<[Ends]> = ends.into();
    let slots = Arc::new(Semaphore::new(STAGES_AT_ONCE_MAX));
    let numbers = numbers(build);
    let (mut outputs, mut runs) = (Vec::new(), Vec::new());
    for (place, index) in built.iter().enumerate() {
        let (output, receiver) = Output::channel();
        outputs.push(receiver);
        let run = StageRun {
            build: Arc::clone(build),
            index: *index,
            output,
            first_number: numbers[place],
            total: numbers[built.len()],
            ends: Arc::clone(&ends),
            cancel: cancel.clone(),
            extra: extra_steps(build, *index),
            kept: Mutex::default(),
        };
        let (slots, sender, announces) = (Arc::clone(&slots), &senders[*index], place == 0);
        runs.push(Box::pin(async move {
            let ended = run.perform(&slots, announces).await;
            match ended {
                Ok(end) => drop(sender.send(Some(Arc::new(end)))),
                Err(error) => {
                    // The others have nothing to work for.
                    run.cancel.cancel();
                    return Err(error);
                }
            }
            Ok(())
        }));
    }
    let (outcomes, ()) = tokio::join!(join_all(runs), pass_on(outputs, build.context.scratch(), client));
    // What was cancelled only follows what failed.
    let mut failures: Vec<Error> = outcomes.into_iter().filter_map(Result::err).collect();
    if !failures.is_empty() {
        let first = failures
            .iter()
            .position(|error| !matches!(error, Error::BuildCancelled))
            .unwrap_or(0);
        return Err(failures.swap_remove(first));
    }
    let last = built.last().and_then(|last| ends[*last].borrow().clone());
    last.ok_or(Error::BuildCancelled)
}

/// The number of the first step of each stage, and at the end that of all steps.
fn numbers(build: &Build) -> Vec<usize> {
    let mut next = 1 + build.dockerfile.arguments.len();
    let mut numbers = Vec::new();
    for index in &build.plan.built {
        numbers.push(next);
        next += 1 + build.dockerfile.stages[*index].steps.len() + extra_steps(build, *index).len();
    }
    numbers.push(next - 1);
    numbers
}

/// The labels of the request are the last step of the stage that is the image.
fn extra_steps(build: &Build, index: usize) -> Vec<Step> {
    if build.request.labels.is_empty() || build.plan.built.last() != Some(&index) {
        return Vec::new();
    }
    let labels: Vec<(String, String)> = build.request.labels.clone().into_iter().collect();
    let words: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key:?}={value:?}"))
        .collect();
    vec![Step {
        text: format!("LABEL {}", words.join(" ")),
        line: 0,
        instruction: Instruction::Label(labels),
    }]
}

async fn finish(
    build: &Arc<Build>,
    end: Arc<StageEnd>,
    client: &mpsc::Sender<Result<BuildOutput>>,
) -> Result<()> {
    let id = end.image;
    let finished = Arc::clone(build);
    build
        .inner
        .blocking(move |inner| {
            // What it says is only which steps are pruned first.
            if let Err(error) = finished.note_used() {
                tracing::warn!(error = error.chain(), "the uses of cached steps are not noted");
            }
            Ok(inner.images.finish_build(&id, &finished.request.tags)?)
        })
        .await?;
    let declared = build.dockerfile.declared();
    let unused: Vec<&str> = build.args.unused(&declared).collect();
    let mut text = String::new();
    if !unused.is_empty() {
        text.push_str(&format!(
            "[Warning] One or more build-args [{}] were not consumed\n",
            unused.join(" ")
        ));
    }
    // Whoever reads the stream for the id finds it before the text for people.
    if !text.is_empty() {
        let _ = client.send(Ok(BuildOutput::Text(Bytes::from(text)))).await;
    }
    let _ = client.send(Ok(BuildOutput::Image(id.to_string()))).await;
    let tell = async |text: String| {
        // A client that is gone needs no text.
        let _ = client.send(Ok(BuildOutput::Text(Bytes::from(text)))).await;
    };
    // Clients look for lines, one in a message.
    tell(format!("Successfully built {}\n", id.short())).await;
    let mut told = BTreeSet::new();
    for tag in &build.request.tags {
        let name = familiar(tag)?;
        if told.insert(name.clone()) {
            build.inner.image_event("tag", &id.to_string(), Some(&name));
            tell(format!("Successfully tagged {name}\n")).await;
        }
    }
    Ok(())
}
