//! What a handler answers when it cannot: a status and Docker's `{"message": …}`.

use super::body::{Body, empty, full_body};
use crate::backend::{BackendError, ErrorKind};
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};

/// Answer of a handler.
pub(crate) type Reply = Result<Response<Body>, Failure>;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// HTTP status.
    pub status: StatusCode,
    /// For the user.
    pub message: String,
}

impl Failure {
    /// The error answer with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Docker's answer for a path that it does not know.
    pub fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }

    /// What is sent.
    pub fn into_response(self) -> Response<Body> {
        if self.status == StatusCode::NOT_MODIFIED {
            return status_response(self.status, empty());
        }
        let body = serde_json::json!({ "message": self.message }).to_string() + "\n";
        let mut response = status_response(self.status, full_body(body));
        response.headers_mut().insert(
            CONTENT_TYPE,
            hyper::header::HeaderValue::from_static("application/json"),
        );
        response
    }
}

fn status_response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The status that Docker gives errors of this kind.
pub(crate) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::new(status_of(error.kind), error.message)
    }
}
