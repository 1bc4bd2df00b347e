//! Network namespaces: made by one thread that does nothing else, a few in advance, and pinned by a bind mount.
//!
//! A namespace belongs to the thread that unshares, so that must not be a thread on which other work runs. Making
//! one costs about half a millisecond, several times as much as everything else that a sandbox needs.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::links::Links;
use crate::netlink::NetlinkError;
use crate::sysctl::{self, SysctlError};

/// File system type of namespace descriptors (linux/magic.h).
const NSFS_MAGIC: libc::__fsword_t = 0x6e73_6673;
/// Where a thread finds its own network namespace.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Why an operation on a network namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The thread that makes namespaces could not be started or has ended.
    #[error("the thread that makes network namespaces is not running")]
    NoThread,
    /// The kernel refused to make or open one.
    #[error("cannot {operation} a network namespace")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The loopback could not be brought up.
    #[error("cannot bring up the loopback of a new network namespace")]
    Loopback(#[source] NetlinkError),
    /// A default parameter could not be set.
    #[error("cannot set up a new network namespace")]
    Sysctl(#[source] SysctlError),
}

fn kernel_error(operation: &'static str) -> impl Fn(nix::Error) -> NamespaceError {
    move |errno| NamespaceError::Kernel {
        operation,
        source: errno.into(),
    }
}

/// A namespace nobody uses yet: loopback up, no other link.
#[derive(Debug)]
pub(crate) struct FreshNamespace {
    pub descriptor: OwnedFd,
    pub links: Links,
}

/// Makes namespaces and runs short jobs inside of existing ones.
pub(crate) struct Namespaces {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&Worker) + Send>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    prepared: usize,
}

struct State {
    ready: VecDeque<FreshNamespace>,
    jobs: VecDeque<Job>,
    /// Cleared by a failure to prepare one, so that the thread does not spin; set by the next request.
    preparing: bool,
    stopping: bool,
}

struct Worker {
    home: OwnedFd,
    defaults: Vec<(String, String)>,
}

