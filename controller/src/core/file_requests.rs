//! Writes that concern secrets and configs: from the request to the changeset.

use super::requests::{invalid, rejected};
use crate::control::{ControlError, RefusalKind};
use muster_state::{
    Change, Changeset, ClusterState, LEVEL_OF_FILES, ObjectKey, Part, Precondition, Rejection,
};
use muster_types::file::{FileSpec, check_spec};
use muster_types::{ClusterFile, FileId, FileKind, Meta, Reason, RequestId, TaskTemplate};
use std::sync::Arc;

/// Most bytes of content that all secrets and configs of a cluster may have together. A node may need all of them, and gets
/// them in one message.
const ALL_BYTES_MAX: usize = 32 << 20;

pub(super) fn create(
    state: &ClusterState,
    id: RequestId,
    kind: FileKind,
    spec: &FileSpec,
) -> Result<Changeset, ControlError> {
    check_level(state)?;
    check_spec(kind, spec).map_err(|problems| invalid(&problems))?;
    if state.file_by_name(kind, &spec.name).is_some() {
        let name = spec.name.clone();
        return Err(rejected(&Rejection::FileNameConflict { kind, name }));
    }
    let sizes = state.files().map(|file| file.spec.data.bytes().len());
    if sizes.sum::<usize>() + spec.data.bytes().len() > ALL_BYTES_MAX {
        return Err(ControlError::refused(
            RefusalKind::Unavailable,
            format!(
                "all secrets and configs of the cluster may have {ALL_BYTES_MAX} bytes together: remove some that no \
                 service needs, or keep large content in an image or a volume"
            ),
        ));
    }
    let change = Change::FileCreate(Box::new(ClusterFile {
        id: FileId::from_u128(id.as_u128()),
        kind,
        meta: Meta::default(),
        spec: spec.clone(),
    }));
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

/// Only labels may differ; content that is left out stays.
pub(super) fn update(
    state: &ClusterState,
    (kind, id): (FileKind, FileId),
    version: u64,
    spec: &FileSpec,
) -> Result<Changeset, ControlError> {
    let file = known(state, kind, id)?;
    let given = spec.data.bytes();
    if spec.name != file.spec.name || !(given.is_empty() || spec.data == file.spec.data) {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            "only updates to Labels are allowed",
        ));
    }
    let change = Change::FileLabels {
        file: id,
        labels: spec.labels.clone(),
    };
    let precondition = Precondition::Version {
        object: ObjectKey::File(id),
        part: Part::Spec,
        version,
    };
    Ok(Changeset::new(Reason::UserRequest, vec![change]).when(precondition))
}

