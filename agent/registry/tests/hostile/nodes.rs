//! Images whose layers only other nodes have.

use super::content::{Content, Place};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use muster_images::{BlobDescriptor, ComingImage, Digest, Reference, RemoteDocument};
use muster_registry::sources::Rate;
use muster_registry::{Error, PeerBlob, Peers, Pieces, Registries, RegistrySettings};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The other nodes.
#[derive(Clone, Default)]
struct Nodes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What they give.
    blobs: HashMap<Digest, Bytes>,
    /// The sizes that they tell of contents, each time when they are asked.
    sizes: HashMap<Digest, Vec<Vec<u64>>>,
    opened: Vec<BlobDescriptor>,
}

impl Nodes {
    fn opened(&self) -> Vec<BlobDescriptor> {
        std::mem::take(&mut self.0.lock().unwrap().opened)
    }
}

impl Peers for Nodes {
    fn begin(&self, blob: &BlobDescriptor, _: Option<&str>) -> Box<dyn PeerBlob> {
        Box::new(Coming(self.clone(), *blob))
    }

    fn content<'a>(
        &'a self,
        _: &'a BlobDescriptor,
        of: &'a Digest,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<u64>> {
        let mut state = self.0.lock().unwrap();
        let told = state.sizes.get_mut(of).map(|told| match told.len() {
            0 | 1 => told.first().cloned().unwrap_or_default(),
            _ => told.remove(0),
        });
        Box::pin(async move { told.unwrap_or_default() })
    }

    fn distrust(&self, _: &[Digest]) -> bool {
        false
    }
}

struct Coming(Nodes, BlobDescriptor);

impl PeerBlob for Coming {
    fn open(&mut self, from: u64, _: Option<Rate>) -> BoxFuture<'_, Option<Pieces>> {
        let Coming(nodes, blob) = self;
        let mut state = nodes.0.lock().unwrap();
        state.opened.push(*blob);
        let given = state.blobs.get(&blob.digest);
        let given = given.filter(|bytes| bytes.len() as u64 == blob.bytes);
        let rest = given.map(|bytes| bytes.slice(usize::try_from(from).unwrap()..));
        Box::pin(async move { rest.map(|rest| stream::iter([Ok(rest)]).boxed()) })
    }

    fn registry_brought(&mut self, _: u64, _: Duration) {}

    fn verified(&mut self) {}
}

/// Fetches the image as a node does whose registry is out of reach.
async fn fetch(place: &Place, content: &Content, nodes: &Nodes) -> Result<Digest, Error> {
    let RemoteDocument::Image(image) = RemoteDocument::parse(&content.manifest, "the manifest").unwrap()
    else {
        panic!("an image is made")
    };
    let manifest = Digest::of(&content.manifest);
    let lease = place.store.lease([manifest, image.config.digest]);
    let config = content.blobs[&image.config.digest].as_slice();
    place
        .store
        .import_blob(&image.config.digest, None, config)
        .unwrap();
    place
        .store
        .import_blob(&manifest, None, content.manifest.as_slice())
        .unwrap();
    let coming = ComingImage {
        manifest,
        index: None,
        references: vec![Reference::parse("app:1").unwrap()],
    };
    let registries = Registries::new(RegistrySettings::default()).with_peers(Arc::new(nodes.clone()));
    registries
        .assemble_from_peers(&place.store, coming, image, lease)
        .await
}

fn two() -> [Content; 2] {
    [Content::new(300_000), Content::new(200_000)]
}

fn bytes(content: &Content) -> Bytes {
    content.blobs[&content.layer].clone().into()
}

fn size(content: &Content) -> u64 {
    bytes(content).len() as u64
}

/// An image whose top layer is compressed; what that would be nobody has.
fn with_compressed(low: &Content, high: &Content) -> (Content, Digest) {
    let compressed = Digest::of(b"compressed");
    let called = [(low.layer, size(low)), (compressed, 1000)];
    (Content::of_two(low, high, called), compressed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_broke_off_is_gone_on_with_and_only_the_rest_is_fetched() {
    let [low, high] = two();
    let image = Content::of_two(
        &low,
        &high,
        [&low, &high].map(|content| (content.layer, size(content))),
    );
    let (place, nodes) = (Place::new(), Nodes::default());
    nodes.0.lock().unwrap().blobs.insert(low.layer, bytes(&low));
    let error = fetch(&place, &image, &nodes).await.unwrap_err();
    assert!(matches!(error, Error::NoPeer { .. }), "{error}");
    assert!(place.store.list().unwrap().is_empty());
    let of_low = nodes.opened().into_iter().filter(|blob| blob.digest == low.layer);
    assert_eq!(of_low.count(), 1, "it is fetched again at once");
    nodes.0.lock().unwrap().blobs.insert(high.layer, bytes(&high));
    fetch(&place, &image, &nodes).await.unwrap();
    let opened: Vec<Digest> = nodes.opened().iter().map(|blob| blob.digest).collect();
    assert_eq!(opened, [high.layer]);

    // What nobody goes on with is deleted.
    let (place, nodes) = (Place::new(), Nodes::default());
    nodes.0.lock().unwrap().blobs.insert(low.layer, bytes(&low));
    fetch(&place, &image, &nodes).await.unwrap_err();
    place.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_fetched_when_those_with_the_blob_are_gone() {
    let [low, high] = two();
    let (image, compressed) = with_compressed(&low, &high);
    let (place, nodes) = (Place::new(), Nodes::default());
    {
        let mut state = nodes.0.lock().unwrap();
        state
            .blobs
            .extend([(low.layer, bytes(&low)), (high.layer, bytes(&high))]);
        // At first somebody has the blob.
        state.sizes.insert(high.layer, vec![vec![], vec![size(&high)]]);
    }
    fetch(&place, &image, &nodes).await.unwrap();
    let opened: Vec<Digest> = nodes.opened().iter().map(|blob| blob.digest).collect();
    assert!(opened.contains(&compressed));
    assert_eq!(opened.iter().filter(|digest| **digest == low.layer).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_size_of_one_node_keeps_nobody_from_the_content() {
    let [low, high] = two();
    let (image, _) = with_compressed(&low, &high);
    for wrong in [1, size(&high) + 1, 1 << 60] {
        for told in [[wrong, size(&high)], [size(&high), wrong]] {
            let (place, nodes) = (Place::new(), Nodes::default());
            {
                let mut state = nodes.0.lock().unwrap();
                state
                    .blobs
                    .extend([(low.layer, bytes(&low)), (high.layer, bytes(&high))]);
                state.sizes.insert(high.layer, vec![told.to_vec()]);
            }
            fetch(&place, &image, &nodes).await.unwrap();
        }
    }
}
