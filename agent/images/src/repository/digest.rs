//! Digests as clients of a registry name content: sha256, or sha512.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha512};

use crate::digest::Digest;

/// Longest digest that is repeated in a message.
const SHOWN_BYTES_MAX: usize = 140;
const BUFFER_BYTES: usize = 256 << 10;

/// A digest of content of a repository. The store knows all content by its sha256; sha512 is another name for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentDigest {
    /// The store's own.
    Sha256(Digest),
    /// 128 lower-case hexadecimal digits.
    Sha512(String),
}

/// A text that is no digest of an algorithm that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: expected sha256: or sha512: and lower-case hexadecimal digits")]
pub struct ContentDigestError {
    text: String,
}

impl ContentDigest {
    /// The digest of everything that `reader` gives, with the algorithm of this one.
    pub(crate) fn of_same_kind(&self, reader: impl Read) -> io::Result<ContentDigest> {
        match self {
            ContentDigest::Sha256(_) => crate::digest::digest_of(reader).map(ContentDigest::Sha256),
            ContentDigest::Sha512(_) => sha512_of(reader).map(ContentDigest::Sha512),
        }
    }

    /// Whether this is the digest of bytes in memory.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.of_same_kind(bytes).is_ok_and(|actual| actual == *self)
    }
}

fn sha512_of(mut reader: impl Read) -> io::Result<String> {
    let mut hasher = Sha512::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hasher.finalize())),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl From<Digest> for ContentDigest {
    fn from(digest: Digest) -> Self {
        ContentDigest::Sha256(digest)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentDigest::Sha256(digest) => digest.fmt(f),
            ContentDigest::Sha512(digits) => write!(f, "sha512:{digits}"),
        }
    }
}

impl FromStr for ContentDigest {
    type Err = ContentDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ContentDigestError {
            text: text.chars().take(SHOWN_BYTES_MAX).collect(),
        };
        match text.strip_prefix("sha512:") {
            None => text.parse().map(ContentDigest::Sha256).map_err(|_| error()),
            Some(digits) => {
                let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                let valid = digits.len() == 128 && digits.bytes().all(is_digit);
                valid
                    .then(|| ContentDigest::Sha512(digits.to_owned()))
                    .ok_or_else(error)
            }
        }
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_are_read_and_computed() {
        let empty = concat!(
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce",
            "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
        );
        let digest: ContentDigest = empty.parse().unwrap();
        assert_eq!(digest.to_string(), empty);
        assert!(digest.is_of(b"") && !digest.is_of(b"x"));
        let other = ContentDigest::from(Digest::of(b"x"));
        assert_eq!(other.to_string().parse(), Ok(other.clone()));
        assert!(other.is_of(b"x"));
        let upper = empty.to_uppercase();
        for bad in [
            "",
            "sha512:",
            "sha256:00",
            &empty[..100],
            "md5:00",
            upper.as_str(),
        ] {
            assert!(bad.parse::<ContentDigest>().is_err(), "{bad}");
        }
    }
}
