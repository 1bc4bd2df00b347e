//! Domain types as MessagePack with field names.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest packed object that is read from a peer: an assignment set of some ten thousand tasks.
pub const PACKED_BYTES_MAX: usize = 64 << 20;

/// How deep a packed object may nest: a service, the deepest one, takes a tenth of it. The reader calls itself once or more
/// for each level, also for fields that it does not know, and a thread's stack has to hold that.
const DEPTH_MAX: usize = 128;

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
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut reader).map_err(|source| PackError::Decode { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::service::ServiceSpec;
    use muster_types::task::TaskStatus;
    use muster_types::{NodeId, TaskId};
    use proptest::prelude::*;

    /// A byte that opens a list of one, and one that opens a map of one.
    const NESTS: [u8; 2] = [0x91, 0x81];

    fn unpack_all(bytes: &[u8]) {
        let _ = unpack::<ServiceSpec>(bytes);
        let _ = unpack::<Vec<(TaskId, TaskStatus)>>(bytes);
        let _ = unpack::<NodeId>(bytes);
    }

    #[test]
    fn bytes_that_nest_without_end_are_refused() {
        // In the value of a field that nobody knows: it is skipped, and so read all the same.
        let unknown = [&[0x81, 0xa3][..], b"new"].concat();
        for nest in NESTS {
            let bytes = [&unknown[..], &vec![nest; 1 << 20]].concat();
            unpack::<ServiceSpec>(&bytes).unwrap_err();
            unpack::<serde::de::IgnoredAny>(&bytes).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn bytes_of_a_peer_that_lies_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            unpack_all(&bytes);
        }

        #[test]
        fn damaged_objects_are_read_or_refused(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut bytes = pack(&ServiceSpec::default()).unwrap().to_vec();
            for (place, value) in damage {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            unpack_all(&bytes);
        }
    }
}
