//! Listening: connections that are bounded in number, handshakes and requests that are bounded in time.

use crate::access::Passwords;
use crate::answer::Registry;
use crate::cluster::Cluster;
use crate::content::Repositories;
use crate::patience::{Patience, Patient};
use crate::pushing::Sessions;
use crate::traffic::Traffic;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use muster_images::ImageStore;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most connections at once at one address; a client has a handful. Those of other machines take none from the node's
/// own clients at a loopback address.
const CONNECTIONS_MAX: usize = 1024;
/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a request's head, also on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests under way may take when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How often uploads are looked through, and the other nodes' changes taken over.
const FOLLOW_PERIOD: Duration = Duration::from_secs(30);
/// Of those times, how seldom unused blobs are looked for: every hour.
const EXPIRE_EVERY: u32 = 120;

/// Gives the configuration of TLS for the next connection; `None` while there is no certificate.
pub type ServeTls = Arc<dyn Fn() -> Option<Arc<rustls::ServerConfig>> + Send + Sync>;

/// How a registry is served.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where: without TLS at loopback addresses, with TLS at all others.
    pub listen: Vec<SocketAddr>,
    /// Who is let in; everybody where `None`.
    pub passwords: Option<Arc<Passwords>>,
    /// The certificate.
    pub tls: ServeTls,
    /// How long clients may take.
    pub patience: Patience,
    /// Where their bytes are counted.
    pub traffic: Arc<Traffic>,
}

/// A socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the registry cannot listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A registry whose sockets listen.
pub struct Server {
    listeners: Vec<(TcpListener, SocketAddr)>,
    config: ServerConfig,
    /// At each address.
    connections_max: usize,
}

/// What connections share.
#[derive(Clone)]
struct Scope {
    registry: Arc<Registry>,
    tls: ServeTls,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    /// Makes all sockets, or none.
    pub async fn bind(config: ServerConfig) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            let failed = |source| BindError {
                address: *address,
                source,
            };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            listeners.push((listener, address));
        }
        Ok(Self {
            listeners,
            config,
            connections_max: CONNECTIONS_MAX,
        })
    }

    /// Where it listens, with real ports where port 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Serves until `shutdown` resolves; then lets requests under way finish (10 s at most). When it returns nothing of
    /// it runs any more but what did not end in time.
    pub async fn run(
        self,
        images: ImageStore,
        cluster: Arc<dyn Cluster>,
        shutdown: impl Future<Output = ()>,
    ) {
        let tracker = TaskTracker::new();
        let scope = Scope {
            registry: Arc::new(Registry {
                repositories: Repositories::new(images, cluster, tracker.clone()),
                sessions: Sessions::new(),
                passwords: self.config.passwords,
                patience: self.config.patience,
                traffic: self.config.traffic,
            }),
            tls: self.config.tls,
            tracker: tracker.clone(),
            stopping: CancellationToken::new(),
        };
        for (listener, address) in self.listeners {
            let places = Arc::new(Semaphore::new(self.connections_max));
            tracker.spawn(accept_all(listener, address, places, scope.clone()));
        }
        tracker.spawn(tidy(scope.clone()));
        shutdown.await;
        scope.stopping.cancel();
        tracker.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait()).await.is_err() {
            tracing::warn!("some requests to the registry did not end in time");
        }
    }
}

/// Follows the other nodes, and gives up what nobody goes on with.
async fn tidy(scope: Scope) {
    let mut rounds = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_PERIOD) => {}
            () = scope.stopping.cancelled() => return,
        }
        scope.registry.sessions.expire();
        rounds += 1;
        match rounds % EXPIRE_EVERY {
            0 => scope.registry.repositories.expire().await,
            _ => scope.registry.repositories.catch_up().await,
        }
    }
}

async fn accept_all(listener: TcpListener, address: SocketAddr, places: Arc<Semaphore>, scope: Scope) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = scope.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let own = scope.clone();
                let secured = !address.ip().is_loopback();
                scope.tracker.spawn(connection(stream, peer, secured, own, place));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the registry");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    secured: bool,
    scope: Scope,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "the registry's client is gone");
        return;
    }
    if !secured {
        return serve(stream, scope).await;
    }
    let Some(tls) = (scope.tls)() else {
        tracing::warn!(%peer, "the registry has no certificate: set one, or let the node join a cluster");
        return;
    };
    let handshake = TlsAcceptor::from(tls).accept(stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => serve(stream, scope).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake with the registry failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake with the registry took too long"),
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, scope: Scope) {
    let registry = scope.registry.clone();
    let stream = Patient::new(stream, registry.patience);
    let service = service_fn(move |request: Request<Incoming>| {
        let registry = registry.clone();
        async move {
            let request = request.map(|body| body.map_err(io::Error::other).boxed());
            Ok::<_, Infallible>(registry.answer(request).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the registry ended");
                }
                return;
            }
            () = scope.stopping.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Alone;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn status(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /v2/ HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn clients_of_one_address_take_no_place_at_another() {
        let place = tempfile::tempdir().unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(ServerConfig {
            listen: vec![any, any],
            passwords: None,
            tls: Arc::new(|| None),
            patience: Patience::default(),
            traffic: Arc::default(),
        });
        let mut server = server.await.unwrap();
        server.connections_max = 8;
        let [crowded, own] = server.addresses()[..] else {
            panic!("it listens at both")
        };
        let images = ImageStore::open(place.path()).unwrap();
        let stop = CancellationToken::new();
        let connections_max = server.connections_max;
        let running = tokio::spawn(server.run(images, Arc::new(Alone), stop.clone().cancelled_owned()));
        // A client that was answered has a place, and keeps it as long as it stays.
        let mut crowd = Vec::new();
        for _ in 0..connections_max {
            let mut stream = TcpStream::connect(crowded).await.unwrap();
            stream
                .write_all(b"GET /v2/ HTTP/1.1\r\nHost: registry\r\n\r\n")
                .await
                .unwrap();
            stream.read_exact(&mut [0; 12]).await.unwrap();
            crowd.push(stream);
        }
        for _ in 0..3 {
            let answered = tokio::time::timeout(Duration::from_secs(20), status(own)).await;
            assert_eq!(answered.unwrap(), "HTTP/1.1 200 OK");
        }
        drop(crowd);
        stop.cancel();
        running.await.unwrap();
    }
}
