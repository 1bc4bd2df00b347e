//! What a path asks for. Names of repositories have slashes, so paths are read from both ends.

use crate::failure::{Code, Failure};
use muster_images::Reference;
use muster_images::repository::ContentDigest;
use percent_encoding::percent_decode_str;

/// Longest name of a repository: clients allow 255 characters with the registry's host and port before it.
const NAME_BYTES_MAX: usize = 229;

/// A thing of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Whether this is a registry, and the caller is let in.
    Base,
    /// The names of the repositories.
    Catalog,
    /// The tags of a repository.
    Tags { name: String },
    /// A manifest.
    Manifest { name: String, reference: ManifestName },
    /// A blob.
    Blob { name: String, digest: ContentDigest },
    /// Where uploads begin.
    Uploads { name: String },
    /// An upload under way.
    Upload { name: String, id: String },
    /// The manifests that refer to one.
    Referrers { name: String, digest: ContentDigest },
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestName {
    Tag(String),
    Digest(ContentDigest),
}

impl ManifestName {
    /// Reads a tag or a digest; no tag has a colon.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.contains(':') {
            return digest(text).map(ManifestName::Digest);
        }
        match Reference::is_tag(text) {
            true => Ok(ManifestName::Tag(text.to_owned())),
            false => Err(Failure::bad_request(
                Code::ManifestInvalid,
                format!("invalid tag {:?}", shortened(text)),
            )),
        }
    }
}

impl std::fmt::Display for ManifestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ManifestName::Tag(tag) => f.write_str(tag),
            ManifestName::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Reads the path of a request.
pub(crate) fn parse(path: &str) -> Result<Route, Failure> {
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| unknown(path))?;
    let rest = match decoded.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Base),
        Some(rest) => rest.strip_prefix('/').ok_or_else(|| unknown(path))?,
        None => return Err(unknown(path)),
    };
    if rest == "_catalog" {
        return Ok(Route::Catalog);
    }
    if let Some(before) = rest.strip_suffix("/tags/list") {
        let name = name(before)?;
        return Ok(Route::Tags { name });
    }
    let uploads = rest
        .strip_suffix("/blobs/uploads")
        .or_else(|| rest.strip_suffix("/blobs/uploads/"));
    if let Some(before) = uploads {
        let name = name(before)?;
        return Ok(Route::Uploads { name });
    }
    let (before, last) = rest.rsplit_once('/').ok_or_else(|| unknown(path))?;
    if let Some(before) = before.strip_suffix("/blobs/uploads") {
        let (name, id) = (name(before)?, last.to_owned());
        return Ok(Route::Upload { name, id });
    }
    let (before, kind) = before.rsplit_once('/').ok_or_else(|| unknown(path))?;
    let name = || name(before);
    match kind {
        "manifests" => Ok(Route::Manifest {
            name: name()?,
            reference: ManifestName::parse(last)?,
        }),
        "blobs" => Ok(Route::Blob {
            name: name()?,
            digest: digest(last)?,
        }),
        "referrers" => Ok(Route::Referrers {
            name: name()?,
            digest: digest(last)?,
        }),
        _ => Err(unknown(path)),
    }
}

/// Reads the name of a repository.
pub(crate) fn name(text: &str) -> Result<String, Failure> {
    match text.len() <= NAME_BYTES_MAX && Reference::is_path(text) {
        true => Ok(text.to_owned()),
        false => Err(Failure::bad_request(
            Code::NameInvalid,
            format!(
                "invalid repository name {:?}: use lower-case letters, digits and separators, at most {NAME_BYTES_MAX}",
                shortened(text)
            ),
        )),
    }
}

/// Reads a digest.
pub(crate) fn digest(text: &str) -> Result<ContentDigest, Failure> {
    text.parse()
        .map_err(|error: muster_images::repository::ContentDigestError| {
            Failure::bad_request(Code::DigestInvalid, error.to_string())
        })
}

fn unknown(path: &str) -> Failure {
    Failure::not_found(
        Code::Unsupported,
        format!("there is no {:?} here", shortened(path)),
    )
}

fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

