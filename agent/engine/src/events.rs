//! The engine's events: the recent past, and a live feed.

use crate::clock;
use muster_types::Timestamp;
use muster_types::event::{Event, EventKind, EventScope};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Past events kept; Docker's number.
const PAST_MAX: usize = 256;
/// Events a slow subscriber may be behind before it loses the oldest; a burst of 100 starts is about 400 events.
const LIVE_LAG_MAX: usize = 1024;

/// Where the engine publishes its events.
#[derive(Debug)]
pub struct EventBus {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

/// The past events asked for, then the live ones, with none lost or doubled between.
#[derive(Debug)]
pub struct EventFeed {
    past: VecDeque<Event>,
    live: broadcast::Receiver<Event>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            live: broadcast::Sender::new(LIVE_LAG_MAX),
        }
    }
}

impl EventBus {
    /// Publishes what happened to a local object, now.
    pub fn publish(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        actor_id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Event {
            kind,
            action: action.into(),
            actor_id: actor_id.into(),
            attributes,
            scope: EventScope::Local,
            at: clock::now(),
        };
        let mut past = self.past();
        if past.len() == PAST_MAX {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Sent under the lock, so that a new subscriber sees each event exactly once. No subscriber is no error.
        let _ = self.live.send(event);
    }

    /// Subscribes; `since` also replays what is still kept from then on.
    pub fn subscribe(&self, since: Option<Timestamp>) -> EventFeed {
        let past = self.past();
        let replay = match since {
            None => VecDeque::new(),
            Some(since) => past.iter().filter(|event| event.at >= since).cloned().collect(),
        };
        EventFeed {
            past: replay,
            live: self.live.subscribe(),
        }
    }

    fn past(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventFeed {
    /// The next event; `None` once the engine is gone. A subscriber that is too slow skips what it lost. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        loop {
            match self.live.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "an event subscriber is too slow and lost events");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The next event that is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        self.past.pop_front().or_else(|| self.live.try_recv().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(bus: &EventBus, action: &str) {
        bus.publish(EventKind::Container, action, "id", BTreeMap::new());
    }

    #[tokio::test]
    async fn past_events_come_before_live_ones_and_none_twice() {
        let bus = EventBus::default();
        publish(&bus, "create");
        let mut feed = bus.subscribe(Some(Timestamp::ZERO));
        let mut only_live = bus.subscribe(None);
        publish(&bus, "start");
        assert_eq!(feed.next().await.unwrap().action, "create");
        assert_eq!(feed.next().await.unwrap().action, "start");
        assert!(feed.try_next().is_none());
        assert_eq!(only_live.next().await.unwrap().action, "start");
        drop(bus);
        assert!(feed.next().await.is_none());
    }

    #[test]
    fn the_past_is_bounded() {
        let bus = EventBus::default();
        for n in 0..300 {
            publish(&bus, &n.to_string());
        }
        let mut feed = bus.subscribe(Some(Timestamp::ZERO));
        assert_eq!(feed.try_next().unwrap().action, "44");
        assert_eq!(feed.past.len(), PAST_MAX - 1);
    }
}
