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

/// Lines between an operation and who reads them: those of an image of many layers, several times.
const LINES_BUFFERED: usize = 1024;

/// Where progress goes. The operation holds what others wait for, so lines about one thing are left out when whoever
/// reads is that far behind; only those about the whole wait, which are told when nothing is held.
#[derive(Debug, Clone)]
pub(crate) struct Report(mpsc::Sender<Progress>);

impl Report {
    /// A report, and the lines of it.
    pub fn new() -> (Self, mpsc::Receiver<Progress>) {
        let (sender, lines) = mpsc::channel(LINES_BUFFERED);
        (Self(sender), lines)
    }

    /// A line about the whole; waits for whoever reads.
    pub async fn status(&self, text: impl Into<String>) {
        // A reader that went away ends the operation itself.
        let _ = self.0.send(Progress::Status(text.into())).await;
    }

    /// A line about one thing.
    pub fn of(&self, id: &str, status: &str) {
        let _ = self.0.try_send(line(id, status, None));
    }

    /// How far one thing is. Such lines leave room for the others.
    pub fn bytes(&self, id: &str, status: &str, done: u64, all: u64) {
        if self.0.capacity() > LINES_BUFFERED / 2 {
            let _ = self.0.try_send(line(id, status, Some((done, all))));
        }
    }

    /// A tag was pushed; waits for whoever reads.
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
