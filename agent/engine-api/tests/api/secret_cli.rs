//! Secrets and configs by the real docker CLI.

use crate::client::Running;

#[tokio::test]
async fn they_are_made_listed_shown_and_removed() {
    let server = Running::start().await;
    server.docker(&["swarm", "init"]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content");
    std::fs::write(&path, "swordfish").unwrap();
    let path = path.to_str().unwrap();
    for kind in ["secret", "config"] {
        let create = [
            kind,
            "create",
            "--label",
            "tier=front",
            "--template-driver",
            "golang",
            "key",
            path,
        ];
        let id = server.docker(&create).await;
        assert_eq!(
            server.docker(&[kind, "create", "other", path]).await.len(),
            id.len()
        );
        let listed = async |filter: &str| {
            server
                .docker(&[kind, "ls", "--format", "{{.Name}}", "--filter", filter])
                .await
        };
        assert_eq!(listed("name=ke").await.trim(), "key");
        assert_eq!(listed("label=tier=front").await.trim(), "key");
        assert_eq!(listed("label=tier=back").await, "");
        let shown = server.docker(&[kind, "inspect", "--pretty", "key"]).await;
        assert!(
            shown.contains("tier=front") && shown.contains(id.trim()),
            "{shown}"
        );
        assert_eq!(shown.contains("swordfish"), kind == "config", "{shown}");
        let json = server
            .docker(&[kind, "inspect", "--format", "{{json .Spec.Templating}}", "key"])
            .await;
        assert!(json.contains("golang"), "{json}");
        server.docker(&[kind, "rm", "key", "other"]).await;
        let gone = server.docker_fails(&[kind, "inspect", "key"]).await;
        assert!(gone.contains(&format!("{kind} key not found")), "{gone}");
    }
}

#[tokio::test]
async fn malformed_requests_get_dockers_words() {
    let server = Running::start().await;
    server.docker(&["swarm", "init"]).await;
    for (path, body, status, words) in [
        (
            "/secrets/create",
            r#"{"Name":"x","Data":"%%"}"#,
            400,
            "illegal base64 data",
        ),
        (
            "/secrets/create",
            r#"{"Name":"x","Driver":{}}"#,
            400,
            "secret driver must have a name",
        ),
        (
            "/secrets/create",
            r#"{"Name":"x","Driver":{"Name":"v"}}"#,
            500,
            "plugin \"v\" not found",
        ),
        (
            "/configs/none/update?version=1",
            "{}",
            404,
            "config none not found",
        ),
        ("/secrets/none/update", "{}", 400, "invalid secret version"),
    ] {
        let (found, message) = server.failure("POST", path, Some(body)).await;
        assert_eq!(found, status, "{path} {body}: {message}");
        assert!(message.contains(words), "{path} {body}: {message}");
    }
    let (status, message) = server
        .failure("GET", "/configs?filters=%7B%22names%22%3A%5B%22x%22%5D%7D", None)
        .await;
    assert_eq!((status, message.as_str()), (400, "invalid filter 'names'"));
}
