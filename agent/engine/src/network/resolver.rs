//! The resolver of one container: serves its sockets, answers for its networks' containers and forwards the rest.

use super::answer::{QUERY_BYTES_MAX, Question, Reaction, Transport, react};
use super::directory::{Directory, Scope};
use muster_network::{Network, Protocol, ResolverSockets};
use rand::RngExt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long an upstream server may take; the libraries of clients ask again after five seconds.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection of a client may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Queries of one container that wait for upstream servers; more are dropped, and clients ask again.
const FORWARDS_MAX: usize = 256;
/// Connections of one container that are open at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// Upstream servers that are asked in turn, as many as the C library does.
const UPSTREAMS_MAX: usize = 3;
/// Wait before a socket that failed is used again, so that a failure that stays does not spin.
const FAILURE_WAIT: Duration = Duration::from_millis(200);
/// A message by connection has its length in two bytes before it.
const MESSAGE_BYTES_MAX: usize = 65_535;
const DOMAIN_PORT: u16 = 53;

/// A server that is asked about names that no container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// Where it is.
    pub address: IpAddr,
    /// Only the host itself can reach it: one on the host's loopback.
    pub from_host: bool,
}

/// What a resolver is made with.
pub(crate) struct ResolverSettings {
    pub upstreams: Vec<Upstream>,
    /// The user chose `ndots`.
    pub own_ndots: bool,
    pub scope: Scope,
    /// A network of the container leads outside, so that the host may ask for it.
    pub has_outside: bool,
}

/// A resolver that is being served.
pub(crate) struct Resolver {
    state: Arc<State>,
    stop: CancellationToken,
}

struct State {
    directory: Arc<Directory>,
    /// What the container's networks are now, and whether one leads outside.
    view: Mutex<(Arc<Scope>, bool)>,
    upstreams: Vec<Upstream>,
    own_ndots: bool,
    netns: OwnedFd,
    network: Network,
    forwards: Arc<Semaphore>,
}

impl Resolver {
    /// Serves the sockets with tasks of `tasks` until it is dropped or `stopping` is cancelled.
    pub fn serve(
        sockets: ResolverSockets,
        settings: ResolverSettings,
        directory: Arc<Directory>,
        network: Network,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) -> io::Result<Self> {
        let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
        let tcp = TcpListener::from_std(sockets.tcp)?;
        let state = Arc::new(State {
            directory,
            view: Mutex::new((Arc::new(settings.scope), settings.has_outside)),
            upstreams: settings.upstreams.into_iter().take(UPSTREAMS_MAX).collect(),
            own_ndots: settings.own_ndots,
            netns: sockets.netns,
            network,
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
        });
        let stop = stopping.child_token();
        let datagrams = serve_datagrams(Arc::clone(&state), udp, tasks.clone(), stop.clone());
        let connections = serve_connections(Arc::clone(&state), tcp, tasks.clone(), stop.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(datagrams));
        tasks.spawn(stop.clone().run_until_cancelled_owned(connections));
        Ok(Self { state, stop })
    }

    /// Notes that the container's networks changed.
    pub fn set_scope(&self, scope: Scope, has_outside: bool) {
        *self.state.view.lock().unwrap_or_else(PoisonError::into_inner) = (Arc::new(scope), has_outside);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve_datagrams(
    state: Arc<State>,
    socket: Arc<UdpSocket>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut buffer = vec![0; QUERY_BYTES_MAX + 1];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(FAILURE_WAIT).await;
            continue;
        };
        let query = &buffer[..length];
        match state.react(query, Transport::Datagram) {
            Reaction::Nothing => {}
            // Whoever does not read its answers loses them, as with any server.
            Reaction::Answer(answer) => drop(socket.try_send_to(&answer, client)),
            Reaction::Forward { question, failure } => {
                let Ok(permit) = Arc::clone(&state.forwards).try_acquire_owned() else {
                    continue;
                };
                let (state, socket, query) = (Arc::clone(&state), Arc::clone(&socket), query.to_vec());
                let forwarding = async move {
                    let answer = state.forward(query, &question, Transport::Datagram).await;
                    drop(
                        socket
                            .send_to(answer.as_deref().unwrap_or(&failure), client)
                            .await,
                    );
                    drop(permit);
                };
                tasks.spawn(stop.clone().run_until_cancelled_owned(forwarding));
            }
        }
    }
}

