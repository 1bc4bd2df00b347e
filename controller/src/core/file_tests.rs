//! Which nodes are given secrets and configs, and for how long.

use super::tests::{Single, WORKER, assigned, report, service, session, status, updates, write};
use super::*;
use crate::control::{ControlReply, ServiceChange};
use muster_types::file::{FileReference, FileSpec};
use muster_types::{AssignmentUpdate, FileId, FileKind, ServiceId, ServiceSpec, TaskId, TaskState};
use std::collections::BTreeSet;

fn make(single: &mut Single, number: u128, kind: FileKind) -> FileId {
    let spec = Box::new(FileSpec {
        name: format!("file{number}"),
        data: format!("content {number}").into_bytes().into(),
        ..FileSpec::default()
    });
    match write(single, number, ControlRequest::CreateFile { kind, spec }) {
        Ok(ControlReply::FileCreated { id }) => id,
        other => panic!("{other:?}"),
    }
}

fn needing(secrets: &[FileId], replicas: u64) -> Box<ServiceSpec> {
    let mut spec = service(replicas);
    let reference = |id: &FileId| FileReference {
        id: *id,
        name: format!("file{}", id.as_u128()),
        target: muster_types::file::FileTarget {
            path: id.to_string(),
            ..Default::default()
        },
    };
    spec.template.container.secrets = secrets.iter().map(reference).collect();
    spec
}

/// The files that the node holds after these updates.
#[derive(Default)]
struct Held(BTreeSet<FileId>);

impl Held {
    fn hear(&mut self, sent: &[AssignmentUpdate]) {
        for update in sent {
            if update.from.is_none() {
                self.0.clear();
            }
            for gone in &update.files_gone {
                assert!(self.0.remove(gone), "the node never had {gone}");
            }
            for file in &update.files {
                let content = format!("content {}", file.id.as_u128());
                assert_eq!(file.data.bytes(), content.as_bytes());
                assert!(self.0.insert(file.id), "{} was sent twice", file.id);
            }
        }
    }
}

fn task_of(sent: &[AssignmentUpdate]) -> TaskId {
    sent.iter()
        .flat_map(|update| &update.tasks)
        .next()
        .expect("a task was assigned")
        .id
}

#[test]
fn a_node_holds_a_secret_only_while_a_task_there_needs_it() {
    let mut single = Single::leading();
    let mut held = Held::default();
    let (one, two) = (
        make(&mut single, 70, FileKind::Secret),
        make(&mut single, 71, FileKind::Secret),
    );
    make(&mut single, 72, FileKind::Config);
    held.hear(&updates(&single.open_session(session(1))));
    assert!(held.0.is_empty(), "no task needs any");

    let spec = needing(&[one], 1);
    let sent = assigned(&mut single, 73, ControlRequest::CreateService { spec });
    held.hear(&sent);
    assert_eq!(held.0, BTreeSet::from([one]));

    let old = task_of(&sent);
    let running = report(&mut single, session(1), old, status(TaskState::Running, "runs"));
    held.hear(&updates(&running));
    assert_eq!(held.0, BTreeSet::from([one]));
    let others = single.controller.state().nodes().filter(|node| node.id != WORKER);
    let others: Vec<_> = others.map(|node| node.id).collect();
    assert!(!others.is_empty());
    for other in others {
        let set = dispatch::assignment_set(single.controller.state(), other);
        assert!(set.files.is_empty(), "no other node is sent it");
    }

    let id = ServiceId::from_u128(73);
    let version = single.controller.state().service(id).unwrap().meta.spec_version;
    let change = ServiceChange::Spec(needing(&[two], 1));
    held.hear(&assigned(
        &mut single,
        74,
        ControlRequest::UpdateService { id, version, change },
    ));
    assert!(held.0.contains(&one), "the old task has not stopped");
    let stopped = report(
        &mut single,
        session(1),
        old,
        status(TaskState::Shutdown, "stopped"),
    );
    held.hear(&updates(&stopped));
    assert!(!held.0.contains(&one), "nothing there needs it any more");
    let whole = dispatch::assignment_set(single.controller.state(), WORKER).files;
    assert_eq!(whole.iter().map(|file| file.id).collect::<BTreeSet<_>>(), held.0);
}
