//! The way of a request to its handler: headers of every answer, version, operation.

use crate::backend::Backends;
use crate::http::{
    ApiVersion, Body, Call, Failure, MAX_VERSION, Query, Reply, RequestBody, split_version, status_only,
};
use crate::routes::{Found, find};
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue, SERVER};
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Largest body that is read before anything is answered; all that the docker CLI sends but archives fit.
const WHOLE_BODY_BYTES_MAX: u64 = 4 << 20;
/// Longest wait for such a body, as for a request's head.
const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What all connections share.
pub(crate) struct App {
    /// The engine and the cluster.
    pub backends: Backends,
    /// Cancelled when the server stops: streams end then.
    pub stopping: CancellationToken,
}

impl App {
    /// An application over these backends.
    pub fn new(backends: Backends) -> Arc<Self> {
        Arc::new(Self {
            backends,
            stopping: CancellationToken::new(),
        })
    }

    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<RequestBody>) -> Response<Body> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let mut response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(failure) => {
                if failure.status == StatusCode::INTERNAL_SERVER_ERROR {
                    tracing::error!(%method, path, error = failure.message, "request failed");
                }
                failure.into_response()
            }
        };
        add_headers(&mut response);
        response
    }

    async fn dispatch(self: Arc<Self>, request: Request<RequestBody>) -> Reply {
        let request = with_whole_body(request, WHOLE_BODY_TIMEOUT).await?;
        let (version, path) = split_version(request.uri().path())?;
        if request.method() == Method::OPTIONS {
            // As dockerd, for every path.
            return Ok(status_only(StatusCode::OK));
        }
        let Found { operation, captures } =
            find(request.method(), path).ok_or_else(Failure::page_not_found)?;
        tracing::debug!(operation = operation.name, path, "request");
        let Some(handler) = operation.handler else {
            return Err(Failure::new(
                StatusCode::NOT_IMPLEMENTED,
                format!("{} is not implemented yet", operation.name),
            ));
        };
        let query = Query::parse(request.uri().query());
        let call = Call {
            version,
            captures,
            query,
            request,
            app: self,
        };
        handler(call).await
    }
}

/// Reads a small body to its end. A client that still sends when the answer comes and the connection closes may report a
/// broken pipe instead of the answer.
async fn with_whole_body(
    request: Request<RequestBody>,
    within: Duration,
) -> Result<Request<RequestBody>, Failure> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_none_or(|length| length > WHOLE_BODY_BYTES_MAX) {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    let late = || {
        Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not come in time",
        )
    };
    let whole = tokio::time::timeout(within, body.collect())
        .await
        .map_err(|_| late())?
        .map_err(|error| Failure::invalid(format!("cannot read the request body: {error}")))?;
    let body = Full::new(whole.to_bytes()).map_err(|never: Infallible| match never {});
    Ok(Request::from_parts(head, body.boxed()))
}

fn add_headers(response: &mut Response<Body>) {
    const API_VERSION: HeaderName = HeaderName::from_static("api-version");
    const OS_TYPE: HeaderName = HeaderName::from_static("ostype");
    const EXPERIMENTAL: HeaderName = HeaderName::from_static("docker-experimental");
    let headers = response.headers_mut();
    headers.insert(
        SERVER,
        HeaderValue::from_static(concat!("Muster/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
    headers.insert(OS_TYPE, HeaderValue::from_static("linux"));
    headers.insert(EXPERIMENTAL, HeaderValue::from_static("false"));
    if let Ok(version) = HeaderValue::from_str(&newest(MAX_VERSION)) {
        headers.insert(API_VERSION, version);
    }
}

fn newest(version: ApiVersion) -> String {
    version.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use hyper::body::{Bytes, Frame};

    fn request(length: &str, body: RequestBody) -> Request<RequestBody> {
        Request::builder()
            .header(CONTENT_LENGTH, length)
            .body(body)
            .unwrap()
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for_without_end() {
        let never = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, _>>());
        let failure = with_whole_body(request("5", BodyExt::boxed(never)), Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(failure.status, 408);
    }

    #[tokio::test]
    async fn a_large_body_is_left_to_its_handler() {
        let never = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, _>>());
        let length = (WHOLE_BODY_BYTES_MAX + 1).to_string();
        assert!(
            with_whole_body(request(&length, BodyExt::boxed(never)), Duration::ZERO)
                .await
                .is_ok()
        );
    }
}
