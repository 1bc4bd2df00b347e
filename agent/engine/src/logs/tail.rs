//! Finds where the last lines of a log begin.

use super::file::LogFile;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::FileExt;

/// Bytes read at a time, backwards.
const CHUNK_BYTES: u64 = 64 << 10;

/// The file (counted from the oldest) and the offset at which the last `lines` lines begin.
pub(super) fn start_of_last(files: &[LogFile], lines: u64) -> io::Result<(usize, u64)> {
    let mut wanted = lines;
    for (position, file) in files.iter().enumerate().rev() {
        let begin = match file.plain() {
            Some(plain) => {
                let length = file.length()?;
                if wanted == 0 {
                    return Ok((position, length));
                }
                last_in_file(plain, length, &mut wanted)?
            }
            None => last_in_packed(file, &mut wanted)?,
        };
        match begin {
            Some(offset) => return Ok((position, offset)),
            None if position == 0 => return Ok((0, 0)),
            None => {}
        }
    }
    Ok((0, 0))
}

/// As [`last_in_file`], of a file that can be read forwards only: once for their number, once for the place.
fn last_in_packed(file: &LogFile, wanted: &mut u64) -> io::Result<Option<u64>> {
    let lines = skip_lines(&mut file.whole(), u64::MAX)?.0;
    if lines < *wanted {
        *wanted -= lines;
        return Ok(None);
    }
    let (_, offset) = skip_lines(&mut file.whole(), lines - *wanted)?;
    *wanted = 0;
    Ok(Some(offset))
}

/// Reads up to this many lines; their number and bytes. The last one may be without an end.
fn skip_lines(whole: &mut impl BufRead, most: u64) -> io::Result<(u64, u64)> {
    let (mut lines, mut bytes, mut open) = (0, 0, false);
    while lines < most {
        let chunk = whole.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |end| end + 1);
        lines += u64::from(end.is_some());
        open = end.is_none();
        bytes += taken as u64;
        whole.consume(taken);
    }
    Ok((lines + u64::from(open), bytes))
}

/// Counts lines from the file's end; `Some(offset)` when it holds the first wanted one.
fn last_in_file(file: &File, mut length: u64, wanted: &mut u64) -> io::Result<Option<u64>> {
    let all = *wanted;
    loop {
        match last_before(file, length, wanted) {
            // A line that did not fit onto the disk was taken back meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                length = length.min(file.metadata()?.len());
                *wanted = all;
            }
            found => return found,
        }
    }
}

fn last_before(file: &File, length: u64, wanted: &mut u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut end = length;
    // What lies behind the last newline is no line yet, and may never be one.
    let mut complete = false;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES);
        let chunk = &mut buffer[..(end - start) as usize];
        file.read_exact_at(chunk, start)?;
        for (index, _) in chunk.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The last newline ends the last line; each one before that begins a line.
            if !std::mem::replace(&mut complete, true) {
                continue;
            }
            *wanted -= 1;
            if *wanted == 0 {
                return Ok(Some(start + index as u64 + 1));
            }
        }
        end = start;
    }
    // The file's first line begins without a newline before it.
    if complete {
        *wanted -= 1;
        if *wanted == 0 {
            return Ok(Some(0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn found(content: &str, length: u64, mut wanted: u64) -> (Option<u64>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let offset = last_in_file(&file, length, &mut wanted).unwrap();
        (offset, wanted)
    }

    #[test]
    fn an_unfinished_line_is_not_the_last_one() {
        for (content, wanted, expected) in [
            ("one\ntwo\n", 1, (Some(4), 0)),
            ("one\ntwo\nthr", 1, (Some(4), 0)),
            ("one\ntwo\nthr", 2, (Some(0), 0)),
            ("one\ntwo\nthr", 3, (None, 1)),
            ("on", 1, (None, 1)),
            ("", 1, (None, 1)),
        ] {
            let length = content.len() as u64;
            assert_eq!(found(content, length, wanted), expected, "{content:?} {wanted}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_read_again() {
        assert_eq!(found("one\ntwo\n", 11, 1), (Some(4), 0));
        let long = "x\n".repeat(50_000);
        assert_eq!(found(&long, 100_001, 49_999), (Some(2), 0));
    }
}
