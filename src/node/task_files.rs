//! The secrets and configs of a task as files of its container.

use super::templates::{TemplateError, TemplateNode, expand, expand_with, unknown};
use muster_engine::GivenFile;
use muster_types::file::{FileReference, TEMPLATE_DRIVER};
use muster_types::{AssignedFile, AssignedTask, FileKind};

/// Most bytes that all files of one container may have: they lie in the node's memory.
const TASK_FILES_BYTES_MAX: usize = 64 << 20;

/// A task's files cannot be made; the text becomes the task's error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskFileError {
    /// The cluster has it no more.
    #[error("{kind} {name} not found")]
    Missing {
        /// Secret or config.
        kind: FileKind,
        /// Its name.
        name: String,
    },
    /// The owner is no number.
    #[error("{kind} {name}: {text:?} is no user or group id: a number is expected")]
    Owner {
        /// Secret or config.
        kind: FileKind,
        /// Its name.
        name: String,
        /// What was given.
        text: String,
    },
    /// Nobody knows how to expand it.
    #[error("{kind} {name}: the template driver {driver:?} is unknown: only {TEMPLATE_DRIVER} is there")]
    Driver {
        /// Secret or config.
        kind: FileKind,
        /// Its name.
        name: String,
        /// The driver.
        driver: String,
    },
    /// A template is no text.
    #[error("{kind} {name}: the template is not UTF-8")]
    NotText {
        /// Secret or config.
        kind: FileKind,
        /// Its name.
        name: String,
    },
    /// The template that a secret is cannot be expanded; why, would show some of it.
    #[error(
        "secret {name}: its template cannot be expanded, and what it holds is not shown; make a config of it with other \
         content to see why"
    )]
    Hidden {
        /// Its name.
        name: String,
    },
    /// All files together are too large.
    #[error("the secrets and configs of the task take more than {TASK_FILES_BYTES_MAX} bytes together")]
    TooLarge,
    /// A template cannot be expanded.
    #[error("{kind} {name}")]
    Template {
        /// Secret or config.
        kind: FileKind,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: TemplateError,
    },
}

/// The files of a task's container.
pub fn given(
    task: &AssignedTask,
    files: &[AssignedFile],
    node: &TemplateNode,
) -> Result<Vec<GivenFile>, TaskFileError> {
    let template = &task.template;
    let one = |(kind, wanted): (FileKind, &FileReference)| {
        let file = find(files, kind, wanted)?;
        let target = &wanted.target;
        Ok(GivenFile {
            target: target.absolute(kind),
            uid: number(kind, &wanted.name, &target.uid)?,
            gid: number(kind, &wanted.name, &target.gid)?,
            mode: target.mode,
            data: match &file.template {
                None => file.data.clone(),
                Some(driver) if driver.name == TEMPLATE_DRIVER => {
                    content(task, files, node, file)?.into_bytes().into()
                }
                Some(driver) => {
                    return Err(TaskFileError::Driver {
                        kind,
                        name: file.name.clone(),
                        driver: driver.name.clone(),
                    });
                }
            },
        })
    };
    let mut given = Vec::new();
    let mut bytes = 0;
    for wanted in template.files() {
        let file = one(wanted)?;
        bytes += file.data.bytes().len();
        if bytes > TASK_FILES_BYTES_MAX {
            return Err(TaskFileError::TooLarge);
        }
        given.push(file);
    }
    Ok(given)
}

fn find<'a>(
    files: &'a [AssignedFile],
    kind: FileKind,
    wanted: &FileReference,
) -> Result<&'a AssignedFile, TaskFileError> {
    let found = files
        .iter()
        .find(|file| file.id == wanted.id && file.kind == kind);
    found.ok_or_else(|| TaskFileError::Missing {
        kind,
        name: wanted.name.clone(),
    })
}

fn number(kind: FileKind, name: &str, text: &str) -> Result<u32, TaskFileError> {
    // Clients leave it out for root.
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| TaskFileError::Owner {
        kind,
        name: name.to_owned(),
        text: text.to_owned(),
    })
}

/// What a template becomes. As in Swarm, files that it names are taken as they are, also where they are templates.
fn content(
    task: &AssignedTask,
    files: &[AssignedFile],
    node: &TemplateNode,
    file: &AssignedFile,
) -> Result<String, TaskFileError> {
    let (kind, name) = (file.kind, &file.name);
    let text = std::str::from_utf8(file.data.bytes()).map_err(|_| TaskFileError::NotText {
        kind,
        name: name.clone(),
    })?;
    let call = |function: &str, argument: &str| match function {
        "secret" => named(task, files, FileKind::Secret, argument),
        "config" => named(task, files, FileKind::Config, argument),
        "env" => variable(task, node, argument),
        other => unknown(other),
    };
    expand_with(text, task, node, &call).map_err(|source| {
        let name = name.clone();
        match kind {
            FileKind::Secret => TaskFileError::Hidden { name },
            FileKind::Config => TaskFileError::Template { kind, name, source },
        }
    })
}

