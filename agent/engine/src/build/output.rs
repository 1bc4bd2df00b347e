//! What a build tells: each stage in its own channel, passed on in the order of the stages.

use super::BuildOutput;
use crate::error::Result;
use bytes::Bytes;
use futures::future::join_all;
use std::io;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufStream};
use tokio::sync::{mpsc, oneshot};

/// Pieces of a stage's output that wait to be passed on; then the stage waits too.
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

/// Passes on what the stages write, one stage after the other; ends when the client is gone. No stage ever waits for one
/// before it, which may wait for a cache that the stage holds: what is not yet due waits in a file of `place`.
pub(super) async fn pass_on(
    stages: Vec<mpsc::Receiver<Bytes>>,
    place: &Path,
    client: &mpsc::Sender<Result<BuildOutput>>,
) {
    // Each stage's turn comes when the sender of the one before is dropped.
    let (first, mut turn) = oneshot::channel();
    drop(first);
    let mut passing = Vec::new();
    for (number, stage) in stages.into_iter().enumerate() {
        let (done, next) = oneshot::channel();
        let turn = std::mem::replace(&mut turn, next);
        let path = place.join(format!("output-{number}"));
        passing.push(async move {
            pass_on_in_turn(stage, turn, Waiting::new(path), client).await;
            drop(done);
        });
    }
    join_all(passing).await;
}

async fn pass_on_in_turn(
    mut stage: mpsc::Receiver<Bytes>,
    mut turn: oneshot::Receiver<()>,
    mut waiting: Waiting,
    client: &mpsc::Sender<Result<BuildOutput>>,
) {
    let told = |bytes| client.send(Ok(BuildOutput::Text(bytes)));
    let mut lost = None;
    loop {
        let bytes = tokio::select! {
            biased;
            _ = &mut turn => break,
            Some(bytes) = stage.recv() => bytes,
        };
        if lost.is_none() {
            lost = waiting.push(&bytes).await.err();
        }
    }
    let replayed = async {
        waiting.rewind().await?;
        while let Some(bytes) = waiting.next().await? {
            if told(bytes).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let replayed: io::Result<()> = replayed.await;
    if let Some(error) = lost.or(replayed.err()) {
        // The build itself goes on; where the client is gone, the next piece shows it.
        let _ = told(Bytes::from(format!(
            "[Warning] output of this stage is missing: {error}\n"
        )))
        .await;
    }
    while let Some(bytes) = stage.recv().await {
        if told(bytes).await.is_err() {
            return;
        }
    }
}

/// Pieces of output on disk, each after its length; the file goes with the build's directory.
struct Waiting {
    path: PathBuf,
    /// Made with the first piece.
    file: Option<BufStream<File>>,
}

impl Waiting {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    async fn push(&mut self, bytes: &Bytes) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut options = File::options();
                let opened = options.read(true).write(true).create_new(true).open(&self.path);
                self.file.insert(BufStream::new(opened.await?))
            }
        };
        file.write_u64(bytes.len() as u64).await?;
        file.write_all(bytes).await
    }

    async fn rewind(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.rewind().await.map(drop),
            None => Ok(()),
        }
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        if file.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        let length = file.read_u64().await?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).await?;
        Ok(Some(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_stage_never_waits_for_the_output_of_one_before() {
        let place = tempfile::tempdir().unwrap();
        let (first, first_output) = Output::channel();
        let (second, second_output) = Output::channel();
        let (client, mut told) = mpsc::channel(1);
        let count = 10 * STAGE_OUTPUT_WAITING_MAX;
        let stages = async {
            for number in 0..count {
                second.line(format!("second {number}")).await;
            }
            // As if it waited for what the second stage holds.
            drop(second);
            first.line("first").await;
            drop(first);
        };
        let read = async {
            let mut lines = Vec::new();
            while let Some(Ok(BuildOutput::Text(bytes))) = told.recv().await {
                lines.push(String::from_utf8(bytes.to_vec()).unwrap());
            }
            lines
        };
        let passing = async {
            pass_on(vec![first_output, second_output], place.path(), &client).await;
            drop(client);
        };
        let all = async { tokio::join!(stages, passing, read).2 };
        let lines = tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
        let mut expected = vec!["first\n".to_owned()];
        expected.extend((0..count).map(|number| format!("second {number}\n")));
        assert_eq!(lines, expected);
    }
}
