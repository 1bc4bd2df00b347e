//! What a registry says of content that only other nodes have.

use super::{Conduct, cluster};
use hyper::{Method, StatusCode};
use muster_images::Digest;

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
    let manifest = format!("app/manifests/{}", Digest::of(document.as_bytes()));
    let pushed = a.ask(Method::PUT, &manifest, document.as_bytes()).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
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
    assert_eq!(b.get(&path).await.body, None);
    assert_eq!(b.get(&path).await.body, Some(content));
}
