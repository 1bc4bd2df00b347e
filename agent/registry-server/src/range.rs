//! Ranges of bytes: of a blob that is pulled, and of a piece that is pushed.

use std::ops::Range;

/// What a `Range` header asks for, of content of a known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it; also where the header cannot be followed and may be ignored.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that do not exist.
    Nothing,
}

/// Reads `Range: bytes=A-B`, `bytes=A-` or `bytes=-N`. Several ranges at once are not served.
pub(crate) fn wanted(header: Option<&str>, bytes: u64) -> Wanted {
    let Some(specification) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = specification.split_once('-') else {
        return Wanted::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let part = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..bytes,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(bytes),
        (None, Some(count)) if first.is_empty() => bytes.saturating_sub(count)..bytes,
        _ => return Wanted::Whole,
    };
    match part.is_empty() {
        true => Wanted::Nothing,
        false => Wanted::Part(part),
    }
}

/// Reads the `Content-Range` of a piece, `A-B` with both ends in it; some clients write `bytes A-B/*`.
pub(crate) fn of_piece(text: &str) -> Option<Range<u64>> {
    let text = text.trim();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split('/').next()?;
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then(|| first..last + 1)
}

/// The `Range` header of an upload with so many bytes. An empty one says `0-0`, as Docker's registry does: the form has
/// no other way.
pub(crate) fn received(bytes: u64) -> String {
    format!("0-{}", bytes.saturating_sub(1))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_to_what_there_is() {
        for (header, expected) in [
            ("bytes=0-9", Wanted::Part(0..10)),
            ("bytes=10-10", Wanted::Part(10..11)),
            ("bytes=90-", Wanted::Part(90..100)),
            ("bytes=90-1000", Wanted::Part(90..100)),
            ("bytes=0-18446744073709551615", Wanted::Part(0..100)),
            ("bytes=-10", Wanted::Part(90..100)),
            ("bytes=-1000", Wanted::Part(0..100)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=50-10", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=x", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 100), expected, "{header}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-0"), 0), Wanted::Nothing);
    }

    #[test]
    fn pieces_have_both_ends() {
        assert_eq!(of_piece("0-499"), Some(0..500));
        assert_eq!(of_piece("bytes 500-500/*"), Some(500..501));
        for bad in [
            "",
            "5",
            "5-",
            "-5",
            "5-4",
            "a-b",
            "0-18446744073709551615",
            "0-+1",
        ] {
            assert_eq!(of_piece(bad), None, "{bad}");
        }
        assert_eq!(
            (received(0), received(500)),
            ("0-0".to_owned(), "0-499".to_owned())
        );
    }
}
