//! Getting an image from the other nodes of the cluster: its documents from one that has it, then the layers that are
//! missing from any.

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_images::limits::DOCUMENT_BYTES_MAX;
use muster_images::{
    BlobDescriptor, ComingImage, Digest, ImagePlatform, ImageStore, Reference, RemoteDocument, RemoteImage,
};
use muster_proto::node::node_client::NodeClient;
use muster_proto::node::{FetchBlobRequest, FindImageReply, FindImageRequest};
use muster_proto::transport::Dialer;
use muster_registry::Registries;
use std::time::Duration;
use tonic::transport::Channel;

/// A peer that does not say within this whether it has an image is passed over.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);
/// A configuration comes within this.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Most peers that are asked at once: a rollout of an image that no node has asks from every node.
const ASKED_AT_ONCE: usize = 32;
/// Largest answer with a manifest and an index.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// No peer has the image.
#[derive(Debug, thiserror::Error)]
#[error("No such image: {reference} (no node of the cluster has it; load it on one)")]
pub struct Nowhere {
    reference: String,
}

/// The nodes that are asked.
pub struct Peers<'a> {
    /// How they are reached.
    pub dialer: &'a Dialer,
    /// Where.
    pub addresses: &'a [String],
}

type Client = NodeClient<Channel>;

/// Fetches the image of this name, where a platform is wanted the one for it. The error is [`Nowhere`] when no node has
/// it.
pub async fn fetch_image(
    images: &ImageStore,
    registries: &Registries,
    peers: &Peers<'_>,
    reference: &str,
    platform: Option<&ImagePlatform>,
) -> anyhow::Result<()> {
    let mut failure = None;
    for some in peers.addresses.chunks(ASKED_AT_ONCE) {
        let mut asked: FuturesUnordered<_> = some
            .iter()
            .map(|peer| find(peers.dialer, peer, reference, platform))
            .collect();
        while let Some((peer, found)) = asked.next().await {
            let brought = match found {
                Ok(None) => continue,
                Ok(Some((client, found))) => bring(images, registries, client, &found, reference).await,
                Err(error) => Err(error),
            };
            match brought {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::warn!(peer, reference, error = why, "cannot fetch an image from a node");
                    failure = Some(error);
                }
            }
        }
    }
    match failure {
        Some(error) => Err(error.context(format!("cannot fetch image {reference} from the cluster's nodes"))),
        None => Err(anyhow::Error::new(Nowhere {
            reference: reference.to_owned(),
        })),
    }
}

/// What a peer has under a name.
async fn find<'a>(
    dialer: &Dialer,
    peer: &'a str,
    reference: &str,
    platform: Option<&ImagePlatform>,
) -> (&'a str, anyhow::Result<Option<(Client, FindImageReply)>>) {
    let mut client = NodeClient::new(dialer.node(peer)).max_decoding_message_size(ANSWER_BYTES_MAX);
    let (os, architecture, variant) = match platform.cloned() {
        Some(wanted) => (wanted.os, wanted.architecture, wanted.variant.unwrap_or_default()),
        None => Default::default(),
    };
    let request = FindImageRequest {
        reference: reference.to_owned(),
        os,
        architecture,
        variant,
    };
    let found = match tokio::time::timeout(FIND_TIMEOUT, client.find_image(request)).await {
        Err(_) => Err(anyhow::anyhow!("it does not answer")),
        Ok(Err(status)) => Err(anyhow::anyhow!("{}", status.message())),
        Ok(Ok(found)) => Ok(found.into_inner()),
    };
    let found = found.map(|found| (!found.manifest_digest.is_empty()).then_some((client, found)));
    (peer, found)
}

/// The documents of an image, as far as they agree with each other.
struct Documents {
    coming: ComingImage,
    image: RemoteImage,
}

