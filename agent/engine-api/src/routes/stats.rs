//! `GET /containers/{id}/stats`: one reading per second.

use crate::backend::{ContainerStats, LocalEngine};
use crate::convert;
use crate::http::{BoxError, Call, Failure, Reply, json, lines};
use bytes::Bytes;
use futures::stream;
use muster_types::Timestamp;
use muster_types::container::ContainerInfo;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between readings; clients compute percentages from the difference.
const PERIOD: Duration = Duration::from_secs(1);

/// `GET /containers/{id}/stats`.
pub(super) async fn container(call: Call) -> Reply {
    let (streams, one_shot) = (call.query.flag_or("stream", true), call.query.flag("one-shot"));
    if streams && one_shot {
        return Err(Failure::invalid("cannot have stream=true and one-shot=true"));
    }
    let info = call.engine().container_inspect(call.reference(), false).await?;
    let id = info.id.as_str();
    if !streams {
        let before = match one_shot {
            true => None,
            false => Some(call.engine().container_stats(id).await?),
        };
        // What does not run has nothing to compare.
        let before = before.filter(|before| before.at != Timestamp::ZERO);
        if before.is_some() {
            tokio::time::sleep(PERIOD).await;
        }
        let now = call.engine().container_stats(id).await?;
        return json(&convert::stats::write(&info, &now, before.as_ref()));
    }
    let readings = Readings {
        engine: call.app.backends.engine.clone(),
        stopping: call.app.stopping.clone(),
        info,
        before: None,
    };
    Ok(lines("application/json", stream::unfold(readings, next)))
}

struct Readings {
    engine: Arc<dyn LocalEngine>,
    stopping: CancellationToken,
    info: Arc<ContainerInfo>,
    before: Option<ContainerStats>,
}

/// The next line; the stream ends with the container.
async fn next(mut readings: Readings) -> Option<(Result<Bytes, BoxError>, Readings)> {
    if readings.before.is_some() {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = readings.stopping.cancelled() => return None,
        }
    }
    let now = readings
        .engine
        .container_stats(readings.info.id.as_str())
        .await
        .ok()?;
    let line = convert::stats::write(&readings.info, &now, readings.before.as_ref());
    readings.before = Some(now);
    let line = serde_json::to_vec(&line).map(|mut bytes| {
        bytes.push(b'\n');
        Bytes::from(bytes)
    });
    Some((line.map_err(Into::into), readings))
}
