//! Reading of one repository: manifests, blobs, tags and referrers (OCI distribution specification 1.1).

use crate::error::{Error, Result, shown};
use crate::session::{Ask, Session, header};
use crate::transport::read_document;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LINK, RANGE};
use hyper::{Method, Response, StatusCode};
use muster_images::Digest;
use muster_images::limits::DOCUMENT_BYTES_MAX;
use serde::Deserialize;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Manifests that can be used, the preferred ones first.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Types that say nothing; the document itself does.
const VAGUE_TYPES: [&str; 4] = ["", "application/json", "application/octet-stream", "text/plain"];
const SCHEMA_1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1";
/// Most tags that are read of a repository.
const TAGS_MAX: usize = 10_000;
/// Most pages of a list: an endless one ends.
const PAGES_MAX: usize = 200;

/// A repository of an endpoint.
pub(crate) struct Repository<'a> {
    pub session: &'a Session,
    /// Its path, `library/busybox`.
    pub path: &'a str,
    pub scopes: &'a [String],
}

/// A manifest or index, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub bytes: Bytes,
    pub digest: Digest,
    pub media_type: String,
}

/// The scope that reading a repository needs.
pub(crate) fn pull_scope(path: &str) -> String {
    format!("repository:{path}:pull")
}

/// What a fetched manifest says of itself, as far as it is needed before it is parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

impl Repository<'_> {
    /// The manifest or index of a tag or digest; `name` is for messages. It has the digest that was asked for.
    pub async fn manifest(&self, reference: &str, name: &str) -> Result<Fetched> {
        let target = self
            .session
            .target(&format!("/v2/{}/manifests/{reference}", self.path));
        let ask = Ask::new(Method::GET, target).with(ACCEPT, MANIFEST_TYPES.join(", "));
        let (target, response) = self.session.ask(ask, self.scopes).await?;
        let url = target.url();
        let announced = header(&response, &CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let content_type = header(&response, &CONTENT_TYPE).unwrap_or_default();
        let content_type = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let bytes = read_document(
            &url,
            response.into_body(),
            DOCUMENT_BYTES_MAX,
            self.session.patience(),
        )
        .await?;
        let digest = Digest::of(&bytes);
        for expected in reference.parse::<Digest>().ok().into_iter().chain(announced) {
            if expected != digest {
                return Err(Error::protocol(
                    &url,
                    format!("it has digest {digest}, expected {expected}"),
                ));
            }
        }
        let media_type = media_type(&url, &content_type, &bytes, name)?;
        Ok(Fetched {
            bytes,
            digest,
            media_type,
        })
    }

    /// A blob from this byte on. A registry that begins at another one is refused; one that sends all of it again is
    /// told by the answer's status.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<(String, Response<Incoming>)> {
        let target = self.session.target(&format!("/v2/{}/blobs/{digest}", self.path));
        let mut ask = Ask::new(Method::GET, target);
        if from > 0 {
            ask = ask.with(RANGE, format!("bytes={from}-"));
        }
        let (target, response) = self.session.ask(ask, self.scopes).await?;
        let url = shown(&target.url());
        let begins = header(&response, &CONTENT_RANGE).and_then(range_begin);
        match (response.status(), begins) {
            (StatusCode::OK, _) => Ok((url, response)),
            (StatusCode::PARTIAL_CONTENT, Some(begins)) if begins == from => Ok((url, response)),
            (status, _) => Err(Error::protocol(
                &url,
                format!("it answered {status} and another range than from byte {from}"),
            )),
        }
    }

    /// A small blob, whole; its digest is checked.
    pub async fn small_blob(&self, digest: &Digest, bytes_max: u64) -> Result<Bytes> {
        let (url, response) = self.blob(digest, 0).await?;
        let bytes = read_document(&url, response.into_body(), bytes_max, self.session.patience()).await?;
        let actual = Digest::of(&bytes);
        match actual == *digest {
            true => Ok(bytes),
            false => Err(Error::protocol(
                &url,
                format!("it has digest {actual}, expected {digest}"),
            )),
        }
    }

    /// All tags.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let mut target = self.session.target(&format!("/v2/{}/tags/list", self.path));
        let mut tags = Vec::new();
        for _ in 0..PAGES_MAX {
            let (answered, response) = self
                .session
                .ask(Ask::new(Method::GET, target), self.scopes)
                .await?;
            let url = answered.url();
            let next = header(&response, &LINK).and_then(next_page).map(str::to_owned);
            let bytes = read_document(
                &url,
                response.into_body(),
                DOCUMENT_BYTES_MAX,
                self.session.patience(),
            )
            .await?;
            let list: TagList = serde_json::from_slice(&bytes)
                .map_err(|error| Error::protocol(&url, format!("it is no list of tags: {error}")))?;
            tags.extend(list.tags.unwrap_or_default());
            if tags.len() > TAGS_MAX {
                return Err(Error::protocol(
                    &url,
                    format!("it lists more than {TAGS_MAX} tags"),
                ));
            }
            match next {
                Some(next) => target = self.session.follow(&answered, &next)?,
                None => return Ok(tags),
            }
        }
        Err(Error::protocol(self.path, "its list of tags does not end"))
    }
}

