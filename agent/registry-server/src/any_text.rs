//! Paths, names, ranges and manifests of any content: nothing panics, and what is taken has the form that it should.

use crate::manifest::Manifest;
use crate::range::{self, Wanted};
use crate::route::{self, Query, Route};
use muster_images::repository::ContentDigest;
use proptest::prelude::*;

/// Text of the parts that paths are made of, whole and broken.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("v2".to_owned()),
        Just("blobs".to_owned()),
        Just("uploads".to_owned()),
        Just("manifests".to_owned()),
        Just("referrers".to_owned()),
        Just("tags/list".to_owned()),
        Just("..".to_owned()),
        Just("%2e%2E".to_owned()),
        Just("%2f".to_owned()),
        Just(format!("sha256:{}", "a".repeat(64))),
        "[a-z0-9._-]{0,12}",
        "[a-zA-Z0-9:%/@]{0,12}",
        any::<String>(),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| format!("/v2/{}", parts.join("/")))
}

fn name_of(route: &Route) -> Option<&str> {
    match route {
        Route::Base | Route::Catalog => None,
        Route::Tags { name }
        | Route::Manifest { name, .. }
        | Route::Blob { name, .. }
        | Route::Uploads { name }
        | Route::Upload { name, .. }
        | Route::Referrers { name, .. } => Some(name),
    }
}

/// JSON that is near to a manifest.
fn document() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("-1".to_owned()),
        Just(r#"{"digest":"sha256:0"}"#.to_owned()),
        Just(format!(
            r#"[{{"mediaType":"x","digest":"sha256:{}","size":-5}}]"#,
            "0".repeat(64)
        )),
        Just(format!(r#"{{"digest":"sha256:{}"}}"#, "0".repeat(64))),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let key = prop::sample::select(vec![
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "blobs",
        "manifests",
        "subject",
        "annotations",
        "other",
    ]);
    let entries = prop::collection::vec((key, value), 0..6);
    entries.prop_map(|entries| {
        let entries: Vec<String> = entries
            .iter()
            .map(|(key, value)| format!("{key:?}:{value}"))
            .collect();
        format!("{{{}}}", entries.join(","))
    })
}

proptest! {
    #[test]
    fn any_path_is_a_route_or_refused(path in path()) {
        if let Ok(route) = route::parse(&path)
            && let Some(name) = name_of(&route)
        {
            let is_plain = |part: &str| {
                !part.is_empty() && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            };
            prop_assert!(name.split('/').all(is_plain), "{name}");
            let same = route::name(name);
            prop_assert_eq!(same.ok(), Some(name.to_owned()));
        }
    }

    #[test]
    fn any_query_is_read(text in any::<String>()) {
        let query = Query::parse(Some(&text));
        let _ = route::Page::parse(&query, 100).map(|page| assert!(page.entries_max <= 100));
    }

    #[test]
    fn any_digest_that_is_taken_is_written_the_same(text in "(sha256|sha512|SHA256|[a-z0-9+._-]{1,9}):[0-9a-fA-F/.]{0,130}") {
        if let Ok(digest) = text.parse::<ContentDigest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    #[test]
    fn any_range_lies_within(text in "(bytes=)?[0-9 ,+-]{0,45}", bytes in any::<u64>()) {
        match range::wanted(Some(&text), bytes) {
            Wanted::Part(part) => prop_assert!(part.start < part.end && part.end <= bytes),
            Wanted::Whole | Wanted::Nothing => {}
        }
        if let Some(piece) = range::of_piece(&text) {
            prop_assert!(piece.start < piece.end);
        }
    }

    #[test]
    fn any_document_is_a_manifest_or_refused(text in document(), kind in prop::option::of("[a-z/+.;= -]{0,60}")) {
        if let Ok(manifest) = Manifest::parse(text.as_bytes(), kind.as_deref()) {
            prop_assert!(manifest.media_type.bytes().all(|b| b.is_ascii_graphic()));
        }
    }

    #[test]
    fn any_bytes_are_a_manifest_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Manifest::parse(&bytes, None).is_ok();
    }
}
