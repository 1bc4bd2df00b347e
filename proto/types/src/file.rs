//! Secrets and configs: content that the cluster keeps and that tasks find as files.

use crate::service::{Labels, ServiceSpec, TaskTemplate};
use crate::validate::Problems;
use crate::{FileId, Meta};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longest name of a secret or config (SwarmKit).
pub const FILE_NAME_CHARS_MAX: usize = 64;
/// The only driver of templates that there is: Go's `text/template` (Docker).
pub const TEMPLATE_DRIVER: &str = "golang";

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Its content is never shown again.
    Secret,
    /// Its content may be read by whoever may control the cluster.
    Config,
}

impl FileKind {
    /// `secret` or `config`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }

    /// Content has fewer bytes than this (SwarmKit).
    pub fn bytes_limit(self) -> usize {
        match self {
            Self::Secret => 500 << 10,
            Self::Config => 1000 << 10,
        }
    }

    /// Where a relative target lies in a container.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Secret => "/run/secrets/",
            Self::Config => "/",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The content. It is shared by clones, never printed, and overwritten once nobody has it any more.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FileData(Arc<Zeroizing<Vec<u8>>>);

impl FileData {
    /// The content itself.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for FileData {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for FileData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes, redacted)", self.0.len())
    }
}

impl Serialize for FileData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

impl<'de> Deserialize<'de> for FileData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = FileData;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a file")
    }
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<FileData, E> {
        Ok(bytes.to_vec().into())
    }
    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<FileData, E> {
        Ok(bytes.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FileData, A::Error> {
        let mut bytes = Zeroizing::new(Vec::new());
        while let Some(byte) = list.next_element()? {
            bytes.push(byte);
        }
        Ok(FileData(Arc::new(bytes)))
    }
}

/// A secret or config as the cluster stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// Identity; never changes.
    pub id: FileId,
    /// Which of the two it is.
    pub kind: FileKind,
    /// Times and versions.
    pub meta: Meta,
    /// What the user gave; only its labels ever change.
    pub spec: FileSpec,
}

/// What the user gave.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileSpec {
    /// Unique among its kind.
    pub name: String,
    /// The user's labels.
    pub labels: Labels,
    /// The content.
    pub data: FileData,
    /// What the content is a template of; plain when `None`.
    pub template: Option<TemplateDriver>,
}

/// Who expands a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateDriver {
    /// Its name; nodes know [`TEMPLATE_DRIVER`] alone.
    pub name: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// A secret or config that a service's tasks need.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileReference {
    /// Which.
    pub id: FileId,
    /// Its name.
    pub name: String,
    /// Where containers find it.
    pub target: FileTarget,
}

/// A file in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileTarget {
    /// Path; a relative one is completed by [`FileKind::directory`].
    pub path: String,
    /// The owner, as a number in decimals.
    pub uid: String,
    /// The owning group, as a number in decimals.
    pub gid: String,
    /// Permission bits.
    pub mode: u32,
}

impl Default for FileTarget {
    fn default() -> Self {
        Self {
            path: String::new(),
            uid: "0".to_owned(),
            gid: "0".to_owned(),
            mode: 0o444,
        }
    }
}

impl FileTarget {
    /// The absolute path in a container.
    pub fn absolute(&self, kind: FileKind) -> String {
        match self.path.starts_with('/') {
            true => self.path.clone(),
            false => format!("{}{}", kind.directory(), self.path),
        }
    }
}

/// A secret or config as a node gets it that runs a task which needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignedFile {
    /// Identity.
    pub id: FileId,
    /// Which of the two it is.
    pub kind: FileKind,
    /// Its name.
    pub name: String,
    /// The content.
    pub data: FileData,
    /// What the content is a template of.
    #[serde(default)]
    pub template: Option<TemplateDriver>,
}

impl TaskTemplate {
    /// The secrets and configs that its tasks need.
    pub fn files(&self) -> impl Iterator<Item = (FileKind, &FileReference)> {
        let secrets = self.container.secrets.iter().map(|file| (FileKind::Secret, file));
        secrets.chain(self.container.configs.iter().map(|file| (FileKind::Config, file)))
    }
}

