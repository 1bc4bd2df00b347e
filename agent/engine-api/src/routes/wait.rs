//! `POST /containers/{id}/wait`: the headers are sent as soon as the wait is registered, because clients start the
//! container only after that.

use crate::backend::WaitCondition;
use crate::http::{Call, Failure, Reply, lines};
use bytes::Bytes;
use futures::stream;
use serde_json::json;

/// `POST /containers/{id}/wait`.
pub(super) async fn container(call: Call) -> Reply {
    let condition = match call.query.get("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(Failure::invalid(format!("invalid condition: {other:?}"))),
    };
    let ended = call.engine().container_wait(call.reference(), condition).await?;
    let stopping = call.app.stopping.clone();
    let body = stream::once(async move {
        let result = tokio::select! {
            result = ended => result,
            () = stopping.cancelled() => return Err("the daemon stops".into()),
        };
        let answer = match result {
            Ok(result) => match result.error {
                None => json!({"StatusCode": result.exit_code}),
                Some(error) => json!({"StatusCode": result.exit_code, "Error": {"Message": error}}),
            },
            Err(error) => json!({"StatusCode": -1, "Error": {"Message": error.message}}),
        };
        Ok(Bytes::from(format!("{answer}\n")))
    });
    Ok(lines("application/json", body))
}
