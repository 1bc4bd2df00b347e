//! An image that a test's server gives out, and a store to pull it into.

use super::server::{Answer, Asked};
use futures::StreamExt;
use muster_images::{Digest, ImageRecipe, ImageStore, LoadLimits, RecipeSource, Reference};
use muster_registry::{Credentials, Error, Progress, PullRequest, Registries, RegistrySettings};
use std::collections::HashMap;
use std::io::Read;

/// Media type of the image's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Everything that makes up an image.
#[derive(Clone)]
pub struct Content {
    pub manifest: Vec<u8>,
    pub layer: Digest,
    pub blobs: HashMap<Digest, Vec<u8>>,
}

impl Content {
    /// An image with one layer of this many bytes and some.
    pub fn new(layer_bytes: usize) -> Self {
        let place = Place::new();
        let recipe = ImageRecipe {
            reference: "content:1".to_owned(),
            ..ImageRecipe::default()
        };
        let bytes: Vec<u8> = (0..layer_bytes)
            .map(|at| u8::try_from(at * 7 % 251).unwrap())
            .collect();
        let recipe = recipe.with("file", 0o644, RecipeSource::Bytes(bytes));
        let mut archive = Vec::new();
        recipe.write(&mut archive).unwrap();
        place
            .store
            .load(archive.as_slice(), &LoadLimits::default())
            .unwrap();
        let (_, manifest) = place.store.manifest("content:1").unwrap();
        let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let digest = |value: &serde_json::Value| value["digest"].as_str().unwrap().parse::<Digest>().unwrap();
        let layer = digest(&parsed["layers"][0]);
        let mut blobs = HashMap::new();
        for digest in [layer, digest(&parsed["config"])] {
            let mut bytes = Vec::new();
            place
                .store
                .open_blob(&digest)
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            blobs.insert(digest, bytes);
        }
        Self {
            manifest,
            layer,
            blobs,
        }
    }

    /// An image of the layers of two, in their order, whose manifest calls them what it will.
    pub fn of_two(low: &Content, high: &Content, called: [(Digest, u64); 2]) -> Self {
        let config = |content: &Content| -> serde_json::Value {
            let mut blobs = content.blobs.iter();
            let (_, config) = blobs.find(|(digest, _)| **digest != content.layer).unwrap();
            serde_json::from_slice(config).unwrap()
        };
        let mut document = config(low);
        let layer = serde_json::json!(high.layer.to_string());
        document["rootfs"]["diff_ids"].as_array_mut().unwrap().push(layer);
        let step = config(high)["history"][0].clone();
        document["history"].as_array_mut().unwrap().push(step);
        let document = document.to_string().into_bytes();
        let mut manifest: serde_json::Value = serde_json::from_slice(&low.manifest).unwrap();
        manifest["config"]["digest"] = Digest::of(&document).to_string().into();
        manifest["config"]["size"] = document.len().into();
        let layer = |(digest, bytes): (Digest, u64)| {
            let mut layer = manifest["layers"][0].clone();
            layer["digest"] = digest.to_string().into();
            layer["size"] = bytes.into();
            layer
        };
        manifest["layers"] = called.map(layer).to_vec().into();
        let mut blobs = HashMap::from([(Digest::of(&document), document)]);
        for content in [low, high] {
            blobs.insert(content.layer, content.blobs[&content.layer].clone());
        }
        Self {
            manifest: manifest.to_string().into_bytes(),
            layer: low.layer,
            blobs,
        }
    }

    /// What a good registry answers: manifests by any name, blobs from any byte.
    pub fn answer(&self, asked: &Asked) -> Answer {
        if asked.path.contains("/manifests/") {
            return Answer::new(200, self.manifest.clone()).with("Content-Type", MANIFEST);
        }
        let digest = asked
            .path
            .rsplit('/')
            .next()
            .and_then(|text| text.parse::<Digest>().ok());
        let Some(bytes) = digest.and_then(|digest| self.blobs.get(&digest)) else {
            return Answer::new(404, "{}");
        };
        let from = asked.headers.get("range").and_then(|range| {
            let range = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            range.parse::<usize>().ok()
        });
        match from {
            None => Answer::new(200, bytes.clone()),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Answer::new(206, &bytes[from..]).with("Content-Range", &range)
            }
        }
    }
}

/// A store of a test's own.
pub struct Place {
    pub store: ImageStore,
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        // Overlay mounts need a real file system below them.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        Self { store, directory }
    }

    /// Pulls and returns the lines.
    pub async fn pull(&self, name: &str, credentials: Option<Credentials>) -> Result<Vec<Progress>, Error> {
        self.pull_by(RegistrySettings::default(), name, credentials).await
    }

    /// As [`Place::pull`], by a client with these settings.
    pub async fn pull_by(
        &self,
        settings: RegistrySettings,
        name: &str,
        credentials: Option<Credentials>,
    ) -> Result<Vec<Progress>, Error> {
        let registries = Registries::new(settings);
        let request = PullRequest {
            reference: Reference::parse(name).unwrap().with_default_tag(),
            all_tags: false,
            platform: None,
            credentials,
        };
        let mut lines = registries.pull(&self.store, request).await?;
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line?);
        }
        Ok(all)
    }

    /// Nothing of a pull is left: no image, no blob, no layer, no temporary file.
    #[track_caller]
    pub fn assert_empty(&self) {
        self.store.forget_unfinished().unwrap();
        self.store.collect_garbage().unwrap();
        self.store.wait_until_deleted();
        assert!(self.store.list().unwrap().is_empty());
        for below in ["blobs/sha256", "layers", "tmp"] {
            let left: Vec<_> = std::fs::read_dir(self.directory.path().join(below))
                .unwrap()
                .collect();
            assert!(left.is_empty(), "{below}: {left:?}");
        }
    }
}
