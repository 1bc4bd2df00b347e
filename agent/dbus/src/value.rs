//! What messages hold, and its form on the wire.

use crate::error::DbusError;

/// Containers within containers, in values that arrive (the specification allows 32 of each kind).
const DEPTH_MAX: usize = 16;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `t`
    U64(u64),
    /// `s`
    Text(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: values that all have this signature.
    Array(String, Vec<Value>),
    /// `(…)`
    Struct(Vec<Value>),
    /// `{…}`, in arrays only.
    Entry(Box<Value>, Box<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Array("s".to_owned(), texts.into_iter().map(Self::text).collect())
    }

    /// A value that says itself of what kind it is.
    pub fn variant(self) -> Self {
        Self::Variant(Box::new(self))
    }

    /// The text of a text, path or signature.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Path(text) | Self::Signature(text) => Some(text),
            _ => None,
        }
    }

    /// The members of an array or struct.
    pub fn members(&self) -> &[Value] {
        match self {
            Self::Array(_, members) | Self::Struct(members) => members,
            _ => &[],
        }
    }

    /// Its signature.
    pub(crate) fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".to_owned(),
            Self::Bool(_) => "b".to_owned(),
            Self::I32(_) => "i".to_owned(),
            Self::U32(_) => "u".to_owned(),
            Self::U64(_) => "t".to_owned(),
            Self::Text(_) => "s".to_owned(),
            Self::Path(_) => "o".to_owned(),
            Self::Signature(_) => "g".to_owned(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(members) => {
                let members: String = members.iter().map(Self::signature).collect();
                format!("({members})")
            }
            Self::Entry(key, value) => format!("{{{}{}}}", key.signature(), value.signature()),
            Self::Variant(_) => "v".to_owned(),
        }
    }
}

