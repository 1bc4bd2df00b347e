//! `GET /containers/{id}/attach/ws`: attach over a WebSocket. Output of both streams comes in binary messages, without
//! frames; messages of either kind are input.

use super::hijack::{self, Framing, Opening, begin, carry as carry_both, detach_keys, refusal};
use crate::backend::{AttachOptions, AttachSession, BackendError, OutputStream};
use crate::http::{Call, Failure, Reply, empty};
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{HeaderMap, Response, StatusCode};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::StreamReader;

/// Largest message of a client; what people type and paste is far smaller.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// First version whose clients choose their streams; older ones get all three.
const CHOOSES_STREAMS: u32 = 42;

/// `GET /containers/{id}/attach/ws`.
pub(super) async fn container_attach(call: Call) -> Reply {
    let accept = accept(call.request.headers())?;
    let asked = hijack::options(&call);
    let all = call.version.minor < CHOOSES_STREAMS;
    let options = AttachOptions {
        stdin: asked.stdin || all,
        stdout: asked.stdout || all,
        stderr: asked.stderr || all,
        ..asked
    };
    let keys = detach_keys(call.query.get("detachKeys").unwrap_or_default())?;
    let session = call.engine().container_attach(call.reference(), options).await?;
    let opening = Opening {
        tty: session.tty,
        session: Box::pin(std::future::ready(Ok(session))),
    };
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    begin(&mut response, opening, keys, Framing::Websocket);
    Ok(response)
}

/// The answer to a client's handshake.
fn accept(headers: &HeaderMap) -> Result<HeaderValue, Failure> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let asks = text(UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
    let key = text(SEC_WEBSOCKET_KEY).filter(|_| asks && text(SEC_WEBSOCKET_VERSION) == Some("13"));
    key.and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok())
        .ok_or_else(|| Failure::invalid("bad handshake: a WebSocket of version 13 is expected here"))
}

/// Carries a session in messages until its output ends or the client leaves.
pub(super) async fn carry<C>(
    connection: C,
    session: Result<AttachSession, BackendError>,
    keys: Vec<u8>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Send + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    let (mut to_client, from_client) = socket.split();
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let told = to_client.send(Message::Binary(refusal(&error).data)).await;
            return told.and(to_client.close().await).map_err(failed);
        }
    };
    let keys = if session.tty { keys } else { Vec::new() };
    let sending = send_output(to_client, session.output);
    // Read in any case: that answers pings, and tells when the client leaves.
    let typed = typed(from_client);
    match session.input {
        Some(input) => carry_both(StreamReader::new(typed), sending, Some(input), keys).await,
        None => {
            tokio::select! {
                sent = sending => sent,
                () = typed.for_each(async |_| ()) => Ok(()),
            }
        }
    }
}

async fn send_output(
    mut client: impl Sink<Message, Error = Error> + Unpin,
    mut output: OutputStream,
) -> io::Result<()> {
    while let Some(chunk) = output.next().await {
        client.send(Message::Binary(chunk?.data)).await.map_err(failed)?;
    }
    client.close().await.map_err(failed)
}

/// What the client sends, as bytes, until it closes.
fn typed(
    messages: impl Stream<Item = Result<Message, Error>> + Send + Unpin,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin {
    let closed = |message: &Result<Message, Error>| !matches!(message, Ok(Message::Close(_)));
    Box::pin(
        messages
            .take_while(move |message| std::future::ready(closed(message)))
            .filter_map(async |message| match message {
                Ok(Message::Text(text)) => Some(Ok(Bytes::from(text))),
                Ok(Message::Binary(data)) => Some(Ok(data)),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => None,
                Err(error) => Some(Err(failed(error))),
            }),
    )
}

fn failed(error: Error) -> io::Error {
    io::Error::other(error)
}
