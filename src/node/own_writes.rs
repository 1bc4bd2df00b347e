//! Writes of a node about itself, carried out by whichever controller leads.

use super::member::Member;
use anyhow::{Context, bail};
use muster_controller::control::{ControlError, ControlReply, ControlRequest};
use muster_proto::control::WriteRequest;
use muster_proto::control::control_client::ControlClient;
use muster_proto::pack::{pack, unpack};
use muster_types::RequestId;
use std::time::Duration;
use tokio::time::Instant;

/// How long a node tries to have a write of its own carried out: longer than an election takes.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long one controller may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Wait before the controllers are asked again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

impl Member {
    /// Has a write about this node carried out, whatever the node's role is. A retry has the same id, so that it applies
    /// once. Fails within 15 s; the outcome may be unknown.
    pub(super) async fn write(
        &self,
        id: RequestId,
        request: ControlRequest,
    ) -> Result<ControlReply, ControlError> {
        let deadline = Instant::now() + WRITE_WITHIN;
        let mut leader: Option<String> = None;
        let mut last = ControlError::NoLeader;
        while Instant::now() < deadline {
            if let Some(handle) = self.controller() {
                match handle.write(id, request.clone()).await {
                    Err(error) if may_pass(&error) => last = later(last, error),
                    result => return result,
                }
            } else {
                for address in leader.take().into_iter().chain(self.controllers()) {
                    if Instant::now() >= deadline {
                        break;
                    }
                    match self.write_at(&address, id, &request).await {
                        Ok(Err(ControlError::NotLeader { leader: told })) => leader = leader.or(told),
                        Ok(Err(error)) if may_pass(&error) => last = later(last, error),
                        Ok(result) => return result,
                        Err(error) => {
                            let error = format!("{error:#}");
                            tracing::debug!(address, error, "a controller did not answer");
                            last = later(last, ControlError::OutcomeUnknown);
                        }
                    }
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        Err(last)
    }

    async fn write_at(
        &self,
        address: &str,
        id: RequestId,
        request: &ControlRequest,
    ) -> anyhow::Result<Result<ControlReply, ControlError>> {
        let request = WriteRequest {
            request_id: id.as_u128().to_be_bytes().to_vec().into(),
            request: pack(request)?,
        };
        let mut client = ControlClient::new(self.dialer.controller(address));
        let answered = tokio::time::timeout(ANSWER_WITHIN, client.write(request)).await;
        let reply = match answered.context("no answer in time")? {
            Ok(reply) => reply.into_inner(),
            Err(status) => bail!("{}", status.message()),
        };
        Ok(unpack(&reply.result)?)
    }
}

/// Whether another try may end otherwise.
fn may_pass(error: &ControlError) -> bool {
    match error {
        ControlError::NotLeader { .. }
        | ControlError::NoLeader
        | ControlError::Busy
        | ControlError::OutcomeUnknown => true,
        ControlError::Refused { .. } => false,
    }
}

/// What may have been committed stays so, whatever a later try met.
fn later(last: ControlError, error: ControlError) -> ControlError {
    match last {
        ControlError::OutcomeUnknown => last,
        _ => error,
    }
}
