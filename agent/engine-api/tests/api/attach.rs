//! Streams of processes beyond what the docker CLI asks for: WebSockets, starts that fail, sockets of other engines.

use crate::client::{DEADLINE, Running};
use futures::{SinkExt, StreamExt};
use muster_engine_api::{Listen, Server, ServerConfig};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::{Error, Message};

async fn run_cat(server: &Running) {
    let body = r#"{"Image":"whoami","Cmd":["cat"],"OpenStdin":true}"#;
    let created = server
        .request("POST", "/containers/create?name=cat", Some(body))
        .await;
    assert_eq!(created.0, 201, "{created:?}");
    assert_eq!(server.request("POST", "/containers/cat/start", None).await.0, 204);
}

#[tokio::test]
async fn a_websocket_carries_input_and_output_without_frames() {
    let server = Running::start().await;
    run_cat(&server).await;
    let stream = UnixStream::connect(&server.socket).await.unwrap();
    let url = "ws://localhost/v1.51/containers/cat/attach/ws?stream=1&stdin=1&stdout=1";
    let (mut socket, answer) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    assert!(
        answer.headers()["server"]
            .to_str()
            .unwrap()
            .starts_with("Muster/")
    );
    socket.send(Message::Text("through".into())).await.unwrap();
    socket.send(Message::Ping("alive".into())).await.unwrap();
    let (mut echoed, mut alive) = (Vec::new(), false);
    while !(alive && echoed == b"through") {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Binary(data) => echoed.extend_from_slice(&data),
            Message::Pong(data) => alive = data == "alive",
            other => panic!("{other:?}"),
        }
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_websocket_begins_with_its_handshake() {
    let server = Running::start().await;
    run_cat(&server).await;
    let plain = server
        .failure("GET", "/containers/cat/attach/ws?stream=1", None)
        .await;
    assert_eq!(plain.0, 400, "{plain:?}");
    assert!(plain.1.starts_with("bad handshake"), "{plain:?}");
    let stream = UnixStream::connect(&server.socket).await.unwrap();
    let refused = tokio_tungstenite::client_async("ws://localhost/containers/nobody/attach/ws", stream).await;
    assert!(matches!(refused, Err(Error::Http(answer)) if answer.status() == 404));
}

#[tokio::test]
async fn an_exec_that_cannot_start_says_so_in_its_stream() {
    let server = Running::start().await;
    run_cat(&server).await;
    let body = r#"{"Cmd":["missing"],"AttachStdout":true}"#;
    let created = server.request("POST", "/containers/cat/exec", Some(body)).await.2;
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let id = created["Id"].as_str().unwrap();
    let start = format!(
        "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let answer = server.raw(start.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("\u{1}\0\0\0\0\0\0\u{24}executable file not found in $PATH\r\n"),
        "{answer:?}"
    );
    let state = server.request("GET", &format!("/exec/{id}/json"), None).await.2;
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["ExitCode"], 127);
    // Who does not attach gets a status.
    let detached = format!("/exec/{id}/start");
    assert_eq!(
        server
            .failure("POST", &detached, Some(r#"{"Detach":true}"#))
            .await,
        (400, "executable file not found in $PATH".into())
    );
}

#[tokio::test]
async fn older_clients_are_told_in_older_words_that_a_container_runs() {
    let server = Running::start().await;
    run_cat(&server).await;
    let (status, older) = server.failure("DELETE", "/v1.41/containers/cat", None).await;
    assert_eq!(status, 409);
    assert!(
        older.starts_with("You cannot remove a running container "),
        "{older}"
    );
    let (status, newer) = server.failure("DELETE", "/v1.51/containers/cat", None).await;
    assert_eq!(status, 409);
    assert!(newer.starts_with("cannot remove container "), "{newer}");
}

#[tokio::test]
async fn the_socket_of_another_engine_is_left_alone_and_a_stale_one_is_not() {
    let other = Running::start().await;
    let config = ServerConfig {
        listeners: vec![Listen::UnixIfFree(other.socket.clone())],
        ..ServerConfig::default()
    };
    drop(Server::bind(&config).await.unwrap());
    assert_eq!(other.request("GET", "/_ping", None).await.0, 200);

    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("docker.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let config = ServerConfig {
        listeners: vec![Listen::UnixIfFree(stale.clone())],
        ..ServerConfig::default()
    };
    let server = Server::bind(&config).await.unwrap();
    assert!(UnixStream::connect(&stale).await.is_ok());
    drop(server);
    assert!(!stale.exists());
}

#[tokio::test]
async fn details_of_a_log_are_what_its_driver_adds() {
    let server = Running::start().await;
    let body = r#"{"Image":"whoami","Cmd":["echo","hi"]}"#;
    server
        .request("POST", "/containers/create?name=web", Some(body))
        .await;
    server.request("POST", "/containers/web/start", None).await;
    server.request("POST", "/containers/web/wait", None).await;
    let log = server
        .request("GET", "/containers/web/logs?stdout=1&details=1", None)
        .await
        .2;
    assert!(log.contains("role=a+b hi"), "{log:?}");
    let plain = server
        .request("GET", "/containers/web/logs?stdout=1", None)
        .await
        .2;
    assert!(!plain.contains("role"), "{plain:?}");
}
