//! `COPY` and `ADD`.

use super::context::Context;
use super::copy::{Copier, ROOT};
use super::describe;
use super::listed;
use super::source;
use super::stage::{Shaped, StageRun, State};
use super::step::Made;
use crate::commit_config;
use crate::error::{Error, Result};
use crate::user;
use muster_build::{IgnoreList, Source, Transfer, TransferKind};
use muster_images::{Digest, ExtractOptions, FileTree, ImageId, LoadLimits, Owner, extract, is_archive};
use rustix::fs::FileType;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Most entries of a context that are looked at between two waits of the build; of more, a thread of its own does it.
const AT_HAND_ENTRIES_MAX: usize = 1000;

/// One source, once it is known what it is.
enum Found {
    /// Below the origin.
    Path(String),
    /// In the Dockerfile.
    Inline { name: String, content: String },
}

/// Where sources lie.
#[derive(Clone)]
enum Origin {
    Context(Arc<Context>),
    /// The root of an image.
    Image(Arc<OwnedFd>),
}

impl Origin {
    /// The directory of its files. Blocks.
    fn root(&self) -> Result<Arc<OwnedFd>> {
        match self {
            Self::Context(context) => context.root(),
            Self::Image(root) => Ok(Arc::clone(root)),
        }
    }

    /// Its files, as far as they are known without a look at them.
    fn listed(&self) -> Option<&FileTree> {
        match self {
            Self::Context(context) => context.listed(),
            Self::Image(_) => None,
        }
    }

    /// As [`Origin::listed`], where a look at them takes no time.
    fn at_hand(&self) -> Option<&FileTree> {
        self.listed().filter(|tree| tree.entries() <= AT_HAND_ENTRIES_MAX)
    }

    /// The paths that a source means. Blocks.
    fn select(&self, source: &str) -> Result<Vec<String>> {
        if let Some(tree) = self.listed()
            && let Some(found) = listed::select(tree, source)?
        {
            return Ok(found);
        }
        let root = self.root()?;
        source::select(&root, source)
    }

    /// Whether a directory lies at a path, and the digest of all that lies there. Blocks.
    fn digest_at(&self, path: &str, cancel: &CancellationToken) -> Result<(bool, Digest)> {
        if let Some(known) = self.listed().and_then(|tree| listed::digest_at(tree, path)) {
            return Ok(known);
        }
        let root = self.root()?;
        let is_directory = is_directory(&source::open(&root, path)?)?;
        Ok((is_directory, source::digest_at(&root, path, cancel)?))
    }
}

/// All that the copying needs.
struct Work {
    kind: TransferKind,
    origin: Origin,
    found: Vec<Found>,
    destination: String,
    /// The destination is a directory, whatever is there.
    into_directory: bool,
    chown: Option<String>,
    mode: Option<u32>,
    leave_out: IgnoreList,
    cancel: CancellationToken,
}

impl StageRun {
    pub async fn transfer(&self, state: &State, transfer: Transfer) -> Result<Made> {
        let name = transfer.kind.name();
        let failed = |error: Error| error.of_step(name);
        let work = self.prepare(state, transfer).await.map_err(failed)?;
        let (work, content) = match digest_at_hand(&work) {
            Some(content) => (work, content),
            None => self
                .build
                .inner
                .blocking(move |_| {
                    let content = digest(&work)?;
                    Ok((work, content))
                })
                .await
                .map_err(failed)?,
        };
        let shaped = Shaped {
            content,
            destination: work.destination.clone(),
            chown: work.chown.clone(),
            chmod: work.mode,
        };
        let words = describe::transfer(name, &shaped);
        let description = describe::described(&state.config.shell(), &words);
        let of_context = matches!(work.origin, Origin::Context(_));
        let more = [work.into_directory.to_string(), of_context.to_string()];
        let key = self.key(state, &description, &more)?;
        if let Some(made) = self.cached(key).await? {
            return Ok(made);
        }
        self.with_files(state, key, &description, move |root| copy(root, &work))
            .await
            .map_err(failed)
    }

