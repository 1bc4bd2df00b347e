//! Registries that stop sending, or hardly do.

use crate::content::{Content, Place};
use crate::server::{Answer, Asked, Server};
use futures::TryStreamExt;
use muster_images::Reference;
use muster_registry::{Error, ErrorKind, Patience, Progress, PullRequest, Registries, RegistrySettings};
use std::time::Duration;

/// How long the registry may take in these tests.
const PATIENCE: Duration = Duration::from_millis(300);

fn client() -> Registries {
    Registries::new(RegistrySettings {
        patience: Patience(PATIENCE),
        ..RegistrySettings::default()
    })
}

async fn pull(registries: &Registries, place: &Place, server: &Server) -> Result<Vec<Progress>, Error> {
    let request = PullRequest {
        reference: Reference::parse(&format!("{}/app:1", server.name())).unwrap(),
        all_tags: false,
        platform: None,
        credentials: None,
    };
    registries.pull(&place.store, request).await?.try_collect().await
}

fn server(content: &Content, wrong: impl Fn(&Asked, usize, &mut Answer) + Send + Sync + 'static) -> Server {
    let content = content.clone();
    Server::start(move |asked, before| {
        let mut answer = content.answer(asked);
        wrong(asked, before, &mut answer);
        answer
    })
}

#[tokio::test]
async fn a_registry_that_stops_sending_is_asked_for_the_rest() {
    let content = Content::new(300_000);
    let layer = content.layer.to_string();
    let server = server(&content, move |asked, before, answer| {
        answer.paused_after = (asked.path.contains(&layer) && before == 0).then_some(9_000);
    });
    let place = Place::new();
    pull(&client(), &place, &server).await.unwrap();
    let ranges: Vec<_> = server
        .asked_for(&content.layer.to_string())
        .iter()
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=9000-".to_owned())]);
    assert!(place.store.has_blob(&content.layer).unwrap());
}

#[tokio::test]
async fn a_registry_that_sends_byte_by_byte_is_given_up() {
    let content = Content::new(300_000);
    let layer = content.layer.to_string();
    let server = server(&content, move |asked, _, answer| {
        answer.trickles = asked.path.contains(&layer)
    });
    let place = Place::new();
    let error = pull(&client(), &place, &server).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.full_message());
    assert!(
        server.asked_for(&content.layer.to_string()).len() > 1,
        "it is asked again"
    );
    place.assert_empty();
}

#[tokio::test]
async fn documents_that_do_not_end_are_given_up() {
    for part in ["/manifests/", "/blobs/", "/v2/"] {
        let content = Content::new(1_000);
        let server = server(&content, move |asked, _, answer| {
            answer.paused_after = asked.path.contains(part).then_some(answer.body.len() / 2);
        });
        let place = Place::new();
        let error = pull(&client(), &place, &server).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Unreachable,
            "{part}: {}",
            error.full_message()
        );
        place.assert_empty();
    }
}
