//! Secrets and configs: the cluster begins with some, services need them, and nodes hold them while they do.

use crate::controllers::name;
use crate::random::Dice;
use crate::world::World;
use muster_state::{Change, ClusterState};
use muster_types::file::{FileReference, FileSpec, FileTarget};
use muster_types::{AssignedFile, AssignedTask, ClusterFile, FileId, FileKind, Meta, ServiceSpec};
use std::collections::BTreeSet;

/// How many there are.
const FILES: u128 = 4;

/// The changes that make them.
pub fn first_files() -> Vec<Change> {
    let file = |number: u128| ClusterFile {
        id: FileId::from_u128(0xF11E << 64 | number),
        kind: match number % 2 {
            0 => FileKind::Secret,
            _ => FileKind::Config,
        },
        meta: Meta::default(),
        spec: FileSpec {
            name: format!("file-{number}"),
            data: format!("content of {number}").into_bytes().into(),
            ..FileSpec::default()
        },
    };
    (0..FILES)
        .map(|number| Change::FileCreate(Box::new(file(number))))
        .collect()
}

/// Which of them the tasks of a service need.
pub fn draw_files(dice: &mut Dice, spec: &mut ServiceSpec, known: &ClusterState) {
    let container = &mut spec.template.container;
    (container.secrets, container.configs) = (Vec::new(), Vec::new());
    for file in known.files() {
        if !dice.permille(300) {
            continue;
        }
        let reference = FileReference {
            id: file.id,
            name: file.spec.name.clone(),
            target: FileTarget {
                path: file.spec.name.clone(),
                ..FileTarget::default()
            },
        };
        match file.kind {
            FileKind::Secret => container.secrets.push(reference),
            FileKind::Config => container.configs.push(reference),
        }
    }
}

impl World {
    /// A task starts: everything that it needs is there.
    pub fn check_started_with(&mut self, machine: usize, task: &AssignedTask, files: &[AssignedFile]) {
        let missing = task
            .template
            .files()
            .find(|(_, needed)| !files.iter().any(|file| file.id == needed.id));
        if let Some((kind, needed)) = missing {
            let what = format!(
                "task {} on {} starts without {kind} {}",
                task.id,
                name(machine),
                needed.name
            );
            self.violated("a task starts with its secrets and configs", what);
        }
    }

    /// Nobody holds a secret for nothing.
    pub fn check_files(&mut self) {
        for machine in 0..self.machines.len() {
            let Some(agent) = self.machines[machine].agent() else {
                continue;
            };
            let set = agent.core.assignments();
            let needed: BTreeSet<FileId> = set
                .tasks
                .iter()
                .filter(|task| !task.recorded.1.is_terminal())
                .flat_map(|task| task.template.files().map(|(_, file)| file.id))
                .collect();
            let surplus = set.files.iter().find(|file| !needed.contains(&file.id));
            if let Some(file) = surplus {
                let what = format!(
                    "{} holds {} {} and no task there needs it",
                    name(machine),
                    file.kind,
                    file.name
                );
                self.violated("a node holds a secret only while a task there needs it", what);
                return;
            }
        }
    }
}
