//! What a container's resolver says to a query: from its own knowledge, or that others must be asked. Nothing here acts.

use super::directory::{Directory, Scope};
use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest message without an agreement on more (RFC 1035), and longest one that is ever sent as a datagram: what gets
/// through everywhere without being cut into pieces.
const DATAGRAM_BYTES: usize = 512;
const DATAGRAM_BYTES_MAX: usize = 1232;
/// How long clients may keep an answer. Containers come and go, so not Docker's ten minutes.
const TTL_S: u32 = 30;
/// Longest query that is looked at: a name has 255 bytes, and the rest is options.
pub(crate) const QUERY_BYTES_MAX: usize = 4096;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Datagram,
    Connection,
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask others; where nobody answers, send this.
    Forward { question: Question, failure: Vec<u8> },
    /// It is no query.
    Nothing,
}

/// What an answer must be an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question(Query);

impl Question {
    /// Whether a message answers it, with this id.
    pub fn is_answered_by(&self, message: &[u8], id: u16) -> Option<ResponseCode> {
        let message = Message::from_vec(message).ok()?;
        let same = |query: &Query| {
            query.name == self.0.name
                && query.query_type == self.0.query_type
                && query.query_class == self.0.query_class
        };
        let is_answer = message.metadata.message_type == MessageType::Response
            && message.metadata.id == id
            && message.queries.len() == 1
            && message.queries.iter().all(same);
        is_answer.then_some(message.metadata.response_code)
    }
}

/// Decides on a query. `ndots` was chosen by the user, so that names without a dot are not for the outside.
pub(crate) fn react(
    bytes: &[u8],
    transport: Transport,
    directory: &Directory,
    scope: &Scope,
    own_ndots: bool,
) -> Reaction {
    if bytes.len() > QUERY_BYTES_MAX {
        return Reaction::Nothing;
    }
    let Ok(request) = Message::from_vec(bytes) else {
        return malformed(bytes);
    };
    if request.metadata.message_type != MessageType::Query {
        return Reaction::Nothing;
    }
    let [query] = request.queries.as_slice() else {
        return refusal(&request, ResponseCode::FormErr);
    };
    if request.metadata.op_code != OpCode::Query {
        return refusal(&request, ResponseCode::NotImp);
    }
    if query.query_class == DNSClass::IN
        && let Some(records) = known(query, directory, scope)
    {
        let mut response = response_to(&request, ResponseCode::NoError);
        response.answers = records;
        return encoded(&response, &request, transport);
    }
    // Whoever gets no answer asks again, and takes "nobody" for the truth.
    if directory.is_incomplete(scope) {
        return Reaction::Nothing;
    }
    let bare = query.name.num_labels() < 2;
    if own_ndots && bare && matches!(query.query_type, RecordType::A | RecordType::AAAA) {
        return refusal(&request, ResponseCode::NoError);
    }
    match response_to(&request, ResponseCode::ServFail).to_vec() {
        Ok(failure) => Reaction::Forward {
            question: Question(query.clone()),
            failure,
        },
        Err(_) => Reaction::Nothing,
    }
}

/// The records of a name that a container of the scope has: none where it has no address of that family. `None` where
/// nobody has the name.
fn known(query: &Query, directory: &Directory, scope: &Scope) -> Option<Vec<Record>> {
    if query.query_type == RecordType::PTR {
        let name = directory.name_of(scope, reversed(&query.name)?)?;
        let target = Name::from_ascii(format!("{name}.")).ok()?;
        return Some(vec![record(query, RData::PTR(PTR(target)))]);
    }
    let text = query.name.to_ascii();
    let mut addresses = directory.addresses_of(scope, text.strip_suffix('.').unwrap_or(&text))?;
    // Clients mostly take the first, so each should be the first as often as any other.
    addresses.shuffle(&mut rand::rng());
    let data = addresses
        .into_iter()
        .filter_map(|address| match (query.query_type, address) {
            (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(address))),
            (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
            _ => None,
        });
    Some(data.map(|data| record(query, data)).collect())
}

fn record(query: &Query, data: RData) -> Record {
    Record::from_rdata(query.name.clone(), TTL_S, data)
}

