//! Makes small images without any tool: a list of files becomes an archive as of `docker save`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::{Digest, HashingReader, ImageId};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// An image to be made. The same recipe gives the same image, byte by byte.
#[derive(Debug, Clone, Default)]
pub struct ImageRecipe {
    /// Its name.
    pub reference: String,
    /// What it runs.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The directory it starts in.
    pub working_dir: String,
    /// `user[:group]`.
    pub user: String,
    /// The signal that stops it.
    pub stop_signal: String,
    /// Its content, in one layer.
    pub files: Vec<RecipeFile>,
}

/// One entry of a recipe's layer.
#[derive(Debug, Clone)]
pub struct RecipeFile {
    /// Where, relative to the root.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What.
    pub source: RecipeSource,
}

/// The content of an entry.
#[derive(Debug, Clone)]
pub enum RecipeSource {
    /// A file of this machine.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(String),
    /// A directory.
    Directory,
}

#[derive(Serialize)]
struct ConfigDocument<'a> {
    architecture: &'a str,
    os: &'a str,
    created: &'a str,
    config: RunConfig<'a>,
    rootfs: RootFs,
    history: [History<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'a str, Empty>,
    env: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    working_dir: &'a str,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    stop_signal: &'a str,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: [Digest; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: [String; 1],
    layers: [String; 1],
}

/// A fixed time keeps the image the same on every machine.
const CREATED: &str = "1970-01-01T00:00:00Z";

impl ImageRecipe {
    /// Adds a file, symbolic link or directory.
    pub fn with(mut self, path: &str, mode: u32, source: RecipeSource) -> ImageRecipe {
        self.files.push(RecipeFile {
            path: path.to_string(),
            mode,
            source,
        });
        self
    }

    /// Writes the archive and returns the id that the image will have.
    pub fn write(&self, output: impl Write) -> Result<ImageId> {
        let failed = |error: io::Error| Error::io("write the archive of", Path::new(&self.reference), error);
        let reference = Reference::parse(&self.reference)?.with_default_tag();
        let mut layer = self.layer().map_err(failed)?;
        let mut hashing = HashingReader::new(&mut layer);
        io::copy(&mut hashing, &mut io::sink()).map_err(failed)?;
        let (diff_id, layer_bytes) = hashing.finish();
        layer.rewind().map_err(failed)?;
        let json = |source| Error::Damaged {
            what: self.reference.clone(),
            source,
        };
        let config = serde_json::to_vec(&self.config(diff_id)).map_err(json)?;
        let id = Digest::of(&config);
        let saved = SavedImage {
            config: format!("{}.json", id.hex()),
            repo_tags: [reference.familiar()],
            layers: [format!("{}/layer.tar", Digest::chain(None, diff_id).hex())],
        };
        let manifest = serde_json::to_vec(std::slice::from_ref(&saved)).map_err(json)?;
        let mut archive = tar::Builder::new(output);
        append(
            &mut archive,
            &saved.config,
            0o644,
            config.len() as u64,
            config.as_slice(),
        )
        .map_err(failed)?;
        append(&mut archive, &saved.layers[0], 0o644, layer_bytes, &mut layer).map_err(failed)?;
        append(
            &mut archive,
            "manifest.json",
            0o644,
            manifest.len() as u64,
            manifest.as_slice(),
        )
        .map_err(failed)?;
        archive
            .into_inner()
            .and_then(|mut output| output.flush())
            .map_err(failed)?;
        Ok(id)
    }

    fn config(&self, diff_id: Digest) -> ConfigDocument<'_> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        ConfigDocument {
            architecture,
            os: "linux",
            created: CREATED,
            config: RunConfig {
                user: &self.user,
                exposed_ports: self
                    .exposed_ports
                    .iter()
                    .map(|port| (port.as_str(), Empty {}))
                    .collect(),
                env: &self.env,
                entrypoint: &self.entrypoint,
                cmd: &self.cmd,
                working_dir: &self.working_dir,
                labels: &self.labels,
                stop_signal: &self.stop_signal,
            },
            rootfs: RootFs {
                r#type: "layers",
                diff_ids: [diff_id],
            },
            history: [History {
                created: CREATED,
                created_by: "muster image recipe",
            }],
        }
    }

    /// The layer, in an unnamed temporary file.
    fn layer(&self) -> io::Result<File> {
        let mut archive = tar::Builder::new(tempfile::tempfile()?);
        for file in &self.files {
            match &file.source {
                RecipeSource::File(path) => {
                    let content = File::open(path)?;
                    let bytes = content.metadata()?.len();
                    append(&mut archive, &file.path, file.mode, bytes, content.take(bytes))?;
                }
                RecipeSource::Bytes(content) => {
                    append(
                        &mut archive,
                        &file.path,
                        file.mode,
                        content.len() as u64,
                        content.as_slice(),
                    )?;
                }
                RecipeSource::Symlink(target) => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    archive.append_link(&mut header, &file.path, target)?;
                }
                RecipeSource::Directory => {
                    let mut header = header(tar::EntryType::Directory, file.mode, 0);
                    archive.append_data(&mut header, &file.path, io::empty())?;
                }
            }
        }
        let mut layer = archive.into_inner()?;
        layer.rewind()?;
        Ok(layer)
    }
}

fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    bytes: u64,
    content: impl Read,
) -> io::Result<()> {
    archive.append_data(&mut header(tar::EntryType::Regular, mode, bytes), path, content)
}
