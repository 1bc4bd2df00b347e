//! The real docker CLI against networks of the cluster.

use crate::client::Running;

async fn in_swarm() -> Running {
    let server = Running::start().await;
    server.docker(&["swarm", "init"]).await;
    server
}

#[tokio::test]
async fn a_node_outside_of_any_cluster_has_no_overlay_networks() {
    let server = Running::start().await;
    let refused = server
        .docker_fails(&["network", "create", "-d", "overlay", "net"])
        .await;
    assert!(refused.contains("This node is not a swarm manager"), "{refused}");
    let listed = server
        .docker(&["network", "ls", "--format", "{{.Name}} {{.Scope}}"])
        .await;
    assert_eq!(listed, "bridge local\nhost local\nnone local");
}

#[tokio::test]
async fn networks_of_the_cluster_stand_beside_those_of_the_node() {
    let server = in_swarm().await;
    let id = server
        .docker(&[
            "network",
            "create",
            "-d",
            "overlay",
            "--attachable",
            "--label",
            "a=b",
            "net",
        ])
        .await;
    let listed = server
        .docker(&[
            "network",
            "ls",
            "--filter",
            "driver=overlay",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Name}} {{.Scope}}",
        ])
        .await;
    assert_eq!(listed, format!("{id} net swarm"));
    let local = server
        .docker(&[
            "network",
            "ls",
            "--filter",
            "scope=local",
            "--format",
            "{{.Name}}",
        ])
        .await;
    assert_eq!(local, "bridge\nhost\nnone");
    for reference in ["net", &id, &id[..8]] {
        let shown = server
            .docker(&[
                "network",
                "inspect",
                "--format",
                "{{.Name}} {{.Attachable}} {{.Ingress}} {{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).Gateway}} \
                 {{index .Options \"com.docker.network.driver.overlay.vxlanid_list\"}} {{index .Labels \"a\"}}",
                reference,
            ])
            .await;
        assert_eq!(shown, "net true false 10.0.0.0/24 10.0.0.1 4097 b", "{reference}");
    }
    for (scope, status) in [("local", 404), ("swarm", 200), ("", 200)] {
        let path = format!("/networks/net?scope={scope}");
        assert_eq!(server.request("GET", &path, None).await.0, status, "{scope}");
    }
    let twice = server
        .docker_fails(&["network", "create", "-d", "overlay", "net"])
        .await;
    assert!(twice.contains("network with name net already exists"), "{twice}");
    let local_twice = server.docker_fails(&["network", "create", "net"]).await;
    assert!(
        local_twice.contains("network with name net already exists"),
        "{local_twice}"
    );
    assert_eq!(server.docker(&["network", "rm", "net"]).await, "net");
    let gone = server.docker_fails(&["network", "inspect", "net"]).await;
    assert!(gone.contains("network net not found"), "{gone}");
}

#[tokio::test]
async fn a_network_that_a_service_names_is_not_removed() {
    let server = in_swarm().await;
    let id = server
        .docker(&["network", "create", "-d", "overlay", "net"])
        .await;
    server
        .docker(&["network", "create", "-d", "overlay", "spare"])
        .await;
    let service = server
        .docker(&[
            "service",
            "create",
            "--detach",
            "--name",
            "web",
            "--network",
            "net",
            "image",
        ])
        .await;
    let refused = server.docker_fails(&["network", "rm", "net"]).await;
    assert!(
        refused.contains(&format!("network {id} is in use by service {service}")),
        "{refused}"
    );
    let pruned = server.docker(&["network", "prune", "--force"]).await;
    assert!(pruned.contains("spare") && !pruned.contains("net\n"), "{pruned}");
    server.docker(&["service", "rm", "web"]).await;
    server.docker(&["network", "rm", "net"]).await;
}

