//! What a build tells: each stage in its own channel, passed on in the order of the stages.

use super::BuildOutput;
use crate::error::Result;
use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces of a stage's output that wait for the stages before it; then the stage waits too.
const STAGE_OUTPUT_WAITING_MAX: usize = 256;

/// Where a stage writes to. What nobody reads is dropped: the build is about to end.
#[derive(Debug, Clone)]
pub(super) struct Output(mpsc::Sender<Bytes>);

impl Output {
    /// A stage's channel.
    pub fn channel() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(STAGE_OUTPUT_WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Writes a line.
    pub async fn line(&self, text: impl AsRef<str>) {
        self.bytes(Bytes::from(format!("{}\n", text.as_ref()))).await;
    }

    /// Writes what a step's process wrote.
    pub async fn bytes(&self, bytes: Bytes) {
        // Nobody reads any more where this fails.
        let _ = self.0.send(bytes).await;
    }
}

/// Passes on what the stages write, one stage after the other; ends when the client is gone.
pub(super) async fn pass_on(stages: Vec<mpsc::Receiver<Bytes>>, client: &mpsc::Sender<Result<BuildOutput>>) {
    for mut stage in stages {
        while let Some(bytes) = stage.recv().await {
            if client.send(Ok(BuildOutput::Text(bytes))).await.is_err() {
                return;
            }
        }
    }
}
