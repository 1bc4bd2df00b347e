//! Layers from peers, and from the registry where these fail.

use super::content::{Content, Place};
use super::server::{Answer, Server};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use muster_images::{BlobDescriptor, Digest, Reference};
use muster_registry::sources::Rate;
use muster_registry::{PeerBlob, Peers, Pieces, PullRequest, Registries, RegistrySettings};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a peer does when it is asked for the rest of the layer from a byte on.
type Gives = dyn Fn(u64, Option<Rate>) -> Option<Vec<io::Result<Bytes>>> + Send + Sync;

/// One peer, which is asked until it is distrusted.
#[derive(Clone)]
struct Peer {
    gives: Arc<Gives>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    gave: bool,
    distrusted: bool,
    verified: usize,
}

impl Peer {
    fn new(
        gives: impl Fn(u64, Option<Rate>) -> Option<Vec<io::Result<Bytes>>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            gives: Arc::new(gives),
            seen: Arc::default(),
        }
    }

    fn verified(&self) -> usize {
        self.seen.lock().unwrap().verified
    }
}

impl Peers for Peer {
    fn begin(&self, _: &BlobDescriptor, _: Option<&str>) -> Box<dyn PeerBlob> {
        Box::new(self.clone())
    }

    fn content<'a>(
        &'a self,
        _: &'a BlobDescriptor,
        _: &'a Digest,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<u64>> {
        Box::pin(async { Vec::new() })
    }

    fn distrust(&self, _: &[Digest]) -> bool {
        let mut seen = self.seen.lock().unwrap();
        std::mem::replace(&mut seen.distrusted, true) != seen.gave && seen.gave
    }
}

impl PeerBlob for Peer {
    fn open(&mut self, from: u64, registry: Option<Rate>) -> BoxFuture<'_, Option<Pieces>> {
        let mut seen = self.seen.lock().unwrap();
        let pieces = (self.gives)(from, registry).filter(|_| !seen.distrusted);
        seen.gave |= pieces.is_some();
        Box::pin(async move { pieces.map(|pieces| stream::iter(pieces).boxed()) })
    }

    fn registry_brought(&mut self, _: u64, _: Duration) {}

    fn verified(&mut self) {
        self.seen.lock().unwrap().verified += 1;
    }
}

/// Pulls with a peer; returns the client, which knows what came from where.
async fn pull(place: &Place, server: &Server, peer: &Peer) -> Registries {
    let registries = Registries::new(RegistrySettings::default()).with_peers(Arc::new(peer.clone()));
    let request = PullRequest {
        reference: Reference::parse(&format!("{}/app:1", server.name())).unwrap(),
        all_tags: false,
        platform: None,
        credentials: None,
    };
    let mut lines = registries.pull(&place.store, request).await.unwrap();
    while let Some(line) = lines.next().await {
        line.unwrap();
    }
    registries
}

fn ranges(server: &Server, content: &Content) -> Vec<Option<String>> {
    let asked = server.asked_for(&content.layer.to_string());
    asked
        .iter()
        .map(|asked| asked.headers.get("range").cloned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_gives_the_registry_is_not_asked_for() {
    let content = Content::new(300_000);
    let answers = content.clone();
    let server = Server::start(move |asked, _| answers.answer(asked));
    let layer = Bytes::from(content.blobs[&content.layer].clone());
    let bytes = layer.len() as u64;
    // More than all of it is of no use.
    let peer = Peer::new(move |from, _| {
        let from = usize::try_from(from).unwrap();
        Some(vec![Ok(layer.slice(from..)), Ok(Bytes::from_static(b"more"))])
    });
    let place = Place::new();
    let registries = pull(&place, &server, &peer).await;
    assert_eq!(ranges(&server, &content), []);
    assert_eq!(registries.traffic().peer_bytes(), bytes);
    assert_eq!(peer.verified(), 1);
    assert!(place.store.has_blob(&content.layer).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_does_not_give_comes_from_another_and_then_from_the_registry() {
    let content = Content::new(300_000);
    let answers = content.clone();
    let server = Server::start(move |asked, _| answers.answer(asked));
    let layer = Bytes::from(content.blobs[&content.layer].clone());
    let bytes = layer.len() as u64;
    let peer = Peer::new(move |from, _| match from {
        0 => Some(vec![Ok(layer.slice(..1000)), Err(io::Error::other("gone"))]),
        1000 => Some(vec![Ok(layer.slice(1000..3000))]),
        _ => None,
    });
    let registries = pull(&Place::new(), &server, &peer).await;
    assert_eq!(ranges(&server, &content), [Some("bytes=3000-".to_owned())]);
    assert_eq!(registries.traffic().peer_bytes(), 3000);
    // With the configuration.
    assert!(registries.traffic().registry_bytes() > bytes - 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_gives_falsely_is_fetched_again_without_it() {
    for at in [0, 100_000] {
        let content = Content::new(300_000);
        let answers = content.clone();
        let server = Server::start(move |asked, _| answers.answer(asked));
        let mut layer = content.blobs[&content.layer].clone();
        layer[at] ^= 1;
        let layer = Bytes::from(layer);
        let peer = Peer::new(move |from, _| Some(vec![Ok(layer.slice(usize::try_from(from).unwrap()..))]));
        let place = Place::new();
        pull(&place, &server, &peer).await;
        assert_eq!(ranges(&server, &content), [None]);
        assert!(place.store.has_blob(&content.layer).unwrap());
        assert_eq!(place.store.list().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_takes_over_from_a_registry_that_hardly_sends() {
    let content = Content::new(2_000_000);
    let answers = content.clone();
    let name = content.layer.to_string();
    let server = Server::start(move |asked, _| {
        let mut answer: Answer = answers.answer(asked);
        answer.paused_after = asked.path.contains(&name).then_some(500_000);
        answer
    });
    let layer = Bytes::from(content.blobs[&content.layer].clone());
    // It is asked once nothing came for a while, and told how slow the registry is.
    let peer = Peer::new(move |from, registry| {
        let rate = registry?;
        assert!(rate < 500_000, "{rate}");
        Some(vec![Ok(layer.slice(usize::try_from(from).unwrap()..))])
    });
    let registries = pull(&Place::new(), &server, &peer).await;
    assert_eq!(ranges(&server, &content), [None]);
    assert!(registries.traffic().peer_bytes() > 1_000_000);
}
