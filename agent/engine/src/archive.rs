//! `docker cp` and `docker export`: files of a container out as a tar stream, and in from one.

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::path_stat::{PathStat, clean, last_name, stat};
use crate::piece_writer::PieceWriter;
use crate::rootfs_view::{Owners, RootView, bare_root_of};
use crate::spec;
use crate::user;
use crate::user_namespace::{as_root_of, inside, outside};
use bytes::Bytes;
use muster_images::{
    ExtractOptions, LoadLimits, MountOptions, Owner, is_kernel_file_system, pack_directory, pack_file,
};
use rustix::fs::{FileType, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Pieces of an archive between the reader of the files and the client; each is [`crate::piece_writer::PIECE_BYTES`].
pub(crate) const PIECES_AHEAD: usize = 4;

/// An archive on its way; an error in it ends it.
pub type ArchiveStream = mpsc::Receiver<io::Result<Bytes>>;

/// How an archive is put into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// Refuse to replace a directory by something else, and something else by a directory.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user.
    pub own_by_user: bool,
}

impl Engine {
    /// What is at a path of a container.
    pub async fn archive_stat(&self, reference: &str, path: &str) -> Result<PathStat> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find(reference)?);
        let (path, reference) = (path.to_owned(), reference.to_owned());
        self.carry("archive_stat", async move {
            let work =
                move |view: &RootView| stat(view, &path).map_err(|error| not_at(error, &path, &reference));
            inner.in_view(&container, work).await
        })
        .await
    }

    /// What is at a path of a container, and an archive of it.
    pub async fn archive_get(&self, reference: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find(reference)?);
        let (path, reference) = (path.to_owned(), reference.to_owned());
        let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
        let (found, stated) = oneshot::channel();
        let output = PieceWriter::new(pieces, self.inner.stopping.clone());
        self.inner.tasks.spawn(async move {
            let copied = Arc::clone(&container);
            let work = move |view: &RootView| get(view, (&path, &reference), found, output);
            // Whoever waits for the stat gets the error by it, whoever reads the archive gets it there.
            if inner.in_view(&container, work).await.is_ok() {
                inner.container_event(&copied, "archive-path", &[]);
            }
        });
        match stated.await {
            Ok(stat) => Ok((stat?, stream)),
            Err(_) => Err(Error::wrong_state(
                "the container's files cannot be read now: it is starting or ending",
            )),
        }
    }

    /// Extracts an archive into a directory of a container.
    pub async fn archive_put(
        &self,
        reference: &str,
        path: &str,
        options: PutOptions,
        archive: impl Read + Send + 'static,
    ) -> Result<()> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find(reference)?);
        let (path, reference) = (path.to_owned(), reference.to_owned());
        self.carry("archive_put", async move {
            let record = container.record();
            let target = Target {
                path: path.clone(),
                read_only_rootfs: record.config.host.read_only,
                user: record.user,
                options,
            };
            let work = move |view: &RootView| put(view, &target, archive, &path, &reference);
            inner.in_view(&container, work).await?;
            inner.container_event(&container, "extract-to-dir", &[]);
            Ok(())
        })
        .await
    }

    /// An archive of a container's root file system, without its mounts.
    pub async fn export(&self, reference: &str) -> Result<ArchiveStream> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find(reference)?);
        let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
        let (opened, ready) = oneshot::channel();
        let output = PieceWriter::new(pieces, self.inner.stopping.clone());
        self.inner.tasks.spawn(async move {
            let exported = Arc::clone(&container);
            if inner.export(&container, opened, output).await.is_ok() {
                inner.container_event(&exported, "export", &[]);
            }
        });
        match ready.await {
            Ok(outcome) => outcome.map(|()| stream),
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

impl Inner {
    /// Runs blocking work on a container's files. One that does not run cannot be started meanwhile.
    async fn in_view<T: Send + 'static>(
        self: &Arc<Self>,
        container: &Arc<Container>,
        work: impl FnOnce(&RootView) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let id = container.id.to_string();
        if let Some(run) = container.run() {
            let pid = run.monitor.pid();
            let ids = run.ids;
            let of_process = self
                .blocking(move |_| RootView::of_process(pid, &id, ids))
                .await?;
            if let Some(view) = of_process {
                return self
                    .blocking(move |_| as_root_of(view.ids(), || work(&view)))
                    .await;
            }
        }
        let _owned = container.operation.lock().await;
        if let Some(run) = container.run() {
            // It was started while this waited.
            let (pid, id) = (run.monitor.pid(), container.id.to_string());
            return self
                .blocking(move |_| match RootView::of_process(pid, &id, run.ids)? {
                    Some(view) => as_root_of(view.ids(), || work(&view)),
                    None => Err(Error::wrong_state(format!("container {id} is ending"))),
                })
                .await;
        }
        let record = container.record();
        self.blocking(move |inner| {
            let ids = inner.maps_of(&record.config.host);
            let _mounted = inner.hold_volumes(&record.mounts, &format!("copy-{}", record.id))?;
            let translations = inner.translations(&record.mounts, ids);
            let (mounts, place) = (record.mounts.as_slice(), inner.layout.container(&record.id));
            as_root_of(ids, || {
                let rootfs = inner.mount_rootfs(&record)?;
                let owners = Owners {
                    ids: ids.cloned(),
                    translations,
                };
                work(&RootView::of_stopped(rootfs, mounts, owners, &place)?)
            })
        })
        .await
    }

    /// Mounts the root file system of a container that does not run, in the name of its root. Blocks.
    pub(crate) fn mount_rootfs(&self, record: &crate::record::Record) -> Result<OwnedFd> {
        let (id, host) = (record.id.as_str(), &record.config.host);
        let labels = spec::selinux_labels(self.host.selinux.as_ref(), record.level(), host)?;
        let label = labels.as_ref().map(|labels| labels.mount.as_str());
        let mounted = match self.remap_of(host) {
            Some(remap) => remap.shown(|shown| {
                let shown = Some(shown);
                self.images.mount_with(id, MountOptions { label, shown })
            }),
            None => self.images.mount_with(id, MountOptions { label, shown: None }),
        };
        Ok(mounted?)
    }

    async fn export(
        self: &Arc<Self>,
        container: &Arc<Container>,
        opened: oneshot::Sender<Result<()>>,
        output: PieceWriter,
    ) -> Result<()> {
        let running = container.run().map(|run| (run.monitor.pid(), run.ids));
        let _owned = match running {
            Some(_) => None,
            None => Some(container.operation.lock().await),
        };
        let record = container.record();
        self.blocking(move |inner| {
            let own = inner.maps_of(&record.config.host).cloned();
            let ids = running.as_ref().map_or(own, |(_, ids)| ids.clone());
            let root = match running {
                Some((pid, _)) => match RootView::of_process(pid, record.id.as_str(), None) {
                    Ok(Some(view)) => bare_root_of(&view, pid),
                    Ok(None) => Err(Error::wrong_state(format!("container {} is ending", record.id))),
                    Err(error) => Err(error),
                },
                None => as_root_of(ids.as_ref(), || inner.mount_rootfs(&record)),
            };
            let root = match root {
                Ok(root) => root,
                Err(error) => {
                    // Nobody waits any more where this fails.
                    let _ = opened.send(Err(error));
                    return Err(Error::wrong_state("not exported"));
                }
            };
            let _ = opened.send(Ok(()));
            let told = |owner| inside(ids.as_ref(), owner);
            write_archive(output, |output| pack_directory(root.as_fd(), None, &told, output))
        })
        .await
    }
}

