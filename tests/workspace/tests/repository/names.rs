//! Words that name nothing.

use muster_workspace_tests::{Repository, SourceFile};

/// A file or a type with such a word in its name has no topic.
const EMPTY_WORDS: [&str; 5] = ["util", "common", "misc", "helper", "manager"];

/// Docker's API calls controllers managers; its wire types and what converts them must, too.
const DOCKER_WORDS: [&str; 2] = ["agent/engine-api/src/wire/", "agent/engine-api/src/convert/"];

/// Splits `CamelCase`, `snake_case` and `kebab-case` into lower-case words.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter.is_uppercase() || !letter.is_alphanumeric() {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words
                .last_mut()
                .expect("it begins with one")
                .extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_empty_word(word: &str) -> bool {
    EMPTY_WORDS
        .iter()
        .any(|empty| word == *empty || word == format!("{empty}s"))
}

/// Names of the types, traits and modules that a line defines.
fn defined(line: &str) -> Option<&str> {
    let mut parts = line.split_whitespace().skip_while(|part| part.starts_with("pub"));
    let keyword = parts.next()?;
    ["struct", "enum", "trait", "type", "mod", "union"]
        .contains(&keyword)
        .then_some(())?;
    let name = parts.next()?;
    Some(
        name.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .next()
            .unwrap_or(name),
    )
}

fn may_use(file: &SourceFile, word: &str) -> bool {
    word.starts_with("manager") && DOCKER_WORDS.iter().any(|place| file.path.starts_with(place))
}

#[test]
fn names_are_split_into_words() {
    assert_eq!(words("TaskManagerUtil"), ["task", "manager", "util"]);
    assert_eq!(words("file_helpers.rs"), ["file", "helpers", "rs"]);
    assert_eq!(defined("pub(crate) struct Helper<T> {"), Some("Helper"));
    assert_eq!(defined("    mod tests {"), Some("tests"));
    assert_eq!(defined("let mod_ = 1;"), None);
}

#[test]
fn no_file_has_an_empty_name() {
    let repository = Repository::open();
    let bad: Vec<String> = repository
        .paths()
        .filter(|path| words(path).iter().any(|word| is_empty_word(word)))
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn no_type_has_an_empty_name() {
    let mut bad = Vec::new();
    for file in Repository::open().rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            let Some(name) = defined(line) else { continue };
            let empty = words(name)
                .into_iter()
                .find(|word| is_empty_word(word) && !may_use(&file, word));
            if let Some(word) = empty {
                bad.push(format!("{}:{}: {name} ({word})", file.path, number + 1));
            }
        }
    }
    assert!(bad.is_empty(), "say what it is for instead:\n{}", bad.join("\n"));
}
