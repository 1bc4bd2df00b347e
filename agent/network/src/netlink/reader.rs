//! Decoding of replies. Lengths come from outside the process, so each is checked before it is used.

use super::{KIND_MASK, aligned};

/// One attribute of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a number in the machine's order.
    pub fn u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value.get(..4)?.try_into().ok()?))
    }

    /// The value as a number in network order.
    pub fn be32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.get(..4)?.try_into().ok()?))
    }

    /// The value as a string that ends at the first zero.
    pub fn text(&self) -> Option<&'a str> {
        let end = self
            .value
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).ok()
    }
}

/// Iterates the attributes in `bytes`; stops at the first one that does not fit.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & KIND_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or(&[]);
        Some(Attribute { kind, value })
    })
}

/// The first attribute of that kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<Attribute<'_>> {
    attributes(bytes).find(|attribute| attribute.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_attributes_end_the_iteration() {
        let whole = [8, 0, 1, 0, 1, 2, 3, 4, 5, 0, 2, 0, 9];
        let kinds: Vec<u16> = attributes(&whole).map(|attribute| attribute.kind).collect();
        assert_eq!(kinds, [1, 2]);
        for end in 0..whole.len() {
            assert!(attributes(&whole[..end]).count() <= 1);
        }
        assert_eq!(
            attributes(&[3, 0, 1, 0]).count(),
            0,
            "a length below its own header"
        );
    }
}
