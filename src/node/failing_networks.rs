//! Which networks of the cluster are not as they should be on this node, since when, and when to try again.

use muster_types::NetworkId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Wait before the first try again; the kernel takes a moment to take down what had a network's identifier.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// Longest wait: who mends a node's cause sees it work soon.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What failed in the last try; of a network, or of what no network has for itself.
#[derive(Debug, Default)]
pub(super) struct FailingNetworks(BTreeMap<Option<NetworkId>, Failing>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    why: String,
}

impl FailingNetworks {
    /// Notes what failed now, and why. Returns what nobody was told of.
    pub fn note<'a>(
        &mut self,
        failures: &'a BTreeMap<Option<NetworkId>, String>,
        now: Instant,
    ) -> Vec<(Option<NetworkId>, &'a str)> {
        self.0.retain(|id, _| failures.contains_key(id));
        let mut news = Vec::new();
        for (id, why) in failures {
            let failing = self.0.entry(*id).or_insert_with(|| Failing {
                since: now,
                why: String::new(),
            });
            if failing.why != *why {
                failing.why.clone_from(why);
                news.push((*id, why.as_str()));
            }
        }
        news
    }

    /// How long to wait until the next try: as long as the newest failure lasts already, so that it doubles.
    pub fn retry_after(&self, now: Instant) -> Option<Duration> {
        let lasting = self.0.values().map(|failing| now.duration_since(failing.since));
        lasting.min().map(|lasts| lasts.clamp(RETRY_MIN, RETRY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(all: &[(u128, &str)]) -> BTreeMap<Option<NetworkId>, String> {
        let failure = |(id, why): &(u128, &str)| (Some(NetworkId::from_u128(*id)), (*why).to_owned());
        all.iter().map(failure).collect()
    }

    #[test]
    fn a_failure_is_told_once_and_again_when_it_changes() {
        let (mut failing, now) = (FailingNetworks::default(), Instant::now());
        let first = failures(&[(1, "taken")]);
        assert_eq!(failing.note(&first, now).len(), 1);
        assert!(failing.note(&first, now).is_empty());
        let other = failures(&[(1, "taken"), (2, "full")]);
        let two = Some(NetworkId::from_u128(2));
        assert_eq!(failing.note(&other, now), [(two, "full")]);
        assert_eq!(failing.note(&failures(&[(2, "fuller")]), now), [(two, "fuller")]);
        assert_eq!(failing.note(&first, now).len(), 1, "it was mended meanwhile");
    }

    #[test]
    fn the_wait_grows_with_the_time_that_it_lasts_and_ends_with_the_failure() {
        let (mut failing, begun) = (FailingNetworks::default(), Instant::now());
        assert_eq!(failing.retry_after(begun), None);
        failing.note(&failures(&[(1, "a")]), begun);
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(failing.retry_after(begun), Some(RETRY_MIN));
        assert_eq!(failing.retry_after(after(4)), Some(Duration::from_secs(4)));
        assert_eq!(failing.retry_after(after(400)), Some(RETRY_MAX));
        failing.note(&failures(&[(1, "a"), (2, "b")]), after(400));
        assert_eq!(
            failing.retry_after(after(400)),
            Some(RETRY_MIN),
            "a new one is tried soon"
        );
        failing.note(&failures(&[]), after(401));
        assert_eq!(failing.retry_after(after(401)), None);
    }
}
