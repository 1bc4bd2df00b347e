//! Images of one node: a content store, the layers unpacked from it, and the root filesystems of containers.
//!
//! What it is for: loading images from archives and from other nodes, naming them as Docker does, and giving
//! each container a writable overlay over its image's layers.
//!
//! What it must never do: trust a byte of an archive before its digest is checked, write outside a layer's own
//! directory, leave anything behind after a failure, or delete what an image, a container or a lease still needs.
//!
//! Methods block; callers on an async runtime use a blocking thread.
//!
//! Start reading at [`store::ImageStore`], then `load.rs` (archive to plan), `register.rs` (plan to image),
//! `unpack.rs` (one layer's entries onto disk) and `overlay.rs` (the mount).
//!
//! Invariants, referred to by name:
//! * **verified before visible**: a blob is renamed into place only after its digest was computed and synced, a
//!   layer only after its diff id matched the image's configuration and its files were synced.
//! * **recorded means durable**: what the database names is on disk, synced before the record is committed.
//! * **pinned or recorded**: deletion takes only what no record reaches and no lease pins.
//! * **here once**: of a layer that stands unpacked and recorded, whose archive can be made again, no blob is kept but for
//!   repositories and leases; the blob goes after the record was committed.
//! * **whole or hidden**: an image that cannot be run as recorded is not shown until a fetch has made it whole.

pub mod archive;
mod archived;
mod blobs;
mod block_groups;
mod changes;
mod check;
mod collect;
mod coming;
mod coming_place;
mod commit;
mod compression;
mod content;
pub mod digest;
mod docker_archive;
mod doubt;
pub mod error;
mod extract;
mod file_tree;
mod history;
mod image;
mod import;
pub mod lasting;
mod layer_check;
mod layer_feed;
#[cfg(test)]
mod layer_fuzz;
mod layer_path;
mod layout;
mod lease;
pub mod limits;
mod load;
mod manifest;
mod oci_layout;
mod overlay;
mod pack;
mod packed;
mod rebuild;
mod record;
mod records;
pub mod reference;
mod register;
mod remote;
mod removal;
mod remove;
pub mod repository;
mod save;
mod session;
mod snapshot;
mod staged_layers;
mod staging;
mod steps;
pub mod store;
mod tar_split;
mod tar_stream;
mod tar_writer;
mod trash;
mod turns;
mod unfinished;
mod unpack;
mod unpacked_layer;
mod usage;
mod whiteout;

pub use archive::{ImageRecipe, RecipeFile, RecipeSource};
pub use block_groups::scatter_directories;
pub use changes::{ChangeKind, FileChange};
pub use check::DamagedImage;
pub use collect::Collected;
pub use coming::{BlobWriter, ComingBlob, VerifiedBlob};
pub use commit::{NewImage, SourceContainer};
pub use content::{BlobReader, LayerHere};
pub use digest::{Digest, ImageId, digest_of};
pub use error::{ArchiveError, Error, ErrorKind, Result};
pub use extract::{ExtractOptions, Owner, OwnerKept, extract, is_archive};
pub use file_tree::{FileNode, FileTree, Located};
pub use history::HistoryEntry;
pub use image::Image;
pub use import::{BlobDescriptor, KnownImage};
pub use layer_feed::{LayerBytes, LayerFeed};
pub use layout::remove_tree;
pub use lease::Lease;
pub use limits::LoadLimits;
pub use load::LoadedImage;
pub use overlay::ShownAs;
pub use pack::{OwnerTold, is_kernel_file_system, pack_directory, pack_file};
pub use packed::PackedManifest;
pub use reference::{Reference, ReferenceError};
pub use remote::{ComingImage, ImagePlatform, RemoteDocument, RemoteImage, RemoteIndex, platform_of_config};
pub use remove::{ImageUser, RemoveOptions, RemovedEvent, UserState};
pub use save::SavedImage;
pub use snapshot::{Directories, MountOptions, RootfsSize, file_bytes};
pub use steps::{BuildStep, StepPruning};
pub use store::ImageStore;
pub use usage::DiskUsage;
