//! Reading the settings file: a mistake in one setting hides none in the others.

use super::ConfigFile;
use anyhow::Context;
use muster_types::Problems;
use std::path::Path;

/// The settings of a file that can be used, and what is wrong with the others, or with the file.
pub(super) fn read(path: &Path) -> (ConfigFile, Problems) {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let read = text
        .and_then(|text| parse(&text).with_context(|| format!("{} is not a settings file", path.display())));
    read.unwrap_or_else(|error| {
        let mut problems = Problems::default();
        problems.add("config", format!("{error:#}"));
        (ConfigFile::default(), problems)
    })
}

/// Text that is no TOML at all is an error; a setting that is unknown or of the wrong type is a problem.
pub(super) fn parse(text: &str) -> Result<(ConfigFile, Problems), toml::de::Error> {
    let mut problems = Problems::default();
    let mut usable = toml::Table::new();
    for (key, value) in text.parse::<toml::Table>()? {
        let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
        match alone.try_into::<ConfigFile>() {
            Ok(_) => drop(usable.insert(key, value)),
            Err(error) => problems.add(key, error.message()),
        }
    }
    Ok((usable.try_into()?, problems))
}
