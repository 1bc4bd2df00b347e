//! The files that a client sends for a build.

use crate::error::{Error, Result};
use crate::layout::{make_directory, remove_directory};
use muster_build::IgnoreList;
use muster_build::limits::DOCKERFILE_BYTES_MAX;
use muster_images::{ExtractOptions, LoadLimits, Owner, extract};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The file that names what a build does not see.
const IGNORE_FILE: &str = ".dockerignore";

/// A context on disk; its directory goes with it.
#[derive(Debug)]
pub(crate) struct Context {
    place: PathBuf,
    /// The directory of its files.
    pub root: OwnedFd,
    /// What the Dockerfile says.
    pub dockerfile: String,
}

impl Context {
    /// Unpacks an archive, compressed or not, below `place`. Blocks.
    pub fn receive(place: &Path, archive: impl Read, dockerfile: &str) -> Result<Self> {
        let files = place.join("context");
        make_directory(&files)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&files, flags, Mode::empty())
            .map_err(|error| Error::io("open the build context", error.into()))?;
        let mut context = Self {
            place: place.to_path_buf(),
            root,
            dockerfile: String::new(),
        };
        // What a client owns on its machine says nothing here.
        let options = ExtractOptions {
            keep_kinds: false,
            owner: Some(Owner { uid: 0, gid: 0 }),
        };
        extract(
            context.root.as_fd(),
            "",
            archive,
            &options,
            &Some,
            &LoadLimits::default(),
        )?;
        context.dockerfile = context.read_dockerfile(dockerfile)?;
        context.hide_ignored(dockerfile)?;
        Ok(context)
    }

    /// A place for what else the build needs.
    pub fn scratch(&self) -> &Path {
        &self.place
    }

    fn read_dockerfile(&self, path: &str) -> Result<String> {
        let missing = || Error::invalid(format!("Cannot locate specified Dockerfile: {path}"));
        let file = match self.open(path) {
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
        if bytes.is_empty() {
            return Err(Error::invalid(format!("the Dockerfile ({path}) cannot be empty")));
        }
        String::from_utf8(bytes)
            .map_err(|_| Error::invalid(format!("the Dockerfile ({path}) is not UTF-8 text")))
    }

    /// Takes the Dockerfile and the ignore file itself away where the latter says so: clients send them all the same.
    fn hide_ignored(&self, dockerfile: &str) -> Result<()> {
        let file = match self.open(IGNORE_FILE) {
            Ok(file) => file,
            Err(_) => return Ok(()),
        };
        let mut text = Vec::new();
        file.take(DOCKERFILE_BYTES_MAX as u64)
            .read_to_end(&mut text)
            .map_err(|error| Error::io("read .dockerignore", error))?;
        let list = IgnoreList::parse(&String::from_utf8_lossy(&text))
            .map_err(|error| Error::invalid(error.to_string()))?;
        for name in [IGNORE_FILE, dockerfile] {
            let name = name.trim_start_matches("./").trim_start_matches('/');
            if list.excludes(name) {
                self.hide(name)?;
            }
        }
        Ok(())
    }

    fn hide(&self, path: &str) -> Result<()> {
        let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let removed = rustix::fs::openat2(&self.root, directory, flags, Mode::empty(), ResolveFlags::BENEATH)
            .and_then(|parent| rustix::fs::unlinkat(parent, name, AtFlags::empty()));
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(error) => Err(Error::io(
                format!("hide {path} of the build context"),
                error.into(),
            )),
        }
    }

    /// Opens a file of it; links lead inside of it only.
    fn open(&self, path: &str) -> rustix::io::Result<File> {
        let path = path.trim_start_matches('/');
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve).map(File::from)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Err(error) = remove_directory(&self.place) {
            tracing::warn!(error = error.chain(), "a build context is left over");
        }
    }
}
