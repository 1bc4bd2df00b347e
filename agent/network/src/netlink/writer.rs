//! Encoding of requests.

use super::{HEADER_BYTES, NESTED, aligned, flag};

/// Requests to be sent together, in order.
#[derive(Default)]
pub(crate) struct Requests {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Requests {
    /// Appends one message; `REQUEST` is always set.
    pub fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        body(&mut Body {
            bytes: &mut self.bytes,
        });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[start + 6..start + 8].copy_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
    }

    /// The only message of a request made of one.
    pub fn one(kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) -> Self {
        let mut requests = Self::default();
        requests.push(kind, flags, body);
        requests
    }

    /// Asks for an acknowledgement of the last message so far.
    pub fn acknowledge_last(&mut self) {
        if let Some(start) = self.starts.last() {
            let flags = &mut self.bytes[start + 6..start + 8];
            let asked = u16::from_ne_bytes([flags[0], flags[1]]) | flag::ACK;
            flags.copy_from_slice(&asked.to_ne_bytes());
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// What follows the header of the first and only message.
    #[cfg(test)]
    pub fn first_body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Numbers the messages from `first` and returns what goes on the wire.
    pub(super) fn numbered(&mut self, first: u32) -> &[u8] {
        for (offset, start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(offset as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        &self.bytes
    }
}

/// The body of a message or of a nested attribute while it is written.
pub(crate) struct Body<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Body<'_> {
    /// A fixed header, padded to four bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// An attribute holding `value`.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// An attribute holding a string and its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut terminated = Vec::with_capacity(value.len() + 1);
        terminated.extend_from_slice(value.as_bytes());
        terminated.push(0);
        self.bytes(kind, &terminated);
    }

    /// An attribute holding one byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// An attribute holding a number in the machine's order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// An attribute holding a number in network order, as nf_tables wants it.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute holding the attributes that `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Body<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(&mut Body { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }

    fn pad(&mut self) {
        // Every message starts aligned, so the length of the whole buffer tells the padding.
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{attributes, find};

    #[test]
    fn nested_attributes_are_padded_and_sized() {
        let mut requests = Requests::one(16, flag::ACK, |body| {
            body.raw(&[7; 4]);
            body.text(3, "eth0");
            body.nested(18, |inner| inner.u8(1, 9));
        });
        let bytes = requests.numbered(41).to_vec();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            u32::from_ne_bytes(bytes[0..4].try_into().unwrap()) as usize,
            bytes.len()
        );
        assert_eq!(u32::from_ne_bytes(bytes[8..12].try_into().unwrap()), 41);
        assert_eq!(
            u16::from_ne_bytes(bytes[6..8].try_into().unwrap()),
            flag::ACK | flag::REQUEST
        );
        let body = &bytes[HEADER_BYTES + 4..];
        assert_eq!(find(body, 3).unwrap().text(), Some("eth0"));
        let inner = find(body, 18).unwrap();
        assert_eq!(attributes(inner.value).next().unwrap().value, [9]);
    }

    #[test]
    fn messages_are_numbered_in_order() {
        let mut requests = Requests::default();
        requests.push(1, 0, |_| {});
        requests.push(2, 0, |_| {});
        let bytes = requests.numbered(u32::MAX).to_vec();
        assert_eq!(&bytes[8..12], &u32::MAX.to_ne_bytes());
        assert_eq!(&bytes[24..28], &0u32.to_ne_bytes());
    }
}
