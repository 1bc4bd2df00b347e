//! Words of an instruction: split at spaces, quoted, and as `key=value`.

use crate::error::{Error, Result};

/// Splits at spaces outside of quotes; quotes and escapes stay.
pub(crate) fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut escaped) = (None, false);
    for letter in text.chars() {
        if quote.is_none() && !escaped && letter.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        match (quote, escaped, letter) {
            (_, true, _) => escaped = false,
            // Nothing escapes in single quotes.
            (Some('\''), _, letter) if letter == escape => {}
            (_, _, letter) if letter == escape => escaped = true,
            (Some(open), _, close) if open == close => quote = None,
            (None, _, '"' | '\'') => quote = Some(letter),
            _ => {}
        }
        word.push(letter);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `KEY=value KEY2="value 2"`, or the old `KEY value`; quotes and variables stay as they are.
pub(crate) fn pairs(instruction: &str, text: &str, escape: char) -> Result<Vec<(String, String)>> {
    let words = raw_words(text, escape);
    let first = words
        .first()
        .ok_or_else(|| Error::new(format!("{instruction} requires at least one argument")))?;
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::new(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        None => Err(Error::new(format!(
            "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
        ))),
        Some(("", _)) => Err(Error::new(format!("{instruction} names can not be blank"))),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    };
    words.iter().map(pair).collect()
}

/// The name and the value of a flag.
pub(crate) type Flag = (String, Option<String>);

/// `--name[=value]` at the beginning, and what follows.
pub(crate) fn flags(text: &str) -> Result<(Vec<Flag>, &str)> {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let end = flag.find(char::is_whitespace).unwrap_or(flag.len());
        let (flag, behind) = flag.split_at(end);
        rest = behind.trim_start();
        if flag.is_empty() {
            // `--` ends the flags.
            break;
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        flags.push((name.to_owned(), value));
    }
    Ok((flags, rest))
}

/// The value of a flag that needs one.
pub(crate) fn needed(name: &str, value: Option<String>) -> Result<String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::new(format!("Missing a value on flag: {name}")))
}

/// The value of a flag that is one by being there.
pub(crate) fn truth(name: &str, value: Option<String>) -> Result<bool> {
    match value.as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Error::new(format!(
            "Expecting boolean value for flag {name}, not: {other}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_outside_of_quotes() {
        assert_eq!(
            raw_words(r#" a "b c" 'd\' e\ f  g "#, '\\'),
            ["a", "\"b c\"", "'d\\'", "e\\ f", "g"]
        );
        assert!(raw_words("  ", '\\').is_empty());
    }

    #[test]
    fn pairs_have_two_forms() {
        let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        assert_eq!(
            pairs("ENV", "A=1 B=\"x y\" C=", '\\').unwrap(),
            owned(&[("A", "1"), ("B", "\"x y\""), ("C", "")])
        );
        assert_eq!(pairs("ENV", "A b = c", '\\').unwrap(), owned(&[("A", "b = c")]));
        for bad in ["A", "", "A=1 B", "=x"] {
            assert!(pairs("ENV", bad, '\\').is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_come_first() {
        let (found, rest) = flags(" --from=a --link  x --y").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(rest, "x --y");
        assert_eq!(flags("-- x").unwrap(), (vec![], "x"));
    }
}
