//! Addresses, and published ports.

use crate::node::{info, on_node, run, shell, until};
use muster_engine::{ErrorKind, RemoveOptions};
use muster_types::container::{NetworkMode, PortBinding};
use muster_types::service::Protocol;
use std::io::Read;
use std::net::TcpStream;

fn publish(port: u16) -> PortBinding {
    PortBinding {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: port,
        host_port_last: 0,
    }
}

#[test]
fn of_a_range_of_host_ports_the_next_free_one_is_taken() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let range = |host_ip: Option<std::net::IpAddr>| PortBinding {
            host_ip,
            host_port_last: 8002,
            ..publish(8000)
        };
        let every_v6 = Some(std::net::Ipv6Addr::UNSPECIFIED.into());
        for (name, host_ip, port) in [
            ("aa", None, Some(8000)),
            ("bb", every_v6, Some(8001)),
            ("cc", None, Some(8002)),
            ("dd", None, None),
        ] {
            let mut config = shell("sleep 600");
            config.host.ports = vec![range(host_ip)];
            engine.create(Some(name), config).await.unwrap();
            match (engine.start(name).await, port) {
                (Ok(()), Some(port)) => {
                    let ports = info(&engine, name).await.ports;
                    assert_eq!((ports.len(), ports[0].host_port), (1, port));
                }
                (Err(error), None) => assert!(error.chain().contains("port is already allocated")),
                (started, _) => panic!("{name}: {started:?}"),
            }
        }
        node.close(engine).await;
    });
}

#[test]
fn both_families_of_every_address_are_one_binding() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("sleep 600");
        let on = |address: &str| PortBinding {
            host_ip: Some(address.parse().unwrap()),
            ..publish(8080)
        };
        config.host.ports = vec![on("0.0.0.0"), on("::")];
        engine.create(Some("aa"), config).await.unwrap();
        engine.start("aa").await.unwrap();
        assert_eq!(info(&engine, "aa").await.ports.len(), 1);
        node.close(engine).await;
    });
}

#[test]
fn a_published_port_leads_into_the_container() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("while :; do echo served | nc -l -p 80; done");
        config.host.ports = vec![publish(0)];
        engine.create(Some("aa"), config.clone()).await.unwrap();
        engine.start("aa").await.unwrap();
        let info = info(&engine, "aa").await;
        let port = info.ports[0].host_port;
        assert_ne!(port, 0);
        let address = info.networks["bridge"].address.unwrap();
        let mut reply = String::new();
        until("the server answers", || {
            reply.clear();
            TcpStream::connect((address, 80))
                .is_ok_and(|mut stream| stream.read_to_string(&mut reply).is_ok())
        })
        .await;
        assert_eq!(reply, "served\n");
        config.host.ports = vec![publish(port)];
        engine.create(Some("bb"), config).await.unwrap();
        let error = engine.start("bb").await.unwrap_err();
        let text = error.chain();
        assert!(
            text.starts_with("driver failed programming external connectivity on endpoint bb"),
            "{text}"
        );
        assert_eq!(text.matches("port is already allocated").count(), 1, "{text}");
        node.close(engine).await;
    });
}

/// Docker's two events for a container that runs, and its one for a container that does not.
#[test]
fn leaving_a_network_is_told_as_docker_tells_it() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("aa"), shell("sleep 600")).await.unwrap();
        engine.start("aa").await.unwrap();
        let mut stopped = shell("true");
        stopped.host.network = NetworkMode::None;
        engine.create(Some("bb"), stopped).await.unwrap();
        let mut events = engine.events(None);
        engine.network_disconnect("bridge", "aa", false).await.unwrap();
        engine.network_disconnect("none", "bb", false).await.unwrap();
        let error = engine.network_disconnect("none", "bb", false).await.unwrap_err();
        assert!(error.chain().contains("is not connected"), "{}", error.chain());
        engine.remove("bb", RemoveOptions::default()).await.unwrap();
        let mut told = Vec::new();
        while told.last().is_none_or(|(action, _)| action != "destroy") {
            let event = events.next().await.unwrap();
            told.push((event.action, event.attributes["name"].clone()));
        }
        let expected = [
            ("disconnect", "bridge"),
            ("disconnect", "bridge"),
            ("disconnect", "none"),
            ("destroy", "bb"),
        ];
        assert_eq!(
            told,
            expected.map(|(action, name)| (action.to_owned(), name.to_owned()))
        );
        node.close(engine).await;
    });
}

#[test]
fn modes_of_networking_differ_in_their_interfaces() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let with_mode = |mode: NetworkMode| {
            let mut config = shell("ip -o link | wc -l; ip -o -4 addr");
            config.host.network = mode;
            config
        };
        let (_, none) = run(&engine, with_mode(NetworkMode::None)).await;
        assert!(none.starts_with("1\n"), "{none}");
        let (_, bridge) = run(&engine, with_mode(NetworkMode::Bridge)).await;
        assert!(bridge.contains("10.211.0.2/24"), "{bridge}");
        let (_, host) = run(&engine, with_mode(NetworkMode::Host)).await;
        assert!(host.contains("10.211.0.1/24"), "{host}");
        // Not as something that is not found: clients would look for the image.
        let missing = with_mode(NetworkMode::Named("lan".into()));
        assert_eq!(
            engine.create(None, missing).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
        engine.create(Some("aa"), shell("sleep 600")).await.unwrap();
        engine.start("aa").await.unwrap();
        let (_, shared) = run(&engine, with_mode(NetworkMode::Container("aa".into()))).await;
        let address = info(&engine, "aa").await.networks["bridge"].address.unwrap();
        assert!(shared.contains(&address.to_string()), "{shared}");
        node.close(engine).await;
    });
}
