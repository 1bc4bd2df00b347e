//! Signals by name and number, as users write them.

use crate::error::{Error, Result};

/// Names without `SIG`, with their numbers on Linux (x86-64 and arm64 agree).
const SIGNALS: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("UNUSED", 31),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// The first and last real-time signal as the C library leaves them to programs.
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// SIGTERM.
pub const TERM: i32 = 15;
/// SIGKILL.
pub const KILL: i32 = 9;

/// Reads `15`, `TERM`, `SIGTERM`, `sigterm`, `RTMIN+3` or `RTMAX-1`.
pub fn parse(text: &str) -> Result<i32> {
    let refused = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=*REALTIME.end())
            .contains(&number)
            .then_some(number)
            .ok_or_else(refused);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    realtime(name).ok_or_else(refused)
}

fn realtime(name: &str) -> Option<i32> {
    let (base, rest, direction) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (*REALTIME.start(), rest, '+')
    } else {
        (*REALTIME.end(), name.strip_prefix("RTMAX")?, '-')
    };
    if rest.is_empty() {
        return Some(base);
    }
    let offset: i32 = rest.strip_prefix(direction)?.parse().ok()?;
    let number = if direction == '+' {
        base.checked_add(offset)?
    } else {
        base.checked_sub(offset)?
    };
    REALTIME.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("usr1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", "0", "65", "-1", "SIG", "NOPE", "RTMIN-1", "RTMIN+40", "RTMAX+1", "RTMIN+-1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_agrees_with_the_kernel() {
        for (name, number) in SIGNALS {
            if ["CLD", "IOT", "POLL", "UNUSED"].contains(name) {
                continue; // synonyms
            }
            let known: nix::sys::signal::Signal = format!("SIG{name}").parse().unwrap();
            assert_eq!(known as i32, *number, "{name}");
        }
    }
}
