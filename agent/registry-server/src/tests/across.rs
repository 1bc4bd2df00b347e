//! What a registry says of content that only other nodes have.

use super::{Conduct, cluster};
use futures::future::join_all;
use hyper::{Method, StatusCode};
use muster_images::Digest;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn content_comes_from_the_node_that_has_it() {
    let [a, b] = cluster();
    let digest = a.push_blob("app", &[7; 5000]).await;
    let path = format!("app/blobs/{digest}");
    assert_eq!(b.head(&path).await, StatusCode::OK);
    assert!(!b.images.has_blob(&digest).unwrap());
    let got = b.get(&path).await;
    assert_eq!((got.status, got.body), (StatusCode::OK, Some(vec![7; 5000])));
    assert!(b.images.has_blob(&digest).unwrap());
}

#[tokio::test]
async fn what_was_lost_with_its_node_is_pushed_again() {
    let [a, b] = cluster();
    let content = b"layer";
    let digest = a.push_blob("app", content).await;
    let document = format!(r#"{{"layers":[{{"digest":"{digest}"}}]}}"#);
    let manifest = format!("app/manifests/{}", a.push_manifest("app", &document).await);
    let blob = format!("app/blobs/{digest}");
    for path in [&blob, &manifest] {
        assert_eq!(b.head(path).await, StatusCode::OK);
    }
    a.behaves(Conduct::Down);
    // Clients push what they are told is missing, and nothing else.
    for path in [&blob, &manifest] {
        assert_eq!(b.head(path).await, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(b.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let mount = format!("other/blobs/uploads/?mount={digest}&from=app");
    let mounted = b.ask(Method::POST, &mount, b"").await;
    assert_eq!(mounted.status, StatusCode::ACCEPTED);
    b.push_blob("app", content).await;
    assert_eq!(b.get(&blob).await.body.as_deref(), Some(&content[..]));
    let mounted = b.ask(Method::POST, &mount, b"").await;
    assert_eq!(mounted.status, StatusCode::CREATED);
}

#[tokio::test]
async fn false_content_is_never_given_whole_and_comes_from_another_node_the_next_time() {
    let [a, b, c] = cluster();
    let content = vec![7; 5000];
    let digest = a.push_blob("app", &content).await;
    c.push_blob("app", &content).await;
    a.behaves(Conduct::Lies);
    let path = format!("app/blobs/{digest}");
    // The first to answer is asked first, and as it lied once, last.
    let got = [b.get(&path).await.body, b.get(&path).await.body];
    assert!(got[0].is_none() && got[1].as_ref() == Some(&content));
}

#[tokio::test]
async fn nodes_are_asked_once_for_all_that_wait_for_the_same() {
    let [a, b] = cluster();
    a.push_blob("app", b"layer").await;
    let before = b.asked.load(Ordering::Relaxed);
    let lists = join_all((0..50).map(|_| b.get("app/tags/list"))).await;
    assert!(lists.iter().all(|list| list.status == StatusCode::OK));
    // The first did not wait for what the others ask for.
    assert_eq!(b.asked.load(Ordering::Relaxed) - before, 2);
}

#[tokio::test]
async fn a_node_whose_changes_never_end_is_passed_over() {
    let [a, b, c] = cluster();
    a.push_blob("app", b"layer").await;
    c.behaves(Conduct::Endless);
    assert_eq!(b.get("app/tags/list").await.status, StatusCode::OK);
    assert!(b.asked.load(Ordering::Relaxed) <= 3);
}

/// A manifest that refers to one.
fn referrer(subject: &Digest, number: usize, annotation: &str) -> String {
    format!(
        r#"{{"artifactType":"a/b","subject":{{"digest":"{subject}"}},"annotations":{{"n":"{number}","x":"{annotation}"}}}}"#
    )
}

#[tokio::test]
async fn referrers_with_long_annotations_come_in_several_answers() {
    let [a] = cluster();
    let subject = Digest::of(b"subject");
    let mut pushed = BTreeSet::new();
    for number in 0..5 {
        let document = referrer(&subject, number, &"x".repeat(1_500_000));
        pushed.insert(a.push_manifest("app", &document).await.to_string());
    }
    let mut listed = BTreeSet::new();
    let mut next = Some(format!("app/referrers/{subject}?artifactType=a/b"));
    while let Some(path) = next {
        let answer = a.get(&path).await;
        let body = answer.body.unwrap();
        assert!(body.len() < 5_000_000, "{} bytes", body.len());
        let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
        for manifest in list["manifests"].as_array().unwrap() {
            assert!(listed.insert(manifest["digest"].as_str().unwrap().to_owned()));
        }
        next = answer.next;
    }
    assert_eq!(listed, pushed);
}

#[tokio::test]
async fn referrers_that_cannot_be_read_are_no_sign_that_there_are_no_such_lists() {
    let [a, b] = cluster();
    let subject = Digest::of(b"subject");
    a.push_manifest("app", &referrer(&subject, 0, "")).await;
    let list = format!("app/referrers/{subject}");
    b.get("app/tags/list").await;
    a.behaves(Conduct::Down);
    assert_eq!(b.get(&list).await.status, StatusCode::SERVICE_UNAVAILABLE);
    a.behaves(Conduct::Honest);
    assert_eq!(b.get(&list).await.status, StatusCode::OK);
}
