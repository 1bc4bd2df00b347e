//! Sends a container's log on to where its driver says, from the file that the monitor writes.
//!
//! The monitor knows files only, so that it stays small and a server that does not answer never stops a container. The
//! engine reads the file as `docker logs` does and notes how far it came: after a restart it goes on from there. What
//! was sent when the engine was killed may be sent again; what the cache has dropped by then is lost.

mod position;
mod sink;
mod tls;

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::log_driver::{self, Destination, Settings, journald::Fields, syslog::Sender};
use crate::logs::{LogEntry, LogQuery, LogReader};
use crate::record::Record;
use muster_types::ContainerId;
use muster_types::service::LogDriver;
pub(crate) use position::{HEAD_BYTES, Position};
use sink::Sink;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Where journald listens.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// How often a log is looked at: at first after a line, and when nothing came for long.
const LOOK_PERIODS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];
/// Wait before a destination is tried again: at first, and in the end.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// How long a destination may be away until the rest of an ended container's log is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// How long a removal waits for the rest of the log.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// The containers whose logs are being sent.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    slots: Mutex<HashMap<ContainerId, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// The container was started again meanwhile.
    again: AtomicBool,
    /// Somebody waits for the end.
    hurry: Notify,
    ended: CancellationToken,
}

impl Forwarding {
    fn slots(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a container that has none; who has it goes on with the next run.
    fn begin(&self, id: &ContainerId) -> Option<Arc<Slot>> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(id) {
            slot.again.store(true, Ordering::Relaxed);
            return None;
        }
        let slot = Arc::new(Slot::default());
        slots.insert(id.clone(), Arc::clone(&slot));
        Some(slot)
    }

    /// Ends a slot, unless another run began.
    fn end(&self, id: &ContainerId, slot: &Slot) -> bool {
        let mut slots = self.slots();
        if slot.again.swap(false, Ordering::Relaxed) {
            return false;
        }
        slots.remove(id);
        slot.ended.cancel();
        true
    }
}

impl Inner {
    pub(crate) fn log_settings(&self, record: &Record) -> Result<Option<Settings>> {
        // Containers that earlier versions made name none: theirs was the first of all.
        let first = LogDriver::default();
        log_driver::settings(record.config.host.log.as_ref().unwrap_or(&first))
    }

    /// Refuses a start whose log could not be sent where it is to go. Blocks.
    pub(crate) fn check_destination(&self, record: &Record) -> Result<()> {
        let Some(mut sink) = self.sink_of(record)? else {
            return Ok(());
        };
        sink.connect()
            .map_err(|error| Error::invalid(format!("failed to initialize logging driver: {error}")))
    }

    fn sink_of(&self, record: &Record) -> Result<Option<Sink>> {
        let Some(settings) = self.log_settings(record)? else {
            return Ok(None);
        };
        let node = &self.identity.name;
        let tag = settings.tag_of(record, node);
        Ok(match &settings.destination {
            None => None,
            Some(Destination::Journald) => {
                let fields = Fields::of(record, &tag, &settings.attributes(record, node));
                Some(Sink::journald(fields, PathBuf::from(JOURNAL_SOCKET)))
            }
            Some(Destination::Syslog(syslog)) => {
                let sender = Sender {
                    host: node.clone(),
                    tag,
                    pid: std::process::id(),
                };
                Some(Sink::syslog(syslog.clone(), sender))
            }
        })
    }

    /// Sends the log of a container that runs, in the background, until it has ended and all was sent.
    pub(crate) fn forward_log(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        let sink = match self.sink_of(&record) {
            Ok(Some(sink)) => sink,
            Ok(None) => return,
            Err(error) => {
                // It was checked at the creation.
                tracing::error!(
                    container = record.id.short(),
                    error = error.chain(),
                    "its log is not sent"
                );
                return;
            }
        };
        let Some(slot) = self.forwarding.begin(&record.id) else {
            return;
        };
        let lane = Lane {
            log: self.layout.log(&record.id),
            noted: self.layout.file(&record.id, "log-sent.json"),
            sink,
            reader: None,
            unsent: VecDeque::new(),
        };
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.spawn(async move {
            tokio::select! {
                () = inner.forward(&container, lane, &slot) => {}
                () = inner.stopping.cancelled() => {}
            }
        });
    }

    async fn forward(self: &Arc<Self>, container: &Container, mut lane: Lane, slot: &Slot) {
        let (mut look, mut retry) = (LOOK_PERIODS[0], RETRY_WAITS[0]);
        let mut failing_since: Option<Instant> = None;
        loop {
            // Looked at before the read: what was written before the end is then read after it.
            let live = container.phase().is_live();
            let passed = self.blocking(move |_| {
                let passed = lane.pass();
                Ok((lane, passed))
            });
            let Ok((returned, passed)) = passed.await else {
                return;
            };
            lane = returned;
            let wait = match passed {
                Ok(sent) => {
                    if failing_since.take().is_some() {
                        tracing::info!(container = container.id.short(), "its log is sent again");
                    }
                    retry = RETRY_WAITS[0];
                    if sent {
                        look = LOOK_PERIODS[0];
                        continue;
                    }
                    if !live && self.forwarding.end(&container.id, slot) {
                        return;
                    }
                    let wait = look;
                    look = (look * 2).min(LOOK_PERIODS[1]);
                    wait
                }
                Err(error) => {
                    let since = *failing_since.get_or_insert_with(|| {
                        tracing::warn!(container = container.id.short(), %error, "its log cannot be sent; tried again");
                        Instant::now()
                    });
                    let given_up = !live && since.elapsed() > GIVE_UP_AFTER;
                    if given_up && self.forwarding.end(&container.id, slot) {
                        tracing::error!(container = container.id.short(), %error, "the rest of its log is given up");
                        return;
                    }
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_WAITS[1]);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = slot.hurry.notified() => {}
            }
        }
    }

    /// Waits until the log of a container that ended was sent, or for long enough.
    pub(crate) async fn log_is_sent(&self, id: &ContainerId) {
        let slot = self.forwarding.slots().get(id).cloned();
        if let Some(slot) = slot {
            slot.hurry.notify_one();
            // What is not sent by then goes with the container.
            let _ = tokio::time::timeout(DRAIN_MAX, slot.ended.cancelled()).await;
        }
    }
}

/// A log on its way. Blocking.
struct Lane {
    log: PathBuf,
    /// Where is noted how far it came.
    noted: PathBuf,
    sink: Sink,
    reader: Option<LogReader>,
    unsent: VecDeque<LogEntry>,
}

impl Lane {
    /// Sends a bounded number of entries; false when there was none.
    fn pass(&mut self) -> io::Result<bool> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let position = Position::read(&self.noted);
                let all = LogQuery {
                    follow: true,
                    ..LogQuery::default()
                };
                let opened = LogReader::open_at(&self.log, all, position.as_ref())?;
                self.reader.insert(opened)
            }
        };
        if self.unsent.is_empty() {
            self.unsent = reader.next_batch()?.into();
        }
        if self.unsent.is_empty() {
            return Ok(false);
        }
        while let Some(entry) = self.unsent.front() {
            self.sink.send(entry)?;
            self.unsent.pop_front();
        }
        if let Some(position) = reader.position()? {
            position.write(&self.noted)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
