//! Patterns: Go's `filepath.Match`, which names sources of `COPY` and lines of `.dockerignore`, and the shell's, which
//! cut values. Each is matched in time pattern × text.

use crate::limits::PATTERN_BYTES_MAX;

/// What one place of a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GlobToken {
    /// This character.
    Letter(char),
    /// Any one character (of a name: but a slash).
    Any,
    /// Any number of them.
    Many,
    /// Any number of characters, slashes too.
    Everything,
    /// One character of these ranges, or none of them.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

impl GlobToken {
    fn matches(&self, letter: char, slash_is_special: bool) -> bool {
        match self {
            GlobToken::Letter(own) => *own == letter,
            GlobToken::Any | GlobToken::Many => !slash_is_special || letter != '/',
            GlobToken::Everything => true,
            GlobToken::Class { ranges, negated } => {
                let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&letter));
                within != *negated && !(slash_is_special && letter == '/')
            }
        }
    }

    fn repeats(&self) -> bool {
        matches!(self, GlobToken::Many | GlobToken::Everything)
    }
}

/// A pattern that Go's `filepath.Match` cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct PatternError;

/// A pattern of Go's `filepath.Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<GlobToken>,
}

impl Pattern {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        tokens(text, false).map(|tokens| Self { tokens })
    }

    /// Reads one in which `**` matches slashes too.
    pub(crate) fn with_double_star(text: &str) -> Result<Self, PatternError> {
        tokens(text, true).map(|tokens| Self { tokens })
    }

    /// Whether it has anything that is not matched literally.
    pub fn is_wild(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    /// Whether it matches the whole text; `*` and `?` match no slash.
    pub fn matches(&self, text: &str) -> bool {
        let mut states = States::begin(&self.tokens);
        for letter in text.chars() {
            states.step(letter, true);
            if states.is_dead() {
                return false;
            }
        }
        states.accepts()
    }
}

fn tokens(text: &str, double_star: bool) -> Result<Vec<GlobToken>, PatternError> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(PatternError);
    }
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' if double_star && letters.next_if_eq(&'*').is_some() => {
                // `**/` matches no directory, too.
                match letters.next_if_eq(&'/') {
                    Some(_) if letters.peek().is_some() => {
                        tokens.push(GlobToken::Everything);
                        continue;
                    }
                    _ => GlobToken::Everything,
                }
            }
            '*' => GlobToken::Many,
            '?' => GlobToken::Any,
            '\\' => GlobToken::Letter(letters.next().ok_or(PatternError)?),
            '[' => class(&mut letters)?,
            letter => GlobToken::Letter(letter),
        });
    }
    tokens.dedup_by(|next, token| token.repeats() && next == token);
    Ok(tokens)
}

fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<GlobToken, PatternError> {
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if letters.peek() == Some(&']') && !ranges.is_empty() {
            letters.next();
            return Ok(GlobToken::Class { ranges, negated });
        }
        let low = class_letter(letters)?;
        let high = match letters.next_if_eq(&'-') {
            Some(_) => class_letter(letters)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn class_letter(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, PatternError> {
    match letters.next().ok_or(PatternError)? {
        '-' | ']' => Err(PatternError),
        '\\' => letters.next().ok_or(PatternError),
        letter => Ok(letter),
    }
}

/// The shell's patterns: `*`, `?` and escapes.
pub(crate) fn shell_tokens(text: &str) -> Vec<GlobToken> {
    let mut tokens = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' => GlobToken::Everything,
            '?' => GlobToken::Any,
            '\\' => GlobToken::Letter(letters.next().unwrap_or('\\')),
            letter => GlobToken::Letter(letter),
        });
    }
    tokens.dedup_by(|next, token| token.repeats() && next == token);
    tokens
}

/// How many letters the shortest beginning has that matches.
pub(crate) fn shortest_prefix(tokens: &[GlobToken], letters: &[char]) -> Option<usize> {
    prefixes(tokens, letters).next()
}

/// How many letters the longest beginning has that matches.
pub(crate) fn longest_prefix(tokens: &[GlobToken], letters: &[char]) -> Option<usize> {
    prefixes(tokens, letters).last()
}

fn prefixes<'a>(tokens: &'a [GlobToken], letters: &'a [char]) -> impl Iterator<Item = usize> + 'a {
    let mut states = States::begin(tokens);
    let mut next = 0;
    std::iter::from_fn(move || {
        loop {
            if next > letters.len() || states.is_dead() {
                return None;
            }
            let (at, accepts) = (next, states.accepts());
            if let Some(letter) = letters.get(next) {
                states.step(*letter, false);
            }
            next += 1;
            if accepts {
                return Some(at);
            }
        }
    })
}

/// The places in a pattern that a match can have reached.
struct States<'a> {
    tokens: &'a [GlobToken],
    reached: Vec<bool>,
}

impl<'a> States<'a> {
    fn begin(tokens: &'a [GlobToken]) -> Self {
        let mut states = Self {
            tokens,
            reached: vec![false; tokens.len() + 1],
        };
        states.reached[0] = true;
        states.skip();
        states
    }

    /// What repeats may match nothing.
    fn skip(&mut self) {
        for at in 0..self.tokens.len() {
            if self.reached[at] && self.tokens[at].repeats() {
                self.reached[at + 1] = true;
            }
        }
    }

    fn step(&mut self, letter: char, slash_is_special: bool) {
        let mut reached = vec![false; self.reached.len()];
        for (at, token) in self.tokens.iter().enumerate() {
            if self.reached[at] && token.matches(letter, slash_is_special) {
                reached[if token.repeats() { at } else { at + 1 }] = true;
            }
        }
        self.reached = reached;
        self.skip();
    }

    fn is_dead(&self) -> bool {
        !self.reached.contains(&true)
    }

    fn accepts(&self) -> bool {
        self.reached.last() == Some(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_gos() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("ab[c]", "abc", true),
            ("ab[^b-d]", "abe", true),
            ("ab[^b-d]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("a???b", "aαβγb", true),
        ] {
            assert_eq!(
                Pattern::parse(pattern).unwrap().matches(text),
                expected,
                "{pattern} {text}"
            );
        }
        for bad in ["[]a]", "[-]", "[a-]", "[", "a[", "[^", "a\\"] {
            assert_eq!(Pattern::parse(bad), Err(PatternError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_matched_in_bounded_time(pattern in "[a*?\\[\\]^-]{0,40}", text in "[a/]{0,200}") {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                let _ = pattern.matches(&text);
            }
        }

        #[test]
        fn a_literal_matches_itself_only(text in "[a-z/.]{1,20}", other in "[a-z/.]{1,20}") {
            let pattern = Pattern::parse(&text).unwrap();
            prop_assert!(pattern.matches(&text));
            prop_assert_eq!(pattern.matches(&other), text == other);
        }
    }
}
