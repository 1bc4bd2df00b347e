//! Pulls from servers that err, lie and break off. Needs root, as the store does.

mod content;
mod nodes;
mod peers;
mod server;
mod slow;

use content::{Content, INDEX, MANIFEST, Place};
use futures::StreamExt;
use muster_images::{Digest, Reference};
use muster_registry::{Credentials, ErrorKind, Mirror, Progress, PullRequest, Registries, RegistrySettings};
use server::{Answer, Server};

fn password() -> Option<Credentials> {
    Some(Credentials::Password {
        user: "alice".to_owned(),
        password: "secret".to_owned(),
    })
}

/// A server that answers well but for what `wrong` answers.
fn almost(
    content: &Content,
    wrong: impl Fn(&server::Asked, usize, Answer) -> Answer + Send + Sync + 'static,
) -> Server {
    let content = content.clone();
    Server::start(move |asked, before| wrong(asked, before, content.answer(asked)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_the_lines_are_dockers() {
    let content = Content::new(300_000);
    let server = almost(&content, |_, _, answer| answer);
    let place = Place::new();
    let name = format!("{}/app:1", server.name());
    let lines = place.pull(&name, None).await.unwrap();
    let layer = content.layer.short();
    let of_layer: Vec<String> = lines
        .iter()
        .filter_map(|line| match line {
            Progress::Of { id, status, .. }
                if *id == layer && status != "Downloading" && status != "Extracting" =>
            {
                Some(status.clone())
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        of_layer,
        [
            "Pulling fs layer",
            "Verifying Checksum",
            "Download complete",
            "Pull complete"
        ]
    );
    let digest = Digest::of(&content.manifest);
    let image = place.store.resolve(&name).unwrap();
    assert_eq!(image.repo_digests, [format!("{}/app@{digest}", server.name())]);
    let again = place.pull(&name, None).await.unwrap();
    assert_eq!(
        again.last(),
        Some(&Progress::Status(format!(
            "Status: Image is up to date for {name}"
        )))
    );
    assert_eq!(server.asked_for("/blobs/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_goes_on_where_it_was() {
    let content = Content::new(500_000);
    let layer = content.layer.to_string();
    let server = almost(&content, move |asked, before, mut answer| {
        if asked.path.contains(&layer) {
            answer.cut_after = [Some(200_000), Some(100_000)].get(before).copied().flatten();
        }
        answer
    });
    let place = Place::new();
    place
        .pull(&format!("{}/app:1", server.name()), None)
        .await
        .unwrap();
    let asked = server.asked_for(&content.layer.to_string());
    let ranges: Vec<_> = asked
        .iter()
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=200000-".to_owned()),
            Some("bytes=300000-".to_owned())
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_begins_anew() {
    let content = Content::new(400_000);
    let whole = content.blobs[&content.layer].clone();
    let layer = content.layer.to_string();
    let server = almost(&content, move |asked, before, answer| {
        if !asked.path.contains(&layer) {
            return answer;
        }
        let mut answer = Answer::new(200, whole.clone());
        answer.cut_after = (before == 0).then_some(150_000);
        answer
    });
    Place::new()
        .pull(&format!("{}/app:1", server.name()), None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_asked_again() {
    let content = Content::new(1_000);
    let layer = content.layer.to_string();
    let server = almost(&content, move |asked, before, answer| {
        match asked.path.contains(&layer) && before == 0 {
            true => Answer::new(503, ""),
            false => answer,
        }
    });
    Place::new()
        .pull(&format!("{}/app:1", server.name()), None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn false_answers_are_refused_and_leave_nothing() {
    type Wrong = fn(&server::Asked, Answer) -> Answer;
    let cases: [(&str, Wrong); 8] = [
        ("has digest", |asked, mut answer| {
            if asked.path.contains("/blobs/") && answer.body.len() > 10_000 {
                answer.body[600] ^= 1;
            }
            answer
        }),
        ("more than", |asked, mut answer| {
            if asked.path.contains("/blobs/") {
                answer.body.push(0);
            }
            answer
        }),
        ("more than", |asked, mut answer| {
            answer.endless = asked.path.contains("/manifests/");
            answer
        }),
        ("more than", |asked, mut answer| {
            answer.endless = asked.path.contains("/blobs/");
            answer
        }),
        ("no content type", |_, mut answer| {
            answer.headers = vec![("Content-Type".to_owned(), "text/html".to_owned())];
            answer
        }),
        ("expected sha256:abab", |asked, answer| {
            match asked.path.contains("/manifests/") {
                true => answer.with("Docker-Content-Digest", &format!("sha256:{}", "ab".repeat(32))),
                false => answer,
            }
        }),
        ("no longer supported", |_, _| {
            Answer::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#).with(
                "Content-Type",
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
            )
        }),
        ("too many redirects", |asked, _| {
            Answer::new(307, "").with("Location", &asked.path)
        }),
    ];
    let content = Content::new(100_000);
    for (expected, wrong) in cases {
        let server = almost(&content, move |asked, _, answer| wrong(asked, answer));
        let place = Place::new();
        let refused = place
            .pull(&format!("{}/app:1", server.name()), None)
            .await
            .unwrap_err();
        let message = refused.full_message();
        assert!(message.contains(expected), "{expected}: {message}");
        place.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_lie_are_refused() {
    let content = Content::new(50_000);
    for (change, expected) in [(1_i64, "ended after"), (-1, "more than")] {
        let mut manifest: serde_json::Value = serde_json::from_slice(&content.manifest).unwrap();
        let size = manifest["layers"][0]["size"].as_i64().unwrap();
        manifest["layers"][0]["size"] = (size + change).into();
        let false_content = Content {
            manifest: serde_json::to_vec(&manifest).unwrap(),
            ..content.clone()
        };
        let server = almost(&false_content, |_, _, answer| answer);
        let place = Place::new();
        let refused = place
            .pull(&format!("{}/app:1", server.name()), None)
            .await
            .unwrap_err();
        assert!(
            refused.full_message().contains(expected),
            "{}",
            refused.full_message()
        );
        place.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_the_registry_and_its_token_server() {
    let content = Content::new(10_000);
    let good = content.clone();
    let store = Server::start(move |asked, _| good.answer(asked));
    let tokens = Server::start(|_, _| Answer::new(200, r#"{"token":"given"}"#));
    let (at_store, realm) = (store.name(), tokens.name());
    let server = almost(&content, move |asked, _, answer| {
        match asked.headers.get("authorization").map(String::as_str) {
            Some("Bearer given") if asked.path.contains("/blobs/") => {
                Answer::new(307, "").with("Location", &format!("http://{at_store}{}", asked.path))
            }
            Some("Bearer given") => answer,
            _ => Answer::new(401, "{}").with(
                "WWW-Authenticate",
                &format!(r#"Bearer realm="http://{realm}/token",service="test""#),
            ),
        }
    });
    let place = Place::new();
    place
        .pull(&format!("{}/app:1", server.name()), password())
        .await
        .unwrap();
    assert!(!store.asked().is_empty());
    for asked in store.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
    for asked in server.asked() {
        let shown = asked.headers.get("authorization");
        assert!(shown.is_none_or(|shown| shown == "Bearer given"), "{asked:?}");
    }
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].headers["authorization"].starts_with("Basic "));
    assert!(
        asked[0].path.contains("scope=repository%3Aapp%3Apull"),
        "{}",
        asked[0].path
    );
    // Nobody is asked for a token of somebody.
    let place = Place::new();
    place
        .pull(&format!("{}/app:1", server.name()), None)
        .await
        .unwrap();
    assert!(!tokens.asked()[1].headers.contains_key("authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_learns_nothing_of_who_asks() {
    let content = Content::new(10_000);
    let asks_who = |content: &Content| {
        almost(content, |asked, _, answer| {
            match asked.headers.contains_key("authorization") {
                true => answer,
                false => Answer::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\""),
            }
        })
    };
    let registry = asks_who(&content);
    let name = format!("{}/app:1", registry.name());
    let by = |mirror: &Server| RegistrySettings {
        mirrors: vec![Mirror::parse(&format!("{}=http://{}", registry.name(), mirror.name())).unwrap()],
        ..RegistrySettings::default()
    };
    // One that wants to know who asks is passed over.
    let curious = asks_who(&content);
    Place::new()
        .pull_by(by(&curious), &name, password())
        .await
        .unwrap();
    assert!(!curious.asked().is_empty());
    for asked in curious.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
    let before = registry.asked().len();
    let open = almost(&content, |_, _, answer| answer);
    Place::new().pull_by(by(&open), &name, password()).await.unwrap();
    assert_eq!(registry.asked().len(), before, "the mirror has everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_lacks_the_registry_is_asked_for() {
    let content = Content::new(10_000);
    let layer = content.layer.to_string();
    for lacks in ["/blobs/", layer.as_str()] {
        let registry = almost(&content, |_, _, answer| answer);
        let lacking = lacks.to_owned();
        let mirror = almost(&content, move |asked, _, answer| {
            match asked.path.contains(&lacking) {
                true => Answer::new(404, "{}"),
                false => answer,
            }
        });
        let settings = RegistrySettings {
            mirrors: vec![Mirror::parse(&format!("{}=http://{}", registry.name(), mirror.name())).unwrap()],
            ..RegistrySettings::default()
        };
        let name = format!("{}/app:1", registry.name());
        let place = Place::new();
        place.pull_by(settings.clone(), &name, None).await.unwrap();
        assert!(place.store.resolve(&name).is_ok());
        assert!(!mirror.asked_for(lacks).is_empty() && !registry.asked_for(lacks).is_empty());
        let reference = Reference::parse(&name).unwrap();
        Registries::new(settings).inspect(&reference, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_after_its_last_byte_is_whole() {
    let content = Content::new(10_000);
    let server = almost(&content, |asked, _, mut answer| {
        answer.unended = asked.path.contains("/blobs/");
        answer
    });
    let layer = content.layer.to_string();
    let config = content.blobs.keys().find(|digest| **digest != content.layer);
    let config = config.unwrap().to_string();
    let whole = almost(&content, move |asked, _, mut answer| {
        answer.unended = asked.path.contains(&layer);
        answer
    });
    let place = Place::new();
    place
        .pull(&format!("{}/app:1", whole.name()), None)
        .await
        .unwrap();
    assert_eq!(whole.asked_for(&content.layer.to_string()).len(), 1);
    // A document is not known to be whole; and without a configuration nothing is kept of the others.
    let place = Place::new();
    let name = format!("{}/app:1", server.name());
    place.pull(&name, None).await.unwrap_err();
    assert!(!server.asked_for(&config).is_empty());
    assert_eq!(place.store.disk_usage().unwrap().blob_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_a_given_token_does_not_open_is_denied() {
    let tokens = Server::start(|_, _| Answer::new(200, r#"{"token":"given"}"#));
    let realm = tokens.name();
    let server = Server::start(move |_, _| {
        let challenge =
            format!(r#"Bearer realm="http://{realm}/token",service="test",error="insufficient_scope""#);
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        Answer::new(401, body).with("WWW-Authenticate", &challenge)
    });
    let name = format!("{}/missing", server.name());
    let denied = Place::new().pull(&name, None).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::NotFound);
    let message = format!(
        "pull access denied for {name}, repository does not exist or may require 'docker login': unauthorized: \
         authentication required"
    );
    assert_eq!(denied.to_string(), message);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_no_wrong_password() {
    let tokens = Server::start(|_, _| Answer::new(401, "{}"));
    let realm = tokens.name();
    let server = Server::start(move |_, _| {
        let challenge = format!(r#"Bearer realm="http://{realm}/token",service="test""#);
        Answer::new(401, "{}").with("WWW-Authenticate", &challenge)
    });
    let name = format!("{}/app", server.name());
    for (credentials, told) in [
        (None, "authentication required; use \"docker login\""),
        (password(), "incorrect username or password"),
    ] {
        let refused = Place::new().pull(&name, credentials).await.unwrap_err();
        assert!(refused.to_string().contains(told), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told() {
    let server = Server::start(|_, _| Answer::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\""));
    let place = Place::new();
    let name = format!("{}/app:1", server.name());
    let nobody = place.pull(&name, None).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unauthorized);
    assert!(
        nobody.to_string().contains("no basic auth credentials"),
        "{nobody}"
    );
    let wrong = place.pull(&name, password()).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthorized);
    assert!(!wrong.to_string().contains("secret"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_native_image_is_pulled_and_the_index_is_its_digest() {
    let content = Content::new(1_000);
    let native = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let digest = Digest::of(&content.manifest);
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": Digest::of(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": MANIFEST, "digest": digest, "size": content.manifest.len(), "platform": {"os": "linux", "architecture": native}},
    ]});
    let index = index.to_string().into_bytes();
    let top = Digest::of(&index);
    let server = almost(&content, move |asked, _, answer| {
        match asked.path.ends_with("/manifests/1") {
            true => Answer::new(200, index.clone()).with("Content-Type", INDEX),
            false => answer,
        }
    });
    let place = Place::new();
    let name = format!("{}/app", server.name());
    place.pull(&format!("{name}:1"), None).await.unwrap();
    let image = place.store.resolve(&format!("{name}@{top}")).unwrap();
    assert_eq!(image.manifest_digest, digest);
    assert_eq!(image.repo_digests, [format!("{name}@{top}")]);
    place.store.collect_garbage().unwrap();
    assert!(
        place.store.has_blob(&top).unwrap(),
        "other nodes verify the way from the index"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_reads_ends_and_leaves_nothing() {
    let content = Content::new(400_000);
    let layer = content.layer.to_string();
    let server = almost(&content, move |asked, before, mut answer| {
        if asked.path.contains(&layer) && before < 4 {
            answer.cut_after = Some(50_000);
        }
        answer
    });
    let place = Place::new();
    let name = format!("{}/app:1", server.name());
    let request = PullRequest {
        reference: Reference::parse(&name).unwrap(),
        all_tags: false,
        platform: None,
        credentials: None,
    };
    let registries = Registries::new(RegistrySettings::default());
    let mut lines = registries.pull(&place.store, request).await.unwrap();
    let retrying =
        |line: &Progress| matches!(line, Progress::Of { status, .. } if status.starts_with("Retrying"));
    loop {
        let line = lines.next().await.expect("the pull goes on").unwrap();
        if retrying(&line) {
            break;
        }
    }
    drop(lines);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while place.store.disk_usage().unwrap().blob_bytes > 0 {
        assert!(std::time::Instant::now() < deadline, "the blobs stay");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    place.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_whose_lines_are_not_read_keeps_nobody_waiting() {
    let content = Content::new(100_000);
    let server = almost(&content, |_, _, answer| answer);
    let place = Place::new();
    let name = format!("{}/app:1", server.name());
    let request = PullRequest {
        reference: Reference::parse(&name).unwrap(),
        all_tags: false,
        platform: None,
        credentials: None,
    };
    let registries = Registries::new(RegistrySettings::default());
    let suspended = registries.pull(&place.store, request).await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while place.store.resolve(&name).is_err() {
        assert!(std::time::Instant::now() < deadline, "it waits for its reader");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let lines: Vec<_> = suspended.map(Result::unwrap).collect().await;
    let last = Progress::Status(format!("Status: Downloaded newer image for {name}"));
    assert_eq!(lines.last(), Some(&last));
}
