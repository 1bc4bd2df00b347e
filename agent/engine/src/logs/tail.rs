//! Finds where the last lines of a log begin.

use super::files::LogFile;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read at a time, backwards.
const CHUNK_BYTES: u64 = 64 << 10;

/// The file (counted from the oldest) and the offset at which the last `lines` lines begin.
pub(super) fn start_of_last(files: &[LogFile], lines: u64) -> io::Result<(usize, u64)> {
    let mut wanted = lines;
    for (position, file) in files.iter().enumerate().rev() {
        let length = file.file.metadata()?.len();
        if wanted == 0 {
            return Ok((position, length));
        }
        match last_in_file(file, length, &mut wanted)? {
            Some(offset) => return Ok((position, offset)),
            None if position == 0 => return Ok((0, 0)),
            None => {}
        }
    }
    Ok((0, 0))
}

/// Counts lines from the file's end; `Some(offset)` when it holds the first wanted one.
fn last_in_file(file: &LogFile, length: u64, wanted: &mut u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES);
        let chunk = &mut buffer[..(end - start) as usize];
        file.file.read_exact_at(chunk, start)?;
        for (index, _) in chunk.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let offset = start + index as u64 + 1;
            // The newline that ends the file ends its last line; each one before that begins a line.
            if offset == length {
                continue;
            }
            *wanted -= 1;
            if *wanted == 0 {
                return Ok(Some(offset));
            }
        }
        end = start;
    }
    // The file's first line begins without a newline before it.
    if length > 0 {
        *wanted -= 1;
        if *wanted == 0 {
            return Ok(Some(0));
        }
    }
    Ok(None)
}