pub(super) fn remove(state: &ClusterState, kind: FileKind, id: FileId) -> Result<Changeset, ControlError> {
    known(state, kind, id)?;
    let change = Change::FileRemove { file: id };
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

/// What must still be so when a service applies that needs these files: they are there, under the names that it gives.
pub(super) fn needed(
    state: &ClusterState,
    template: &TaskTemplate,
) -> Result<Vec<Precondition>, ControlError> {
    if template.files().next().is_some() {
        check_level(state)?;
    }
    for kind in [FileKind::Secret, FileKind::Config] {
        let of_kind = template.files().filter(|(of, _)| *of == kind);
        let missing = of_kind.filter(|(_, wanted)| {
            let found = state.file(wanted.id);
            !found.is_some_and(|found| found.kind == kind && found.spec.name == wanted.name)
        });
        let names: Vec<&str> = missing.map(|(_, wanted)| wanted.name.as_str()).collect();
        if !names.is_empty() {
            let plural = if names.len() == 1 { "" } else { "s" };
            return Err(ControlError::refused(
                RefusalKind::Invalid,
                format!("{kind}{plural} not found: {}", names.join(", ")),
            ));
        }
    }
    let there = template.files().map(|(_, file)| ObjectKey::File(file.id));
    Ok(there.map(Precondition::Exists).collect())
}

fn known(state: &ClusterState, kind: FileKind, id: FileId) -> Result<&Arc<ClusterFile>, ControlError> {
    let file = state.file(id).filter(|file| file.kind == kind);
    file.ok_or_else(|| ControlError::not_found(kind.name(), id))
}

fn check_level(state: &ClusterState) -> Result<(), ControlError> {
    let level = state.cluster().map_or(0, |cluster| cluster.feature_level);
    // It would run tasks without their files. A node that has not told yet is new.
    let is_older =
        |node: &&Arc<muster_types::Node>| (1..LEVEL_OF_FILES).contains(&node.description.feature_level);
    if level >= LEVEL_OF_FILES && state.nodes().find(is_older).is_none() {
        return Ok(());
    }
    Err(ControlError::refused(
        RefusalKind::Unavailable,
        "some nodes run a version of Muster without secrets and configs: update them first, or remove them",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{applied, node, single, single_of_level};
    use muster_types::NodeDescription;
    use muster_types::file::FileReference;

    fn spec(name: &str) -> FileSpec {
        FileSpec {
            name: name.to_owned(),
            data: b"content".to_vec().into(),
            ..FileSpec::default()
        }
    }

    fn text(result: Result<Changeset, ControlError>) -> String {
        result.map(|_| ()).unwrap_err().to_string()
    }

    fn with_key() -> (ClusterState, FileId) {
        let mut state = single();
        let made = create(&state, RequestId::from_u128(7), FileKind::Secret, &spec("key")).unwrap();
        applied(&mut state, made.changes);
        (state, FileId::from_u128(7))
    }

    #[test]
    fn a_cluster_with_older_controllers_takes_none() {
        let state = single_of_level(LEVEL_OF_FILES - 1);
        let refused = create(&state, RequestId::from_u128(7), FileKind::Config, &spec("page"));
        assert!(text(refused).contains("update them first"));
    }

    #[test]
    fn a_cluster_with_older_workers_takes_none() {
        let (mut state, _) = with_key();
        let description = NodeDescription {
            feature_level: LEVEL_OF_FILES - 1,
            ..NodeDescription::default()
        };
        let tells = Change::NodeDescription {
            node: node(1),
            description: Arc::new(description),
        };
        applied(&mut state, vec![tells]);
        let refused = create(&state, RequestId::from_u128(8), FileKind::Config, &spec("page"));
        assert!(text(refused).contains("update them first"));
    }

    #[test]
    fn all_content_together_is_bounded() {
        let mut state = single();
        let mut number = 0;
        let refused = loop {
            number += 1;
            let mut spec = spec(&format!("page-{number}"));
            spec.data = vec![7; 1_000_000].into();
            match create(&state, RequestId::from_u128(number), FileKind::Config, &spec) {
                Ok(made) => applied(&mut state, made.changes),
                Err(refused) => break refused,
            };
        };
        assert_eq!(number, 34, "33 MB fit");
        assert!(refused.to_string().contains("remove some"), "{refused}");
    }

    #[test]
    fn only_labels_change() {
        let (state, id) = with_key();
        let version = state.file(id).unwrap().meta.spec_version;
        let changed = |spec: &FileSpec| update(&state, (FileKind::Secret, id), version, spec);
        let mut other = spec("key");
        other.labels.insert("a".into(), "b".into());
        assert!(changed(&other).is_ok());
        other.data = Vec::new().into();
        assert!(changed(&other).is_ok());
        other.data = b"else".to_vec().into();
        assert_eq!(text(changed(&other)), "only updates to Labels are allowed");
        assert_eq!(text(changed(&spec("lock"))), "only updates to Labels are allowed");
        assert!(update(&state, (FileKind::Config, id), version, &spec("key")).is_err());
    }

    #[test]
    fn services_need_files_that_are_there_under_their_names() {
        let (state, id) = with_key();
        let wants = |name: &str, id: FileId| FileReference {
            id,
            name: name.to_owned(),
            ..FileReference::default()
        };
        let mut template = TaskTemplate::default();
        template.container.secrets = vec![wants("key", id)];
        let there = needed(&state, &template).unwrap();
        assert_eq!(there, [Precondition::Exists(ObjectKey::File(id))]);
        template.container.secrets = vec![wants("lock", id), wants("gone", FileId::default())];
        let refused = needed(&state, &template).unwrap_err();
        assert_eq!(refused.to_string(), "secrets not found: lock, gone");
        template.container.secrets.clear();
        template.container.configs = vec![wants("key", id)];
        let refused = needed(&state, &template).unwrap_err();
        assert_eq!(refused.to_string(), "config not found: key");
    }
}
