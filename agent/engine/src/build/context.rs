//! The files that a client sends for a build.

use crate::error::{Error, Result};
use crate::layout::{make_directory, remove_directory};
use muster_build::IgnoreList;
use muster_build::limits::DOCKERFILE_BYTES_MAX;
use muster_images::{ExtractOptions, FileNode, FileTree, LoadLimits, Located, Owner, extract};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file that names what a build does not see.
const IGNORE_FILE: &str = ".dockerignore";

/// A context on disk; its directory goes with it.
///
/// It is kept as the archive that it came in until somebody needs its files: a build whose steps are all cached needs only
/// their digests.
#[derive(Debug)]
pub(crate) struct Context {
    place: PathBuf,
    files: Mutex<Files>,
    /// What the archive holds, where that alone tells it.
    tree: Option<FileTree>,
    /// Files of the archive that the build does not see.
    hidden: Vec<String>,
    /// What the Dockerfile says.
    pub dockerfile: String,
}

/// An archive of at most so many bytes stays in memory while its build runs: most contexts are that small, and a build whose
/// steps are all cached then writes nothing.
const MEMORY_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
enum Files {
    /// As they came.
    Packed(Packed),
    /// The directory that they lie in.
    Unpacked(Arc<OwnedFd>),
}

#[derive(Debug)]
enum Packed {
    Memory(Vec<u8>),
    File(File),
}

impl Packed {
    /// Appends to it; what becomes too large goes on in a file.
    fn write(&mut self, bytes: &[u8], path: &Path) -> io::Result<()> {
        let memory = match self {
            Self::File(file) => return file.write_all(bytes),
            Self::Memory(memory) => memory,
        };
        if memory.len() + bytes.len() <= MEMORY_BYTES_MAX {
            memory.extend_from_slice(bytes);
            return Ok(());
        }
        let mut options = File::options();
        let mut file = options.read(true).write(true).create_new(true).open(path)?;
        file.write_all(memory)?;
        file.write_all(bytes)?;
        *self = Self::File(file);
        Ok(())
    }
}

impl Context {
    /// Takes an archive, compressed or not, into `place`. Blocks.
    pub fn receive(place: &Path, archive: impl Read, dockerfile: &str) -> Result<Self> {
        make_directory(place)?;
        let mut context = Self {
            place: place.to_path_buf(),
            files: Mutex::new(Files::Packed(Packed::Memory(Vec::new()))),
            tree: None,
            hidden: Vec::new(),
            dockerfile: String::new(),
        };
        context.tree = context.keep(archive, dockerfile)?;
        context.dockerfile = context.read_dockerfile(dockerfile)?;
        context.hide_ignored(dockerfile)?;
        Ok(context)
    }

    /// A place for what else the build needs.
    pub fn scratch(&self) -> &Path {
        &self.place
    }

    /// What is known of its files without them.
    pub fn listed(&self) -> Option<&FileTree> {
        self.tree.as_ref()
    }

    /// The directory of its files. Blocks.
    pub fn root(&self) -> Result<Arc<OwnedFd>> {
        let mut files = self.files();
        let packed = match &mut *files {
            Files::Unpacked(root) => return Ok(Arc::clone(root)),
            Files::Packed(packed) => packed,
        };
        let root = Arc::new(self.unpack(packed)?);
        for path in &self.hidden {
            hide(&root, path)?;
        }
        *files = Files::Unpacked(Arc::clone(&root));
        Ok(root)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // Either form is valid, whoever panicked beside it.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the archive down while it is listed.
    fn keep(&self, archive: impl Read, dockerfile: &str) -> Result<Option<FileTree>> {
        let mut files = self.files();
        let Files::Packed(packed) = &mut *files else {
            return Ok(None);
        };
        let keeps = |path: &[u8]| {
            let is_read = path == IGNORE_FILE.as_bytes() || path == named(dockerfile).as_bytes();
            is_read.then_some(DOCKERFILE_BYTES_MAX as u64 + 1)
        };
        let archive = Copied {
            archive,
            packed,
            path: self.archive(),
        };
        Ok(FileTree::list(archive, &keeps, &LoadLimits::default())?)
    }

    /// Where the archive lies, if it does not stay in memory.
    fn archive(&self) -> PathBuf {
        self.place.join("archive")
    }

    fn unpack(&self, packed: &mut Packed) -> Result<OwnedFd> {
        let files = self.place.join("context");
        make_directory(&files)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&files, flags, Mode::empty())
            .map_err(|error| Error::io("open the build context", error.into()))?;
        // What a client owns on its machine says nothing here.
        let options = ExtractOptions {
            keep_kinds: false,
            owner: Some(Owner { uid: 0, gid: 0 }),
        };
        let limits = LoadLimits::default();
        match packed {
            Packed::Memory(archive) => {
                extract(root.as_fd(), "", archive.as_slice(), &options, &Some, &limits)?;
            }
            Packed::File(archive) => {
                archive
                    .rewind()
                    .map_err(|error| Error::io("read the build context", error))?;
                extract(root.as_fd(), "", archive, &options, &Some, &limits)?;
                std::fs::remove_file(self.archive())
                    .map_err(|error| Error::io("remove the archive of the build context", error))?;
            }
        }
        Ok(root)
    }

