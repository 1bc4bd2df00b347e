//! A container's log as a stream.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::logs::{LogEntry, LogQuery, LogReader};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Entries that wait for a slow client.
const WAITING_MAX: usize = 256;
/// How often a followed log is looked at: short enough for eyes, and a look at an unchanged file costs microseconds.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// A container's log.
#[derive(Debug)]
pub struct LogSession {
    /// The container has a terminal.
    pub tty: bool,
    /// Entries, oldest first. Ends when the query is answered; dropping it ends following.
    pub entries: mpsc::Receiver<Result<LogEntry>>,
}

impl Engine {
    /// A container's log.
    pub async fn logs(&self, reference: &str, query: LogQuery) -> Result<LogSession> {
        let container = self.inner.find(reference)?;
        let record = container.record();
        if !self.inner.has_log(&record) {
            return Err(Error::LogsUnreadable);
        }
        let path = self.inner.layout.log(&record.id);
        let for_open = query.clone();
        let opened = self.inner.blocking(move |_| {
            LogReader::open(&path, for_open)
                .map_err(|error| Error::io(format!("read {}", path.display()), error))
        });
        let reader = opened.await?;
        let (entries, received) = mpsc::channel(WAITING_MAX);
        let inner = Arc::clone(&self.inner);
        let stopping = inner.stopping.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = inner.feed(&container, reader, query.follow, &entries) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(LogSession {
            tty: record.config.tty,
            entries: received,
        })
    }
}

impl Inner {
    async fn feed(
        self: &Arc<Self>,
        container: &Container,
        mut reader: LogReader,
        follow: bool,
        to: &mpsc::Sender<Result<LogEntry>>,
    ) {
        loop {
            // Looked at before the read: what was written before the end is then read after it.
            let live = container.phase().is_live();
            let batch = self.blocking(move |_| {
                let batch = reader.next_batch();
                Ok((reader, batch))
            });
            let Ok((returned, batch)) = batch.await else {
                return;
            };
            reader = returned;
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    // A client that left needs no error.
                    let _ = to.send(Err(Error::io("read a container's log", error))).await;
                    return;
                }
            };
            let drained = batch.is_empty();
            for entry in batch {
                if to.send(Ok(entry)).await.is_err() {
                    return;
                }
            }
            if reader.is_finished() || drained && !(follow && live) {
                return;
            }
            if drained {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_PERIOD) => {}
                    () = to.closed() => return,
                }
            }
        }
    }
}
