//! The files of the repository.

use std::path::{Path, PathBuf};

/// Directories that no clone has.
const NOT_SOURCE: [&str; 2] = [".git", "target"];

/// Words before `fn`.
const QUALIFIERS: [&str; 7] = ["async", "const", "unsafe", "extern", "\"C\"", "in", "crate)"];

/// This repository.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
    files: Vec<PathBuf>,
}

/// One file with its text.
#[derive(Debug)]
pub struct SourceFile {
    /// From the root of the repository.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Repository {
    /// Reads the list of files.
    pub fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root
            .canonicalize()
            .expect("the repository is there while its tests run");
        let mut files = Vec::new();
        collect(&root, &root, &mut files);
        files.sort();
        Self { root, files }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Paths of all files, from the root.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.files.iter().map(|path| path.to_string_lossy().into_owned())
    }

    /// The text of one file.
    pub fn read(&self, path: &str) -> String {
        let full = self.root.join(path);
        std::fs::read_to_string(&full)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", full.display()))
    }

    /// Every Rust file.
    pub fn rust_files(&self) -> Vec<SourceFile> {
        self.with_extension("rs")
    }

    /// Every Markdown file.
    pub fn documents(&self) -> Vec<SourceFile> {
        self.with_extension("md")
    }

    fn with_extension(&self, extension: &str) -> Vec<SourceFile> {
        let paths = self.paths().filter(|path| {
            Path::new(path)
                .extension()
                .is_some_and(|found| found == extension)
        });
        paths
            .map(|path| SourceFile {
                text: self.read(&path),
                path,
            })
            .collect()
    }
}

impl SourceFile {
    /// True for a file that only tests are built from.
    pub fn is_test(&self) -> bool {
        let below_tests = self
            .path
            .split('/')
            .rev()
            .skip(1)
            .any(|directory| directory == "tests");
        let stem = Path::new(&self.path)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        below_tests || stem == "tests" || stem.ends_with("_tests")
    }

    /// Every function that has a body: its name, its first line, how many lines it has. Formatted code is expected.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let Some((name, indentation)) = function_begin(line) else {
                continue;
            };
            let end = format!("{indentation}}}");
            let is_declaration = |line: &str| line.starts_with(indentation) && line.ends_with(';');
            let rest = lines[number..].iter();
            let length = rest.take_while(|line| **line != end).count() + 1;
            let body = lines[number..]
                .iter()
                .take(length)
                .position(|line| line.ends_with('{'));
            let semicolon = lines[number..]
                .iter()
                .take(length)
                .position(|line| is_declaration(line));
            if number + length <= lines.len() && body.is_some() && (semicolon.is_none() || body < semicolon) {
                found.push((name.to_owned(), number + 1, length));
            }
        }
        found
    }

    /// The lines that reach the program, numbered from one: without comments, and up to the file's own tests.
    pub fn program_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests_begin = ["#[cfg(test)]\nmod ", "#[cfg(all(test"];
        let end = tests_begin
            .iter()
            .filter_map(|mark| self.text.find(mark))
            .min()
            .unwrap_or(self.text.len());
        let lines = self.text[..end].lines().enumerate();
        lines
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// The name of the function that begins on a line, and the line's indentation.
fn function_begin(line: &str) -> Option<(&str, &str)> {
    let indentation = &line[..line.len() - line.trim_start().len()];
    let mut words = line.split_whitespace();
    let qualifier = |word: &&str| word.starts_with("pub") || QUALIFIERS.contains(word);
    let first = words.find(|word| !qualifier(word))?;
    let name = (first == "fn").then(|| words.next()).flatten()?;
    let end = name
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(name.len());
    Some((&name[..end], indentation))
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).expect("a directory of the repository can be read");
    for entry in entries {
        let entry = entry.expect("a directory of the repository can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("the kind of a file is known");
        if kind.is_dir() {
            if !NOT_SOURCE.contains(&name.as_str()) && !name.starts_with("target-") {
                collect(root, &entry.path(), files);
            }
        } else if kind.is_file() {
            let path = entry.path();
            files.push(
                path.strip_prefix(root)
                    .expect("it lies below the root")
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_with_their_length() {
        let text = "trait A {\n    fn none(&self);\n    fn b(&self) {\n        1;\n    }\n}\n\npub(crate) async fn c(\n    d: u8,\n) {\n}\n";
        let file = SourceFile {
            path: "a.rs".to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(file.functions(), [("b".to_owned(), 3, 3), ("c".to_owned(), 8, 4)]);
    }
}
