//! The JSON documents of images: OCI and Docker manifests, indexes and configurations, parsed from hostile bytes.

use std::collections::BTreeMap;

use oci_spec::image::{ImageConfiguration, Os};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::error::ArchiveError;
use crate::limits::LAYERS_MAX;
use crate::remote::ImagePlatform;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// A reference to content by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

/// What an entry of an index is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An image manifest, as written for images that come without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// A document behind a digest: one image, or a choice of images.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyDocument {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Parses a manifest or an index; one that could be read as both is refused (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Document, ArchiveError> {
        let inconsistent = |problem: &str| {
            Err(ArchiveError::Inconsistent {
                what: what.to_string(),
                problem: problem.to_string(),
            })
        };
        let any: AnyDocument = serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document {
            what: what.to_string(),
            source,
        })?;
        if any.schema_version != 2 {
            return inconsistent("only schema version 2 is supported");
        }
        match (any.config, any.layers, any.manifests) {
            (Some(config), layers, None) => {
                let layers = layers.unwrap_or_default();
                if layers.len() > LAYERS_MAX {
                    return Err(ArchiveError::Limit {
                        what: "the number of layers",
                        limit: LAYERS_MAX as u64,
                    });
                }
                let media_type = any.media_type.unwrap_or_else(|| MANIFEST_TYPE.to_string());
                Ok(Document::Manifest(Manifest {
                    schema_version: 2,
                    media_type,
                    config,
                    layers,
                }))
            }
            (None, None, Some(manifests)) => Ok(Document::Index(manifests)),
            (None, None, None) => inconsistent("neither an image manifest nor an index"),
            _ => inconsistent("both an image manifest and an index"),
        }
    }
}

impl Manifest {
    /// The manifest of an image with another configuration and perhaps one more layer.
    pub(crate) fn extended(&self, config: Digest, config_bytes: u64, layer: Option<LayerBlob>) -> Vec<u8> {
        let own = synthesise(config, config_bytes, layer.as_slice());
        let Ok(Document::Manifest(mut manifest)) = Document::parse(&own, "a new manifest") else {
            unreachable!("what is synthesised parses, a test says so");
        };
        manifest.layers.splice(0..0, self.layers.iter().cloned());
        serde_json::to_vec(&manifest).expect("strings, numbers and lists serialise to JSON")
    }
}

/// A layer of an image that came without a manifest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerBlob {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) compression: crate::compression::Compression,
}

fn descriptor(media_type: String, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type,
        digest,
        size,
        annotations: None,
        platform: None,
    }
}

/// The entry of a layer in a manifest.
pub(crate) fn layer_descriptor(layer: &LayerBlob) -> Descriptor {
    use crate::compression::Compression;
    let suffix = match layer.compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    descriptor(format!("{LAYER_TYPE}{suffix}"), layer.digest, layer.bytes)
}

/// The manifest of an image that came without one; the same content gives the same bytes on every node.
pub(crate) fn synthesise(config: Digest, config_bytes: u64, layers: &[LayerBlob]) -> Vec<u8> {
    let layers = layers.iter().map(layer_descriptor);
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_string(),
        config: descriptor(CONFIG_TYPE.to_string(), config, config_bytes),
        layers: layers.collect(),
    };
    serde_json::to_vec(&manifest).expect("strings, numbers and lists serialise to JSON")
}

/// The platforms that this machine runs, the best first.
fn is_native(platform: &Platform) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    // Variants name baselines; v1 of amd64 and v8 of arm64 run everywhere, higher ones perhaps not.
    let variant_runs = matches!(platform.variant.as_deref(), None | Some("" | "v1" | "v8"));
    platform.os == "linux" && platform.architecture == architecture && variant_runs
}

/// Chooses the entry of an index for a platform; a variant counts where one is wanted.
pub(crate) fn choose_for<'a>(
    entries: &'a [Descriptor],
    wanted: &ImagePlatform,
) -> Result<&'a Descriptor, ArchiveError> {
    let fits = |platform: &Platform| {
        let variant = wanted
            .variant
            .as_deref()
            .is_none_or(|variant| platform.variant.as_deref().unwrap_or(variant) == variant);
        platform.os == wanted.os && platform.architecture == wanted.architecture && variant
    };
    let found = entries
        .iter()
        .find(|entry| entry.platform.as_ref().is_some_and(fits));
    found.ok_or_else(|| no_platform(entries, format!("{}/{}", wanted.os, wanted.architecture)))
}

/// Chooses the entry of an index for this machine; an entry without a platform fits every machine.
pub(crate) fn choose(entries: &[Descriptor]) -> Result<&Descriptor, ArchiveError> {
    let native = entries
        .iter()
        .find(|entry| entry.platform.as_ref().is_some_and(is_native));
    let any = || entries.iter().find(|entry| entry.platform.is_none());
    native
        .or_else(any)
        .ok_or_else(|| no_platform(entries, format!("linux/{}", std::env::consts::ARCH)))
}

