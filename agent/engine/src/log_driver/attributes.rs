//! Which labels and variables of a container are written with its log.

use crate::error::{Error, Result};
use regex::Regex;
use std::collections::BTreeSet;

/// A choice of names: by list and by pattern.
#[derive(Debug, Default)]
pub(super) struct Selection {
    names: BTreeSet<String>,
    pattern: Option<Regex>,
}

impl Selection {
    /// Takes a list such as `a,b`.
    pub fn names(&mut self, list: &str) {
        self.names = list
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
    }

    /// Takes a regular expression; names in which it is found are chosen.
    pub fn pattern(&mut self, key: &str, text: &str) -> Result<()> {
        let pattern = Regex::new(text);
        self.pattern = Some(
            pattern.map_err(|error| Error::invalid(format!("invalid log option {key}={text}: {error}")))?,
        );
        Ok(())
    }

    /// Whether a name is chosen.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
            || self
                .pattern
                .as_ref()
                .is_some_and(|pattern| pattern.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chosen_by_list_and_pattern() {
        let mut selection = Selection::default();
        assert!(!selection.has("a"));
        selection.names("a,b,");
        selection.pattern("labels-regex", "^(x|y)z").unwrap();
        for (name, chosen) in [
            ("a", true),
            ("ab", false),
            ("", false),
            ("xz1", true),
            ("axz", false),
        ] {
            assert_eq!(selection.has(name), chosen, "{name}");
        }
    }
}
