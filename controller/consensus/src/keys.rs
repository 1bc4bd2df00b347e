//! Encryption at rest: every file has a data key of its own, wrapped by a key-encryption key that can be rotated.

use crate::error::FatalError;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

/// Bytes of an AES-256 key.
pub const KEY_BYTES: usize = 32;
/// Bytes that sealing adds.
pub(crate) const TAG_BYTES: usize = 16;
const KEY_ID_BYTES: usize = 16;
/// Key id, nonce, sealed data key.
pub(crate) const WRAPPED_BYTES: usize = KEY_ID_BYTES + NONCE_LEN + KEY_BYTES + TAG_BYTES;

/// Where random bytes for keys and file ids come from; the simulator gives its own.
pub trait Entropy: Send + Sync {
    /// Fills the buffer with bytes that nobody can predict.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), FatalError>;
}

/// The system's random source.
pub struct SystemEntropy(SystemRandom);

impl SystemEntropy {
    /// Opens the system's random source.
    pub fn new() -> SystemEntropy {
        SystemEntropy(SystemRandom::new())
    }
}

impl Default for SystemEntropy {
    fn default() -> Self {
        SystemEntropy::new()
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), FatalError> {
        self.0.fill(bytes).map_err(|_| FatalError::Entropy)
    }
}

/// Names a key-encryption key: a digest of it, so that a ring cannot be numbered wrongly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyId({self})")
    }
}

#[derive(Clone)]
struct EncryptionKey {
    id: KeyId,
    key: [u8; KEY_BYTES],
}

impl EncryptionKey {
    fn new(key: [u8; KEY_BYTES]) -> EncryptionKey {
        let mut context = Context::new(&SHA256);
        context.update(b"muster raft key encryption key id");
        context.update(&key);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&context.finish().as_ref()[..KEY_ID_BYTES]);
        EncryptionKey { id: KeyId(id), key }
    }
}

/// The key-encryption keys: the current one wraps, the previous ones only unwrap.
#[derive(Clone)]
pub struct KeyRing {
    current: EncryptionKey,
    previous: Vec<EncryptionKey>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "KeyRing(current {}, {} previous)",
            self.current.id,
            self.previous.len()
        )
    }
}

impl KeyRing {
    /// A ring of one key.
    pub fn new(current: [u8; KEY_BYTES]) -> KeyRing {
        KeyRing {
            current: EncryptionKey::new(current),
            previous: Vec::new(),
        }
    }

    /// Adds a key that may still wrap data keys on the disk.
    #[must_use]
    pub fn with_previous(mut self, previous: [u8; KEY_BYTES]) -> KeyRing {
        self.previous.push(EncryptionKey::new(previous));
        self
    }

    /// The id of the key that wraps new data keys.
    pub fn current_id(&self) -> KeyId {
        self.current.id
    }

    /// Wraps a data key under the current key; `bound_to` must be given again to unwrap it.
    pub(crate) fn wrap(
        &self,
        data_key: &[u8; KEY_BYTES],
        bound_to: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<[u8; WRAPPED_BYTES], FatalError> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce)?;
        let mut sealed = data_key.to_vec();
        cipher(&self.current.key)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound_to),
                &mut sealed,
            )
            .map_err(|_| FatalError::Entropy)?;
        #[cfg(test)]
        nonces::note(&self.current.key, nonce);
        let mut wrapped = [0; WRAPPED_BYTES];
        wrapped[..KEY_ID_BYTES].copy_from_slice(&self.current.id.0);
        wrapped[KEY_ID_BYTES..KEY_ID_BYTES + NONCE_LEN].copy_from_slice(&nonce);
        wrapped[KEY_ID_BYTES + NONCE_LEN..].copy_from_slice(&sealed);
        Ok(wrapped)
    }

    /// Gives the data key back, or which key is missing.
    pub(crate) fn unwrap(
        &self,
        wrapped: &[u8; WRAPPED_BYTES],
        bound_to: &[u8],
    ) -> Result<[u8; KEY_BYTES], UnwrapError> {
        let id = wrapped_key_id(wrapped);
        let key = std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|key| key.id == id)
            .ok_or(UnwrapError::UnknownKey(id))?;
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&wrapped[KEY_ID_BYTES..KEY_ID_BYTES + NONCE_LEN]);
        let mut sealed = wrapped[KEY_ID_BYTES + NONCE_LEN..].to_vec();
        let opened = cipher(&key.key)
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound_to),
                &mut sealed,
            )
            .map_err(|_| UnwrapError::Damaged)?;
        let mut data_key = [0; KEY_BYTES];
        data_key.copy_from_slice(opened);
        Ok(data_key)
    }
}

/// Why a data key cannot be had.
#[derive(Debug)]
pub(crate) enum UnwrapError {
    UnknownKey(KeyId),
    Damaged,
}

