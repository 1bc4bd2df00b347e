//! Requests that are wrong get Docker's error shape, and the daemon goes on.

use crate::support::{Ending, Lab, json_request, raw_request};

#[test]
fn a_wrong_request_is_told_what_is_wrong() {
    let lab = Lab::up("e2ebad", 1, 1);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        ("GET /v1.41/nosuch", "", "404"),
        ("GET /v9.99/version", "", "400"),
        ("GET /v1.12/version", "", "400"),
        ("POST /v1.41/containers/create", "{not json", "400"),
        ("POST /v1.41/containers/create", "[]", "400"),
        ("POST /v1.41/containers/create", r#"{"Image": 7}"#, "400"),
        ("POST /v1.41/containers/create", &deep, "400"),
        (
            "POST /v1.41/containers/create?name=../../etc",
            r#"{"Image":"a"}"#,
            "400",
        ),
        ("POST /v1.41/containers/create", r#"{"Image":"nosuch:1"}"#, "404"),
        (
            "POST /v1.41/services/create",
            r#"{"Name":"a b","TaskTemplate":{"ContainerSpec":{"Image":"a"}}}"#,
            "400",
        ),
        ("POST /v1.41/services/create", "null", "400"),
        ("POST /v1.41/services/nosuch/update?version=x", "{}", "400"),
        ("GET /v1.41/containers/json?filters=nonsense", "", "400"),
        ("GET /v1.41/containers/nosuch/json", "", "404"),
        (
            "POST /v1.41/nodes/nosuch/update?version=1",
            r#"{"Role":"worker","Availability":"active"}"#,
            "404",
        ),
    ];
    for (line, body, expected) in cases {
        let (status, answer) = json_request(lab.docker("node-1").socket(), line, body);
        let shown: String = body.chars().take(60).collect();
        assert!(
            status.starts_with(&format!("HTTP/1.1 {expected}")),
            "{line} {shown}: {status} {answer}"
        );
        assert!(answer.contains("\"message\":"), "{line} {shown}: {answer}");
    }
    assert_eq!(lab.docker("node-1").run(&["ps", "-aq"]), "");
}

#[test]
fn bytes_that_are_no_request_do_not_hurt() {
    let lab = Lab::up("e2ebytes", 1, 1);
    let docker = lab.docker("node-1");
    let long_header = format!(
        "GET /version HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(2 << 20)
    );
    let many_headers = format!("GET /version HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let cases: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"GET /version HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        long_header.as_bytes(),
        many_headers.as_bytes(),
    ];
    for bytes in cases {
        let answer = raw_request(docker.socket(), bytes, Ending::Close);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        assert_eq!(docker.run(&["ps", "-q"]), "");
    }
    let unfinished = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    let answer = raw_request(docker.socket(), unfinished, Ending::Close);
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(docker.run(&["ps", "-aq"]), "");
}