async fn serve_connections(
    state: Arc<State>,
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(FAILURE_WAIT).await;
            continue;
        };
        let state = Arc::clone(&state);
        let serving = async move {
            // A client that goes away, stays idle or sends nonsense loses its connection.
            drop(state.converse(stream).await);
            drop(place);
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(serving));
    }
}

impl State {
    fn react(&self, query: &[u8], transport: Transport) -> Reaction {
        let scope = Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner).0);
        react(query, transport, &self.directory, &scope, self.own_ndots)
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let query = timeout(IDLE_TIMEOUT, read_message(&mut stream, QUERY_BYTES_MAX)).await??;
            let answer = match self.react(&query, Transport::Connection) {
                Reaction::Nothing => return Ok(()),
                Reaction::Answer(answer) => answer,
                Reaction::Forward { question, failure } => {
                    let answered = self.forward(query, &question, Transport::Connection).await;
                    answered.unwrap_or(failure)
                }
            };
            timeout(IDLE_TIMEOUT, write_message(&mut stream, &answer)).await??;
        }
    }

    /// Asks the upstream servers in turn. The first answer that is no failure counts, else the last failure.
    async fn forward(&self, query: Vec<u8>, question: &Question, transport: Transport) -> Option<Vec<u8>> {
        use hickory_proto::op::ResponseCode;
        let has_outside = self.view.lock().unwrap_or_else(PoisonError::into_inner).1;
        let own_id: [u8; 2] = query.get(..2)?.try_into().ok()?;
        let mut failure = None;
        for upstream in &self.upstreams {
            // From an internal network nothing leads outside by way of the host; what the container itself can reach
            // it may ask.
            if upstream.from_host && !has_outside {
                continue;
            }
            let asked = self.ask(*upstream, &query, question, transport);
            let Ok(Ok((mut answer, code))) = timeout(UPSTREAM_TIMEOUT, asked).await else {
                continue;
            };
            answer[..2].copy_from_slice(&own_id);
            match code {
                ResponseCode::ServFail | ResponseCode::Refused => failure = Some(answer),
                _ => return Some(answer),
            }
        }
        failure
    }

    /// One exchange, under a random id and from a random port.
    async fn ask(
        &self,
        upstream: Upstream,
        query: &[u8],
        question: &Question,
        transport: Transport,
    ) -> io::Result<(Vec<u8>, hickory_proto::op::ResponseCode)> {
        let server = SocketAddr::new(upstream.address, DOMAIN_PORT);
        let id: u16 = rand::rng().random();
        let mut query = query.to_vec();
        query[..2].copy_from_slice(&id.to_be_bytes());
        match transport {
            Transport::Datagram => {
                let socket = self.datagram_socket(upstream, server).await?;
                socket.send(&query).await?;
                let mut buffer = vec![0; MESSAGE_BYTES_MAX];
                loop {
                    let length = socket.recv(&mut buffer).await?;
                    // Anything else was not asked for: somebody guesses.
                    if let Some(code) = question.is_answered_by(&buffer[..length], id) {
                        buffer.truncate(length);
                        return Ok((buffer, code));
                    }
                }
            }
            Transport::Connection => {
                let mut stream = self.connection(upstream, server).await?;
                write_message(&mut stream, &query).await?;
                let answer = read_message(&mut stream, MESSAGE_BYTES_MAX).await?;
                let code = question.is_answered_by(&answer, id);
                code.map(|code| (answer, code))
                    .ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
        }
    }

    async fn datagram_socket(&self, upstream: Upstream, server: SocketAddr) -> io::Result<UdpSocket> {
        let socket = match upstream.from_host {
            true => {
                let any: IpAddr = match server {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                UdpSocket::bind((any, 0)).await?
            }
            false => {
                let inside = self.socket_inside(server, Protocol::Udp).await?;
                UdpSocket::from_std(std::net::UdpSocket::from(inside))?
            }
        };
        socket.connect(server).await?;
        Ok(socket)
    }

    async fn connection(&self, upstream: Upstream, server: SocketAddr) -> io::Result<TcpStream> {
        if upstream.from_host {
            return TcpStream::connect(server).await;
        }
        let inside = self.socket_inside(server, Protocol::Tcp).await?;
        TcpSocket::from_std_stream(std::net::TcpStream::from(inside))
            .connect(server)
            .await
    }

    async fn socket_inside(&self, server: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
        let netns = self.netns.try_clone()?;
        let socket = self.network.socket_inside(netns, server, protocol).await;
        socket.map_err(io::Error::other)
    }
}

async fn read_message(stream: &mut TcpStream, bytes_max: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
