//! Bodies of answers.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use std::convert::Infallible;

/// Error of a request's or answer's body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Body of answers.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;
/// Body of requests; shared by reference while a handler waits.
pub(crate) type RequestBody = BoxBody<Bytes, BoxError>;

/// A body that is all there.
pub(crate) fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body that is sent as it comes.
pub(crate) fn stream_body(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|part| part.map(Frame::data))).boxed_unsync()
}

/// An answer without a body.
pub(crate) fn status_only(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// A plain text answer.
pub(crate) fn text(body: &'static str) -> Response<Body> {
    with_type("text/plain; charset=utf-8", full_body(body))
}

/// Newline-delimited JSON that is all there.
pub(crate) fn json_lines(values: &[serde_json::Value]) -> Response<Body> {
    let body: String = values.iter().map(|value| format!("{value}\r\n")).collect();
    with_type("application/json", full_body(body))
}

/// A stream with this content type.
pub(crate) fn lines(
    content_type: &'static str,
    stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Response<Body> {
    with_type(content_type, stream_body(stream))
}

fn with_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
