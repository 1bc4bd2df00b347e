//! The output log: Docker's json-file format, rotated by size.

mod rotation;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::exit::wall_clock_ns;
use crate::start::LogConfig;

/// Longer lines are split, as Docker does; a part without a line end says that more follows.
const PART_BYTES_MAX: usize = 16 << 10;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    fn name(self) -> &'static str {
        match self {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        }
    }
}

/// Writes a container's output. A full disk loses lines, never the container, and no line that it cut short stays.
#[derive(Debug)]
pub(crate) struct LogWriter {
    config: LogConfig,
    file: File,
    size: u64,
    /// Unfinished lines of both streams.
    pending: [Vec<u8>; 2],
    encoded: Vec<u8>,
    /// The member of every line that holds the attributes, as JSON with a comma behind it; empty without any.
    attributes: Vec<u8>,
    /// The file ends within a line, which could not be taken back: a line end has to be written before anything else.
    torn: bool,
}

impl LogWriter {
    /// Opens the log, behind what an earlier run wrote.
    pub(crate) fn open(config: LogConfig) -> io::Result<LogWriter> {
        let file = append_to(&config.path)?;
        let size = file.metadata()?.len();
        let torn = ends_within_line(&config.path, size)?;
        let attributes = match config.attributes.is_empty() {
            true => Vec::new(),
            false => {
                let object = serde_json::to_string(&config.attributes).map_err(io::Error::other)?;
                format!("\"attrs\":{object},").into_bytes()
            }
        };
        Ok(LogWriter {
            attributes,
            config,
            file,
            size,
            pending: Default::default(),
            encoded: Vec::new(),
            torn,
        })
    }

    /// Takes output; whole lines are written at once, a rest waits for its end.
    pub(crate) fn append(&mut self, stream: LogStream, mut bytes: &[u8]) {
        let time = Timestamp::now();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            self.extend(stream, line, &time);
            self.finish_line(stream, &time);
            bytes = rest;
        }
        self.extend(stream, bytes, &time);
        self.write_out();
    }

    /// Writes unfinished lines, at the end of the output.
    pub(crate) fn finish(&mut self) {
        let time = Timestamp::now();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            self.finish_line(stream, &time);
        }
        self.write_out();
        self.pending = Default::default();
    }

    /// Adds bytes without a line end before their last one; full parts go out.
    fn extend(&mut self, stream: LogStream, mut bytes: &[u8], time: &Timestamp) {
        loop {
            let pending = &mut self.pending[stream as usize];
            let line_end = usize::from(bytes.ends_with(b"\n"));
            let room = PART_BYTES_MAX - pending.len();
            if bytes.len() - line_end <= room {
                pending.extend_from_slice(bytes);
                return;
            }
            let (part, rest) = bytes.split_at(room);
            pending.extend_from_slice(part);
            self.finish_line(stream, time);
            bytes = rest;
        }
    }

    fn finish_line(&mut self, stream: LogStream, time: &Timestamp) {
        let line = &mut self.pending[stream as usize];
        if line.is_empty() {
            return;
        }
        encode(&mut self.encoded, stream, line, &self.attributes, time);
        line.clear();
        if self.encoded.len() >= 4 * PART_BYTES_MAX {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        if self.encoded.is_empty() {
            return;
        }
        let length = self.encoded.len() as u64;
        let full = self
            .config
            .max_bytes
            .is_some_and(|limit| self.size > 0 && self.size + length > limit);
        let begun = if full { self.begin_next_file() } else { Ok(()) };
        // There is nobody to tell: lines that have no room are lost.
        let _ = begun.and_then(|()| self.write_encoded());
        self.encoded.clear();
        // A burst of long lines must not keep its memory for the container's life.
        self.encoded.shrink_to(PART_BYTES_MAX);
    }

    /// Writes whole lines. Of what has no room, the part of a line that had some is taken back.
    fn write_encoded(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.torn = false;
        }
        let (written, result) = write_some(&mut self.file, &self.encoded);
        let mut kept = whole_lines(&self.encoded[..written]);
        if kept < written && self.file.set_len(self.size + kept as u64).is_err() {
            self.torn = true;
            kept = written;
        }
        self.size += kept as u64;
        result
    }

    /// Begins a new file, unless somebody is changing names of the older ones: then a later write does.
    fn begin_next_file(&mut self) -> io::Result<()> {
        let Some(lock) = rotation::try_lock(&self.config.path) else {
            return Ok(());
        };
        rotation::shift(&self.config.path, self.config.max_files)?;
        self.file = append_to(&self.config.path)?;
        drop(lock);
        self.size = 0;
        self.torn = false;
        Ok(())
    }
}