#[tokio::test]
async fn a_network_is_given_rules_and_shows_them() {
    let server = in_swarm().await;
    server
        .docker(&["network", "create", "-d", "overlay", "net"])
        .await;
    let (status, _, shown) = server.request("GET", "/networks/net/policy", None).await;
    assert_eq!((status, shown.trim()), (200, r#"{"Default":"allow","Rules":[]}"#));
    let put = async |network: &str, body: &str| {
        let path = format!("/networks/{network}/policy");
        server.request("PUT", &path, Some(body)).await.0
    };
    assert_eq!(
        put("net", r#"{"Default":"deny","Rules":["web->db:5432, 53/udp"]}"#).await,
        204
    );
    let (_, _, shown) = server.request("GET", "/networks/net/policy", None).await;
    let written = r#"{"Default":"deny","Rules":["web -> db:5432/tcp,53/udp"]}"#;
    assert_eq!(shown.trim(), written);
    for (network, body, status) in [
        ("net", r#"{"Default":"deny","Rules":["web"]}"#, 400),
        ("net", r#"{"Default":"deny","Rules":"web -> db"}"#, 400),
        ("net", r#"{"Rules":["web -> db"]}"#, 400),
        ("net", r#"{"Default":"","Rules":["web -> db"]}"#, 400),
        ("net", r#"{"default":"deny","rules":["web -> db"]}"#, 400),
        ("net", r#"{"Default":"deny","Ruled":["web -> db"]}"#, 400),
        ("net", r#"{"Default":"maybe"}"#, 400),
        ("net", r#"{"Default":null,"Rules":null}"#, 400),
        ("net", r#"{"Ruled":null}"#, 400),
        ("net", "null", 400),
        ("net", "[]", 400),
        ("bridge", "{}", 404),
        ("none-such", "{}", 404),
    ] {
        assert_eq!(put(network, body).await, status, "{network} {body}");
    }
    let (_, _, shown) = server.request("GET", "/networks/net/policy", None).await;
    assert_eq!(shown.trim(), written);
    assert_eq!(put("net", "{}").await, 204);
    let (_, _, shown) = server.request("GET", "/networks/net/policy", None).await;
    assert_eq!(shown.trim(), r#"{"Default":"allow","Rules":[]}"#);
}

#[tokio::test]
async fn who_cannot_ask_the_cluster_does_not_say_that_a_network_is_missing() {
    let server = Running::start().await;
    let expect = async |says: &str| {
        for (method, body) in [("GET", None), ("PUT", Some("{}"))] {
            let (status, _, answer) = server.request(method, "/networks/net/policy", body).await;
            assert!(
                status == 503 && answer.contains(says),
                "{method}: {status} {answer}"
            );
        }
    };
    expect("docker swarm init").await;
    server.docker(&["swarm", "init"]).await;
    server.cluster.lose_leader();
    expect("does not have a leader").await;
}

#[tokio::test]
async fn the_way_of_a_connection_is_told_in_steps() {
    let server = in_swarm().await;
    let path = "/services/web/trace?to=db&port=53/udp";
    let (status, _, steps) = server.request("GET", path, None).await;
    let expected = r#"[{"Step":"name","Passes":false,"Text":"web db Some((Udp, 53))"}]"#;
    assert_eq!((status, steps.trim()), (200, expected));
    for bad in ["", "?to=", "?to=db&port=0", "?to=db&port=1/icmp"] {
        let path = format!("/services/web/trace{bad}");
        assert_eq!(server.request("GET", &path, None).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = in_swarm().await;
    let overlay_local = server
        .docker_fails(&["network", "create", "-d", "overlay", "--scope", "local", "net"])
        .await;
    assert!(overlay_local.contains("has the scope"), "{overlay_local}");
    let ingress = server
        .docker_fails(&["network", "create", "-d", "bridge", "--ingress", "net"])
        .await;
    assert!(ingress.contains("needs the driver"), "{ingress}");
    let bridge = server
        .docker_fails(&["network", "create", "-d", "bridge", "--scope", "swarm", "net"])
        .await;
    assert!(bridge.contains("not implemented"), "{bridge}");
}
