use super::*;
use proptest::prelude::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_are_normalised_as_docker_does() {
    let table = [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("me/app", "docker.io/me/app", "me/app"),
        ("me/app:a_B.c-9", "docker.io/me/app:a_B.c-9", "me/app:a_B.c-9"),
        ("ghcr.io/me/app", "ghcr.io/me/app", "ghcr.io/me/app"),
        ("localhost/app", "localhost/app", "localhost/app"),
        (
            "localhost:5000/app:1",
            "localhost:5000/app:1",
            "localhost:5000/app:1",
        ),
        ("Registry/app", "Registry/app", "Registry/app"),
        ("[fd00::1]:5000/app", "[fd00::1]:5000/app", "[fd00::1]:5000/app"),
        ("a.b.c/x__y/z---w", "a.b.c/x__y/z---w", "a.b.c/x__y/z---w"),
        ("host:1", "docker.io/library/host:1", "host:1"),
    ];
    for (text, full, familiar) in table {
        let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(reference.to_string(), full, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
    }
    let pinned = Reference::parse(&format!("busybox:1@{D}")).unwrap();
    assert_eq!(pinned.to_string(), format!("docker.io/library/busybox:1@{D}"));
    assert_eq!(
        (pinned.tag(), pinned.digest()),
        (Some("1"), Some(D.parse().unwrap()))
    );
    assert_eq!(
        pinned.at_digest(D.parse().unwrap()).familiar(),
        format!("busybox@{D}")
    );
}

#[test]
fn the_default_tag_is_added_only_to_a_bare_name() {
    let tagged = |text: &str| Reference::parse(text).unwrap().with_default_tag().familiar();
    assert_eq!(tagged("a"), "a:latest");
    assert_eq!(tagged("a:b"), "a:b");
    assert_eq!(tagged(&format!("a@{D}")), format!("a@{D}"));
}

#[test]
fn what_docker_refuses_is_refused() {
    let long_tag = format!("a:{}", "t".repeat(129));
    let long_name = format!("x.y/{}", "n".repeat(252));
    let wrong_digest = "a@sha256:12".to_string();
    let table = [
        ("", ReferenceError::Format),
        (":tag", ReferenceError::Format),
        ("a:", ReferenceError::Format),
        ("a:-x", ReferenceError::Format),
        ("a b", ReferenceError::Format),
        ("a/", ReferenceError::Format),
        ("/a", ReferenceError::Format),
        ("a//b", ReferenceError::Format),
        ("../etc", ReferenceError::Format),
        ("a..b", ReferenceError::Format),
        ("a___b", ReferenceError::Format),
        ("-a", ReferenceError::Format),
        ("a-", ReferenceError::Format),
        ("-h.x/a", ReferenceError::Format),
        ("h:p/a", ReferenceError::Format),
        (
            "Busybox",
            ReferenceError::Uppercase {
                name: "Busybox".into(),
            },
        ),
        (
            "me/App",
            ReferenceError::Uppercase {
                name: "me/App".into(),
            },
        ),
        (long_tag.as_str(), ReferenceError::Format),
        (long_name.as_str(), ReferenceError::TooLong),
        (wrong_digest.as_str(), ReferenceError::Digest),
        (&D[7..], ReferenceError::LooksLikeId { name: D[7..].into() }),
    ];
    for (text, expected) in table {
        assert_eq!(Reference::parse(text), Err(expected), "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused_without_panic(text in ".{0,300}") {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn what_parses_reads_back_the_same_from_both_forms(text in "([a-z.:0-9]{1,9}/)?[a-z0-9._-]{1,9}(:[a-z]{1,4})?") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
            prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
        }
    }
}