/// Where an archive goes.
struct Target {
    path: String,
    read_only_rootfs: bool,
    user: String,
    options: PutOptions,
}

fn put(view: &RootView, target: &Target, archive: impl Read, path: &str, reference: &str) -> Result<()> {
    let at = |error| not_at(error, path, reference);
    let directory = match view.open(clean(&target.path).as_bytes(), OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOTDIR) => return Err(Error::invalid("extraction point is not a directory")),
        opened => opened.map_err(at)?,
    };
    if is_kernel_file_system(&directory).map_err(at)? {
        return Err(at(Errno::NOENT));
    }
    let on_rootfs = rustix::fs::fstat(&directory).map_err(at)?.st_dev
        == rustix::fs::fstat(view.root()).map_err(at)?.st_dev;
    let flags = rustix::fs::fstatvfs(&directory).map_err(at)?.f_flag;
    check_writable(
        on_rootfs,
        flags.contains(StatVfsMountFlags::RDONLY),
        target.read_only_rootfs,
    )?;
    let owner = match target.options.own_by_user && !target.user.is_empty() {
        true => {
            let user = user::resolve(view.root(), &target.user, &[])?;
            Some(Owner {
                uid: user.uid,
                gid: user.gid,
            })
        }
        false => None,
    };
    let options = ExtractOptions {
        keep_kinds: target.options.keep_kinds,
        owner,
    };
    let limits = LoadLimits::default();
    Ok(muster_images::extract(
        directory.as_fd(),
        &clean(&target.path),
        archive,
        &options,
        &|owner| outside(view.ids(), owner),
        &limits,
    )?)
}

