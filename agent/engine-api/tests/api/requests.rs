//! Raw requests: headers, versions, errors, and answers that Docker's models can read.

use crate::client::Running;
use serde::de::DeserializeOwned;

#[tokio::test]
async fn ping_has_dockers_headers() {
    let server = Running::start().await;
    for method in ["GET", "HEAD"] {
        let (status, head, body) = server.request(method, "/_ping", None).await;
        assert_eq!(status, 200);
        let head = head.to_lowercase();
        for header in [
            "server: muster/",
            "api-version: 1.51",
            "ostype: linux",
            "docker-experimental: false",
            "swarm: inactive",
            "cache-control: no-cache",
            "pragma: no-cache",
        ] {
            assert!(head.contains(header), "{header} in {head}");
        }
        assert_eq!(body, if method == "GET" { "OK" } else { "" });
    }
    server.request("POST", "/swarm/init", Some("{}")).await;
    assert!(
        server
            .request("GET", "/_ping", None)
            .await
            .1
            .to_lowercase()
            .contains("swarm: active/manager")
    );
}

/// Operations of the Engine API that answer with their name and nothing else.
const UNBUILT: [(&str, &str, &str); 14] = [
    ("GET", "/containers/web/checkpoints", "CheckpointList"),
    ("POST", "/containers/web/checkpoints", "CheckpointCreate"),
    ("DELETE", "/containers/web/checkpoints/one", "CheckpointDelete"),
    ("GET", "/images/a/b/attestations", "ImageAttestations"),
    ("PUT", "/volumes/data", "VolumeUpdate"),
    ("GET", "/plugins/privileges", "GetPluginPrivileges"),
    ("POST", "/plugins/pull", "PluginPull"),
    ("POST", "/plugins/create", "PluginCreate"),
    ("POST", "/plugins/a/b/enable", "PluginEnable"),
    ("POST", "/plugins/a/disable", "PluginDisable"),
    ("POST", "/plugins/a/upgrade", "PluginUpgrade"),
    ("POST", "/plugins/a/push", "PluginPush"),
    ("POST", "/plugins/a/set", "PluginSet"),
    ("DELETE", "/plugins/a", "PluginDelete"),
];

