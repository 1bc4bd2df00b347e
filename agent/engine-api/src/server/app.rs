//! The way of a request to its handler: headers of every answer, version, operation.

use crate::backend::Backends;
use crate::http::{ApiVersion, Body, Call, Failure, MAX_VERSION, Query, Reply, RequestBody, split_version};
use crate::routes::{Found, find};
use hyper::header::{HeaderName, HeaderValue, SERVER};
use hyper::{Request, Response, StatusCode};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all connections share.
pub(crate) struct App {
    /// The engine and the cluster.
    pub backends: Backends,
    /// Cancelled when the server stops: streams end then.
    pub stopping: CancellationToken,
    /// Streams that left HTTP. The server awaits them.
    pub streams: TaskTracker,
}

impl App {
    /// An application over these backends.
    pub fn new(backends: Backends) -> Arc<Self> {
        Arc::new(Self {
            backends,
            stopping: CancellationToken::new(),
            streams: TaskTracker::new(),
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
        let (version, path) = split_version(request.uri().path())?;
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
