//! Variables in words: `$NAME`, `${NAME}` and its modifiers, with quotes and escapes as Docker's builder reads them.

use crate::error::{Error, Result};
use crate::glob::{GlobToken, longest_prefix, shell_tokens, shortest_prefix};
use crate::limits::{
    DOCKERFILE_BYTES_MAX, EXPANSION_WORK_MAX, NESTING_MAX, TRIMMED_BYTES_MAX, VALUE_BYTES_MAX,
};
use std::cell::Cell;

/// What looking for one variable costs, found or not.
const LOOKUP_WORK: usize = 64;

/// Gives the value of a variable, where it is set.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The work that may still be done.
pub(crate) struct Work(Cell<usize>);

impl Work {
    pub fn new() -> Self {
        Self(Cell::new(EXPANSION_WORK_MAX))
    }

    /// Accounts for work before it is done.
    pub fn spend(&self, work: usize) -> Result<()> {
        let left = self.0.get().checked_sub(work).ok_or_else(|| {
            Error::new("variables and ranges take too long to expand: use fewer or shorter ones")
        })?;
        self.0.set(left);
        Ok(())
    }
}

/// Expands words with the same variables.
pub(crate) struct Expansion<'a> {
    pub escape: char,
    pub lookup: Lookup<'a>,
    /// What all its words share.
    pub work: &'a Work,
}

impl Expansion<'_> {
    /// Expands a word: variables are replaced outside of single quotes, then quotes and escapes go.
    pub fn word(&self, text: &str) -> Result<String> {
        self.expanded(text, Quotes::Removed)
    }

    /// Expands the content of a here-document: variables only, quotes stay.
    pub fn content(&self, text: &str) -> Result<String> {
        self.expanded(text, Quotes::Kept)
    }

    fn expanded(&self, text: &str, quotes: Quotes) -> Result<String> {
        let mut expander = Expander {
            rest: text,
            escape: self.escape,
            expansion: self,
            quotes,
            depth: 0,
        };
        expander.until(None)
    }

    fn value(&self, name: &str) -> Result<Option<String>> {
        let value = (self.lookup)(name);
        self.work
            .spend(LOOKUP_WORK + value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    Removed,
    Kept,
}

impl Quotes {
    /// Most bytes of what is expanded so.
    fn bytes_max(self) -> usize {
        match self {
            Self::Removed => VALUE_BYTES_MAX,
            Self::Kept => DOCKERFILE_BYTES_MAX,
        }
    }
}

struct Expander<'a> {
    rest: &'a str,
    escape: char,
    expansion: &'a Expansion<'a>,
    quotes: Quotes,
    depth: usize,
}

