//! What whoever waits for a proposal is told when its fate is known.

use super::Controller;
use super::io::{Now, Output};
use super::proposals::Origin;
use super::{network_requests, requests};
use crate::control::ControlError;
use muster_state::Outcome;

impl Controller {
    pub(super) fn answer_committed(&mut self, origin: Origin, outcome: Option<Outcome>, now: Now) {
        match origin {
            Origin::Write { token, id, request } => {
                if let Some(Outcome::Rejected(rejection)) = &outcome
                    && network_requests::may_decide_anew(rejection)
                {
                    return self.write(token, id, request, now);
                }
                let result = match outcome {
                    Some(Outcome::Applied | Outcome::Duplicate(_)) => {
                        Ok(requests::reply(&self.state, id, &request))
                    }
                    Some(Outcome::Rejected(rejection)) => Err(requests::rejected(&rejection)),
                    None => Err(ControlError::OutcomeUnknown),
                };
                self.outputs.push(Output::Reply { token, result });
            }
            Origin::Status {
                node,
                session,
                sequence,
            } => match outcome {
                // One status that no longer applies took the others with it: all are sent again in the next session.
                Some(Outcome::Rejected(_)) => self.end_session(node, session),
                _ => self.outputs.push(Output::StatusCommitted { session, sequence }),
            },
            Origin::Session { node, session } => match outcome {
                Some(Outcome::Rejected(_)) => self.end_session(node, session),
                _ => self.session_committed(node, session),
            },
            Origin::Farewell { node, session } => self.farewell_committed(node, session, now),
            Origin::Reconcile => match (outcome, &mut self.leader) {
                // Something that the decision read has changed since: decide anew.
                (Some(Outcome::Rejected(_)), Some(leader)) => leader.decide_anew(now),
                (_, Some(leader)) => leader.decided(),
                (_, None) => {}
            },
            Origin::Duty => {}
        }
    }

    pub(super) fn answer_lost(&mut self, origin: Origin) {
        match origin {
            // Another leader's entry stands there: this write was not committed and may be tried again.
            Origin::Write { token, .. } => {
                let error = self.not_leading();
                self.outputs.push(Output::Reply {
                    token,
                    result: Err(error),
                });
            }
            Origin::Session { node, session } | Origin::Farewell { node, session } => {
                self.end_session(node, session);
            }
            // The agent repeats it in its next session.
            Origin::Status { .. } | Origin::Reconcile | Origin::Duty => {}
        }
    }

    pub(super) fn answer_unknown(&mut self, origin: Origin) {
        match origin {
            Origin::Write { token, .. } => {
                self.outputs.push(Output::Reply {
                    token,
                    result: Err(ControlError::OutcomeUnknown),
                });
            }
            Origin::Session { node, session } | Origin::Farewell { node, session } => {
                self.end_session(node, session);
            }
            Origin::Status { .. } | Origin::Reconcile | Origin::Duty => {}
        }
    }
}
