//! Bounds on Dockerfiles, which come from whoever may build.

/// Most bytes of a Dockerfile: the largest generated ones have a few hundred kilobytes.
pub const DOCKERFILE_BYTES_MAX: usize = 4 << 20;
/// Most statements of a Dockerfile; an image cannot have more layers than 500 anyway.
pub const STATEMENTS_MAX: usize = 5_000;
/// Most bytes of one value after its variables were expanded: the kernel takes 128 KiB of one variable.
pub const VALUE_BYTES_MAX: usize = 128 << 10;
/// Deepest nesting of `${a:-${b:-…}}`.
pub const NESTING_MAX: usize = 32;
/// Most bytes of a value that `#` and `%` cut.
pub const TRIMMED_BYTES_MAX: usize = 16 << 10;
/// Most work of expanding the variables of one instruction, and of all that a plan needs, in bytes that are copied and places of patterns that are tried:
/// some hundredths of a second.
pub const EXPANSION_WORK_MAX: usize = 16 << 20;
/// Most patterns of a `.dockerignore` file.
pub const IGNORE_PATTERNS_MAX: usize = 10_000;
/// Longest pattern.
pub const PATTERN_BYTES_MAX: usize = 4 << 10;
