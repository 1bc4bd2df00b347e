//! Names that containers resolve: their own, and those that others are asked for.

use crate::node::{info, on_node, shell};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use muster_engine::Engine;
use muster_types::container::{EndpointSpec, NetworkMode};
use muster_types::network::{AddressRange, NetworkSpec};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);
const ABROAD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// What an upstream server says: one address for every name but those that begin with `no`.
fn answer(query: &[u8]) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.queries.clone_from(&query.queries);
    let name = query.queries[0].name.clone();
    if name.to_ascii().starts_with("no") {
        message.metadata.response_code = ResponseCode::NXDomain;
    } else {
        message.add_answer(Record::from_rdata(name, 60, RData::A(A(ABROAD))));
    }
    message.to_vec().unwrap()
}

/// Serves on port 53 of the node until the test ends.
fn serve_upstream() {
    let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
    let tcp = TcpListener::bind("0.0.0.0:53").unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // A wrong answer comes first, as from somebody who guesses.
            let mut forged = answer(&buffer[..length]);
            forged[0] ^= 1;
            udp.send_to(&forged, from).unwrap();
            udp.send_to(&answer(&buffer[..length]), from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let query = read_framed(&mut stream);
            write_framed(&mut stream, &answer(&query));
        }
    });
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).unwrap();
}

/// Asks a container's resolver from inside the container's network.
pub async fn ask(engine: &Engine, container: &str, name: &str, by_connection: bool) -> Message {
    let pid = info(engine, container).await.pid;
    let query = question(name);
    let asking = tokio::task::spawn_blocking(move || {
        std::thread::spawn(move || {
            let netns = File::open(format!("/proc/{pid}/ns/net")).unwrap();
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            if by_connection {
                let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                write_framed(&mut stream, &query);
                return read_framed(&mut stream);
            }
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.connect("127.0.0.11:53").unwrap();
            socket.send(&query).unwrap();
            let mut buffer = vec![0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            buffer
        })
        .join()
        .unwrap()
    });
    let answer = Message::from_vec(&asking.await.unwrap()).unwrap();
    assert_eq!(
        (answer.metadata.id, answer.metadata.message_type),
        (4711, MessageType::Response)
    );
    answer
}

/// What a message answers.
pub fn data(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

fn lan(name: &str, subnet: &str, internal: bool) -> NetworkSpec {
    NetworkSpec {
        name: name.to_owned(),
        internal,
        ranges: vec![AddressRange {
            subnet: subnet.to_owned(),
            ..AddressRange::default()
        }],
        ..NetworkSpec::default()
    }
}

async fn start(engine: &Engine, name: &str, network: &str) {
    let mut config = shell("sleep 600");
    config.host.network = NetworkMode::Named(network.to_owned());
    config.host.dns.nameservers = vec!["10.212.0.1".to_owned()];
    engine.create(Some(name), config).await.unwrap();
    engine.start(name).await.unwrap();
}

#[test]
fn containers_resolve_each_other_and_ask_others_for_the_rest() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        serve_upstream();
        engine
            .network_create(lan("lan", "10.212.0.0/24", false))
            .await
            .unwrap();
        engine
            .network_create(lan("inner", "10.213.0.0/24", true))
            .await
            .unwrap();
        start(&engine, "aa", "lan").await;
        start(&engine, "bb", "lan").await;
        start(&engine, "cc", "inner").await;
        for by_connection in [false, true] {
            let own = ask(&engine, "aa", "bb.", by_connection).await;
            assert_eq!(data(&own), ["10.212.0.3"]);
            let abroad = ask(&engine, "aa", "example.org.", by_connection).await;
            assert_eq!(data(&abroad), [ABROAD.to_string()], "{by_connection}");
            let missing = ask(&engine, "aa", "nobody.example.org.", by_connection).await;
            assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        }
        let cut_off = ask(&engine, "cc", "example.org.", false).await;
        assert_eq!(cut_off.metadata.response_code, ResponseCode::ServFail);

        // A later daemon serves the running containers again.
        engine.shutdown().await;
        drop(engine);
        let engine = node.open().await;
        assert_eq!(data(&ask(&engine, "bb", "aa.", false).await), ["10.212.0.2"]);
        engine
            .network_connect("inner", "aa", EndpointSpec::default())
            .await
            .unwrap();
        assert_eq!(data(&ask(&engine, "cc", "aa.", false).await), ["10.213.0.3"]);
        engine.network_disconnect("inner", "aa", false).await.unwrap();
        let gone = ask(&engine, "cc", "aa.", false).await;
        assert_eq!(gone.metadata.response_code, ResponseCode::ServFail);
        node.close(engine).await;
    });
}
