//! Keeps the node's role and certificate as its record says: promote and demote work while the daemon runs.

use super::member::Member;
use super::upkeep::{renewal_due, renewal_share};
use muster_types::NodeRole;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Wait before a failed change of role is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often role and certificate are looked at when nothing tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop` becomes true.
pub async fn supervise(member: Arc<Member>, mut stop: watch::Receiver<bool>) {
    let mut view = member.view.clone();
    let renew_at_share = renewal_share();
    loop {
        let wait = match look(&member, renew_at_share).await {
            Ok(()) if member.begins_anew().await => RETRY_AFTER,
            Ok(()) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the node's role or certificate could not be changed yet"
                );
                RETRY_AFTER
            }
        };
        let removed = member.controller().map(|handle| handle.removed());
        tokio::select! {
            _ = stop.changed() => return,
            // The sender lives as long as the agent; after that only `stop` matters.
            changed = view.changed() => if changed.is_err() { tokio::time::sleep(RETRY_AFTER).await },
            () = wait_for_removal(removed) => {}
            () = tokio::time::sleep(wait) => {}
        }
        if *stop.borrow() {
            return;
        }
    }
}

async fn wait_for_removal(removed: Option<watch::Receiver<bool>>) {
    match removed {
        // A controller that is already known to be removed is dealt with by `look`, at its own pace.
        Some(mut removed) if !*removed.borrow() => {
            if removed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        Some(_) | None => std::future::pending().await,
    }
}

/// Where the node's controller stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// The group let it go.
    removed: bool,
    /// The cluster lists it among its controllers.
    listed: bool,
    /// It did so before, since this controller began; a new one is not listed yet.
    was_listed: bool,
}

/// What the node does about its role.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    BecomeController,
    BecomeWorker,
    /// It was demoted and promoted while it was away: the group knows this controller no more.
    BeginAgain,
}

fn step(wanted: Option<bool>, controller: Option<Standing>) -> Step {
    match (wanted, controller) {
        (Some(true), None) => Step::BecomeController,
        (Some(true), Some(found)) if !found.listed && (found.removed || found.was_listed) => Step::BeginAgain,
        // The group lets it go first; one that did not hear of its own removal sees it in the list.
        (Some(false), Some(found)) if found.removed || !found.listed => Step::BecomeWorker,
        (Some(_) | None, _) => Step::Nothing,
    }
}

async fn look(member: &Member, renew_at_share: f64) -> anyhow::Result<()> {
    member.note_anew().await?;
    let view = member.view.borrow().clone();
    let standing = member.controller().map(|handle| {
        let listed = view.controllers.contains(&member.advertise.to_string());
        Standing {
            removed: *handle.removed().borrow(),
            listed,
            was_listed: member.note_listed(listed),
        }
    });
    match step(view.controller, standing) {
        Step::BecomeController if member.controller_failure().await.is_none() => {
            tracing::info!("becoming a controller");
            member.become_controller().await?;
        }
        Step::BecomeWorker => {
            tracing::info!("becoming a worker");
            member.become_worker().await?;
        }
        Step::BeginAgain => {
            tracing::info!("the Raft group let this controller go and is to have it again");
            member.become_worker().await?;
            member.become_controller().await?;
        }
        Step::BecomeController | Step::Nothing => {}
    }
    member.follow_root(&view).await?;
    let role = member.certificate.identity().role;
    // As long as it is listed, the group may still need its log.
    let demoted = view.controller == Some(false)
        && role == NodeRole::Controller
        && member.controller().is_none()
        && !view.controllers.contains(&member.advertise.to_string());
    if demoted {
        // Again, in case that a crash cut the demotion short after it was noted, or that the controller had failed.
        member.become_worker().await?;
    }
    if demoted || renewal_due(member.certificate.validity(), renew_at_share) {
        member.renew_certificate().await?;
        tracing::info!("the node's certificate was renewed");
        // The key that wraps the log's data keys lies beside the TLS key and lives as long.
        member.rotate_raft_key().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_changes_when_the_record_and_the_group_say_so() {
        let standing = |removed, listed, was_listed| {
            Some(Standing {
                removed,
                listed,
                was_listed,
            })
        };
        assert_eq!(step(None, None), Step::Nothing);
        assert_eq!(step(None, standing(true, false, true)), Step::Nothing);
        assert_eq!(step(Some(true), None), Step::BecomeController);
        assert_eq!(
            step(Some(true), standing(false, false, false)),
            Step::Nothing,
            "it has just asked for its place"
        );
        assert_eq!(step(Some(true), standing(false, true, true)), Step::Nothing);
        assert_eq!(step(Some(true), standing(false, false, true)), Step::BeginAgain);
        assert_eq!(step(Some(true), standing(true, false, false)), Step::BeginAgain);
        assert_eq!(
            step(Some(false), standing(false, true, true)),
            Step::Nothing,
            "the group lets it go first"
        );
        assert_eq!(
            step(Some(false), standing(false, false, true)),
            Step::BecomeWorker
        );
        assert_eq!(step(Some(false), standing(true, true, true)), Step::BecomeWorker);
        assert_eq!(step(Some(false), None), Step::Nothing);
    }
}