/// The address that a name below in-addr.arpa or ip6.arpa is for.
fn reversed(name: &Name) -> Option<IpAddr> {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    if let Some(octets) = text.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = octets
            .rsplit('.')
            .map(|octet| octet.parse().ok())
            .collect::<Option<_>>()?;
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into());
    }
    let digits: Vec<u8> = text
        .strip_suffix(".ip6.arpa")?
        .rsplit('.')
        .map(|digit| u8::from_str_radix(digit, 16).ok().filter(|value| *value < 16))
        .collect::<Option<_>>()?;
    let octets: Vec<u8> = digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[high, low]| high << 4 | low)
        .collect();
    let is_whole = digits.len() == 32;
    is_whole.then(|| Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()))?
}

fn response_to(request: &Message, code: ResponseCode) -> Message {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.recursion_available = true;
    metadata.response_code = code;
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = metadata;
    response.queries.clone_from(&request.queries);
    response
}

fn refusal(request: &Message, code: ResponseCode) -> Reaction {
    response_to(request, code)
        .to_vec()
        .map_or(Reaction::Nothing, Reaction::Answer)
}

/// Who sends something that has an id but is no message is told so; anything shorter is nothing.
fn malformed(bytes: &[u8]) -> Reaction {
    let Some([high, low, flags]) = bytes.get(..3).and_then(|head| <[u8; 3]>::try_from(head).ok()) else {
        return Reaction::Nothing;
    };
    let is_response = flags & 0x80 != 0;
    if is_response {
        return Reaction::Nothing;
    }
    let message = Message::error_msg(
        u16::from_be_bytes([high, low]),
        OpCode::Query,
        ResponseCode::FormErr,
    );
    message.to_vec().map_or(Reaction::Nothing, Reaction::Answer)
}

/// The answer on the wire; one that does not fit a datagram says so, and the client asks again by connection.
fn encoded(response: &Message, request: &Message, transport: Transport) -> Reaction {
    let Ok(bytes) = response.to_vec() else {
        return refusal(request, ResponseCode::ServFail);
    };
    let agreed = usize::from(request.max_payload()).clamp(DATAGRAM_BYTES, DATAGRAM_BYTES_MAX);
    if transport == Transport::Connection || bytes.len() <= agreed {
        return Reaction::Answer(bytes);
    }
    let mut truncated = response_to(request, ResponseCode::NoError);
    truncated.metadata.truncation = true;
    truncated.to_vec().map_or(Reaction::Nothing, Reaction::Answer)
}

#[cfg(test)]
mod tests {
    use super::super::directory::ScopedNetwork;
    use super::*;
    use muster_types::ContainerId;
    use muster_types::container::NetworkEndpoint;
    use std::collections::BTreeSet;

    fn fixture(count: u8) -> (Directory, Scope) {
        let directory = Directory::default();
        for n in 0..count {
            let endpoint = NetworkEndpoint {
                network_id: "n1".to_owned(),
                address: Some(Ipv4Addr::new(10, 0, 0, 2 + n)),
                ipv6: (n == 0).then(|| "fd00::2".parse().unwrap()),
                dns_names: vec![format!("web{n}"), "all".to_owned()],
                ..NetworkEndpoint::default()
            };
            directory.enter("lan", &ContainerId::from_bytes([n; 32]), &endpoint);
        }
        let scope = Scope {
            networks: vec![ScopedNetwork {
                id: "n1".to_owned(),
                links: Vec::new(),
            }],
        };
        (directory, scope)
    }

