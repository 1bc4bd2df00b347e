//! What every replicated object carries beside its content.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Times and versions of one replicated object. Apply writes it; nobody else does.
///
/// A version is the log index of the entry that last changed that part. A precondition names only the parts that
/// the decision read, so a status report never conflicts with a spec update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// When the object was created, in cluster time.
    pub created_at: Timestamp,
    /// When the spec last changed, in cluster time.
    pub updated_at: Timestamp,
    /// Last change of what the user wants; the Engine API's `Version.Index`.
    pub spec_version: u64,
    /// Last change by the controller: desired state, assignment, allocated resources.
    pub control_version: u64,
    /// Last change of observed state.
    pub status_version: u64,
    /// When observed state last changed, in cluster time; delays and windows count from it.
    #[serde(default)]
    pub observed_at: Timestamp,
}
