//! Frames of a peer that lies: read or refused, never a panic and never more memory than they are long.

use super::frame::{
    self, AttachBody, ErrorBody, ExecStartedBody, HEADER_BYTES, HelloBody, ResizeBody, SignalBody,
};
use crate::exit::ExitStatus;
use crate::plan::{ContainerPlan, ExecPlan};
use proptest::prelude::*;

/// Every payload that is ever decoded.
fn decode_all(payload: &[u8]) {
    let _ = frame::decode::<HelloBody>(payload);
    let _ = frame::decode::<AttachBody>(payload);
    let _ = frame::decode::<ResizeBody>(payload);
    let _ = frame::decode::<SignalBody>(payload);
    let _ = frame::decode::<ErrorBody>(payload);
    let _ = frame::decode::<ExecStartedBody>(payload);
    let _ = frame::decode::<ExitStatus>(payload);
    let _ = frame::decode::<ExecPlan>(payload);
    let _ = frame::decode::<ContainerPlan>(payload);
}

proptest! {
    #[test]
    fn payloads_of_any_bytes_are_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode_all(&payload);
    }

    #[test]
    fn lengths_that_lie_are_refused(length in any::<u64>(), rest in proptest::collection::vec(any::<u8>(), 0..16)) {
        // A length in front, as each list and text of a payload has it.
        let mut payload = Vec::new();
        let mut left = length;
        loop {
            let byte = (left & 0x7f) as u8;
            left >>= 7;
            if left == 0 {
                payload.push(byte);
                break;
            }
            payload.push(byte | 0x80);
        }
        payload.extend_from_slice(&rest);
        decode_all(&payload);
        decode_all(&[&[0, 0][..], &payload].concat());
    }

    #[test]
    fn streams_of_any_bytes_end_in_a_frame_an_error_or_the_end(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        kind in any::<u8>(),
        length in 0..40_u32,
    ) {
        let mut header = [0; HEADER_BYTES];
        header[0] = kind;
        header[4..].copy_from_slice(&length.to_le_bytes());
        let stream = [&header[..], &bytes].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("threads can be made");
        let whole = bytes.len() >= length as usize;
        let read = runtime.block_on(super::connection::read(&mut stream.as_slice()));
        match (frame::Kind::from_byte(kind), read) {
            (Some(kind), Ok(Some((read, payload)))) => {
                prop_assert!(whole);
                prop_assert_eq!((kind, payload.as_slice()), (read, &bytes[..length as usize]));
            }
            (Some(_), Ok(None)) => prop_assert!(!whole),
            (None, Err(_)) => {}
            (known, other) => prop_assert!(false, "{known:?}: {other:?}"),
        }
    }
}