/// A request's query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// Most parameters that are read.
const PARAMETERS_MAX: usize = 64;

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Query(
            pairs
                .take(PARAMETERS_MAX)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All values of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Everything after this one.
    pub after: String,
    /// At most so many.
    pub entries_max: usize,
}

impl Page {
    /// Reads `n` and `last`; `limit` is the most that one answer gives.
    pub fn parse(query: &Query, limit: usize) -> Result<Page, Failure> {
        let entries_max = match query.get("n") {
            None | Some("") => limit,
            Some(text) => text.parse::<usize>().map(|n| n.min(limit)).map_err(|_| {
                Failure::bad_request(
                    Code::Unsupported,
                    format!("n is {:?}, not a number of entries", shortened(text)),
                )
            })?,
        };
        Ok(Page {
            after: query.get("last").unwrap_or_default().to_owned(),
            entries_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn paths_are_read_from_both_ends() {
        let name = || "blobs/tags/manifests".to_owned();
        let digest = || DIGEST.parse::<ContentDigest>().unwrap();
        for (path, route) in [
            ("", Route::Base),
            ("/", Route::Base),
            ("/_catalog", Route::Catalog),
            ("/blobs/tags/manifests/tags/list", Route::Tags { name: name() }),
            (
                "/blobs/tags/manifests/blobs/uploads/",
                Route::Uploads { name: name() },
            ),
            (
                "/blobs/tags/manifests/blobs/uploads",
                Route::Uploads { name: name() },
            ),
            (
                "/blobs/tags/manifests/blobs/uploads/12",
                Route::Upload {
                    name: name(),
                    id: "12".to_owned(),
                },
            ),
            (
                &format!("/blobs/tags/manifests/blobs/{DIGEST}"),
                Route::Blob {
                    name: name(),
                    digest: digest(),
                },
            ),
            (
                &format!("/blobs/tags/manifests/manifests/{}", DIGEST.replace(':', "%3A")),
                Route::Manifest {
                    name: name(),
                    reference: ManifestName::Digest(digest()),
                },
            ),
            (
                "/blobs/tags/manifests/manifests/v1.0",
                Route::Manifest {
                    name: name(),
                    reference: ManifestName::Tag("v1.0".to_owned()),
                },
            ),
            (
                &format!("/blobs/tags/manifests/referrers/{DIGEST}"),
                Route::Referrers {
                    name: name(),
                    digest: digest(),
                },
            ),
        ] {
            assert_eq!(parse(&format!("/v2{path}")), Ok(route), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_apart() {
        let long = format!("/v2/{}/tags/list", "a".repeat(NAME_BYTES_MAX + 1));
        for (path, status, code) in [
            ("/", 404, Code::Unsupported),
            ("/v1/a/tags/list", 404, Code::Unsupported),
            ("/v2x", 404, Code::Unsupported),
            ("/v2/a/b/c/d", 404, Code::Unsupported),
            ("/v2/%ff/tags/list", 404, Code::Unsupported),
            ("/v2/A/tags/list", 400, Code::NameInvalid),
            ("/v2/../tags/list", 400, Code::NameInvalid),
            ("/v2/a//b/tags/list", 400, Code::NameInvalid),
            (&long, 400, Code::NameInvalid),
            ("/v2/a/manifests/.x", 400, Code::ManifestInvalid),
            ("/v2/a/manifests/sha256:0", 400, Code::DigestInvalid),
            ("/v2/a/blobs/sha256:0", 400, Code::DigestInvalid),
            ("/v2/a/referrers/x", 400, Code::DigestInvalid),
        ] {
            let failure = parse(path).unwrap_err();
            assert_eq!((failure.status.as_u16(), failure.code), (status, code), "{path}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        let page = |query: &str| Page::parse(&Query::parse(Some(query)), 100);
        let expected = |after: &str, entries_max| {
            Ok(Page {
                after: after.to_owned(),
                entries_max,
            })
        };
        assert_eq!(page(""), expected("", 100));
        assert_eq!(page("n=0&last=a%2Fb"), expected("a/b", 0));
        assert_eq!(page("n=1000"), expected("", 100));
        assert!(page("n=-1").is_err() && page("n=x").is_err());
    }
}