impl Namespaces {
    /// Starts the thread, which belongs to the caller's network namespace, and has it keep `prepared` namespaces
    /// ready with the parameters `defaults` set.
    pub fn start(prepared: usize, defaults: Vec<(String, String)>) -> Result<Self, NamespaceError> {
        let home = open_namespace(Path::new(OWN_NAMESPACE))?;
        let state = State {
            ready: VecDeque::new(),
            jobs: VecDeque::new(),
            preparing: true,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            prepared,
        });
        let worker = Worker { home, defaults };
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("namespaces".to_owned())
            .spawn(move || serve(&served, &worker))
            .map_err(|_| NamespaceError::NoThread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A fresh namespace, prepared in advance where possible. Call [`Self::refill`] when it is in use.
    pub fn take(&self) -> Result<FreshNamespace, NamespaceError> {
        let ready = self.shared.lock().ready.pop_front();
        match ready {
            Some(fresh) => Ok(fresh),
            None => self.submit(Worker::create)?,
        }
    }

    /// Sets up a namespace that somebody else made, like a fresh one.
    pub fn adopt(&self, namespace: OwnedFd) -> Result<FreshNamespace, NamespaceError> {
        self.submit(move |worker| {
            let made = worker.inside(namespace.as_fd(), || worker.set_up());
            made.and_then(|fresh| fresh)
        })?
    }

    /// Prepares others in place of those that were taken: apart from taking, so as not to slow down what the taker
    /// does next.
    pub fn refill(&self) {
        self.shared.lock().preparing = true;
        self.shared.changed.notify_one();
    }

    /// Runs `job` on a thread inside the namespace. It must be short: requests wait behind it.
    pub fn run_in<R: Send + 'static>(
        &self,
        namespace: OwnedFd,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, NamespaceError> {
        self.submit(move |worker| worker.inside(namespace.as_fd(), job))?
    }

    fn submit<R: Send + 'static>(
        &self,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
    ) -> Result<R, NamespaceError> {
        let (reply, result) = mpsc::sync_channel(1);
        // A caller that went away does not want the answer.
        let job: Job = Box::new(move |worker| drop(reply.send(job(worker))));
        self.shared.lock().jobs.push_back(job);
        self.shared.changed.notify_one();
        result.recv().map_err(|_| NamespaceError::NoThread)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(shared: &Shared, worker: &Worker) {
    loop {
        let job = {
            let mut state = shared.lock();
            loop {
                if state.stopping {
                    return;
                }
                if let Some(job) = state.jobs.pop_front() {
                    break Some(job);
                }
                if state.preparing && state.ready.len() < shared.prepared {
                    break None;
                }
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        match job {
            Some(job) => job(worker),
            None => prepare(shared, worker),
        }
    }
}

fn prepare(shared: &Shared, worker: &Worker) {
    let made = worker.create();
    let mut state = shared.lock();
    match made {
        Ok(fresh) => state.ready.push_back(fresh),
        Err(error) => {
            state.preparing = false;
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot prepare a network namespace"
            );
        }
    }
}

impl Worker {
    fn create(&self) -> Result<FreshNamespace, NamespaceError> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(kernel_error("make"))?;
        let made = self.set_up();
        setns(&self.home, CloneFlags::CLONE_NEWNET).map_err(kernel_error("return from"))?;
        made
    }

    fn set_up(&self) -> Result<FreshNamespace, NamespaceError> {
        let descriptor = open_namespace(Path::new(OWN_NAMESPACE))?;
        let mut links = Links::open().map_err(NamespaceError::Loopback)?;
        links.loopback_up().map_err(NamespaceError::Loopback)?;
        for (name, value) in &self.defaults {
            sysctl::write_if_present(name, value).map_err(NamespaceError::Sysctl)?;
        }
        Ok(FreshNamespace { descriptor, links })
    }

    fn inside<R>(&self, namespace: BorrowedFd<'_>, job: impl FnOnce() -> R) -> Result<R, NamespaceError> {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(kernel_error("enter"))?;
        let result = job();
        // Staying inside would keep a namespace alive after its sandbox was removed.
        setns(&self.home, CloneFlags::CLONE_NEWNET).map_err(kernel_error("return from"))?;
        Ok(result)
    }
}

/// Opens the namespace that a path under /proc or a pin stands for.
pub(crate) fn open_namespace(path: &Path) -> Result<OwnedFd, NamespaceError> {
    let opened = File::open(path).map_err(|source| NamespaceError::Kernel {
        operation: "open",
        source,
    })?;
    Ok(opened.into())
}

/// Makes `path` stand for the namespace until it is unpinned, even with no process inside.
pub(crate) fn pin(namespace: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    File::create(path)?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount(
        Some(source.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| {
        drop(std::fs::remove_file(path));
        errno.into()
    })
}

/// Drops a pin; the kernel takes the namespace and its links down in the background. `false` if there was none.
pub(crate) fn unpin(path: &Path) -> io::Result<bool> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(nix::Error::ENOENT) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    std::fs::remove_file(path)?;
    Ok(true)
}

/// Opens a pinned namespace; `None` if there is no pin or only what a reboot left of it.
pub(crate) fn open_pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    Ok((kind == NSFS_MAGIC).then(|| file.into()))
}

/// The names of the pins in a directory, which need not exist.
pub(crate) fn pins_in(directory: &Path) -> io::Result<Vec<String>> {
    let listed = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = listed.map(|entry| Ok(entry?.file_name().into_string()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().flatten().collect())
}

/// Makes `directory` a mount of its own that passes nothing on, so that pins stay out of other mount namespaces.
pub(crate) fn prepare_pin_directory(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    if !is_mount_point(directory)? {
        mount(
            Some(directory),
            directory,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
    }
    mount(
        None::<&str>,
        directory,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    Ok(())
}

fn is_mount_point(directory: &Path) -> io::Result<bool> {
    let flags = rustix::fs::AtFlags::empty();
    let found = rustix::fs::statx(rustix::fs::CWD, directory, flags, rustix::fs::StatxFlags::empty())?;
    Ok(found
        .stx_attributes
        .contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}
