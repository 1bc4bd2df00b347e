//! Content digests: `sha256:` and 64 hexadecimal digits, the only algorithm the store accepts.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A sha256 digest of content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// An image's identity: the digest of its configuration, as in Docker.
pub type ImageId = Digest;

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: expected \"sha256:\" and 64 lower-case hexadecimal digits")]
pub struct DigestError {
    /// What was given, shortened.
    pub text: String,
}

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest that a hasher found.
    pub(crate) fn from_hash(hash: [u8; 32]) -> Digest {
        Digest(hash)
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve digits, as Docker shortens ids in messages.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Reads the 64 hexadecimal digits alone.
    pub fn from_hex(text: &str) -> Result<Digest, DigestError> {
        let error = || DigestError {
            text: text.chars().take(80).collect(),
        };
        let lower = text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !lower {
            return Err(error());
        }
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| error())?;
        Ok(Digest(bytes))
    }

    /// Of everything that was hashed.
    pub(crate) fn of_hashed(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }

    /// The chain id of a layer: its diff id for the lowest, else a digest over the parent's chain id and it.
    pub fn chain(parent: Option<Digest>, diff_id: Digest) -> Digest {
        match parent {
            None => diff_id,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        }
    }

    /// The chain ids of a stack of layers, lowest first.
    pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
        let mut parent = None;
        diff_ids
            .iter()
            .map(|diff_id| {
                let chain_id = Digest::chain(parent, *diff_id);
                parent = Some(chain_id);
                chain_id
            })
            .collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let hex = text.strip_prefix("sha256:").unwrap_or("");
        Digest::from_hex(hex).map_err(|_| DigestError {
            text: text.chars().take(80).collect(),
        })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of everything that a reader gives.
pub fn digest_of(reader: impl Read) -> io::Result<Digest> {
    let mut hashing = HashingReader::new(reader);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match hashing.read(&mut buffer) {
            Ok(0) => return Ok(hashing.finish().0),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Computes the digest of everything read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        HashingReader {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// The digest and length of what was read.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::of_hashed(self.hasher), self.bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Hashes what is written through it.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        HashingWriter {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// What it wrote to, and the digest and length of what was written.
    pub(crate) fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_and_refuse_other_forms() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>(), Ok(digest));
        assert_eq!(digest.short(), "e3b0c44298fc");
        let upper = text.to_uppercase();
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &text[..70],
            &text[7..],
            upper.as_str(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn chain_ids_follow_the_oci_definition() {
        let layers = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let chain = Digest::chain_ids(&layers);
        assert_eq!(chain[0], layers[0]);
        assert_eq!(
            chain[1],
            Digest::of(format!("{} {}", layers[0], layers[1]).as_bytes())
        );
        assert_eq!(
            chain[2],
            Digest::of(format!("{} {}", chain[1], layers[2]).as_bytes())
        );
    }

    #[test]
    fn hashing_reader_counts_and_hashes() {
        let mut reader = HashingReader::new(&b"hello"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish(), (Digest::of(b"hello"), 5));
    }
}