/// Writes as much as there is room for: the bytes that were written, and what became of the rest.
fn write_some(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Bytes up to the end of the last whole line.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1)
}

/// Whether the last line of a file has no end, as after a crash of the host.
fn ends_within_line(path: &Path, size: u64) -> io::Result<bool> {
    let Some(last) = size.checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    File::open(path)?.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

fn append_to(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Appends one line of the log.
fn encode(buffer: &mut Vec<u8>, stream: LogStream, line: &[u8], attributes: &[u8], time: &Timestamp) {
    buffer.extend_from_slice(b"{\"log\":\"");
    for chunk in line.utf8_chunks() {
        escape(buffer, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            buffer.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    buffer.extend_from_slice(b"\",\"stream\":\"");
    buffer.extend_from_slice(stream.name().as_bytes());
    buffer.extend_from_slice(b"\",");
    buffer.extend_from_slice(attributes);
    buffer.extend_from_slice(b"\"time\":\"");
    buffer.extend_from_slice(&time.text);
    buffer.extend_from_slice(b"\"}\n");
}

/// Bytes that JSON, or Go's encoder because they could end a script element, does not take as they are.
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escaped[byte] = true;
        byte += 1;
    }
    let others = *b"\"\\<>&\x7f";
    let mut place = 0;
    while place < others.len() {
        escaped[others[place] as usize] = true;
        place += 1;
    }
    escaped
};

/// Appends text; what needs no escape goes in runs, which is nearly all of most logs.
fn escape(buffer: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(place) = text.iter().position(|byte| ESCAPED[usize::from(*byte)]) {
        buffer.extend_from_slice(&text[..place]);
        escape_byte(buffer, text[place]);
        text = &text[place + 1..];
    }
    buffer.extend_from_slice(text);
}

fn escape_byte(buffer: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => buffer.extend_from_slice(&[b'\\', byte]),
        b'\n' => buffer.extend_from_slice(b"\\n"),
        b'\r' => buffer.extend_from_slice(b"\\r"),
        b'\t' => buffer.extend_from_slice(b"\\t"),
        other => {
            let (high, low) = (HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]);
            buffer.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    }
}

/// The time of a piece of output, as RFC 3339 with nanoseconds.
pub(crate) struct Timestamp {
    text: [u8; 30],
}

impl Timestamp {
    pub(crate) fn now() -> Timestamp {
        Self::at(u64::try_from(wall_clock_ns()).unwrap_or(0))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.text).expect("it is digits and separators")
    }

    fn at(unix_ns: u64) -> Timestamp {
        const NS_PER_SECOND: u64 = 1_000_000_000;
        let (seconds, fraction) = (unix_ns / NS_PER_SECOND, unix_ns % NS_PER_SECOND);
        let (year, month, day) = civil_date(seconds / 86_400);
        let second_of_day = seconds % 86_400;
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let fields = [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, second_of_day / 3600),
            (14..16, second_of_day / 60 % 60),
            (17..19, second_of_day % 60),
            (20..29, fraction),
        ];
        for (range, mut value) in fields {
            for digit in text[range].iter_mut().rev() {
                *digit = b'0' + (value % 10) as u8;
                value /= 10;
            }
        }
        Timestamp { text }
    }
}

/// Year, month and day of a day since 1970, in the Gregorian calendar. Years start in March here, so that the leap day
/// is the last one of a year.
fn civil_date(day_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let days = day_since_1970 + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