#[tokio::test]
async fn unknown_and_unbuilt_operations_say_so() {
    let server = Running::start().await;
    assert_eq!(
        server.failure("GET", "/nope", None).await,
        (404, "page not found".into())
    );
    assert_eq!(
        server.failure("DELETE", "/info", None).await,
        (404, "page not found".into())
    );
    assert_eq!(
        server.failure("POST", "/v1.50/swarm/unlock", None).await,
        (501, "SwarmUnlock is not implemented yet".into())
    );
    for (method, path, name) in UNBUILT {
        assert_eq!(
            server.failure(method, path, None).await,
            (501, format!("{name} is not implemented yet"))
        );
    }
    let login = r#"{"username":"u","password":"p","serveraddress":"registry.example"}"#;
    let (status, refused) = server.failure("POST", "/auth", Some(login)).await;
    assert_eq!(status, 401);
    assert!(
        refused.starts_with("login attempt to registry.example failed"),
        "{refused}"
    );
    let login = login.replace("registry.example", "good.example");
    let (status, _, answer) = server.request("POST", "/auth", Some(&login)).await;
    assert_eq!(status, 200);
    assert!(answer.contains(r#""IdentityToken":"identity""#), "{answer}");
    let (status, _, answer) = server.request("GET", "/distribution/there:1/json", None).await;
    assert_eq!(status, 200);
    assert!(
        answer.contains(r#""size":7"#) && answer.contains(r#""architecture":"amd64""#),
        "{answer}"
    );
    assert_eq!(
        server.failure("GET", "/distribution/nope/json", None).await.0,
        401
    );
    assert_eq!(server.request("OPTIONS", "/v1.41/anything", None).await.0, 200);
}

#[tokio::test]
async fn malformed_requests_get_400_and_the_server_lives() {
    let server = Running::start().await;
    let deep = "[".repeat(100_000);
    let huge = format!("{{\"Image\":\"{}\"}}", "x".repeat(5 << 20));
    for (path, body) in [
        ("/containers/create", "{"),
        ("/containers/create", "[]"),
        ("/containers/create", "{\"Image\": 5}"),
        ("/containers/create", "{\"Image\":\"x\"} trailing"),
        ("/containers/create", "{}"),
        ("/containers/create", deep.as_str()),
        ("/containers/create", huge.as_str()),
        (
            "/containers/create",
            "{\"Image\":\"x\",\"HostConfig\":{\"Memory\":-5}}",
        ),
        (
            "/containers/create",
            "{\"Image\":\"x\",\"HostConfig\":{\"PortBindings\":{\"x\":[]}}}",
        ),
        (
            "/containers/create",
            "{\"Image\":\"x\",\"HostConfig\":{\"Tmpfs\":{\"/t\":\"nosuchoption\"}}}",
        ),
        ("/containers/create?name=a/b", "{\"Image\":\"whoami\"}"),
        (
            "/services/create",
            "{\"Mode\":{\"Replicated\":{\"Replicas\":-1}}}",
        ),
        (
            "/services/create",
            "{\"TaskTemplate\":{\"RestartPolicy\":{\"Condition\":\"maybe\"}}}",
        ),
        ("/services/x/update", "{}"),
        ("/swarm/join", "{\"RemoteAddrs\":[\"a\"],\"JoinToken\":\"bad\"}"),
        ("/swarm/init", "{\"Availability\":\"sometimes\"}"),
        ("/containers/x/wait?condition=never", ""),
        ("/containers/x/resize?h=a&w=1", ""),
        ("/containers/x/update", "{\"CpuShares\":-1}"),
        (
            "/containers/x/update",
            "{\"RestartPolicy\":{\"Name\":\"sometimes\"}}",
        ),
        (
            "/containers/create",
            "{\"Image\":\"a\",\"HostConfig\":{\"PidMode\":\"nobodys\"}}",
        ),
        (
            "/containers/create",
            "{\"Image\":\"a\",\"HostConfig\":{\"Runtime\":\"nosuch\"}}",
        ),
        ("/v1.39/swarm/init", "{}"),
        ("/v1.99/swarm/init", "{}"),
        ("/v1..1/swarm/init", "{}"),
    ] {
        let (status, message) = server.failure("POST", path, Some(body)).await;
        assert_eq!(status, 400, "{path}: {message}");
        assert!(!message.is_empty(), "{path}");
    }
    for path in [
        "/containers/json?filters={",
        "/containers/json?filters={\"x\":[\"y\"]}",
        "/containers/json?limit=many",
        "/containers/x/logs",
        "/events?since=yesterday",
        "/tasks?filters={\"desired-state\":[\"happy\"]}",
    ] {
        assert_eq!(server.failure("GET", path, None).await.0, 400, "{path}");
    }
    for (body, words) in [
        ("{", "invalid JSON: unexpected EOF"),
        ("{\"Image\": nope}", "invalid JSON: invalid character 'o'"),
        ("", "invalid JSON: got EOF while reading request body"),
    ] {
        let (_, message) = server.failure("POST", "/containers/create", Some(body)).await;
        assert!(message.starts_with(words), "{body}: {message}");
    }
    assert!(server.raw(b"\x16\x03\x01 not http\r\n\r\n").await.contains("400"));
    let plain = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert!(server.raw(plain).await.contains("must be 'application/json'"));
    assert_eq!(server.request("GET", "/_ping", None).await.0, 200);
}

#[tokio::test]
async fn cluster_calls_outside_a_cluster_get_dockers_words() {
    let server = Running::start().await;
    for path in [
        "/swarm",
        "/nodes",
        "/services",
        "/tasks",
        "/secrets",
        "/configs",
        "/nodes/x",
        "/services/x",
    ] {
        let (status, message) = server.failure("GET", path, None).await;
        assert_eq!(status, 503, "{path}");
        assert_eq!(
            message,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
             node to swarm and try again.",
            "{path}"
        );
    }
}

async fn reads_as<T: DeserializeOwned>(server: &Running, path: &str) -> T {
    let (status, _, body) = server.request("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

#[tokio::test]
async fn answers_fit_dockers_models() {
    use bollard_stubs::models as docker;
    let server = Running::start().await;
    server.request("POST", "/swarm/init", Some("{}")).await;
    let body = r#"{"Image":"whoami","Cmd":["sleep"],"Labels":null,"Entrypoint":null,"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"8080"}]},"RestartPolicy":{"Name":""},"Memory":8388608}}"#;
    assert_eq!(
        server
            .request("POST", "/containers/create?name=web", Some(body))
            .await
            .0,
        201
    );
    let spec = r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"whoami","Healthcheck":{"Test":["CMD","true"],"Interval":1000000000}}},"Mode":{"Replicated":{"Replicas":2}}}"#;
    assert_eq!(
        server.request("POST", "/services/create", Some(spec)).await.0,
        201
    );

    let container: docker::ContainerInspectResponse = reads_as(&server, "/containers/web/json").await;
    assert_eq!(container.name.as_deref(), Some("/web"));
    assert_eq!(container.host_config.unwrap().memory, Some(8 << 20));
    let change = r#"{"Memory":16777216,"MemorySwap":-1,"PidsLimit":7,"RestartPolicy":{"Name":"always"}}"#;
    let (status, _, body) = server
        .request("POST", "/containers/web/update", Some(change))
        .await;
    assert_eq!(status, 200, "{body}");
    let updated: docker::ContainerUpdateResponse = serde_json::from_str(&body).unwrap();
    assert_eq!(updated.warnings.unwrap(), ["a warning"]);
    let container: docker::ContainerInspectResponse = reads_as(&server, "/containers/web/json").await;
    let host = container.host_config.unwrap();
    assert_eq!((host.memory, host.pids_limit), (Some(16 << 20), Some(7)));
    let list: Vec<docker::ContainerSummary> = reads_as(&server, "/containers/json?all=1").await;
    assert_eq!(list[0].ports.as_ref().unwrap()[0].public_port, Some(8080));
    let images: Vec<docker::ImageSummary> = reads_as(&server, "/images/json").await;
    assert_eq!(images[0].containers, 1);
    let image: docker::ImageInspect = reads_as(&server, "/images/whoami/json").await;
    assert_eq!(image.os.as_deref(), Some("linux"));
    let info: docker::SystemInfo = reads_as(&server, "/info").await;
    assert_eq!(info.swarm.unwrap().nodes, Some(1));
    let services: Vec<docker::Service> = reads_as(&server, "/services?status=true").await;
    assert_eq!(
        services[0].service_status.as_ref().unwrap().running_tasks,
        Some(2)
    );
    let tasks: Vec<docker::Task> = reads_as(&server, "/tasks").await;
    assert_eq!(tasks.len(), 2);
    let nodes: Vec<docker::Node> = reads_as(&server, "/nodes").await;
    assert!(nodes[0].manager_status.as_ref().unwrap().leader.unwrap());
    let swarm: docker::Swarm = reads_as(&server, "/swarm").await;
    assert!(
        swarm
            .join_tokens
            .unwrap()
            .manager
            .unwrap()
            .starts_with("SWMTKN-1-")
    );
    let networks: Vec<docker::Network> = reads_as(&server, "/networks").await;
    assert_eq!(networks.len(), 3);
    let (_, _, raw) = server.request("GET", "/services/web", None).await;
    assert!(
        raw.contains("\"Healthcheck\":{\"Test\":[\"CMD\",\"true\"]"),
        "{raw}"
    );
    assert!(
        !server
            .request("GET", "/swarm", None)
            .await
            .2
            .contains("secret key")
    );
}

/// Keys of answers, the first and the last 1.x that has them, from the version history of the Engine API's documentation.
const FIELDS: [(&str, &str, u32, u32); 9] = [
    ("/images/json", "VirtualSize", 40, 43),
    ("/images/whoami/json", "VirtualSize", 40, 43),
    ("/images/whoami/json", "Container", 40, 44),
    ("/images/whoami/json", "Domainname", 40, 49),
    ("/info", "CgroupVersion", 41, 51),
    ("/info", "BridgeNfIptables", 40, 49),
    ("/info", "FirewallBackend", 49, 51),
    ("/networks/bridge", "EnableIPv4", 48, 51),
    ("/services?status=true", "ServiceStatus", 41, 51),
];

#[tokio::test]
async fn fields_follow_the_clients_version() {
    let server = Running::start().await;
    server.request("POST", "/swarm/init", Some("{}")).await;
    let spec = r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"whoami"}}}"#;
    server.request("POST", "/services/create", Some(spec)).await;
    for (path, key, first, last) in FIELDS {
        for version in 40..=51 {
            let (status, _, body) = server.request("GET", &format!("/v1.{version}{path}"), None).await;
            assert_eq!(status, 200, "1.{version} {path}: {body}");
            assert_eq!(
                body.contains(&format!("\"{key}\":")),
                (first..=last).contains(&version),
                "1.{version} {path} {key}: {body}"
            );
        }
    }
    let (_, _, old) = server.request("GET", "/v1.50/images/json", None).await;
    assert!(old.contains("\"Containers\":-1"), "{old}");
}

