//! The size of a terminal in a specification.

use oci_spec::runtime::Process;

/// Rows and columns, where both are given and fit.
pub(crate) fn size_of(process: &Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    let (rows, columns) = (
        u16::try_from(size.height()).ok()?,
        u16::try_from(size.width()).ok()?,
    );
    (rows > 0 && columns > 0).then_some((rows, columns))
}