fn named(
    task: &AssignedTask,
    files: &[AssignedFile],
    kind: FileKind,
    target: &str,
) -> Result<String, TemplateError> {
    let mut wanted = task.template.files();
    let wanted = wanted.find(|(of, file)| *of == kind && file.target.path == target);
    let found = wanted.and_then(|(kind, wanted)| find(files, kind, wanted).ok());
    let found = found.ok_or_else(|| TemplateError::NoTarget {
        kind,
        target: target.to_owned(),
    })?;
    Ok(String::from_utf8_lossy(found.data.bytes()).into_owned())
}

/// The value of a variable of the service; empty when there is none.
fn variable(task: &AssignedTask, node: &TemplateNode, name: &str) -> Result<String, TemplateError> {
    let mut entries = task.template.container.env.iter();
    let value = entries.find_map(|entry| entry.split_once('=').filter(|(found, _)| *found == name));
    value.map_or(Ok(String::new()), |(_, value)| expand(value, task, node))
}

#[cfg(test)]
mod tests {
    use super::super::templates::fixture::{self, node};
    use super::*;
    use muster_types::file::{FileTarget, TemplateDriver};
    use muster_types::{FileId, TaskTemplate};
    use std::sync::Arc;

    fn reference(number: u128, name: &str, target: &str) -> FileReference {
        FileReference {
            id: FileId::from_u128(number),
            name: name.to_owned(),
            target: FileTarget {
                path: target.to_owned(),
                uid: "7".to_owned(),
                gid: String::new(),
                mode: 0o400,
            },
        }
    }

    fn file(number: u128, kind: FileKind, name: &str, data: &str) -> AssignedFile {
        AssignedFile {
            id: FileId::from_u128(number),
            kind,
            name: name.to_owned(),
            data: data.as_bytes().to_vec().into(),
            template: None,
        }
    }

    fn task() -> AssignedTask {
        let mut template = TaskTemplate::default();
        template.container.secrets = vec![reference(1, "key", "key")];
        template.container.configs = vec![reference(2, "page", "/etc/page")];
        template.container.env = vec!["WHO={{.Service.Name}}".to_owned()];
        fixture::task(template)
    }

    fn files(page: &str) -> Vec<AssignedFile> {
        vec![
            file(1, FileKind::Secret, "key", "swordfish"),
            file(2, FileKind::Config, "page", page),
        ]
    }

    #[test]
    fn files_come_with_place_owner_and_mode() {
        let given = given(&task(), &files("<p>"), &node()).unwrap();
        let seen: Vec<_> = given
            .iter()
            .map(|file| {
                (
                    file.target.as_str(),
                    file.uid,
                    file.gid,
                    file.mode,
                    file.data.bytes(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("/run/secrets/key", 7, 0, 0o400, &b"swordfish"[..]),
                ("/etc/page", 7, 0, 0o400, &b"<p>"[..]),
            ]
        );
    }

    #[test]
    fn templates_name_the_task_its_variables_and_its_other_files() {
        let mut all = files("{{.Task.Slot}} {{ env \"WHO\" }} {{ secret \"key\" }} {{ env \"NONE\" }}.");
        all[1].template = Some(TemplateDriver {
            name: "golang".to_owned(),
            ..TemplateDriver::default()
        });
        let expanded = given(&task(), &all, &node()).unwrap();
        assert_eq!(expanded[1].data.bytes(), b"3 web swordfish .");
        all[1].template = Some(TemplateDriver::default());
        assert!(matches!(
            given(&task(), &all, &node()),
            Err(TaskFileError::Driver { .. })
        ));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let missing = given(&task(), &files("")[1..], &node()).unwrap_err();
        assert_eq!(missing.to_string(), "secret key not found");
        let mut task = task();
        let template = Arc::make_mut(&mut task.template);
        template.container.secrets[0].target.uid = "root".to_owned();
        assert!(matches!(
            given(&task, &files(""), &node()),
            Err(TaskFileError::Owner { .. })
        ));
    }

    #[test]
    fn the_error_of_a_template_shows_nothing_of_a_secret() {
        for content in [
            "swordfish {{ .Task.ID",
            "{{ swordfish }}",
            "{{ secret \"swordfish\" }}",
            "{{ env \"a\" \"swordfish\" }}",
        ] {
            let mut all = files("<p>");
            all[0] = file(1, FileKind::Secret, "key", content);
            all[0].template = Some(TemplateDriver {
                name: TEMPLATE_DRIVER.to_owned(),
                ..TemplateDriver::default()
            });
            let error = given(&task(), &all, &node()).unwrap_err();
            let told = muster_runtime::describe(&error);
            assert!(told.contains("secret key"), "{told}");
            assert!(!told.contains("swordfish"), "{told}");
        }
    }
}
