//! Accepting connections, and ending them when the server stops.

use super::listen::{ListenError, ServerConfig, Socket, bind};
use super::{App, Client, origin};
use crate::backend::Backends;
use crate::http::Body;
use crate::routes::Takeover;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

/// Most connections at once, on all sockets: each costs a descriptor here and often one more in the engine.
const CONNECTIONS_MAX: usize = 4096;
/// Longest wait for a request's head, so that idle half-open clients do not hold their place.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may take when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A server whose sockets listen.
pub struct Server {
    sockets: Vec<Socket>,
}

impl Server {
    /// Makes all sockets, or none.
    pub async fn bind(config: &ServerConfig) -> Result<Self, ListenError> {
        let mut sockets = Vec::with_capacity(config.listeners.len());
        for listen in &config.listeners {
            sockets.extend(bind(listen, &config.group).await?);
        }
        Ok(Self { sockets })
    }

    /// Addresses of the TCP sockets, in order; with their real ports where port 0 was asked for.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.sockets.iter().map(|socket| match socket {
            Socket::Unix { .. } => None,
            Socket::Tls(listener, _) | Socket::Insecure(listener) => listener.local_addr().ok(),
        });
        addresses.flatten().collect()
    }

    /// Serves until `shutdown` resolves, then ends streams, lets requests under way finish (10 s at most) and returns
    /// when nothing of it runs any more. Cancelling it drops the sockets and leaves connections to end by themselves.
    pub async fn run(self, backends: Backends, shutdown: impl Future<Output = ()>) {
        let app = App::new(backends);
        let tracker = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        for socket in self.sockets {
            let scope = Scope {
                app: app.clone(),
                tracker: tracker.clone(),
                places: places.clone(),
            };
            tracker.spawn(accept_all(socket, scope));
        }
        shutdown.await;
        app.stopping.cancel();
        tracker.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait()).await.is_err() {
            tracing::warn!("some API requests did not end in time");
        }
    }
}

/// Makes the sockets and serves until `shutdown` resolves: [`Server::bind`], then [`Server::run`].
pub async fn serve(
    config: &ServerConfig,
    backends: Backends,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ListenError> {
    Server::bind(config).await?.run(backends, shutdown).await;
    Ok(())
}

#[derive(Clone)]
struct Scope {
    app: Arc<App>,
    tracker: TaskTracker,
    places: Arc<Semaphore>,
}

async fn accept_all(socket: Socket, scope: Scope) {
    loop {
        let Ok(place) = scope.places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = accept_one(&socket, &scope) => accepted,
            () = scope.app.stopping.cancelled() => return,
        };
        match accepted {
            Ok(connection) => {
                scope.tracker.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an API connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

type Connection = futures::future::BoxFuture<'static, ()>;

async fn accept_one(socket: &Socket, scope: &Scope) -> io::Result<Connection> {
    let app = scope.app.clone();
    match socket {
        Socket::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            Ok(Box::pin(serve_connection(stream, app, Trust::Protected)))
        }
        Socket::Insecure(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::pin(serve_connection(stream, app, Trust::LoopbackOnly)))
        }
        Socket::Tls(listener, acceptor) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let handshake = acceptor.accept(stream);
            Ok(Box::pin(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    Ok(Ok(stream)) => serve_connection(stream, app, Trust::Protected).await,
                    Ok(Err(error)) => tracing::warn!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::warn!(%peer, "TLS handshake took too long"),
                }
            }))
        }
    }
}

/// What protects a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// File permissions or client certificates.
    Protected,
    /// Nothing but being on loopback.
    LoopbackOnly,
}

async fn serve_connection<S>(stream: S, app: Arc<App>, trust: Trust)
where
    S: Client,
{
    let stopping = app.stopping.clone();
    let (leave, mut leaving) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = answer(app.clone(), trust, request);
        let leave = leave.clone();
        async move {
            let response = answering.await;
            let Some(takeover) = Takeover::of(&response) else {
                return Ok::<_, Infallible>(response);
            };
            // HTTP ends here: the connection is taken away from under this answer.
            let _ = leave.send(takeover).await;
            std::future::pending().await
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut told = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "API connection ended");
                }
                return;
            }
            Some(takeover) = leaving.recv() => {
                let parts = connection.into_parts();
                tokio::select! {
                    () = takeover.carry(parts.io.into_inner(), parts.read_buf) => {}
                    () = stopping.cancelled() => {}
                }
                return;
            }
            () = stopping.cancelled(), if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

async fn answer(app: Arc<App>, trust: Trust, request: Request<Incoming>) -> Response<Body> {
    if trust == Trust::LoopbackOnly
        && let Err(failure) = origin::check(request.headers())
    {
        return failure.into_response();
    }
    let request = request.map(|body| body.map_err(Into::into).boxed());
    app.handle(request).await
}
