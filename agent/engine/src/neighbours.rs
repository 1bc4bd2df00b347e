//! Keeps other firewalls of this host admitting our bridges, and remembers what only the administrator can do.

use crate::engine::Inner;
use muster_network::{NetlinkError, OtherFirewalls, admit_bridges};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Wait before they are looked at again: a reload of another firewall, or one that is switched on, stands in the way of
/// containers for so long. A look at a host without one reads a dozen chains.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(15);

/// What is known of other firewalls.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Our own table in the packet filter.
    table: String,
    last: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    warnings: Vec<String>,
    /// The last look failed; it is logged once.
    failed: bool,
}

impl Neighbours {
    pub fn new(table: &str) -> Self {
        Self {
            table: table.to_owned(),
            last: Mutex::default(),
        }
    }

    /// For `info`.
    pub fn warnings(&self) -> Vec<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.warnings.clone()
    }

    /// Looks and acts once. Blocking.
    fn admit(&self) {
        let looked = admit_bridges(&self.table);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut last, looked);
    }
}

fn note(last: &mut Seen, looked: Result<OtherFirewalls, NetlinkError>) {
    match looked {
        Ok(OtherFirewalls { warnings, .. }) => {
            for warning in warnings.iter().filter(|warning| !last.warnings.contains(warning)) {
                tracing::warn!("{}", warning.trim_start_matches("WARNING: "));
            }
            *last = Seen {
                warnings,
                failed: false,
            };
        }
        Err(error) => {
            if !last.failed {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "other firewalls of this host cannot be looked at");
            }
            last.failed = true;
        }
    }
}

impl Inner {
    /// Has other firewalls admit the bridges, now and whenever they forget it.
    pub(crate) async fn watch_neighbours(self: &Arc<Self>) {
        self.admit_at_neighbours().await;
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_AGAIN_AFTER) => inner.admit_at_neighbours().await,
                    () = inner.stopping.cancelled() => return,
                }
            }
        });
    }

    async fn admit_at_neighbours(self: &Arc<Self>) {
        let looked = self.blocking(|inner| {
            inner.neighbours.admit();
            Ok(())
        });
        // It only fails when the engine ends.
        let _ = looked.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_go_when_their_cause_does_and_outlast_a_failed_look() {
        let neighbours = Neighbours::new("muster");
        let looked = |warnings: &[&str]| OtherFirewalls {
            warnings: warnings.iter().map(|warning| (*warning).to_owned()).collect(),
            ..OtherFirewalls::default()
        };
        let note = |looked| note(&mut neighbours.last.lock().unwrap(), looked);
        note(Ok(looked(&["WARNING: a"])));
        note(Err(NetlinkError::Malformed));
        assert_eq!(neighbours.warnings(), ["WARNING: a"]);
        note(Ok(looked(&[])));
        assert_eq!(neighbours.warnings(), Vec::<String>::new());
    }
}
