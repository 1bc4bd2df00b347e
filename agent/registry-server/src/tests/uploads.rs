//! Uploads whose client goes away.

use super::cluster;
use crate::answer::RequestBody;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{LOCATION, RANGE};
use hyper::{Method, StatusCode};
use muster_images::Digest;
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

#[tokio::test]
async fn an_upload_goes_on_after_its_client_was_cut_off() {
    let [a] = cluster();
    let begun = a.ask(Method::POST, "app/blobs/uploads/", b"").await;
    let path = begun.headers[LOCATION]
        .to_str()
        .unwrap()
        .strip_prefix("/v2/")
        .unwrap();
    let taken = Arc::new(Notify::new());
    let tell = taken.clone();
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
    // Asked for more means that the piece before was handed on.
    let rest = stream::once(async move {
        tell.notify_one();
        std::future::pending::<io::Result<Frame<Bytes>>>().await
    });
    let body: RequestBody = BodyExt::boxed(StreamBody::new(first.chain(rest)));
    tokio::select! {
        answered = a.send(Method::PATCH, path, body) => panic!("{answered:?}"),
        () = taken.notified() => {}
    }
    // At once: what still writes the first piece is waited for.
    let seen = a.get(path).await;
    assert_eq!(seen.status, StatusCode::NO_CONTENT);
    assert_eq!(seen.headers[RANGE], "0-4");
    let digest = Digest::of(b"first and second");
    let done = a
        .ask(Method::PUT, &format!("{path}?digest={digest}"), b" and second")
        .await;
    assert_eq!(done.status, StatusCode::CREATED, "{done:?}");
    assert!(a.images.has_blob(&digest).unwrap());
}