fn no_platform(entries: &[Descriptor], wanted: String) -> ArchiveError {
    let name = |entry: &Descriptor| {
        entry
            .platform
            .as_ref()
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
    };
    let found: Vec<String> = entries.iter().filter_map(name).take(20).collect();
    ArchiveError::NoPlatform {
        wanted,
        found: found.join(", "),
    }
}

/// Parses an image's configuration and the diff ids of its layers.
pub(crate) fn parse_config(
    id: &ImageId,
    bytes: &[u8],
) -> Result<(ImageConfiguration, Vec<Digest>), ArchiveError> {
    let what = || format!("configuration {id}");
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document { what: what(), source })?;
    if *config.os() != Os::Linux {
        let problem = format!("made for {}, this machine runs linux", config.os());
        return Err(ArchiveError::Inconsistent {
            what: what(),
            problem,
        });
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() > LAYERS_MAX {
        return Err(ArchiveError::Limit {
            what: "the number of layers",
            limit: LAYERS_MAX as u64,
        });
    }
    let parse = |text: &String| {
        text.parse()
            .map_err(|error: crate::digest::DigestError| ArchiveError::Inconsistent {
                what: what(),
                problem: error.to_string(),
            })
    };
    let diff_ids = diff_ids.iter().map(parse).collect::<Result<_, _>>()?;
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        let platform = platform.map(|(os, architecture, variant)| Platform {
            architecture: architecture.to_string(),
            os: os.to_string(),
            variant: variant.map(str::to_string),
        });
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(b"x"),
            size: 1,
            annotations: None,
            platform,
        }
    }

    #[test]
    fn the_native_platform_is_chosen() {
        let native = if std::env::consts::ARCH == "x86_64" {
            "amd64"
        } else {
            "arm64"
        };
        let foreign = if native == "amd64" { "arm64" } else { "amd64" };
        let entries = [
            entry(Some(("unknown", "unknown", None))),
            entry(Some(("windows", native, None))),
            entry(Some(("linux", foreign, None))),
            entry(Some(("linux", native, None))),
        ];
        assert_eq!(choose(&entries).unwrap(), &entries[3]);
        let error = choose(&entries[..3]).unwrap_err().to_string();
        assert!(error.contains("windows/") && error.contains(foreign), "{error}");
        assert!(choose(&[entry(None)]).is_ok());
    }

    #[test]
    fn ambiguous_and_foreign_documents_are_refused() {
        let digest = Digest::of(b"x");
        let descriptor = format!(r#"{{"mediaType":"m","digest":"{digest}","size":1}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]}}"#);
        assert!(matches!(
            Document::parse(manifest.as_bytes(), "m"),
            Ok(Document::Manifest(_))
        ));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}]}}"#);
        assert!(matches!(
            Document::parse(index.as_bytes(), "m"),
            Ok(Document::Index(_))
        ));
        let both = format!(r#"{{"schemaVersion":2,"config":{descriptor},"manifests":[{descriptor}]}}"#);
        let negative = manifest.replace(r#""size":1"#, r#""size":-1"#);
        for bad in [
            both.as_str(),
            "{}",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
            "[]",
            "x",
            &negative,
        ] {
            assert!(Document::parse(bad.as_bytes(), "m").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_synthesised_manifest_is_the_same_every_time_and_parses() {
        let layer = LayerBlob {
            digest: Digest::of(b"l"),
            bytes: 3,
            compression: crate::compression::Compression::Gzip,
        };
        let bytes = synthesise(Digest::of(b"c"), 9, &[layer]);
        assert_eq!(bytes, synthesise(Digest::of(b"c"), 9, &[layer]));
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, "m") else {
            panic!("not a manifest")
        };
        assert_eq!(
            manifest.layers[0].media_type,
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        let expected = Digest::of(&bytes);
        assert_eq!(Digest::of(&serde_json::to_vec(&manifest).unwrap()), expected);
    }

    #[test]
    fn configurations_of_docker_with_nulls_parse() {
        let layer = Digest::of(b"l");
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":null,"Cmd":["sh"],"Volumes":null,
            "Labels":null,"Entrypoint":null,"OnBuild":null,"ExposedPorts":{{"80/tcp":{{}}}},"Healthcheck":null}},
            "rootfs":{{"type":"layers","diff_ids":["{layer}"]}},"docker_version":"1"}}"#
        );
        let (config, diff_ids) = parse_config(&layer, text.as_bytes()).unwrap();
        assert_eq!(diff_ids, [layer]);
        let config = config.config().clone().unwrap();
        assert_eq!(config.exposed_ports().clone().unwrap(), ["80/tcp"]);
        for (from, to) in [("linux", "windows"), ("sha256:", "md5:"), ("\"rootfs\"", "\"r\"")] {
            assert!(
                parse_config(&layer, text.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Document::parse(&bytes, "m");
            let _ = parse_config(&Digest::of(b"x"), &bytes);
        }
    }
}