/// Checks a new secret or config; the messages are SwarmKit's.
pub fn check_spec(kind: FileKind, spec: &FileSpec) -> Result<(), Problems> {
    let mut problems = Problems::default();
    let (bytes, name) = (spec.name.as_bytes(), &spec.name);
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if name.is_empty() {
        problems.add("Name", "name must be provided");
    } else if name.len() > FILE_NAME_CHARS_MAX
        || !(edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner))
    {
        problems.add(
            "Name",
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]",
        );
    }
    let (size, limit) = (spec.data.bytes().len(), kind.bytes_limit());
    if size == 0 || size >= limit {
        let message = format!("{kind} data must be larger than 0 and less than {limit} bytes");
        problems.add("Data", message);
    }
    problems.into_result()
}

/// Checks what a service says of secrets and configs; the messages are SwarmKit's.
pub(crate) fn check_references(spec: &ServiceSpec, problems: &mut Problems) {
    let mut targets: BTreeMap<(FileKind, &str), &str> = BTreeMap::new();
    for (kind, file) in spec.template.files() {
        let path = file.target.path.as_str();
        if path.is_empty() {
            problems.add(
                "ContainerSpec",
                format!("malformed file {kind} reference, invalid target file name provided"),
            );
        } else if let Some(other) = targets.insert((kind, path), &file.name) {
            problems.add(
                "ContainerSpec",
                format!(
                    "{kind} references '{other}' and '{}' have a conflicting target: '{path}'",
                    file.name
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, data: &[u8]) -> FileSpec {
        FileSpec {
            name: name.to_owned(),
            data: data.to_vec().into(),
            ..FileSpec::default()
        }
    }

    #[test]
    fn names_and_sizes_are_checked() {
        for name in ["a", "A.b-c_9", &"x".repeat(64)] {
            assert!(check_spec(FileKind::Secret, &spec(name, b"x")).is_ok(), "{name}");
        }
        for name in ["", ".a", "a-", "a b", "ü", &"x".repeat(65)] {
            assert!(check_spec(FileKind::Config, &spec(name, b"x")).is_err(), "{name}");
        }
        for kind in [FileKind::Secret, FileKind::Config] {
            let limit = kind.bytes_limit();
            assert!(check_spec(kind, &spec("a", &[])).is_err());
            assert!(check_spec(kind, &spec("a", &vec![0; limit - 1])).is_ok());
            let problem = check_spec(kind, &spec("a", &vec![0; limit])).unwrap_err();
            assert!(problem.to_string().contains(&limit.to_string()));
        }
    }

    #[test]
    fn content_travels_and_is_never_printed() {
        let file = spec("key", b"swordfish");
        let packed = rmp_serde::to_vec_named(&file).unwrap();
        assert_eq!(rmp_serde::from_slice::<FileSpec>(&packed).unwrap(), file);
        assert_eq!(serde_json::from_str::<FileData>("[1,2]").unwrap().bytes(), [1, 2]);
        let printed = format!("{file:?}");
        assert!(
            printed.contains("9 bytes, redacted") && !printed.contains("sword"),
            "{printed}"
        );
    }

    #[test]
    fn two_files_have_two_targets() {
        let file = |path: &str| FileReference {
            name: format!("f{path}"),
            target: FileTarget {
                path: path.to_owned(),
                ..FileTarget::default()
            },
            ..FileReference::default()
        };
        let problems = |secrets: &[&str], configs: &[&str]| {
            let mut spec = ServiceSpec::default();
            spec.template.container.secrets = secrets.iter().map(|path| file(path)).collect();
            spec.template.container.configs = configs.iter().map(|path| file(path)).collect();
            let mut problems = Problems::default();
            check_references(&spec, &mut problems);
            problems.0.len()
        };
        assert_eq!(problems(&["a", "b"], &["a"]), 0);
        assert_eq!(problems(&["a", "a"], &["b", ""]), 2);
        assert_eq!(file("key").target.absolute(FileKind::Secret), "/run/secrets/key");
        assert_eq!(file("key").target.absolute(FileKind::Config), "/key");
        assert_eq!(file("/etc/key").target.absolute(FileKind::Config), "/etc/key");
    }
}
