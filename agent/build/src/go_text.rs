//! How Go writes values, which is how Docker's builder writes some instructions into an image's history.

const MICROSECOND_NS: u64 = 1_000;
const MILLISECOND_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A text in quotes.
pub fn quoted(text: &str) -> String {
    let escaped: String = text.chars().map(|c| escape(c, '"')).collect();
    format!("\"{escaped}\"")
}

/// A list of texts, each in quotes.
pub fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// A number as the character that it stands for.
pub(crate) fn character(number: u32) -> String {
    let c = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
    format!("'{}'", escape(c, '\''))
}

/// A duration: `1.5s`, `5m0s`, `2h0m3s`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    let fraction = |unit_ns: u64, name: &str| {
        let (whole, rest) = (nanoseconds / unit_ns, nanoseconds % unit_ns);
        format!("{}{name}", decimal(whole, rest, unit_ns))
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..MICROSECOND_NS => format!("{nanoseconds}ns"),
        MICROSECOND_NS..MILLISECOND_NS => fraction(MICROSECOND_NS, "µs"),
        MILLISECOND_NS..SECOND_NS => fraction(MILLISECOND_NS, "ms"),
        _ => {
            let (seconds, rest) = (nanoseconds / SECOND_NS, nanoseconds % SECOND_NS);
            let shown = format!("{}s", decimal(seconds % 60, rest, SECOND_NS));
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => shown,
                (0, minutes) => format!("{minutes}m{shown}"),
                (hours, minutes) => format!("{hours}h{minutes}m{shown}"),
            }
        }
    }
}

/// A number with the digits of its fraction that say anything.
fn decimal(whole: u64, rest: u64, unit: u64) -> String {
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

fn escape(c: char, quote: char) -> String {
    match c {
        '\u{7}' => "\\a".to_owned(),
        '\u{8}' => "\\b".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        '\u{b}' => "\\v".to_owned(),
        '\\' => "\\\\".to_owned(),
        c if c == quote => format!("\\{c}"),
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_go_does() {
        assert_eq!(quoted("c\"d"), r#""c\"d""#);
        assert_eq!(quoted("ä'\u{1}\n\u{85}\\"), r#""ä'\x01\n\u0085\\""#);
        assert_eq!(list(&["a b".to_owned(), "c".to_owned()]), r#"["a b" "c"]"#);
        for (number, shown) in [
            (0, r"'\x00'"),
            (3, r"'\x03'"),
            (10, r"'\n'"),
            (39, r"'\''"),
            (65, "'A'"),
            (1000, "'Ϩ'"),
            (2_000_000, "'\u{fffd}'"),
        ] {
            assert_eq!(character(number), shown);
        }
        for (nanoseconds, shown) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (1_500_000_000, "1.5s"),
            (300_000_000_000, "5m0s"),
            (7_203_000_000_000, "2h0m3s"),
            (60_010_000_000, "1m0.01s"),
        ] {
            assert_eq!(duration(nanoseconds), shown);
        }
    }
}
