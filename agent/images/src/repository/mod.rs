//! Repositories of the registry in the box: which manifests, tags and blobs they hold, as entries that nodes exchange,
//! and uploads on their way into them.
//!
//! An entry says what a name in a repository stands for, or that it stands for nothing any more, and when that was
//! said. Of two entries of one name the later one counts, so that nodes agree however their changes reach them. An entry
//! is about the cluster's repository; whether its content is on this node is another question: what this node *holds*
//! stays until no entry leads to it.

mod digest;
mod entry;
mod expiry;
mod held;
mod repositories;
mod upload;

pub use digest::{ContentDigest, ContentDigestError};
pub(crate) use entry::Entry;
pub use entry::{Change, Entered, EntryKey, ManifestEntry, Stamp, StoredContent, UnusableChange};
pub use expiry::UNUSED_BLOB_KEPT_MS;
pub(crate) use held::held_by_repositories;
pub use repositories::{Changes, Cursor, MergeError};
pub use upload::Upload;
