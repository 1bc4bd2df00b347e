//! Accepting connections: one slow or hostile handshake never holds up another.

use super::{CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, Identity, PeerIdentity};
use rustls::ServerConfig;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Finished handshakes that wait for the server; it takes them at once.
const ACCEPTED_QUEUE: usize = 64;

/// A connection after its handshake. Tonic hands its [`PeerIdentity`] to every request as an extension.
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: PeerIdentity,
    /// Ready once the server is gone.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

/// Accepts connections until the returned stream is dropped. Run the returned future in the caller's scope: once it is
/// dropped all connections break off, whoever holds them, and peers have to connect again.
pub fn accept_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> (
    impl Future<Output = ()> + Send,
    ReceiverStream<io::Result<TlsConnection>>,
) {
    let (sender, receiver) = mpsc::channel(ACCEPTED_QUEUE);
    let acceptor = TlsAcceptor::from(config);
    let scope = CancellationToken::new().drop_guard();
    let accept = async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut handshakes = JoinSet::new();
        loop {
            let permit = slots
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let ended = scope.token().clone().cancelled_owned();
                    let place = (ended, permit);
                    handshakes.spawn(handshake(acceptor.clone(), stream, place, sender.clone()));
                }
                // Out of descriptors or memory: connections that end make room again.
                Err(error) => {
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
            while handshakes.try_join_next().is_some() {}
        }
    };
    (accept, ReceiverStream::new(receiver))
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    (ended, permit): (WaitForCancellationFutureOwned, OwnedSemaphorePermit),
    sender: mpsc::Sender<io::Result<TlsConnection>>,
) {
    let peer_address = stream.peer_addr().ok();
    let finished = tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        stream.set_nodelay(true)?;
        acceptor.accept(stream).await
    });
    match finished.await {
        Ok(Ok(stream)) => {
            let peer = PeerIdentity(peer_identity(&stream));
            // A closed channel means that the server is gone, and the connection with it.
            let _ = sender
                .send(Ok(TlsConnection {
                    stream,
                    peer,
                    ended: Box::pin(ended),
                    _permit: permit,
                }))
                .await;
        }
        Ok(Err(error)) => tracing::debug!(?peer_address, error = %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(?peer_address, "TLS handshake timed out"),
    }
}

fn peer_identity(stream: &TlsStream<TcpStream>) -> Option<Identity> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    Identity::of(certificate).ok()
}

impl Connected for TlsConnection {
    type ConnectInfo = (PeerIdentity, Option<std::net::SocketAddr>);

    fn connect_info(&self) -> Self::ConnectInfo {
        (self.peer, self.stream.get_ref().0.peer_addr().ok())
    }
}

impl TlsConnection {
    /// Fails once the server is gone, and wakes whoever waits when it goes.
    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx).is_ready() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_open(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
