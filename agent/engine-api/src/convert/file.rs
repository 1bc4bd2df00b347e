//! Secrets and configs.

use super::{Read, container::time, unsupported};
use crate::http::Failure;
use crate::wire::ObjectVersion;
use crate::wire::file as wire;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use muster_types::file::{FileReference, FileSpec, FileTarget, TemplateDriver};
use muster_types::{ClusterFile, FileKind};

/// Reads what a secret or config shall be.
pub(crate) fn read(kind: FileKind, wire: wire::FileSpec) -> Read<FileSpec> {
    match wire.driver {
        Some(driver) if kind == FileKind::Secret && driver.name.is_empty() => {
            return Err(refused("secret driver must have a name"));
        }
        Some(driver) if kind == FileKind::Secret => {
            return Err(Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!(
                    "rpc error: code = Unknown desc = plugin {:?} not found",
                    driver.name
                ),
            ));
        }
        Some(_) | None => {}
    }
    let data = STANDARD
        .decode(&wire.data)
        .map_err(|error| Failure::invalid(format!("illegal base64 data: {error}")))?;
    Ok(FileSpec {
        name: wire.name,
        labels: wire.labels,
        data: data.into(),
        template: wire.templating.map(|driver| TemplateDriver {
            name: driver.name,
            options: driver.options,
        }),
    })
}

/// Writes one; what a secret holds is not told.
pub(crate) fn write(file: &ClusterFile) -> wire::File {
    let spec = &file.spec;
    wire::File {
        id: file.id.to_string(),
        version: ObjectVersion {
            index: file.meta.spec_version,
        },
        created_at: time(file.meta.created_at),
        updated_at: time(file.meta.updated_at),
        spec: wire::FileSpec {
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            data: match file.kind {
                FileKind::Secret => String::new(),
                FileKind::Config => STANDARD.encode(spec.data.bytes()),
            },
            driver: None,
            templating: spec.template.as_ref().map(|driver| wire::Driver {
                name: driver.name.clone(),
                options: driver.options.clone(),
            }),
        },
    }
}

/// Reads a secret that a service needs.
pub(crate) fn read_secret(wire: wire::SecretReference) -> Read<FileReference> {
    let missing = || refused("malformed secret reference, no target provided");
    let target = wire.file.map(read_target);
    reference(
        FileKind::Secret,
        &wire.secret_id,
        wire.secret_name,
        target,
        missing,
    )
}

/// Reads a config that a service needs.
pub(crate) fn read_config(wire: wire::ConfigReference) -> Read<FileReference> {
    match (&wire.file, &wire.runtime) {
        (Some(_), Some(_)) => Err(Failure::invalid(
            "invalid Config: cannot specify both File and Runtime",
        )),
        // It is for credential specs alone, which only Windows knows.
        (None, Some(_)) => Err(unsupported("ContainerSpec.Configs.Runtime")),
        (_, None) => {
            let missing = || Failure::invalid("invalid Config: either File or Runtime should be set");
            let target = wire.file.map(read_target);
            reference(
                FileKind::Config,
                &wire.config_id,
                wire.config_name,
                target,
                missing,
            )
        }
    }
}

fn reference(
    kind: FileKind,
    id: &str,
    name: String,
    target: Option<FileTarget>,
    no_target: impl Fn() -> Failure,
) -> Read<FileReference> {
    if id.is_empty() || name.is_empty() {
        return Err(refused(&format!("malformed {kind} reference")));
    }
    Ok(FileReference {
        // What is no id names nothing, which the cluster says by the name.
        id: id.parse().unwrap_or_default(),
        name,
        target: target.ok_or_else(no_target)?,
    })
}

fn refused(why: &str) -> Failure {
    Failure::invalid(format!("rpc error: code = InvalidArgument desc = {why}"))
}

fn read_target(wire: wire::Target) -> FileTarget {
    FileTarget {
        path: wire.name,
        uid: wire.uid,
        gid: wire.gid,
        mode: wire.mode,
    }
}

/// Writes a secret that a service needs.
pub(crate) fn write_secret(file: &FileReference) -> wire::SecretReference {
    wire::SecretReference {
        file: Some(write_target(&file.target)),
        secret_id: file.id.to_string(),
        secret_name: file.name.clone(),
    }
}

/// Writes a config that a service needs.
pub(crate) fn write_config(file: &FileReference) -> wire::ConfigReference {
    wire::ConfigReference {
        file: Some(write_target(&file.target)),
        runtime: None,
        config_id: file.id.to_string(),
        config_name: file.name.clone(),
    }
}

fn write_target(target: &FileTarget) -> wire::Target {
    wire::Target {
        name: target.path.clone(),
        uid: target.uid.clone(),
        gid: target.gid.clone(),
        mode: target.mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::{FileId, Meta};

    fn file(kind: FileKind) -> ClusterFile {
        ClusterFile {
            id: FileId::from_u128(7),
            kind,
            meta: Meta::default(),
            spec: FileSpec {
                name: "key".to_owned(),
                data: b"swordfish".to_vec().into(),
                template: Some(TemplateDriver {
                    name: "golang".to_owned(),
                    ..TemplateDriver::default()
                }),
                ..FileSpec::default()
            },
        }
    }

    #[test]
    fn answers_parse_as_bollards_types_and_tell_no_secret() {
        let secret = serde_json::to_string(&write(&file(FileKind::Secret))).unwrap();
        let read: bollard_stubs::models::Secret = serde_json::from_str(&secret).unwrap();
        assert_eq!(read.spec.unwrap().data, None);
        let config = serde_json::to_string(&write(&file(FileKind::Config))).unwrap();
        let read: bollard_stubs::models::Config = serde_json::from_str(&config).unwrap();
        let spec = read.spec.unwrap();
        assert_eq!(spec.data.unwrap(), "c3dvcmRmaXNo");
        assert_eq!(spec.templating.unwrap().name, "golang");
    }

    #[test]
    fn references_go_both_ways_and_half_ones_are_refused() {
        let whole = wire::SecretReference {
            file: Some(wire::Target {
                name: "key".to_owned(),
                uid: "1".to_owned(),
                gid: "2".to_owned(),
                mode: 0o400,
            }),
            secret_id: FileId::from_u128(7).to_string(),
            secret_name: "key".to_owned(),
        };
        assert_eq!(write_secret(&read_secret(whole.clone()).unwrap()), whole);
        let without = wire::SecretReference {
            file: None,
            ..whole.clone()
        };
        assert!(
            read_secret(without)
                .unwrap_err()
                .message
                .ends_with("no target provided")
        );
        let nameless = wire::SecretReference {
            secret_name: String::new(),
            ..whole
        };
        assert!(
            read_secret(nameless)
                .unwrap_err()
                .message
                .ends_with("malformed secret reference")
        );
        let config = wire::ConfigReference::default();
        assert!(
            read_config(config)
                .unwrap_err()
                .message
                .contains("malformed config")
        );
    }
}