impl<'a> Expander<'a> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn push(&self, into: &mut String, text: &str) -> Result<()> {
        let bytes_max = self.quotes.bytes_max();
        if into.len() + text.len() > bytes_max {
            return Err(Error::new(format!(
                "a value is too long: at most {bytes_max} bytes are allowed after its variables are expanded"
            )));
        }
        into.push_str(text);
        Ok(())
    }

    /// Expands up to an end mark, which is taken, or to the end where there is none.
    fn until(&mut self, end: Option<char>) -> Result<String> {
        let mut expanded = String::new();
        while let Some(letter) = self.next() {
            if Some(letter) == end {
                return Ok(expanded);
            }
            match letter {
                '\'' if self.quotes == Quotes::Removed => self.single_quoted(&mut expanded)?,
                '"' if self.quotes == Quotes::Removed => self.double_quoted(&mut expanded)?,
                '$' => {
                    let value = self.variable()?;
                    self.push(&mut expanded, &value)?;
                }
                letter if letter == self.escape => self.escaped(&mut expanded)?,
                letter => self.push(&mut expanded, letter.encode_utf8(&mut [0; 4]))?,
            }
        }
        match end {
            None => Ok(expanded),
            Some(mark) => Err(Error::new(format!(
                "syntax error: missing '{mark}' after a variable"
            ))),
        }
    }

    fn escaped(&mut self, expanded: &mut String) -> Result<()> {
        let Some(letter) = self.next() else { return Ok(()) };
        if self.quotes == Quotes::Kept && letter != '$' {
            let escape = self.escape;
            self.push(expanded, escape.encode_utf8(&mut [0; 4]))?;
        }
        self.push(expanded, letter.encode_utf8(&mut [0; 4]))
    }

    fn single_quoted(&mut self, expanded: &mut String) -> Result<()> {
        let (inner, rest) = self.rest.split_once('\'').ok_or_else(|| {
            Error::new("unexpected end of statement while looking for matching single-quote")
        })?;
        self.rest = rest;
        self.push(expanded, inner)
    }

    fn double_quoted(&mut self, expanded: &mut String) -> Result<()> {
        loop {
            match self.next() {
                None => {
                    return Err(Error::new(
                        "unexpected end of statement while looking for matching double-quote",
                    ));
                }
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.variable()?;
                    self.push(expanded, &value)?;
                }
                Some(letter) if letter == self.escape => match self.next() {
                    None => {
                        return Err(Error::new(
                            "unexpected end of statement while looking for matching double-quote",
                        ));
                    }
                    Some(letter) => {
                        if letter != '"' && letter != '$' && letter != self.escape {
                            let escape = self.escape;
                            self.push(expanded, escape.encode_utf8(&mut [0; 4]))?;
                        }
                        self.push(expanded, letter.encode_utf8(&mut [0; 4]))?;
                    }
                },
                Some(letter) => self.push(expanded, letter.encode_utf8(&mut [0; 4]))?,
            }
        }
    }

    /// What follows a dollar sign.
    fn variable(&mut self) -> Result<String> {
        if let Some(rest) = self.rest.strip_prefix('{') {
            self.rest = rest;
            if self.depth == NESTING_MAX {
                return Err(Error::new("variables are nested too deeply"));
            }
            self.depth += 1;
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        match name {
            "" => Ok("$".to_owned()),
            name => Ok(self.expansion.value(name)?.unwrap_or_default()),
        }
    }

    /// Letters, digits and underscores; one digit or special sign stands alone.
    fn name(&mut self) -> &'a str {
        let first = self.rest.chars().next();
        let end = match first {
            Some(c) if c.is_ascii_alphabetic() || c == '_' => self
                .rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(self.rest.len()),
            Some(c) if c.is_ascii_digit() || "@*#?-!".contains(c) => 1,
            _ => 0,
        };
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }

    /// What follows `${`.
    fn braced(&mut self) -> Result<String> {
        let name = self.name();
        if name.is_empty() {
            return Err(Error::new("syntax error: bad substitution"));
        }
        let value = self.expansion.value(name)?;
        let modifier = self
            .next()
            .ok_or_else(|| Error::new("syntax error: missing '}' after a variable"))?;
        let (colon, modifier) = match modifier {
            '}' => return Ok(value.unwrap_or_default()),
            ':' => (
                true,
                self.next()
                    .ok_or_else(|| Error::new("syntax error: missing '}' after a variable"))?,
            ),
            other => (false, other),
        };
        // With a colon, an empty variable counts as unset.
        let set = value.clone().filter(|value| !colon || !value.is_empty());
        match (colon, modifier) {
            (_, '-') => {
                let word = self.until(Some('}'))?;
                Ok(set.unwrap_or(word))
            }
            (_, '+') => {
                let word = self.until(Some('}'))?;
                Ok(set.map(|_| word).unwrap_or_default())
            }
            (_, '?') => {
                let word = self.until(Some('}'))?;
                let problem = match word.as_str() {
                    "" => "is not allowed to be unset",
                    word => word,
                };
                set.ok_or_else(|| Error::new(format!("{name}: {problem}")))
            }
            (false, '#' | '%') => {
                let greedy = self.rest.starts_with(modifier);
                if greedy {
                    self.rest = &self.rest[1..];
                }
                let pattern = self.until(Some('}'))?;
                let value = value.unwrap_or_default();
                self.expansion
                    .work
                    .spend(pattern.len().saturating_mul(value.len()))?;
                trimmed(value, &pattern, modifier == '#', greedy)
            }
            (_, other) => Err(Error::new(format!(
                "unsupported modifier ({}{other}) in substitution",
                if colon { ":" } else { "" }
            ))),
        }
    }
}

