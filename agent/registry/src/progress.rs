//! What a pull or push says of itself, in Docker's words.

use muster_images::Digest;
use tokio::sync::mpsc;

/// One line of a pull or push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A line about the whole.
    Status(String),
    /// A line with an id in front: a tag or the beginning of a layer's digest.
    Of {
        /// The id.
        id: String,
        /// What happens to it.
        status: String,
        /// Bytes done and to do, while there are such.
        bytes: Option<(u64, u64)>,
    },
    /// A tag was pushed.
    Pushed {
        /// The tag.
        tag: String,
        /// Its manifest.
        digest: String,
        /// The manifest's bytes.
        size: u64,
    },
}

/// Where progress goes. Lines about bytes are left out while nobody reads.
#[derive(Debug, Clone)]
pub(crate) struct Report(mpsc::Sender<Progress>);

/// Nobody reads any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NobodyReads;

impl Report {
    pub fn new(sender: mpsc::Sender<Progress>) -> Self {
        Self(sender)
    }

    /// A line about the whole.
    pub async fn status(&self, text: impl Into<String>) {
        // A reader that went away ends the operation itself.
        let _ = self.0.send(Progress::Status(text.into())).await;
    }

    /// A line about one thing.
    pub async fn of(&self, id: &str, status: &str) {
        let _ = self.0.send(line(id, status, None)).await;
    }

    /// As [`Report::of`], on a blocking thread.
    pub fn of_blocking(&self, id: &str, status: &str) -> Result<(), NobodyReads> {
        self.0
            .blocking_send(line(id, status, None))
            .map_err(|_| NobodyReads)
    }

    /// How far one thing is.
    pub fn bytes(&self, id: &str, status: &str, done: u64, all: u64) {
        let _ = self.0.try_send(line(id, status, Some((done, all))));
    }

    /// A tag was pushed.
    pub async fn pushed(&self, tag: &str, digest: &Digest, size: u64) {
        let (tag, digest) = (tag.to_owned(), digest.to_string());
        let _ = self.0.send(Progress::Pushed { tag, digest, size }).await;
    }
}

fn line(id: &str, status: &str, bytes: Option<(u64, u64)>) -> Progress {
    Progress::Of {
        id: id.to_owned(),
        status: status.to_owned(),
        bytes,
    }
}

/// Lets through one report in a while: the CLI redraws a line for each.
#[derive(Debug)]
pub(crate) struct Pace {
    last: Option<std::time::Instant>,
}

impl Pace {
    const PERIOD: std::time::Duration = std::time::Duration::from_millis(100);

    pub fn new() -> Self {
        Self { last: None }
    }

    /// Whether it is time for another report.
    pub fn is_due(&mut self) -> bool {
        let now = std::time::Instant::now();
        let due = self.last.is_none_or(|last| now - last >= Self::PERIOD);
        if due {
            self.last = Some(now);
        }
        due
    }
}
