//! One request: who asks, what is asked, and who answers.

use crate::access::Passwords;
use crate::body::{Answer, full};
use crate::content::Repositories;
use crate::failure::{Code, Failure, Outcome};
use crate::patience::Patience;
use crate::pushing::Sessions;
use crate::route::{self, ManifestName, Query, Route};
use crate::traffic::Traffic;
use crate::{deleting, listing, pulling, pushing};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use std::io;
use std::sync::Arc;

/// Body of a request.
pub(crate) type RequestBody = BoxBody<Bytes, io::Error>;

/// The digest of what an answer is about.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What all connections share.
pub(crate) struct Registry {
    pub repositories: Repositories,
    pub sessions: Sessions,
    pub passwords: Option<Arc<Passwords>>,
    pub patience: Patience,
    pub traffic: Arc<Traffic>,
}

/// A request, taken apart.
pub(crate) struct Call {
    pub headers: HeaderMap,
    pub query: Query,
    pub body: RequestBody,
    /// Nothing but the head of the answer is wanted.
    pub head_only: bool,
}

impl Call {
    /// The text of a header.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Registry {
    /// Answers a request.
    pub async fn answer(&self, request: Request<RequestBody>) -> Response<Answer> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut response = match self.outcome(request).await {
            Ok(response) => response,
            Err(failure) => {
                tracing::debug!(%method, path, message = failure.message, "refused");
                failure.into_response()
            }
        };
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        response
    }

    async fn outcome(&self, request: Request<RequestBody>) -> Outcome {
        let (head, body) = request.into_parts();
        let call = Call {
            query: Query::parse(head.uri.query()),
            headers: head.headers,
            body,
            head_only: head.method == Method::HEAD,
        };
        if let Some(passwords) = &self.passwords
            && !passwords.admit(call.header(AUTHORIZATION)).await
        {
            return Err(Failure::new(
                StatusCode::UNAUTHORIZED,
                Code::Unauthorized,
                "authentication required",
            )
            .with_header(WWW_AUTHENTICATE, "Basic realm=\"Muster registry\""));
        }
        let route = route::parse(head.uri.path())?;
        self.dispatch(route, &head.method, call).await
    }

    async fn dispatch(&self, route: Route, method: &Method, call: Call) -> Outcome {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match route {
            Route::Base if reads => Ok(json_response("{}")),
            Route::Catalog if reads => listing::catalog(self, &call).await,
            Route::Tags { name } if reads => listing::tags(self, &name, &call).await,
            Route::Referrers { name, digest } if reads => {
                listing::referrers(self, &name, &digest, &call).await
            }
            Route::Manifest { name, reference } => match *method {
                Method::GET | Method::HEAD => pulling::manifest(self, &name, &reference, &call).await,
                Method::PUT => pushing::manifest(self, &name, reference, call).await,
                Method::DELETE => match reference {
                    ManifestName::Tag(tag) => deleting::tag(self, &name, tag).await,
                    ManifestName::Digest(digest) => deleting::manifest(self, &name, digest).await,
                },
                _ => Err(not_allowed("GET, HEAD, PUT, DELETE")),
            },
            Route::Blob { name, digest } => match *method {
                Method::GET | Method::HEAD => pulling::blob(self, &name, &digest, &call).await,
                Method::DELETE => deleting::blob(self, &name, digest).await,
                _ => Err(not_allowed("GET, HEAD, DELETE")),
            },
            Route::Uploads { name } => match *method {
                Method::POST => pushing::begin(self, &name, call).await,
                _ => Err(not_allowed("POST")),
            },
            Route::Upload { name, id } => match *method {
                Method::GET | Method::HEAD => pushing::status(self, &name, &id).await,
                Method::PATCH => pushing::append(self, &name, &id, call).await,
                Method::PUT => pushing::complete(self, &name, &id, call).await,
                Method::DELETE => pushing::cancel(self, &name, &id).await,
                _ => Err(not_allowed("GET, PATCH, PUT, DELETE")),
            },
            Route::Base | Route::Catalog | Route::Tags { .. } | Route::Referrers { .. } => {
                Err(not_allowed("GET, HEAD"))
            }
        }
    }
}

fn not_allowed(methods: &'static str) -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::Unsupported,
        "the operation is unsupported",
    )
    .with_header(ALLOW, methods)
}

/// An answer with JSON.
pub(crate) fn json_response(text: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(full(text));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Sets a header to a text that has no line breaks.
pub(crate) fn set(response: &mut Response<Answer>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
