//! Errors of the cluster as the Engine API tells them.

use super::fetch::Nowhere;
use muster_controller::control::{ControlError, RefusalKind};
use muster_engine_api::backend::BackendError;

/// What a refused or unknown write is to clients, in dockerd's words and with its status.
pub(super) fn from_control(error: ControlError) -> BackendError {
    match error {
        ControlError::NoLeader | ControlError::NotLeader { .. } => BackendError::no_leader(),
        ControlError::OutcomeUnknown | ControlError::Busy => BackendError::unavailable(error.to_string()),
        ControlError::Refused { kind, message } => match kind {
            RefusalKind::NotFound => BackendError::not_found(message),
            RefusalKind::Conflict => {
                BackendError::conflict(format!("rpc error: code = AlreadyExists desc = {message}"))
            }
            RefusalKind::Invalid => {
                BackendError::invalid(format!("rpc error: code = InvalidArgument desc = {message}"))
            }
            RefusalKind::Forbidden => BackendError::forbidden(message),
            RefusalKind::OutOfSequence => BackendError::out_of_sequence(),
            RefusalKind::Unavailable => {
                BackendError::invalid(format!("rpc error: code = FailedPrecondition desc = {message}"))
            }
            RefusalKind::Internal => BackendError::internal(message),
        },
    }
}

/// Why an image did not come from another node.
pub(super) fn from_fetch(error: anyhow::Error) -> BackendError {
    if error.is::<Nowhere>() {
        BackendError::not_found(error.to_string())
    } else {
        failed(error)
    }
}

/// Something on this node went wrong.
pub(super) fn failed(error: anyhow::Error) -> BackendError {
    BackendError::unavailable(format!("{error:#}"))
}