    async fn prepare(&self, state: &State, transfer: Transfer) -> Result<Work> {
        let mut found = Vec::new();
        let origin = match &transfer.from {
            None => Origin::Context(Arc::clone(&self.build.context)),
            Some(from) => {
                let image = self.origin(from).await?;
                let root = self
                    .build
                    .inner
                    .blocking(move |inner| Ok(inner.images.mount_image(&image.to_string(), None)?))
                    .await?;
                Origin::Image(Arc::new(root))
            }
        };
        for source in transfer.sources {
            match source {
                Source::Inline(heredoc) => found.push(Found::Inline {
                    name: heredoc.name,
                    content: heredoc.content,
                }),
                Source::Path(path) => {
                    if transfer.kind == TransferKind::Add {
                        refuse_remote(&path)?;
                    }
                    let origin = origin.clone();
                    let known = origin.at_hand().map(|tree| listed::select(tree, &path));
                    let paths = match known.transpose()?.flatten() {
                        Some(paths) => paths,
                        None => self.build.inner.blocking(move |_| origin.select(&path)).await?,
                    };
                    found.extend(paths.into_iter().map(Found::Path));
                }
            }
        }
        let given = transfer.destination.as_str();
        let into_directory = given.ends_with('/')
            || matches!(given, "." | "..")
            || given.ends_with("/.")
            || given.ends_with("/..");
        if found.len() > 1 && !into_directory {
            return Err(Error::invalid(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                transfer.kind.name()
            )));
        }
        let mode = transfer.chmod.as_deref().map(mode).transpose()?;
        let working_dir = state.config.working_dir.clone().unwrap_or_default();
        let mut destination = commit_config::working_dir(&working_dir, given);
        if into_directory && !destination.ends_with('/') {
            destination.push('/');
        }
        let leave_out =
            IgnoreList::parse(&transfer.exclude.join("\n")).map_err(|error| Error::invalid(error.problem))?;
        Ok(Work {
            kind: transfer.kind,
            origin,
            found,
            destination,
            into_directory,
            chown: transfer.chown,
            mode,
            leave_out,
            cancel: self.cancel.clone(),
        })
    }

    /// The image that a stage or image name of `--from` means.
    pub async fn origin(&self, from: &str) -> Result<ImageId> {
        let stage = self
            .build
            .dockerfile
            .stage_of(from, self.index)
            .map_err(|error| Error::invalid(error.problem))?;
        match stage {
            Some(stage) if self.build.plan.needs[self.index].contains(&stage) => {
                Ok(self.end_of(stage).await?.image)
            }
            Some(_) => Err(Error::invalid(format!(
                "a trigger of the base image copies from {from:?}, which is a stage of this Dockerfile: triggers can copy \
                 from images only"
            ))),
            None => {
                let image = self.image(from, None).await?;
                self.keep(self.hold(&image));
                Ok(image.id)
            }
        }
    }
}

/// The digest of all sources, as the history shows it.
fn digest(work: &Work) -> Result<String> {
    digest_by(work, |path| work.origin.digest_at(path, &work.cancel))
}

/// As [`digest`], where the list of the context tells it at once.
fn digest_at_hand(work: &Work) -> Option<String> {
    let tree = work.origin.at_hand()?;
    let unknown = || Error::invalid("only the files tell");
    digest_by(work, |path| listed::digest_at(tree, path).ok_or_else(unknown)).ok()
}

fn digest_by(work: &Work, digest_at: impl Fn(&str) -> Result<(bool, Digest)>) -> Result<String> {
    let mut digests = Vec::new();
    let mut kind = "file";
    for found in &work.found {
        digests.push(match found {
            Found::Inline { content, .. } => Digest::of(content.as_bytes()),
            Found::Path(path) => {
                let (is_directory, digest) = digest_at(path)?;
                if is_directory {
                    kind = "dir";
                }
                digest
            }
        });
    }
    let names: Vec<&str> = work
        .found
        .iter()
        .map(|found| match found {
            Found::Path(path) => path.rsplit('/').next().unwrap_or_default(),
            Found::Inline { name, .. } => name.as_str(),
        })
        .collect();
    // Files keep their names where the destination is a directory; the content of directories does not tell theirs.
    let listing = format!("{digests:?} {names:?} {:?}", work.leave_out);
    let kind = if digests.len() > 1 { "multi" } else { kind };
    Ok(format!("{kind}:{}", Digest::of(listing.as_bytes()).hex()))
}