/// What the document is; a type that does not fit it, or none of an image, is refused.
fn media_type(url: &str, content_type: &str, bytes: &[u8], name: &str) -> Result<String> {
    let schema1 = || Error::Schema1 {
        reference: name.to_owned(),
    };
    if content_type.starts_with(SCHEMA_1_PREFIX) {
        return Err(schema1());
    }
    let known = |media_type: &str| MANIFEST_TYPES.contains(&media_type);
    if !known(content_type) && !VAGUE_TYPES.contains(&content_type) {
        let content_type = crate::error::clean(content_type);
        return Err(Error::protocol(
            url,
            format!("a manifest has no content type {content_type:?}"),
        ));
    }
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|error| Error::protocol(url, format!("it is no manifest: {error}")))?;
    if head.schema_version == 1 {
        return Err(schema1());
    }
    match head.media_type {
        Some(own) if known(&own) && known(content_type) && own != content_type => Err(Error::protocol(
            url,
            format!("it says it is {own}, the registry says {content_type}"),
        )),
        Some(own) if known(&own) => Ok(own),
        _ => Ok(content_type.to_owned()),
    }
}

/// The first byte of `bytes 5-9/10`.
fn range_begin(text: &str) -> Option<u64> {
    text.strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// The next page of `<url>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (url, relation) = link.strip_prefix('<')?.split_once('>')?;
    relation.contains("next").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_images_and_agree() {
        let oci = MANIFEST_TYPES[2];
        let read = |content_type: &str, body: &str| media_type("u", content_type, body.as_bytes(), "app:1");
        let plain = r#"{"schemaVersion":2}"#;
        assert_eq!(read(oci, plain).unwrap(), oci);
        let own = format!(r#"{{"schemaVersion":2,"mediaType":"{oci}"}}"#);
        assert_eq!(read("application/json", &own).unwrap(), oci);
        assert!(matches!(
            read(MANIFEST_TYPES[0], &own),
            Err(Error::Protocol { .. })
        ));
        assert!(matches!(read("text/html", plain), Err(Error::Protocol { .. })));
        assert!(matches!(read(oci, "<html>"), Err(Error::Protocol { .. })));
        for (content_type, body) in [
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", "x"),
            ("application/json", r#"{"schemaVersion":1}"#),
        ] {
            let error = read(content_type, body).unwrap_err();
            assert!(
                error.to_string().contains("app:1 is in Docker's image format v1"),
                "{error}"
            );
        }
    }

    #[test]
    fn ranges_and_pages_are_read() {
        assert_eq!(range_begin("bytes 5-9/10"), Some(5));
        assert_eq!(range_begin("bytes */10"), None);
        assert_eq!(
            next_page("</v2/a/tags/list?last=x>; rel=\"next\""),
            Some("/v2/a/tags/list?last=x")
        );
        assert_eq!(next_page("</x>; rel=\"prev\""), None);
    }
}
