//! Domain types as MessagePack with field names.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest packed object that is read from a peer: an assignment set of some ten thousand tasks.
pub const PACKED_BYTES_MAX: usize = 64 << 20;

/// A domain object could not be packed or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The object cannot be expressed.
    #[error("cannot encode {what}")]
    Encode {
        /// Type name.
        what: &'static str,
        /// Cause.
        #[source]
        source: rmp_serde::encode::Error,
    },
    /// The bytes are not such an object.
    #[error("cannot decode {what}")]
    Decode {
        /// Type name.
        what: &'static str,
        /// Cause.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// The bytes are more than any such object has.
    #[error("{what} of {bytes} bytes is over the limit of {PACKED_BYTES_MAX}")]
    TooLarge {
        /// Type name.
        what: &'static str,
        /// Size.
        bytes: usize,
    },
}

/// Packs an object.
pub fn pack<T: Serialize>(value: &T) -> Result<Bytes, PackError> {
    rmp_serde::to_vec_named(value)
        .map(Bytes::from)
        .map_err(|source| PackError::Encode {
            what: std::any::type_name::<T>(),
            source,
        })
}

/// Reads an object from a peer's bytes.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PackError> {
    let what = std::any::type_name::<T>();
    if bytes.len() > PACKED_BYTES_MAX {
        return Err(PackError::TooLarge {
            what,
            bytes: bytes.len(),
        });
    }
    rmp_serde::from_slice(bytes).map_err(|source| PackError::Decode { what, source })
}