fn is_directory(place: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(place).map_err(|error| Error::io("look at a source", error.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn copy(root: BorrowedFd<'_>, work: &Work) -> Result<()> {
    let owner = match &work.chown {
        None => None,
        Some(text) => Some(owner(root, text)?),
    };
    let copier = Copier {
        // Files of an image keep their owners; those of a context have none there.
        owner: owner.or(matches!(work.origin, Origin::Context(_)).then_some(ROOT)),
        mode: work.mode,
        cancel: &work.cancel,
    };
    for found in &work.found {
        match found {
            Found::Inline { name, content } => {
                let (to, name) = place(root, &copier, work, name)?;
                copier.inline(content, &to, name.as_bytes(), &name)?;
            }
            Found::Path(path) => copy_path(root, &copier, owner, work, path)?,
        }
    }
    Ok(())
}

fn copy_path(
    root: BorrowedFd<'_>,
    copier: &Copier<'_>,
    owner: Option<Owner>,
    work: &Work,
    path: &str,
) -> Result<()> {
    let from = source::open(&*work.origin.root()?, path)?;
    let leave_out = |path: &str| work.leave_out.excludes(path);
    if is_directory(&from)? {
        let to = copier.directory(root, &work.destination)?;
        return copier.content(&source::reopened(&from)?, &to, "", &leave_out, 0);
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    if leave_out(name) {
        return Ok(());
    }
    let file = source::reopened_file(&from, path)?;
    if work.kind == TransferKind::Add && matches!(work.origin, Origin::Context(_)) && is_archive(&file)? {
        let to = copier.directory(root, &work.destination)?;
        let options = ExtractOptions {
            keep_kinds: false,
            owner,
        };
        // The check read a part of it.
        let file = source::Watched {
            file: source::reopened_file(&from, path)?,
            cancel: &work.cancel,
        };
        let extracted = extract(
            to.as_fd(),
            &work.destination,
            file,
            &options,
            &Some,
            &LoadLimits::default(),
        );
        // The build's end shows as a failed reading.
        source::go_on(&work.cancel)?;
        return Ok(extracted?);
    }
    let (to, name) = place(root, copier, work, name)?;
    copier.file(file, &to, name.as_bytes(), path)
}

/// The directory and the name of one copied file.
fn place(root: BorrowedFd<'_>, copier: &Copier<'_>, work: &Work, name: &str) -> Result<(OwnedFd, String)> {
    let destination = work.destination.as_str();
    if work.into_directory || Copier::is_directory(root, destination) {
        return Ok((copier.directory(root, destination)?, name.to_owned()));
    }
    let (parent, own) = destination.rsplit_once('/').unwrap_or(("", destination));
    Ok((copier.directory(root, parent)?, own.to_owned()))
}

/// The owner that `user[:group]` means in the image; without a group, the group of the same number or the user's.
fn owner(root: BorrowedFd<'_>, text: &str) -> Result<Owner> {
    // A number alone is a group, too.
    let whole = match text.contains(':') || text.parse::<u32>().is_err() {
        true => text.to_owned(),
        false => format!("{text}:{text}"),
    };
    let user = user::resolve(root, &whole, &[])?;
    Ok(Owner {
        uid: user.uid,
        gid: user.gid,
    })
}

fn mode(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| {
            Error::invalid(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            ))
        })
}

/// Sources that a builder would have to fetch.
fn refuse_remote(path: &str) -> Result<()> {
    let lower = path.to_ascii_lowercase();
    let is_url = ["http://", "https://", "ftp://"]
        .iter()
        .any(|scheme| lower.starts_with(scheme));
    let is_git = lower.starts_with("git@") || lower.starts_with("git://") || lower.starts_with("ssh://");
    match is_url || is_git {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "ADD of addresses is not supported ({path}): fetch it before the build, or in a RUN of a stage of its own"
        ))),
    }
}
