//! Queries and answers with any bytes changed: an answer is well-formed, to this query, and short enough for its way; an
//! answer is never answered. `PROPTEST_CASES` asks for more of them.

use super::answer::{Question, Reaction, Transport, react};
use super::directory::{Directory, Scope, ScopedNetwork};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use muster_types::ContainerId;
use muster_types::container::NetworkEndpoint;
use proptest::prelude::*;
use proptest::sample::Index;
use std::net::Ipv4Addr;

/// What is sent as a datagram at most.
const DATAGRAM_BYTES_MAX: usize = 1232;

fn names() -> (Directory, Scope) {
    let directory = Directory::default();
    for n in 0..200 {
        let endpoint = NetworkEndpoint {
            network_id: "n1".to_owned(),
            address: Some(Ipv4Addr::new(10, 0, 0, n)),
            dns_names: vec!["all".to_owned(), format!("web{n}")],
            ..NetworkEndpoint::default()
        };
        directory.enter("lan", &ContainerId::from_bytes([n; 32]), &endpoint);
    }
    let scope = Scope {
        networks: vec![ScopedNetwork {
            id: "n1".to_owned(),
            links: vec![("db".to_owned(), "web1".to_owned())],
        }],
    };
    (directory, scope)
}

fn query(name: &str, kind: RecordType) -> Query {
    Query::query(Name::from_ascii(name).unwrap(), kind)
}

fn message(query: Query, kind: MessageType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 77;
    message.metadata.message_type = kind;
    message.add_query(query);
    message.to_vec().unwrap()
}

/// Bytes put in the place of others, put between them, or cut off.
fn mangled(mut bytes: Vec<u8>, changes: &[(u8, Index, u8)]) -> Vec<u8> {
    for (kind, place, byte) in changes {
        let at = place.index(bytes.len() + 1);
        match kind {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, *byte),
            _ if at < bytes.len() => bytes[at] = *byte,
            _ => {}
        }
    }
    bytes
}

fn check(bytes: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let (directory, scope) = names();
    let answer = match react(bytes, transport, &directory, &scope, false) {
        Reaction::Answer(answer) => answer,
        Reaction::Forward { failure, .. } => failure,
        Reaction::Nothing => return Ok(()),
    };
    prop_assert!(bytes[2] & 0x80 == 0, "an answer was answered");
    prop_assert!(transport == Transport::Connection || answer.len() <= DATAGRAM_BYTES_MAX);
    prop_assert_eq!(&answer[..2], &bytes[..2], "the id");
    let read = Message::from_vec(&answer).expect("it is well-formed");
    prop_assert_eq!(read.metadata.message_type, MessageType::Response);
    Ok(())
}

fn transport() -> impl Strategy<Value = Transport> {
    proptest::sample::select(vec![Transport::Datagram, Transport::Connection])
}

fn changes() -> impl Strategy<Value = Vec<(u8, Index, u8)>> {
    proptest::collection::vec((0..8_u8, any::<Index>(), any::<u8>()), 0..6)
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_ignored(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        transport in transport(),
    ) {
        check(&bytes, transport)?;
    }

    #[test]
    fn changed_queries_are_answered_or_ignored(
        name in proptest::sample::select(vec!["all.", "web7.lan.", "db.", "7.0.0.10.in-addr.arpa.", "example.com."]),
        kind in proptest::sample::select(vec![RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::ANY]),
        changes in changes(),
        transport in transport(),
    ) {
        let bytes = mangled(message(query(name, kind), MessageType::Query), &changes);
        check(&bytes, transport)?;
    }

    #[test]
    fn changed_answers_are_taken_for_none_or_have_the_id(changes in changes(), id in 76..79_u16) {
        let (directory, scope) = names();
        let asked = message(query("example.com.", RecordType::A), MessageType::Query);
        let question: Question = match react(&asked, Transport::Datagram, &directory, &scope, false) {
            Reaction::Forward { question, .. } => question,
            other => panic!("{other:?}"),
        };
        let answer = message(query("example.com.", RecordType::A), MessageType::Response);
        prop_assert_eq!(question.is_answered_by(&answer, 77), Some(ResponseCode::NoError));
        let bytes = mangled(answer, &changes);
        if question.is_answered_by(&bytes, id).is_some() {
            prop_assert_eq!(u16::from_be_bytes([bytes[0], bytes[1]]), id);
        }
    }
}
