//! The form of a message: a header with fields, and a body.

use crate::connection::Method;
use crate::error::DbusError;
use crate::value::{Reader, Value, Writer};

/// The fixed part of a header.
pub(crate) const PREFIX_BYTES: usize = 16;
/// More than anything that is asked here is answered with; the specification allows 128 MiB.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

const LITTLE_END_FIRST: u8 = b'l';
const BIG_END_FIRST: u8 = b'B';
const VERSION: u8 = 1;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_TO: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A signal that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Its name.
    pub member: String,
    /// What it says.
    pub body: Vec<Value>,
}

/// A message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Return {
        to: u32,
        body: Vec<Value>,
    },
    Error {
        to: u32,
        name: String,
        body: Vec<Value>,
    },
    Signal(Signal),
    /// Nothing that is for us.
    Other,
}

/// A method call.
pub(crate) fn call(serial: u32, method: &Method<'_>, arguments: &[Value]) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|argument| body.value(argument));
    let text = |text: &str| Value::Text(text.to_owned());
    let mut fields = vec![
        (PATH, Value::Path(method.path.to_owned())),
        (INTERFACE, text(method.interface)),
        (MEMBER, text(method.member)),
        (DESTINATION, text(method.destination)),
    ];
    if !arguments.is_empty() {
        let signature = arguments.iter().map(Value::signature).collect();
        fields.push((SIGNATURE, Value::Signature(signature)));
    }
    let fields = fields
        .into_iter()
        .map(|(code, value)| Value::Struct(vec![Value::Byte(code), value.variant()]));
    let mut message = Writer::default();
    message
        .bytes
        .extend_from_slice(&[LITTLE_END_FIRST, CALL, 0, VERSION]);
    message.u32(body.bytes.len() as u32);
    message.u32(serial);
    message.value(&Value::Array("(yv)".to_owned(), fields.collect()));
    message.pad(8);
    message.bytes.extend_from_slice(&body.bytes);
    message.bytes
}

/// How long the message is whose first bytes these are.
pub(crate) fn length(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, DbusError> {
    let mut reader = Reader {
        bytes: prefix,
        at: 4,
        big_end_first: ends(prefix)?,
    };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    let length = PREFIX_BYTES
        .saturating_add(fields)
        .next_multiple_of(8)
        .saturating_add(body);
    if length > MESSAGE_BYTES_MAX {
        return Err(DbusError::Malformed);
    }
    Ok(length)
}

/// Reads a whole message.
pub(crate) fn read(bytes: &[u8]) -> Result<Arrived, DbusError> {
    let mut reader = Reader {
        bytes,
        at: 12,
        big_end_first: ends(bytes)?,
    };
    let fields = reader.values("a(yv)")?;
    reader.pad(8)?;
    let field = |code: u8| {
        fields[0]
            .members()
            .iter()
            .find_map(|field| match field.members() {
                [Value::Byte(found), Value::Variant(value)] if *found == code => Some(&**value),
                _ => None,
            })
    };
    let text = |code| {
        field(code)
            .and_then(Value::as_text)
            .unwrap_or_default()
            .to_owned()
    };
    let to = match field(REPLY_TO) {
        Some(Value::U32(serial)) => *serial,
        _ => 0,
    };
    // A signal of others may hold what is not understood here.
    let body = reader.values(&text(SIGNATURE));
    Ok(match bytes.get(1) {
        Some(&RETURN) => Arrived::Return { to, body: body? },
        Some(&ERROR) => Arrived::Error {
            to,
            name: text(ERROR_NAME),
            body: body?,
        },
        Some(&SIGNAL) => body.map_or(Arrived::Other, |body| {
            Arrived::Signal(Signal {
                member: text(MEMBER),
                body,
            })
        }),
        _ => Arrived::Other,
    })
}

fn ends(bytes: &[u8]) -> Result<bool, DbusError> {
    match bytes.first() {
        Some(&LITTLE_END_FIRST) => Ok(false),
        Some(&BIG_END_FIRST) => Ok(true),
        _ => Err(DbusError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A return as a service that writes the big end first sends it.
    #[test]
    fn both_orders_of_bytes_are_read() {
        let mut bytes = vec![b'B', RETURN, 0, VERSION];
        for number in [5u32, 9, 15] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&[
            REPLY_TO, 1, b'u', 0, 0, 0, 0, 7, SIGNATURE, 1, b'g', 0, 1, b's', 0, 0,
        ]);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0]);
        let prefix: [u8; PREFIX_BYTES] = bytes[..PREFIX_BYTES].try_into().unwrap();
        assert_eq!(length(&prefix).unwrap(), bytes.len());
        let body = vec![Value::text("")];
        assert_eq!(read(&bytes).unwrap(), Arrived::Return { to: 7, body });
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn too_long_a_message_is_refused() {
        let mut prefix = [0xff; PREFIX_BYTES];
        assert!(length(&prefix).is_err());
        prefix[0] = b'l';
        assert!(length(&prefix).is_err());
    }
}
