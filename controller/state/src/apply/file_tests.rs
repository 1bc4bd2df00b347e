//! Secrets and configs: what apply takes and what it refuses.

use super::tests::{WEB, apply, rejection, spec, world};
use crate::*;
use muster_types::file::{FileReference, FileSpec, FileTarget};
use muster_types::*;
use std::sync::Arc;

fn id(number: u128) -> FileId {
    FileId::from_u128(number)
}

fn file(number: u128, kind: FileKind, name: &str) -> Change {
    Change::FileCreate(Box::new(ClusterFile {
        id: id(number),
        kind,
        meta: Meta::default(),
        spec: FileSpec {
            name: name.to_owned(),
            data: b"content".to_vec().into(),
            ..FileSpec::default()
        },
    }))
}

fn needing(number: u128) -> Arc<ServiceSpec> {
    let mut spec = spec("web");
    spec.template.container.secrets = vec![FileReference {
        id: id(number),
        name: "key".into(),
        target: FileTarget {
            path: "key".into(),
            ..FileTarget::default()
        },
    }];
    Arc::new(spec)
}

#[track_caller]
fn done(state: &mut ClusterState, changes: Vec<Change>) {
    assert_eq!(apply(state, changes), Outcome::Applied);
}

fn remove(number: u128) -> Change {
    Change::FileRemove { file: id(number) }
}

#[test]
fn names_are_unique_among_their_kind() {
    let mut state = world();
    done(&mut state, vec![file(1, FileKind::Secret, "key")]);
    done(&mut state, vec![file(2, FileKind::Config, "key")]);
    let taken = rejection(&mut state, file(3, FileKind::Secret, "key"));
    assert_eq!(taken.to_string(), "secret key already exists");
    let again = rejection(&mut state, file(1, FileKind::Secret, "other"));
    assert!(matches!(again, Rejection::AlreadyExists { .. }));
    assert_eq!(state.file_by_name(FileKind::Config, "key").unwrap().id, id(2));
    done(&mut state, vec![remove(1), file(3, FileKind::Secret, "key")]);
    assert_eq!(state.file_by_name(FileKind::Secret, "key").unwrap().id, id(3));
    assert_eq!(invariants::check(&state), []);
}

#[test]
fn what_a_service_needs_stays() {
    let mut state = world();
    done(&mut state, vec![file(1, FileKind::Secret, "key")]);
    let service = ServiceId::from_u128(77);
    let mut named = ServiceSpec::clone(&needing(1));
    named.name = "needs-it".into();
    let create = Change::ServiceCreate {
        service,
        spec: Arc::new(named),
    };
    done(&mut state, vec![create]);
    let refused = rejection(&mut state, remove(1));
    assert_eq!(
        refused.to_string(),
        "secret 'key' is in use by the following service: needs-it"
    );
    done(&mut state, vec![Change::ServiceRemoving { service }, remove(1)]);
    assert!(state.file(id(1)).is_none());
    assert!(matches!(
        rejection(&mut state, remove(1)),
        Rejection::NotFound { .. }
    ));
}

#[test]
fn labels_change_and_content_never() {
    let mut state = world();
    done(&mut state, vec![file(1, FileKind::Config, "page")]);
    let before = state.file(id(1)).unwrap().clone();
    let labels = [("a".to_owned(), "b".to_owned())].into();
    done(&mut state, vec![Change::FileLabels { file: id(1), labels }]);
    let after = state.file(id(1)).unwrap();
    assert_eq!(after.spec.labels["a"], "b");
    assert_eq!(after.spec.data, before.spec.data);
    assert!(after.meta.spec_version > before.meta.spec_version);
    assert_eq!(after.meta.created_at, before.meta.created_at);
}

#[test]
fn snapshots_keep_them_and_of_a_newer_level_are_refused() {
    let mut state = world();
    assert_eq!(state.snapshot().unwrap()[0], 1, "older versions read it");
    done(&mut state, vec![Change::ClusterFeatureLevel(LEVEL_OF_FILES)]);
    done(&mut state, vec![file(1, FileKind::Config, "page")]);
    assert_eq!(state.snapshot().unwrap()[0], 2, "older versions refuse it");
    let restored = ClusterState::restore(&state.snapshot().unwrap()).unwrap();
    assert_eq!(restored, state);
    assert_eq!(invariants::check(&restored), []);
    let level = SUPPORTED_FEATURE_LEVEL + 1;
    done(&mut state, vec![Change::ClusterFeatureLevel(level)]);
    assert!(matches!(
        ClusterState::restore(&state.snapshot().unwrap()),
        Err(SnapshotError::NewerFeatureLevel { found }) if found == level
    ));
}

#[test]
fn entries_about_them_need_their_level() {
    let level =
        |change| Entry::new(Timestamp::ZERO, Changeset::new(Reason::UserRequest, vec![change])).feature_level;
    assert_eq!(level(file(1, FileKind::Config, "page")), LEVEL_OF_FILES);
    assert_eq!(level(remove(1)), LEVEL_OF_FILES);
    let create = |spec| Change::ServiceCreate { service: WEB, spec };
    assert_eq!(level(create(needing(1))), LEVEL_OF_FILES);
    assert_eq!(level(create(Arc::new(spec("web")))), 1);
}
