//! An image as callers see it.

use std::collections::HashMap;

use oci_spec::image::ImageConfiguration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::digest::{Digest, ImageId};

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration, equal to Docker's.
    pub id: ImageId,
    /// Its names with tags, as users write them, sorted.
    pub repo_tags: Vec<String>,
    /// Its names by manifest digest: one for each repository that names it.
    pub repo_digests: Vec<String>,
    /// When it was made, in seconds since 1970; 0 where it does not say.
    pub created_unix_s: i64,
    /// Bytes of all files in its layers.
    pub size_bytes: u64,
    /// As in Go: `amd64`.
    pub architecture: String,
    /// Always `linux`.
    pub os: String,
    /// The configuration, but for Docker's additions, which [`crate::ImageStore::config_bytes`] has.
    pub config: ImageConfiguration,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The manifest by which other nodes fetch it.
    pub manifest_digest: Digest,
    /// The labels of its configuration.
    pub labels: HashMap<String, String>,
}

/// Seconds since 1970 of an RFC 3339 time, 0 for anything else.
pub(crate) fn unix_seconds(text: Option<&str>) -> i64 {
    text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        .map_or(0, |time| time.unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse_or_are_zero() {
        assert_eq!(unix_seconds(Some("1970-01-02T00:00:00Z")), 86_400);
        assert_eq!(
            unix_seconds(Some("2024-05-18T01:02:03.456789+02:00")),
            1_715_986_923
        );
        assert_eq!(unix_seconds(Some("yesterday")), 0);
        assert_eq!(unix_seconds(None), 0);
    }
}