/// Where values of a kind begin is a multiple of this.
fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// Writes values, little end first. Positions count from the message's start.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn pad(&mut self, alignment: usize) {
        let length = self.bytes.len().next_multiple_of(alignment);
        self.bytes.resize(length, 0);
    }

    pub fn u32(&mut self, number: u32) {
        self.pad(4);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.bytes.push(signature.len() as u8);
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.push(0);
    }

    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(byte) => self.bytes.push(*byte),
            Value::Bool(truth) => self.u32(u32::from(*truth)),
            Value::I32(number) => {
                self.pad(4);
                self.bytes.extend_from_slice(&number.to_le_bytes());
            }
            Value::U32(number) => self.u32(*number),
            Value::U64(number) => {
                self.pad(8);
                self.bytes.extend_from_slice(&number.to_le_bytes());
            }
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Signature(signature) => self.signature(signature),
            Value::Array(element, members) => self.array(element, members),
            Value::Struct(members) => {
                self.pad(8);
                members.iter().for_each(|member| self.value(member));
            }
            Value::Entry(key, value) => {
                self.pad(8);
                self.value(key);
                self.value(value);
            }
            Value::Variant(value) => {
                self.signature(&value.signature());
                self.value(value);
            }
        }
    }

    /// The length counts neither itself nor the space before the first member.
    fn array(&mut self, element: &str, members: &[Value]) {
        self.u32(0);
        let place = self.bytes.len() - 4;
        self.pad(alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
        let start = self.bytes.len();
        members.iter().for_each(|member| self.value(member));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[place..place + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Reads values. Positions count from the message's start.
pub(crate) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub big_end_first: bool,
}

type Read<T> = Result<T, DbusError>;

impl<'a> Reader<'a> {
    pub fn pad(&mut self, alignment: usize) -> Read<()> {
        let at = self.at.next_multiple_of(alignment);
        self.take(at - self.at).map(|_| ())
    }

    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or(DbusError::Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(DbusError::Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.pad(N)?;
        let mut bytes: [u8; N] = self.take(N)?.try_into().map_err(|_| DbusError::Malformed)?;
        if self.big_end_first {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Read<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Read<String> {
        let bytes = self.take(length)?;
        if self.take(1)? != [0] {
            return Err(DbusError::Malformed);
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| DbusError::Malformed)
    }

    fn signature(&mut self) -> Read<String> {
        let length = self.take(1)?[0];
        self.text(usize::from(length))
    }

    /// The values that a signature announces.
    pub fn values(&mut self, signature: &str) -> Read<Vec<Value>> {
        self.several(signature.as_bytes(), 0)
    }

    fn several(&mut self, mut signature: &[u8], depth: usize) -> Read<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = split_first(signature, 0)?;
            values.push(self.value(one, depth)?);
            signature = rest;
        }
        Ok(values)
    }

    fn value(&mut self, signature: &[u8], depth: usize) -> Read<Value> {
        if depth > DEPTH_MAX {
            return Err(DbusError::Malformed);
        }
        let [kind, inner @ ..] = signature else {
            return Err(DbusError::Malformed);
        };
        Ok(match kind {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.u32()? != 0),
            b'i' => self.number().map(i32::from_le_bytes).map(Value::I32)?,
            b'u' => Value::U32(self.u32()?),
            b't' => self.number().map(u64::from_le_bytes).map(Value::U64)?,
            b's' | b'o' => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if *kind == b's' {
                    Value::Text(text)
                } else {
                    Value::Path(text)
                }
            }
            b'g' => Value::Signature(self.signature()?),
            b'a' => self.array(inner, depth)?,
            b'(' => {
                self.pad(8)?;
                let inner = inner.strip_suffix(b")").ok_or(DbusError::Malformed)?;
                Value::Struct(self.several(inner, depth + 1)?)
            }
            b'{' => {
                self.pad(8)?;
                let inner = inner.strip_suffix(b"}").ok_or(DbusError::Malformed)?;
                let [key, value] = <[Value; 2]>::try_from(self.several(inner, depth + 1)?)
                    .map_err(|_| DbusError::Malformed)?;
                Value::Entry(Box::new(key), Box::new(value))
            }
            b'v' => {
                let signature = self.signature()?;
                let mut values = self.several(signature.as_bytes(), depth + 1)?;
                match (values.pop(), values.is_empty()) {
                    (Some(value), true) => value.variant(),
                    _ => return Err(DbusError::Malformed),
                }
            }
            // Numbers that nothing here asks for, and descriptors, which are never agreed on.
            _ => return Err(DbusError::Malformed),
        })
    }

    fn array(&mut self, element: &[u8], depth: usize) -> Read<Value> {
        let length = self.u32()? as usize;
        let kind = *element.first().ok_or(DbusError::Malformed)?;
        self.pad(alignment(kind))?;
        let end = self.at.checked_add(length).ok_or(DbusError::Malformed)?;
        if end > self.bytes.len() {
            return Err(DbusError::Malformed);
        }
        let mut members = Vec::new();
        while self.at < end {
            let before = self.at;
            members.push(self.value(element, depth + 1)?);
            // An empty struct would be read for ever.
            if self.at == before {
                return Err(DbusError::Malformed);
            }
        }
        if self.at != end {
            return Err(DbusError::Malformed);
        }
        let element = String::from_utf8(element.to_vec()).map_err(|_| DbusError::Malformed)?;
        Ok(Value::Array(element, members))
    }
}

/// Splits the first complete type from a signature.
fn split_first(signature: &[u8], depth: usize) -> Read<(&[u8], &[u8])> {
    let length = length_of_first(signature, depth)?;
    signature.split_at_checked(length).ok_or(DbusError::Malformed)
}

fn length_of_first(signature: &[u8], depth: usize) -> Read<usize> {
    if depth > DEPTH_MAX {
        return Err(DbusError::Malformed);
    }
    let close = match signature.first() {
        None => return Err(DbusError::Malformed),
        Some(b'a') => return Ok(1 + length_of_first(&signature[1..], depth + 1)?),
        Some(b'(') => b')',
        Some(b'{') => b'}',
        Some(_) => return Ok(1),
    };
    let mut length = 1;
    while signature.get(length) != Some(&close) {
        let rest = signature.get(length..).ok_or(DbusError::Malformed)?;
        length += length_of_first(rest, depth + 1)?;
    }
    Ok(length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(values: &[Value]) -> Vec<u8> {
        let mut writer = Writer::default();
        values.iter().for_each(|value| writer.value(value));
        writer.bytes
    }

    fn read(bytes: &[u8], signature: &str) -> Read<Vec<Value>> {
        let mut reader = Reader {
            bytes,
            at: 0,
            big_end_first: false,
        };
        reader.values(signature)
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<u64>().prop_map(Value::U64),
            "[a-z]{0,9}".prop_map(Value::Text),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                inner.clone().prop_map(Value::variant),
                (inner, 0usize..4)
                    .prop_map(|(value, count)| { Value::Array(value.signature(), vec![value; count]) }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec(any_value(), 0..4)) {
            let signature: String = values.iter().map(Value::signature).collect();
            let bytes = written(&values);
            for end in 0..bytes.len() {
                prop_assert!(read(&bytes[..end], &signature).is_err());
            }
            prop_assert_eq!(read(&bytes, &signature).unwrap(), values);
        }

        #[test]
        fn whatever_arrives_ends(bytes in proptest::collection::vec(any::<u8>(), 0..64), signature in "[ya{}()sbvgot]{0,12}") {
            let _ = read(&bytes, &signature);
        }
    }

    /// The specification's own example of an array: one 64-bit number.
    #[test]
    fn arrays_are_padded_as_specified() {
        let array = Value::Array("t".to_owned(), vec![Value::U64(5)]);
        assert_eq!(
            written(&[array]),
            [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn nesting_has_a_limit() {
        let signature = "a".repeat(60) + "y";
        assert!(read(&[0; 64], &signature).is_err());
        assert!(read(&[0; 64], &"(".repeat(60)).is_err());
    }
}