impl Documents {
    /// Reads an answer to a question for this name.
    fn read(images: &ImageStore, found: &FindImageReply, asked: &str) -> anyhow::Result<Self> {
        let manifest = Digest::of(&found.manifest);
        ensure!(
            found.manifest_digest == manifest.to_string(),
            "it sent a manifest with digest {manifest} as {:?}",
            found.manifest_digest
        );
        let RemoteDocument::Image(image) =
            RemoteDocument::parse(&found.manifest, "the manifest that it sent")?
        else {
            anyhow::bail!("it sent an index as a manifest");
        };
        let mut index = None;
        if !found.index.is_empty() {
            let RemoteDocument::Index(document) =
                RemoteDocument::parse(&found.index, "the index that it sent")?
            else {
                anyhow::bail!("it sent a manifest as an index");
            };
            ensure!(document.leads_to(&manifest), "it sent an index of other images");
            index = Some(Digest::of(&found.index));
        }
        let leads = |digest: Digest| digest == manifest || Some(digest) == index;
        let asked = Reference::parse(asked).ok().map(Reference::with_default_tag);
        if let Some(digest) = asked.as_ref().and_then(Reference::digest) {
            ensure!(leads(digest), "it sent another image than {digest}");
        }
        let wanted = |name: &Reference| match name.digest() {
            Some(digest) => leads(digest),
            // Only what was asked for takes a name away from another image.
            None => Some(name) == asked.as_ref() || images.resolve(&name.to_string()).is_err(),
        };
        let named = found
            .references
            .iter()
            .filter_map(|name| Reference::parse(name).ok());
        let references = named.map(Reference::with_default_tag).filter(wanted).collect();
        Ok(Self {
            coming: ComingImage {
                manifest,
                index,
                references,
            },
            image,
        })
    }
}

/// Makes the image that a peer has one of this node.
async fn bring(
    images: &ImageStore,
    registries: &Registries,
    client: Client,
    found: &FindImageReply,
    asked: &str,
) -> anyhow::Result<()> {
    let (store, reply, name) = (images.clone(), found.clone(), asked.to_owned());
    let read = tokio::task::spawn_blocking(move || Documents::read(&store, &reply, &name));
    let Documents { coming, image } = read.await??;
    // Held until the image is recorded, so that no collection takes a blob in between.
    let documents = [coming.manifest, image.config.digest]
        .into_iter()
        .chain(coming.index);
    let lease = images.lease(documents.chain(image.layers.iter().map(|layer| layer.digest)));
    let config = config(images, client, &image.config).await?;
    let (store, reply, named) = (images.clone(), found.clone(), coming.clone());
    let known = tokio::task::spawn_blocking(move || {
        let index = named.index.map(|digest| (digest, reply.index));
        let documents = [(named.manifest, reply.manifest)]
            .into_iter()
            .chain(index)
            .chain(config);
        for (digest, bytes) in documents {
            store.import_blob(&digest, Some(bytes.len() as u64), bytes.as_ref())?;
        }
        store.name_known(&named)
    });
    if known.await??.is_none() {
        registries
            .assemble_from_peers(images, coming, image, lease)
            .await?;
    }
    Ok(())
}

/// The configuration, unless it is stored.
async fn config(
    images: &ImageStore,
    mut client: Client,
    config: &BlobDescriptor,
) -> anyhow::Result<Option<(Digest, bytes::Bytes)>> {
    let (store, digest, size) = (images.clone(), config.digest, config.bytes);
    if tokio::task::spawn_blocking(move || store.has_whole_blob(&digest, size)).await?? {
        return Ok(None);
    }
    ensure!(
        config.bytes <= DOCUMENT_BYTES_MAX,
        "its configuration is too large"
    );
    let request = FetchBlobRequest {
        digest: digest.to_string(),
        offset: 0,
    };
    let fetched = async {
        let mut bytes = bytes::BytesMut::new();
        let mut pieces = client.fetch_blob(request).await?.into_inner();
        while let Some(piece) = pieces.message().await? {
            bytes.extend_from_slice(&piece.data);
            if bytes.len() as u64 > config.bytes {
                break;
            }
        }
        Ok::<_, tonic::Status>(bytes.freeze())
    };
    let fetched = tokio::time::timeout(DOCUMENT_TIMEOUT, fetched).await;
    let bytes = fetched
        .context("its configuration does not come")?
        .map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    Ok(Some((digest, bytes)))
}