/// Cuts what a pattern matches from the beginning or the end.
fn trimmed(value: String, pattern: &str, from_start: bool, greedy: bool) -> Result<String> {
    if value.len() > TRIMMED_BYTES_MAX || pattern.len() > TRIMMED_BYTES_MAX {
        return Err(Error::new(format!(
            "a value is too long for # and %: at most {TRIMMED_BYTES_MAX} bytes are allowed"
        )));
    }
    let mut tokens = shell_tokens(pattern);
    let mut letters: Vec<char> = value.chars().collect();
    if !from_start {
        tokens.reverse();
        letters.reverse();
    }
    let matched = |tokens: &[GlobToken]| match greedy {
        true => longest_prefix(tokens, &letters),
        false => shortest_prefix(tokens, &letters),
    };
    let kept = matched(&tokens).map_or(letters.as_slice(), |end| &letters[end..]);
    Ok(match from_start {
        true => kept.iter().collect(),
        false => kept.iter().rev().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String> {
        let work = &Work::new();
        Expansion { escape, lookup, work }.word(text)
    }

    fn expand_content(text: &str, lookup: Lookup<'_>) -> Result<String> {
        let (escape, work) = ('\\', &Work::new());
        Expansion { escape, lookup, work }.content(text)
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "E" => Some(String::new()),
            "F" => Some("a/b.tar.gz".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn words_are_expanded_as_dockers_builder_does() {
        for (text, expected) in [
            ("$A-${A}", "one-one"),
            ("$Ab ${A}b", " oneb"),
            ("${E:-two}${E-x}${U-y}${A:+yes}${U:+no}${E+set}", "twoyyesset"),
            ("\\$A '$A' \"$A\" \\\\", "$A $A one \\"),
            ("\"\\$A \\n\\\"\"", "$A \\n\""),
            ("a\\ b $ $", "a b $ $"),
            ("${U:-${V:-$A}}", "one"),
            ("${U:-'}'}", "}"),
            (
                "${F#*/} ${F##*.} ${F%.*} ${F%%.*} ${F#x}",
                "b.tar.gz gz a/b.tar a/b a/b.tar.gz",
            ),
            ("$1$@", ""),
            ("it\\'s", "it's"),
        ] {
            assert_eq!(expand(text, '\\', &env).unwrap(), expected, "{text}");
        }
        assert_eq!(expand("`$A \\", '`', &env).unwrap(), "$A \\");
        assert_eq!(
            expand_content("'$A' \"x\" \\$A \\n", &env).unwrap(),
            "'one' \"x\" $A \\n"
        );
    }

    #[test]
    fn what_cannot_be_expanded_is_refused() {
        for (bad, said) in [
            ("${A", "missing '}'"),
            ("${A:-x", "missing '}'"),
            ("${}", "bad substitution"),
            ("${A/x/y}", "unsupported modifier (/)"),
            ("${U:?must be set}", "U: must be set"),
            ("'open", "single-quote"),
            ("\"open", "double-quote"),
        ] {
            let error = expand(bad, '\\', &env).unwrap_err();
            assert!(error.problem.contains(said), "{bad}: {error}");
        }
        assert!(expand(&"${U:-".repeat(100), '\\', &env).is_err());
        let huge = |_: &str| Some("x".repeat(VALUE_BYTES_MAX));
        assert!(expand("$A$A", '\\', &huge).is_err());
    }

    #[test]
    fn the_work_of_an_instruction_is_bounded() {
        let huge = |_: &str| Some("x".repeat(VALUE_BYTES_MAX));
        let content = |count: usize| expand_content(&"$A".repeat(count), &huge);
        let most = DOCKERFILE_BYTES_MAX / VALUE_BYTES_MAX;
        assert_eq!(content(most).unwrap().len(), DOCKERFILE_BYTES_MAX);
        assert!(content(most + 1).unwrap_err().problem.contains("too long"));
        let long = |_: &str| Some("x".repeat(TRIMMED_BYTES_MAX));
        for (text, lookup) in [
            ("${A##$P}".to_owned(), &long as Lookup<'_>),
            ("${A+}".repeat(1_000), &huge),
            ("$U".repeat(1_000_000), &|_| None),
        ] {
            let error = expand(&text, '\\', lookup).unwrap_err();
            assert!(error.problem.contains("take too long"), "{error}");
        }
        assert_eq!(
            expand("${A##xxxx}", '\\', &long).unwrap().len(),
            TRIMMED_BYTES_MAX - 4
        );
        // Its words share it.
        let expansion = Expansion {
            escape: '\\',
            lookup: &long,
            work: &Work::new(),
        };
        let refused = (0..10_000).any(|_| expansion.word("${A#xx}").is_err());
        assert!(refused);
    }
}