    fn request(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 77;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn ask(count: u8, name: &str, kind: RecordType, transport: Transport) -> Reaction {
        let (directory, scope) = fixture(count);
        react(&request(name, kind), transport, &directory, &scope, false)
    }

    fn answer(reaction: Reaction) -> Message {
        match reaction {
            Reaction::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn data(message: &Message) -> Vec<String> {
        message
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    }

    #[test]
    fn containers_are_answered_for_and_others_are_not() {
        let udp = Transport::Datagram;
        let found = answer(ask(2, "WEB0.", RecordType::A, udp));
        assert_eq!(data(&found), ["10.0.0.2"]);
        assert_eq!(found.metadata.id, 77);
        assert!(found.metadata.recursion_available && found.metadata.recursion_desired);
        assert_eq!(
            data(&answer(ask(2, "web0.lan.", RecordType::AAAA, udp))),
            ["fd00::2"]
        );
        for (name, kind) in [("web1.", RecordType::AAAA), ("web0.", RecordType::MX)] {
            let none = answer(ask(2, name, kind, udp));
            assert_eq!(
                (none.metadata.response_code, none.answers.len()),
                (ResponseCode::NoError, 0),
                "{name}"
            );
        }
        assert!(matches!(
            ask(2, "example.com.", RecordType::A, udp),
            Reaction::Forward { .. }
        ));
        assert!(matches!(
            ask(2, "nobody.", RecordType::A, udp),
            Reaction::Forward { .. }
        ));
    }

    #[test]
    fn addresses_are_named() {
        let udp = Transport::Datagram;
        assert_eq!(
            data(&answer(ask(2, "3.0.0.10.in-addr.arpa.", RecordType::PTR, udp))),
            ["web1.lan."]
        );
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(data(&answer(ask(2, v6, RecordType::PTR, udp))), ["web0.lan."]);
        for other in [
            "1.0.0.10.in-addr.arpa.",
            "300.0.0.10.in-addr.arpa.",
            "0.10.in-addr.arpa.",
            "2.ip6.arpa.",
        ] {
            assert!(
                matches!(ask(2, other, RecordType::PTR, udp), Reaction::Forward { .. }),
                "{other}"
            );
        }
    }

    #[test]
    fn each_of_several_is_the_first_one_sometimes() {
        let mut first = BTreeSet::new();
        for _ in 0..200 {
            let found = answer(ask(3, "all.", RecordType::A, Transport::Datagram));
            assert_eq!(found.answers.len(), 3);
            first.insert(data(&found).remove(0));
        }
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn a_long_answer_is_truncated_in_a_datagram_only() {
        let cut = answer(ask(100, "all.", RecordType::A, Transport::Datagram));
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole = answer(ask(100, "all.", RecordType::A, Transport::Connection));
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
    }

    #[test]
    fn with_own_ndots_bare_names_stay_inside() {
        let (directory, scope) = fixture(1);
        let react = |name: &str| {
            react(
                &request(name, RecordType::A),
                Transport::Datagram,
                &directory,
                &scope,
                true,
            )
        };
        assert!(answer(react("nobody.")).answers.is_empty());
        assert!(matches!(react("example.com."), Reaction::Forward { .. }));
    }

    #[test]
    fn hostile_messages_are_answered_with_a_word_or_not_at_all() {
        let (directory, scope) = fixture(1);
        let react = |bytes: &[u8]| react(bytes, Transport::Datagram, &directory, &scope, false);
        assert_eq!(react(&[]), Reaction::Nothing);
        assert_eq!(react(&[1, 2]), Reaction::Nothing);
        assert_eq!(react(&[0; 5000]), Reaction::Nothing);
        let formerr = answer(react(&[1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c]));
        assert_eq!(
            (formerr.metadata.id, formerr.metadata.response_code),
            (0x0102, ResponseCode::FormErr)
        );
        let mut response = request("web0.", RecordType::A);
        response[2] |= 0x80;
        assert_eq!(react(&response), Reaction::Nothing);
        let mut update = request("web0.", RecordType::A);
        update[2] |= 5 << 3;
        let whole = request("web0.", RecordType::A);
        for end in 0..whole.len() {
            assert!(!matches!(react(&whole[..end]), Reaction::Forward { .. }), "{end}");
        }
        assert!(!matches!(react(&update), Reaction::Forward { .. }));
    }

    #[test]
    fn only_the_asked_question_is_an_answer() {
        let query = Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A);
        let question = Question(query.clone());
        let mut message = Message::response(5, OpCode::Query);
        message.add_query(query);
        let bytes = message.to_vec().unwrap();
        assert_eq!(question.is_answered_by(&bytes, 5), Some(ResponseCode::NoError));
        assert_eq!(question.is_answered_by(&bytes, 6), None);
        let other = Question(Query::query(
            Name::from_ascii("example.org.").unwrap(),
            RecordType::A,
        ));
        assert_eq!(other.is_answered_by(&bytes, 5), None);
        assert_eq!(question.is_answered_by(b"junk", 5), None);
    }
}
