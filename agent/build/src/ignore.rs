//! `.dockerignore`: which files of a context a build does not see.

use crate::error::{Error, Result};
use crate::glob::Pattern;
use crate::limits::IGNORE_PATTERNS_MAX;

/// The patterns of a `.dockerignore` file. The last one that matches a path, or a directory above it, decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreList {
    patterns: Vec<(Pattern, Effect)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Excludes,
    Includes,
}

impl IgnoreList {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut patterns = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (effect, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (Effect::Includes, pattern.trim()),
                None => (Effect::Excludes, line),
            };
            let problem =
                |problem: String| Error::new(format!("line {} of .dockerignore: {problem}", index + 1));
            if patterns.len() == IGNORE_PATTERNS_MAX {
                return Err(problem(format!(
                    "at most {IGNORE_PATTERNS_MAX} patterns are read"
                )));
            }
            if pattern.is_empty() {
                return Err(problem("a pattern is missing".to_owned()));
            }
            let pattern = cleaned(pattern);
            if pattern.is_empty() {
                // The context itself, by `.` or `/`: Docker passes over it.
                continue;
            }
            let parsed = Pattern::with_double_star(&pattern)
                .map_err(|error| problem(format!("{error}: {pattern:?}")))?;
            patterns.push((parsed, effect));
        }
        Ok(Self { patterns })
    }

    /// Whether the build does not see this path, which is relative to the context.
    pub fn excludes(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let places: Vec<&str> = ends.map(|end| &path[..end]).collect();
        let mut excluded = false;
        for (pattern, effect) in &self.patterns {
            // Where the effect is there already, it need not be looked for.
            if excluded != (*effect == Effect::Excludes) && places.iter().any(|place| pattern.matches(place))
            {
                excluded = *effect == Effect::Excludes;
            }
        }
        excluded
    }
}

/// Without `.`, double slashes and slashes at the ends.
fn cleaned(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let list = IgnoreList::parse("# comment\n*.md\n!README.md\n/build/\n**/secret\nd/**/x\n").unwrap();
        for (path, expected) in [
            ("a.md", true),
            ("README.md", false),
            ("sub/a.md", false),
            ("build", true),
            ("build/deep/file", true),
            ("secret", true),
            ("a/b/secret", true),
            ("a/b/secret/c", true),
            ("d/x", true),
            ("d/e/f/x", true),
            ("src", false),
        ] {
            assert_eq!(list.excludes(path), expected, "{path}");
        }
        assert!(IgnoreList::parse("[").unwrap_err().problem.contains("line 1"));
        assert!(IgnoreList::parse("!").is_err());
        for nothing in [".", "/", "./", "a/..", "!."] {
            assert_eq!(IgnoreList::parse(nothing), Ok(IgnoreList::default()), "{nothing}");
        }
        assert!(!IgnoreList::default().excludes("x"));
        assert!(IgnoreList::parse("**").unwrap().excludes("any/thing"));
    }
}
