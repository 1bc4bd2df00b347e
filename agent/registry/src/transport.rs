//! HTTP to one host: connections that are made in time or not at all, and bodies that are bounded in size and time.

use crate::error::{Error, Result, shown};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

/// A server that is not connected to within this (name, TCP, TLS) is out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the head of an answer, and for each sign of life while a body is sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the answer to a body that was sent: registries copy and verify what they took before they give it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a connection is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Body of a request.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;
type Connector = TimedConnector<HttpsConnector<HttpConnector<Names>>>;

/// A client for one host.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<Connector, RequestBody>,
}

/// Counts what was sent of a body, so that a slow upload is told from a dead one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity {
    sent: Arc<AtomicU64>,
    bytes: u64,
}

impl Activity {
    /// Of a body with so many bytes.
    pub fn of(bytes: u64) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// So many bytes went out.
    pub fn add(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How long the server may be silent.
    fn patience(&self) -> Duration {
        match self.bytes > 0 && self.sent() >= self.bytes {
            true => COMMIT_TIMEOUT,
            false => ANSWER_TIMEOUT,
        }
    }
}

impl Transport {
    /// A client with this configuration of TLS.
    pub fn new(tls: ClientConfig) -> Self {
        let mut http = HttpConnector::new_with_resolver(Names);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(TimedConnector(https));
        Self { client }
    }

    /// Sends a request and returns the head of the answer.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        activity: &Activity,
    ) -> Result<Response<Incoming>> {
        let (what, url) = (request.method().to_string(), request.uri().to_string());
        let unreachable = |why: String, timed_out| Error::Unreachable {
            what: what.clone(),
            url: shown(&url),
            why,
            timed_out,
        };
        let answer = self.client.request(request);
        tokio::pin!(answer);
        loop {
            let (sent, patience) = (activity.sent(), activity.patience());
            match tokio::time::timeout(patience, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    let (why, timed_out) = explain(&error);
                    return Err(unreachable(why, timed_out));
                }
                Err(_) if activity.sent() > sent => {}
                Err(_) => {
                    let why = format!("no answer within {} s", patience.as_secs());
                    return Err(unreachable(why, true));
                }
            }
        }
    }
}

/// The innermost cause, which is the one that says something, and whether time ran out.
fn explain(error: &(dyn std::error::Error + 'static)) -> (String, bool) {
    let mut cause = error;
    // An error of I/O passes over what it wraps when it is asked for its source.
    while let Some(inner) = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .map(|inner| inner as &(dyn std::error::Error + 'static))
        .or_else(|| cause.source())
    {
        cause = inner;
    }
    let timed_out = cause.is::<TimedOut>()
        || cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
    let why = match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidMessage(_)) => "server gave HTTP response to HTTPS client".to_owned(),
        Some(rustls::Error::InvalidCertificate(problem)) => format!(
            "its certificate is not accepted ({problem}); put its authority into /etc/docker/certs.d/HOST:PORT/ca.crt"
        ),
        _ => cause.to_string(),
    };
    (why, timed_out)
}

/// Reads a small body whole. An endless, slow or too large one is refused.
pub(crate) async fn read_document(
    url: &str,
    body: Incoming,
    bytes_max: u64,
    within: Duration,
) -> Result<Bytes> {
    let reading = async {
        let mut body = body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(url, &error))?;
            let Some(data) = frame.data_ref() else { continue };
            if (bytes.len() + data.len()) as u64 > bytes_max {
                return Err(Error::protocol(
                    url,
                    format!("it has more than {bytes_max} bytes"),
                ));
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(within, reading).await {
        Ok(read) => read,
        Err(_) => Err(Error::Unreachable {
            what: "GET".to_owned(),
            url: shown(url),
            why: format!("the answer did not end within {} s", within.as_secs_f64()),
            timed_out: true,
        }),
    }
}

/// A body that broke off.
pub(crate) fn broken(url: &str, error: &hyper::Error) -> Error {
    Error::Unreachable {
        what: "GET".to_owned(),
        url: shown(url),
        why: format!("the answer broke off: {}", explain(error).0),
        timed_out: false,
    }
}

/// Looks names up.
#[derive(Clone)]
struct Names;

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found = muster_outbound::lookup(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

/// Time ran out.
#[derive(Debug, thiserror::Error)]
#[error("no connection within 5 s")]
struct TimedOut;

/// Bounds name lookup, connection and handshake together.
#[derive(Clone)]
struct TimedConnector<C>(C);

impl<C> Service<Uri> for TimedConnector<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Response: 'static,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = C::Response;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<C::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(TimedOut.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_has_all_of_a_body_is_given_time_to_keep_it() {
        let activity = Activity::of(10);
        activity.add(9);
        assert_eq!(activity.patience(), ANSWER_TIMEOUT);
        activity.add(1);
        assert_eq!(activity.patience(), COMMIT_TIMEOUT);
        assert_eq!(Activity::default().patience(), ANSWER_TIMEOUT);
    }
}