    /// The beginning of a file that is known without the files.
    fn kept(&self, path: &str) -> Option<Vec<u8>> {
        Some(self.tree.as_ref()?.kept(named(path).as_bytes())?.to_vec())
    }

    fn read_dockerfile(&self, path: &str) -> Result<String> {
        let bytes = match self.kept(path) {
            Some(bytes) => bytes,
            None => self.dockerfile_bytes(path)?,
        };
        if bytes.is_empty() {
            return Err(Error::invalid(format!("the Dockerfile ({path}) cannot be empty")));
        }
        String::from_utf8(bytes)
            .map_err(|_| Error::invalid(format!("the Dockerfile ({path}) is not UTF-8 text")))
    }

    fn dockerfile_bytes(&self, path: &str) -> Result<Vec<u8>> {
        let missing = || Error::invalid(format!("Cannot locate specified Dockerfile: {path}"));
        let file = match self.open(path)? {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
            Err(error) => {
                return Err(Error::io(
                    format!("open {path} of the build context"),
                    error.into(),
                ));
            }
        };
        let failed = |error: io::Error| Error::io(format!("read {path} of the build context"), error);
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::invalid(format!(
                "the Dockerfile ({path}) is not a regular file"
            )));
        }
        let mut bytes = Vec::new();
        file.take(DOCKERFILE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(bytes)
    }

    /// Takes the Dockerfile and the ignore file itself away where the latter says so: clients send them all the same.
    fn hide_ignored(&mut self, dockerfile: &str) -> Result<()> {
        let Some(mut text) = self.ignore_file()? else {
            return Ok(());
        };
        text.truncate(DOCKERFILE_BYTES_MAX);
        let list = IgnoreList::parse(&String::from_utf8_lossy(&text))
            .map_err(|error| Error::invalid(error.to_string()))?;
        for name in [IGNORE_FILE, dockerfile] {
            let name = named(name);
            if !list.excludes(name) {
                continue;
            }
            self.hidden.push(name.to_owned());
            if let Some(tree) = &mut self.tree {
                tree.remove(name.as_bytes());
            }
            if let Files::Unpacked(root) = &*self.files() {
                hide(root, name)?;
            }
        }
        Ok(())
    }

    fn ignore_file(&self) -> Result<Option<Vec<u8>>> {
        if let Some(tree) = &self.tree {
            match tree.at(IGNORE_FILE.as_bytes()) {
                Located::Missing => return Ok(None),
                Located::Node(FileNode::File { .. }) => return Ok(self.kept(IGNORE_FILE)),
                Located::Root(_) | Located::Node(_) | Located::BehindLink => {}
            }
        }
        let Ok(file) = self.open(IGNORE_FILE)? else {
            return Ok(None);
        };
        let mut text = Vec::new();
        file.take(DOCKERFILE_BYTES_MAX as u64)
            .read_to_end(&mut text)
            .map_err(|error| Error::io("read .dockerignore", error))?;
        Ok(Some(text))
    }

    /// Opens a file of it; links lead inside of it only.
    fn open(&self, path: &str) -> Result<rustix::io::Result<File>> {
        let path = path.trim_start_matches('/');
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&*self.root()?, path, flags, Mode::empty(), resolve);
        Ok(opened.map(File::from))
    }
}

/// A path as entries of the archive have it.
fn named(path: &str) -> &str {
    path.trim_start_matches("./").trim_start_matches('/')
}

fn hide(root: &OwnedFd, path: &str) -> Result<()> {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let removed = rustix::fs::openat2(root, directory, flags, Mode::empty(), ResolveFlags::BENEATH)
        .and_then(|parent| rustix::fs::unlinkat(parent, name, AtFlags::empty()));
    match removed {
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(error) => Err(Error::io(
            format!("hide {path} of the build context"),
            error.into(),
        )),
    }
}

/// A reader of which everything that is read is also written down.
struct Copied<'a, R> {
    archive: R,
    packed: &'a mut Packed,
    path: PathBuf,
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        self.packed.write(&buffer[..read], &self.path)?;
        Ok(read)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Err(error) = remove_directory(&self.place) {
            tracing::warn!(error = error.chain(), "a build context is left over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(file_bytes: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [
            ("Dockerfile", b"FROM scratch".to_vec()),
            ("file", vec![7; file_bytes]),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, content.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_small_context_is_written_only_for_its_files_and_a_large_one_at_once() {
        let place = tempfile::tempdir().unwrap();
        for (file_bytes, is_written) in [(1000, false), (MEMORY_BYTES_MAX, true)] {
            let place = place.path().join(file_bytes.to_string());
            let context = Context::receive(&place, archive(file_bytes).as_slice(), "Dockerfile").unwrap();
            assert_eq!(context.dockerfile, "FROM scratch");
            assert_eq!(place.join("archive").exists(), is_written, "{file_bytes}");
            context.root().unwrap();
            let file = std::fs::metadata(place.join("context/file")).unwrap();
            assert_eq!(file.len(), file_bytes as u64);
            assert!(!place.join("archive").exists());
            drop(context);
            assert!(!place.exists());
        }
    }
}