/// Which key-encryption key wraps this data key.
pub(crate) fn wrapped_key_id(wrapped: &[u8; WRAPPED_BYTES]) -> KeyId {
    let mut id = [0; KEY_ID_BYTES];
    id.copy_from_slice(&wrapped[..KEY_ID_BYTES]);
    KeyId(id)
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes"))
}

/// The key of one file. Each number given to `seal` must be used once only.
pub(crate) struct DataKey {
    cipher: LessSafeKey,
    #[cfg(test)]
    bytes: [u8; KEY_BYTES],
}

impl DataKey {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> DataKey {
        DataKey {
            cipher: cipher(key),
            #[cfg(test)]
            bytes: *key,
        }
    }

    /// Encrypts `plain` (from `start` to its end) in place and appends the tag.
    pub(crate) fn seal(
        &self,
        number: u64,
        bound_to: &[u8],
        buffer: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), FatalError> {
        #[cfg(test)]
        nonces::note(&self.bytes, nonce_bytes(number));
        let tag = self
            .cipher
            .seal_in_place_separate_tag(nonce(number), Aad::from(bound_to), &mut buffer[start..])
            .map_err(|_| FatalError::Inconsistent {
                reason: "a record is too large to encrypt".to_owned(),
            })?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts in place; `None` when the bytes are not what was sealed under this number.
    pub(crate) fn open<'a>(&self, number: u64, bound_to: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        self.cipher
            .open_in_place(nonce(number), Aad::from(bound_to), sealed)
            .ok()
            .map(|plain| &*plain)
    }
}

fn nonce(number: u64) -> Nonce {
    Nonce::assume_unique_for_key(nonce_bytes(number))
}

fn nonce_bytes(number: u64) -> [u8; NONCE_LEN] {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A witness of the invariant "a sector is encrypted once", over any number of crashes and restarts: a test of the log or
/// of the node watches its thread, and whatever seals twice under one key and nonce panics.
#[cfg(test)]
pub(crate) mod nonces {
    use super::{KEY_BYTES, NONCE_LEN};
    use std::cell::RefCell;
    use std::collections::HashSet;

    type Seen = HashSet<([u8; KEY_BYTES], [u8; NONCE_LEN])>;

    thread_local! {
        static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    }

    /// Forgets what was sealed on this thread and watches what will be. Seeds give the same keys again, so each run of a
    /// test begins with this.
    pub(crate) fn watch() {
        SEEN.set(Some(Seen::new()));
    }

    /// How much was sealed since.
    pub(crate) fn watched() -> usize {
        SEEN.with_borrow(|seen| seen.as_ref().map_or(0, HashSet::len))
    }

    pub(super) fn note(key: &[u8; KEY_BYTES], nonce: [u8; NONCE_LEN]) {
        let first = SEEN.with_borrow_mut(|seen| seen.as_mut().is_none_or(|seen| seen.insert((*key, nonce))));
        assert!(
            first,
            "a sector is encrypted once: nonce {nonce:?} was used again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_previous_key_still_unwraps_and_an_unknown_one_is_named() {
        let entropy = SystemEntropy::new();
        let old = KeyRing::new([1; 32]);
        let wrapped = old.wrap(&[9; 32], b"file", &entropy).expect("wrap");
        let rotated = KeyRing::new([2; 32]).with_previous([1; 32]);
        assert_eq!(rotated.unwrap(&wrapped, b"file").expect("unwrap"), [9; 32]);
        assert!(matches!(
            rotated.unwrap(&wrapped, b"other"),
            Err(UnwrapError::Damaged)
        ));
        match KeyRing::new([2; 32]).unwrap(&wrapped, b"file") {
            Err(UnwrapError::UnknownKey(id)) => assert_eq!(id, old.current_id()),
            other => panic!("unwrapped without the key: {other:?}"),
        }
    }

    #[test]
    fn a_sealed_record_opens_only_under_its_number_and_binding() {
        let key = DataKey::new(&[7; 32]);
        let mut buffer = b"headplain".to_vec();
        key.seal(5, b"bound", &mut buffer, 4).expect("seal");
        assert_eq!(&buffer[..4], b"head");
        assert_eq!(
            key.open(5, b"bound", &mut buffer[4..].to_vec()),
            Some(&b"plain"[..])
        );
        assert_eq!(key.open(6, b"bound", &mut buffer[4..].to_vec()), None);
        assert_eq!(key.open(5, b"bounded", &mut buffer[4..].to_vec()), None);
    }

    #[test]
    #[should_panic(expected = "a sector is encrypted once")]
    fn a_nonce_that_is_used_again_is_noticed_also_after_the_key_was_read_again() {
        nonces::watch();
        for _ in 0..2 {
            let sealed = DataKey::new(&[7; 32]).seal(5, b"bound", &mut b"plain".to_vec(), 0);
            sealed.expect("seal");
        }
    }
}