#[tokio::test]
async fn stopping_ends_streams_and_removes_the_socket() {
    let server = Running::start().await;
    let body = r#"{"Image":"whoami","Cmd":["sleep"]}"#;
    server
        .request("POST", "/containers/create?name=web", Some(body))
        .await;
    server.request("POST", "/containers/web/start", None).await;
    let mut streams = Vec::new();
    for request in [
        "GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /containers/web/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        "POST /containers/web/wait HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(&server.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        // The head comes at once, before there is anything to say.
        let mut first = [0; 12];
        tokio::time::timeout(crate::client::DEADLINE, stream.read_exact(&mut first))
            .await
            .unwrap()
            .unwrap();
        assert!(first == *b"HTTP/1.1 200" || first == *b"HTTP/1.1 101");
        streams.push(stream);
    }
    let started = std::time::Instant::now();
    let socket = server.stop().await;
    assert!(
        started.elapsed() < std::time::Duration::from_secs(5),
        "streams end at once"
    );
    assert!(!socket.exists());
}

/// Sends a request that leaves HTTP, then input, and returns all that comes back.
async fn hijack(server: &Running, request: &str, input: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(&server.socket).await.unwrap();
    // In one piece: what follows the request belongs to the process.
    stream
        .write_all(&[request.as_bytes(), &input[..1]].concat())
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    stream.write_all(&input[1..]).await.unwrap();
    stream.shutdown().await.unwrap();
    let reading = tokio::time::timeout(crate::client::DEADLINE, stream.read_to_end(&mut answer));
    reading.await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn clients_that_ask_for_no_upgrade_get_a_raw_stream_too() {
    let server = Running::start().await;
    let body = r#"{"Image":"whoami","Cmd":["cat"],"OpenStdin":true}"#;
    for (asked, status) in [
        ("", "HTTP/1.1 200 OK\r\n"),
        (
            "Connection: Upgrade\r\nUpgrade: tcp\r\n",
            "HTTP/1.1 101 UPGRADED\r\n",
        ),
    ] {
        server
            .request("POST", "/containers/create?name=cat", Some(body))
            .await;
        server.request("POST", "/containers/cat/start", None).await;
        let attach = format!(
            "POST /v1.41/containers/cat/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{asked}\r\n"
        );
        let answer = hijack(&server, &attach, b"through").await;
        let (head, output) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(status), "{answer}");
        assert!(
            head.contains("content-type: application/vnd.docker.raw-stream"),
            "{answer}"
        );
        assert!(!head.contains("transfer-encoding"), "{answer}");
        // The fake engine writes what it reads in as many frames as reads.
        assert!(
            output.starts_with("\u{1}\0\0\0\0\0\0") && output.ends_with('h'),
            "{answer:?}"
        );
        server.request("DELETE", "/containers/cat?force=1", None).await;

        server
            .request(
                "POST",
                "/containers/create?name=web",
                Some(r#"{"Image":"whoami","Cmd":["sleep"]}"#),
            )
            .await;
        server.request("POST", "/containers/web/start", None).await;
        let exec = r#"{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true,"Tty":true}"#;
        let (_, _, created) = server.request("POST", "/containers/web/exec", Some(exec)).await;
        let id: serde_json::Value = serde_json::from_str(&created).unwrap();
        let start = format!(
            "POST /exec/{}/start HTTP/1.1\r\nHost: x\r\n{asked}Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{{\"Tty\":true}}",
            id["Id"].as_str().unwrap()
        );
        let answer = hijack(&server, &start, b" input").await;
        assert!(answer.starts_with(status), "{answer}");
        assert!(answer.ends_with("\r\n\r\ncat input"), "{answer}");
        server.request("DELETE", "/containers/web?force=1", None).await;
    }
}
