//! API versions: the range that is served, and the `/v{N}` prefix.

use super::Failure;
use std::fmt;

/// An API version, for example 1.50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ApiVersion {
    /// Always 1 so far.
    pub major: u32,
    /// Counts up with each release.
    pub minor: u32,
}

impl ApiVersion {
    /// Version 1.`minor`.
    pub const fn minor(minor: u32) -> Self {
        Self { major: 1, minor }
    }
}

/// Oldest version served: what current Docker clients still speak.
pub(crate) const MIN_VERSION: ApiVersion = ApiVersion::minor(40);
/// Newest version served: every change up to it is implemented for the endpoints that exist.
pub(crate) const MAX_VERSION: ApiVersion = ApiVersion::minor(51);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn parse(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    Some(ApiVersion {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// Splits `/v1.50/info` into its version and `/info`. Without a prefix the newest version is meant.
pub(crate) fn split_version(path: &str) -> Result<(ApiVersion, &str), Failure> {
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok((MAX_VERSION, path));
    };
    let (text, rest) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        // Not a version: `/volumes`, `/version`.
        return Ok((MAX_VERSION, path));
    }
    let version = parse(text).ok_or_else(|| {
        Failure::invalid(format!(
            "invalid API version {text:?}: use a version such as {MAX_VERSION}"
        ))
    })?;
    if version < MIN_VERSION {
        return Err(Failure::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_VERSION}, please upgrade your \
             client to a newer version"
        )));
    }
    if version > MAX_VERSION {
        return Err(Failure::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {MAX_VERSION}"
        )));
    }
    Ok((version, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_split_off() {
        assert_eq!(split_version("/info"), Ok((MAX_VERSION, "/info")));
        assert_eq!(split_version("/v1.41/info"), Ok((ApiVersion::minor(41), "/info")));
        assert_eq!(split_version("/version"), Ok((MAX_VERSION, "/version")));
        assert_eq!(split_version("/volumes"), Ok((MAX_VERSION, "/volumes")));
        assert_eq!(split_version("/v1.40"), Ok((MIN_VERSION, "")));
    }

    #[test]
    fn versions_out_of_range_get_dockers_words() {
        let message = |path| split_version(path).unwrap_err().message;
        assert_eq!(
            message("/v1.39/info"),
            "client version 1.39 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"
        );
        assert_eq!(
            message("/v1.99/info"),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            message("/v2/info"),
            "client version 2 is too new. Maximum supported API version is 1.51"
        );
        for bad in ["/v1..2/x", "/v./x", "/v99999999999.1/x", "/v1.2.3/x"] {
            assert!(message(bad).starts_with("invalid API version"), "{bad}");
        }
    }
}
