//! Typed identifiers. Cluster objects have 128-bit ids, written as 25 base-36 characters as SwarmKit does.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::str::FromStr;

/// Characters of a written id: 36^25 is the smallest power that holds 128 bits.
const ID_CHARS: usize = 25;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: {ID_CHARS} characters of 0-9 and a-z are expected")]
pub struct IdError {
    text: String,
}

fn write_base36(mut value: u128) -> [u8; ID_CHARS] {
    let mut text = [b'0'; ID_CHARS];
    for place in text.iter_mut().rev() {
        *place = DIGITS[(value % 36) as usize];
        value /= 36;
    }
    text
}

fn read_base36(text: &str) -> Option<u128> {
    if text.len() != ID_CHARS {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        value.checked_mul(36)?.checked_add(u128::from(digit))
    })
}

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u128);

        impl $name {
            /// The id with this value.
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// The id's value.
            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = write_base36(self.0);
                f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                read_base36(text).map(Self).ok_or_else(|| IdError { text: text.to_owned() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0.to_be_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    deserializer.deserialize_bytes(SixteenBytes).map(|value| Self(value))
                }
            }
        }
    };
}

struct SixteenBytes;

impl serde::de::Visitor<'_> for SixteenBytes {
    type Value = u128;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("16 bytes of an id")
    }
    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<u128, E> {
        bytes
            .try_into()
            .map(u128::from_be_bytes)
            .map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

object_id!(
    /// A member machine of the cluster.
    NodeId
);
object_id!(
    /// A service.
    ServiceId
);
object_id!(
    /// One task.
    TaskId
);
object_id!(
    /// The cluster itself.
    ClusterId
);
object_id!(
    /// A network of the cluster.
    NetworkId
);
object_id!(
    /// The place of a standalone container in a network of the cluster.
    AttachmentId
);
object_id!(
    /// A secret or a config.
    FileId
);
object_id!(
    /// One control request; a retry carries the same id and applies once.
    RequestId
);
object_id!(
    /// One agent's live session with the dispatcher.
    SessionId
);

/// A controller's identity in the Raft group. Never reused, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RaftId(pub u64);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A container of a local engine: 64 lower-case hexadecimal characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id made of 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads a full id; `None` unless it is 64 hexadecimal characters.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 characters, as clients print it.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a container id has 64 hexadecimal characters")
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where new ids come from. The shell draws from the operating system, the simulator from its seed.
pub trait IdSource {
    /// 128 fresh random bits.
    fn next_u128(&mut self) -> u128;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text_and_bytes() {
        for value in [0, 1, 35, 36, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = TaskId::from_u128(value);
            assert_eq!(id.to_string().len(), 25);
            assert_eq!(id.to_string().parse::<TaskId>(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<TaskId>(&json).unwrap(), id);
            let packed = rmp_serde::to_vec_named(&id).unwrap();
            assert_eq!(rmp_serde::from_slice::<TaskId>(&packed).unwrap(), id);
        }
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "short",
            "ABCDEFGHIJKLMNOPQRSTUVWXY",
            "zzzzzzzzzzzzzzzzzzzzzzzzz",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
        assert!(ContainerId::parse("xyz").is_none());
        let id = ContainerId::from_bytes([7; 32]);
        let packed = rmp_serde::to_vec_named(&id).unwrap();
        assert_eq!(rmp_serde::from_slice::<ContainerId>(&packed).unwrap(), id);
        let short = rmp_serde::to_vec_named("xyz").unwrap();
        assert!(rmp_serde::from_slice::<ContainerId>(&short).is_err());
    }
}
