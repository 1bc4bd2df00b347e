//! Bounds on what an archive or another node may make this node store.

/// Most layers of one image: overlayfs stacks at most 500 lower directories.
pub const LAYERS_MAX: usize = 500;
/// Most bytes of a manifest, index or image configuration: registries keep to 4 MiB, and they are parsed in memory.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Most entries of an outer archive: 500 layers with four files each in the oldest format, for several images.
pub const ARCHIVE_ENTRIES_MAX: u64 = 16_384;
/// Most images in one archive; more is a sign of a crafted manifest list.
pub const ARCHIVE_IMAGES_MAX: usize = 1_024;
/// Longest path of an entry or target of a link: the kernel's PATH_MAX less the final zero.
pub const PATH_BYTES_MAX: usize = 4_095;
/// Longest name of one path component: the kernel's NAME_MAX.
pub const NAME_BYTES_MAX: usize = 255;
/// Most bytes of one extended tar header (long paths, extended attributes): held in memory while parsed.
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Most extended headers before one entry: a tar writer emits at most a handful, an endless run is an attack.
pub const EXTENSIONS_PER_ENTRY_MAX: usize = 16;
/// Most bytes of names and link targets of one archive, which are remembered until its end: a hundred for each of the
/// entries that it may have.
pub const NAMES_BYTES_MAX: u64 = 256 << 20;
/// Most directories of a layer that no entry of its archive names, only leads through: one entry can lead through two
/// thousand, and some builders name none at all.
pub const UNNAMED_DIRECTORIES_MAX: u64 = 100_000;
/// Deepest nesting of OCI indexes: an image is behind one, seldom two.
pub const INDEX_DEPTH_MAX: usize = 4;
/// Most manifests remembered for one image: the same image packed differently by different tools.
pub const MANIFESTS_PER_IMAGE_MAX: usize = 8;

/// What one load may use; the defaults fit images of tens of gigabytes and stop decompression bombs early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadLimits {
    /// Most bytes of the archive after its outer compression is removed, and of one imported blob.
    pub archive_bytes_max: u64,
    /// Most bytes of all layers of the load after decompression.
    pub unpacked_bytes_max: u64,
    /// Most entries in one layer.
    pub layer_entries_max: u64,
    /// Most decompressed bytes per compressed byte, once a stream is past `expansion_free_bytes`.
    pub expansion_ratio_max: u64,
    /// Decompressed bytes below which the ratio is not judged: small files of zeros compress a thousandfold.
    pub expansion_free_bytes: u64,
}

impl Default for LoadLimits {
    fn default() -> Self {
        LoadLimits {
            archive_bytes_max: 64 << 30,
            unpacked_bytes_max: 64 << 30,
            layer_entries_max: 2_000_000,
            expansion_ratio_max: 100,
            expansion_free_bytes: 1 << 30,
        }
    }
}