/// Docker's words for a place that may not be written to.
fn check_writable(on_rootfs: bool, read_only_mount: bool, read_only_rootfs: bool) -> Result<()> {
    match (on_rootfs, read_only_mount) {
        (true, read_only) if read_only || read_only_rootfs => {
            Err(Error::invalid("container rootfs is marked read-only"))
        }
        (false, true) => Err(Error::invalid("mounted volume is marked read-only")),
        (true | false, _) => Ok(()),
    }
}

fn get(
    view: &RootView,
    (path, reference): (&str, &str),
    found: oneshot::Sender<Result<PathStat>>,
    output: PieceWriter,
) -> Result<()> {
    let at = |error| not_at(error, path, reference);
    let path = clean(path);
    let opened = stat(view, &path).and_then(|stat| {
        let flags = match stat.is_directory() {
            true => OFlags::PATH | OFlags::DIRECTORY,
            false => OFlags::PATH | OFlags::NOFOLLOW,
        };
        Ok((stat, view.open(path.as_bytes(), flags)?))
    });
    let (stat, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // The caller is told; if it is gone nobody wants to know.
            let _ = found.send(Err(at(error)));
            return Err(Error::wrong_state("nothing was archived"));
        }
    };
    let name = last_name(&path).to_owned();
    let _ = found.send(Ok(stat));
    let is_directory =
        rustix::fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
    let told = |owner| inside(view.ids(), owner);
    write_archive(output, |output| {
        if is_directory {
            return pack_directory(file.as_fd(), Some(name.as_bytes()), &told, output);
        }
        let (parent, file_name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = view.open(parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?;
        pack_file(
            parent.as_fd(),
            file_name.as_bytes(),
            name.as_bytes(),
            &told,
            output,
        )
    })
}

/// Writes an archive; what goes wrong ends the client's stream in an error.
pub(crate) fn write_archive(
    mut output: PieceWriter,
    write: impl FnOnce(&mut PieceWriter) -> io::Result<()>,
) -> Result<()> {
    match write(&mut output) {
        Ok(()) => Ok(()),
        Err(error) => {
            let told = io::Error::new(error.kind(), error.to_string());
            output.fail(told);
            Err(Error::io("archive files", error))
        }
    }
}

fn not_at(error: Errno, path: &str, reference: &str) -> Error {
    match error {
        Errno::NOENT => Error::NoSuchFile {
            path: path.to_owned(),
            container: reference.to_owned(),
        },
        Errno::NOTDIR => Error::invalid(format!("lstat {path}: not a directory")),
        Errno::LOOP => Error::invalid(format!("lstat {path}: too many levels of symbolic links")),
        error => Error::io(format!("lstat {path}"), error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_places_are_refused_in_dockers_words() {
        let refused = |on_rootfs, mount, rootfs| {
            check_writable(on_rootfs, mount, rootfs).map_err(|error| error.to_string())
        };
        assert_eq!(refused(true, false, false), Ok(()));
        assert_eq!(refused(false, false, true), Ok(()));
        assert_eq!(
            refused(true, false, true).unwrap_err(),
            "container rootfs is marked read-only"
        );
        assert_eq!(
            refused(true, true, false).unwrap_err(),
            "container rootfs is marked read-only"
        );
        assert_eq!(
            refused(false, true, false).unwrap_err(),
            "mounted volume is marked read-only"
        );
    }
}
