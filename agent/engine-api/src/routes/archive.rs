//! Files of containers: `docker cp` and `docker export`.

use crate::backend::{ArchiveStream, PathStat, PutOptions};
use crate::http::{BoxError, Call, Failure, Reply, lines, status_only, upload};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json as value;

const STAT_HEADER: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// `HEAD /containers/{id}/archive`.
pub(super) async fn stat(call: Call) -> Reply {
    let stat = call.engine().archive_stat(call.reference(), path(&call)?).await?;
    let mut response = status_only(StatusCode::OK);
    response.headers_mut().insert(STAT_HEADER, stat_header(&stat)?);
    Ok(response)
}

/// `GET /containers/{id}/archive`.
pub(super) async fn get(call: Call) -> Reply {
    let (stat, archive) = call.engine().archive_get(call.reference(), path(&call)?).await?;
    let mut response = tar(archive);
    response.headers_mut().insert(STAT_HEADER, stat_header(&stat)?);
    Ok(response)
}

/// `PUT /containers/{id}/archive`.
pub(super) async fn put(mut call: Call) -> Reply {
    let body = std::mem::take(call.request.body_mut());
    let options = PutOptions {
        keep_kinds: call.query.flag("noOverwriteDirNonDir"),
        own_by_user: call.query.flag("copyUIDGID"),
    };
    let (archive, feeding) = upload(body);
    let put = call
        .engine()
        .archive_put(call.reference(), path(&call)?, options, archive);
    let (done, ()) = tokio::join!(put, feeding);
    done?;
    Ok(status_only(StatusCode::OK))
}

/// `GET /containers/{id}/export`.
pub(super) async fn export(call: Call) -> Reply {
    Ok(octets(call.engine().container_export(call.reference()).await?))
}

fn path(call: &Call) -> Result<&str, Failure> {
    call.query
        .get("path")
        .ok_or_else(|| Failure::invalid("bad parameter: path is missing: it names what is copied"))
}

fn tar(archive: ArchiveStream) -> hyper::Response<crate::http::Body> {
    lines(
        "application/x-tar",
        archive.map(|piece| piece.map_err(BoxError::from)),
    )
}

pub(super) fn octets(archive: ArchiveStream) -> hyper::Response<crate::http::Body> {
    lines(
        "application/octet-stream",
        archive.map(|piece| piece.map_err(BoxError::from)),
    )
}

/// The stat as Docker's clients read it: JSON in base 64.
fn stat_header(stat: &PathStat) -> Result<HeaderValue, Failure> {
    let json = value!({
        "name": stat.name,
        "size": stat.size,
        "mode": stat.go_mode,
        "mtime": stat.modified.to_string(),
        "linkTarget": stat.link_target,
    });
    HeaderValue::from_str(&STANDARD.encode(json.to_string())).map_err(|error| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot write the stat: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::Timestamp;

    #[test]
    fn a_stat_is_json_in_base_64() {
        let stat = PathStat {
            name: "etc".into(),
            size: 4096,
            go_mode: 1 << 31 | 0o755,
            modified: Timestamp::from_secs(86_400),
            link_target: String::new(),
        };
        let decoded = STANDARD.decode(stat_header(&stat).unwrap()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&decoded).unwrap();
        assert_eq!(value["mode"], 2_147_484_141_u32);
        assert_eq!(value["mtime"], "1970-01-02T00:00:00.000000000Z");
    }
}
