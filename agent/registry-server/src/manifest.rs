//! What a pushed manifest says, whatever its media type: what it is made of, and what it refers to.

use crate::failure::{Code, Failure};
use muster_images::repository::ContentDigest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media type of an answer with a list of manifests.
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's first format, whose digests are those of a part of the text.
const SCHEMA_1_TYPE: &str = "application/vnd.docker.distribution.manifest.v1+";
/// Longest media type, both parts with their slash.
const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// Most blobs and manifests that one manifest names.
const REFERENCES_MAX: usize = 4096;

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// As it was pushed.
    pub media_type: String,
    /// Blobs that must be in the repository.
    pub blobs: Vec<ContentDigest>,
    /// Manifests that it lists. They may be missing: an index may be pushed with the platforms that one has.
    pub manifests: Vec<ContentDigest>,
    /// The manifest that it refers to, which need not exist.
    pub subject: Option<ContentDigest>,
    /// What it is, for lists of referrers.
    pub artifact_type: Option<String>,
    /// For lists of referrers.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    /// Of artifact manifests, which the specification had for a while.
    #[serde(default)]
    blobs: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Descriptor {
    fn digest(&self) -> Result<ContentDigest, Failure> {
        self.digest.parse().map_err(|error| invalid(format!("{error}")))
    }

    /// Whether clients get it elsewhere, so that it is not pushed.
    fn is_foreign(&self) -> bool {
        let kind = self.media_type.as_deref().unwrap_or_default();
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || kind.contains(".nondistributable.")
            || kind.contains(".layer.foreign.")
            || kind.contains(".rootfs.foreign.")
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::bad_request(
        Code::ManifestInvalid,
        format!("manifest invalid: {}", message.into()),
    )
}

impl Manifest {
    /// Reads a manifest that is pushed with this `Content-Type`. One that could be read as an image and as an index is
    /// refused: clients would not agree what it is.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Manifest, Failure> {
        let said = content_type
            .and_then(|text| text.split(';').next())
            .map(str::trim)
            .filter(|text| !text.is_empty());
        if said.is_some_and(|said| said.starts_with(SCHEMA_1_TYPE)) {
            return Err(invalid(
                "Docker's schema 1 is not supported; push schema 2 or an OCI image",
            ));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        let media_type = match (said, document.media_type) {
            (Some(said), Some(own)) if said != own => {
                return Err(invalid(format!(
                    "it says that it is {own:?}, its Content-Type {said:?}"
                )));
            }
            (Some(said), _) => said.to_owned(),
            (None, Some(own)) => own,
            (None, None) => match document.manifests {
                Some(_) => INDEX_TYPE.to_owned(),
                None => MANIFEST_TYPE.to_owned(),
            },
        };
        let readable =
            media_type.len() <= MEDIA_TYPE_BYTES_MAX && media_type.bytes().all(|b| b.is_ascii_graphic());
        if !readable {
            return Err(invalid("its media type is not one"));
        }
        let is_image = document.config.is_some() || document.layers.is_some() || document.blobs.is_some();
        if is_image && document.manifests.is_some() {
            return Err(invalid("it is both an image and an index"));
        }
        let artifact_type = document.artifact_type.filter(|kind| !kind.is_empty());
        let config_type = document
            .config
            .as_ref()
            .and_then(|config| config.media_type.clone());
        let parts = document.config.iter().chain(document.layers.iter().flatten());
        let parts = parts.chain(document.blobs.iter().flatten());
        let blobs = parts
            .filter(|part| !part.is_foreign())
            .map(Descriptor::digest)
            .collect::<Result<Vec<_>, _>>()?;
        let manifests = document.manifests.iter().flatten();
        let manifests = manifests.map(Descriptor::digest).collect::<Result<Vec<_>, _>>()?;
        if blobs.len() + manifests.len() > REFERENCES_MAX {
            return Err(invalid(format!(
                "it names more than {REFERENCES_MAX} blobs and manifests"
            )));
        }
        Ok(Manifest {
            media_type,
            blobs,
            manifests,
            subject: document.subject.as_ref().map(Descriptor::digest).transpose()?,
            artifact_type: artifact_type.or(config_type.filter(|kind| !kind.is_empty())),
            annotations: document.annotations.unwrap_or_default(),
        })
    }
}

/// One line of a list of referrers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    pub media_type: String,
    pub digest: ContentDigest,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_images::Digest;
    use serde_json::json;

    fn descriptor(text: &str, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": Digest::of(text.as_bytes()).to_string(), "size": 1 })
    }

    fn parse(document: &serde_json::Value, content_type: Option<&str>) -> Result<Manifest, Failure> {
        Manifest::parse(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn an_image_names_its_blobs_and_what_it_is() {
        let document = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("config", "application/example"),
            "layers": [
                descriptor("layer", "application/vnd.oci.image.layer.v1.tar"),
                descriptor("foreign", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
            ],
            "subject": descriptor("subject", MANIFEST_TYPE),
            "annotations": { "a": "b" },
        });
        let read = parse(
            &document,
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        )
        .unwrap();
        assert_eq!(read.media_type, MANIFEST_TYPE);
        assert_eq!(
            read.blobs,
            [Digest::of(b"config").into(), Digest::of(b"layer").into()]
        );
        assert_eq!(read.subject, Some(Digest::of(b"subject").into()));
        assert_eq!(read.artifact_type.as_deref(), Some("application/example"));
        assert_eq!(read.annotations.len(), 1);
    }

    #[test]
    fn indexes_and_documents_of_other_kinds_are_taken() {
        let index = json!({ "manifests": [descriptor("one", MANIFEST_TYPE)], "artifactType": "x/y" });
        let read = parse(&index, None).unwrap();
        assert_eq!((read.media_type.as_str(), read.manifests.len()), (INDEX_TYPE, 1));
        assert_eq!(read.artifact_type.as_deref(), Some("x/y"));
        let other = parse(&json!({ "anything": [1] }), Some("application/vnd.example+json")).unwrap();
        assert_eq!(other.media_type, "application/vnd.example+json");
        assert!(other.blobs.is_empty() && other.artifact_type.is_none());
    }

    #[test]
    fn what_clients_would_not_agree_on_is_refused() {
        let both = json!({ "manifests": [], "config": descriptor("c", "x") });
        let digest = json!({ "config": { "digest": "sha256:0" } });
        let many: Vec<_> = (0..=REFERENCES_MAX)
            .map(|n| descriptor(&n.to_string(), "x"))
            .collect();
        for (document, content_type) in [
            (both, None),
            (digest, None),
            (json!({ "mediaType": "a/b" }), Some("c/d")),
            (json!({ "mediaType": "a\nb" }), None),
            (json!({ "manifests": many }), None),
            (json!([1]), None),
            (
                json!({}),
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            ),
        ] {
            let failure = parse(&document, content_type).unwrap_err();
            assert_eq!(failure.code, Code::ManifestInvalid, "{document}");
        }
        assert!(Manifest::parse(b"{", None).is_err());
    }
}
