//! What is run: `RUN`, `CMD`, `ENTRYPOINT`.

use crate::error::{Error, Result};
use crate::mount::Mount;
use crate::pairs::{flags, needed, raw_words};
use crate::statement::{Heredoc, opening};
use serde_json::Value;

/// A list of words, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `["a", "b"]`
    List(Vec<String>),
    /// Anything else.
    Line(String),
}

impl Command {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(match json_list(text)? {
            Some(words) => Self::List(words),
            None => Self::Line(text.to_owned()),
        })
    }

    /// The words that are run, where `shell` runs lines.
    pub fn in_shell(self, shell: &[String]) -> Vec<String> {
        match self {
            Self::List(words) => words,
            Self::Line(line) => shell.iter().cloned().chain([line]).collect(),
        }
    }
}

/// A JSON list of strings; none for what is no JSON list.
pub(crate) fn json_list(text: &str) -> Result<Option<Vec<String>>> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else {
        return Ok(None);
    };
    let word = |value| match value {
        Value::String(word) => Ok(word),
        _ => Err(Error::new(
            "when using JSON array syntax, arrays must be comprised of strings only",
        )),
    };
    values.into_iter().map(word).collect::<Result<_>>().map(Some)
}

/// The network of one `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    /// That of the build.
    #[default]
    Default,
    /// None.
    None,
    /// The host's.
    Host,
}

/// A file to run, with an interpreter that its first line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Name of the file.
    pub name: String,
    /// What it holds.
    pub content: String,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// A here-document that names its interpreter, which is run instead.
    pub script: Option<Script>,
    /// What is mounted meanwhile.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: RunNetwork,
}

impl Run {
    pub(crate) fn parse(text: &str, heredocs: &[Heredoc], escape: char) -> Result<Self> {
        let (given, rest) = flags(text)?;
        let (mut mounts, mut network) = (Vec::new(), RunNetwork::Default);
        for (name, value) in given {
            let value = needed(&name, value)?;
            match (name.as_str(), value.as_str()) {
                ("mount", value) => mounts.push(Mount::parse(value)?),
                ("network", "default") => network = RunNetwork::Default,
                ("network", "none") => network = RunNetwork::None,
                ("network", "host") => network = RunNetwork::Host,
                ("network", other) => {
                    return Err(Error::new(format!(
                        "invalid network mode {other:?} of RUN: it is default, none or host"
                    )));
                }
                ("security", "sandbox") => {}
                ("security", _) => {
                    return Err(Error::new(
                        "RUN --security=insecure is not supported: steps of a build have no more rights than containers",
                    ));
                }
                _ => return Err(Error::new(format!("Unknown flag: {name}"))),
            }
        }
        if rest.is_empty() {
            return Err(Error::new("RUN requires at least one argument"));
        }
        let words = raw_words(rest, escape);
        let alone = words.len() == 1 && opening(rest).is_some();
        let (command, script) = match heredocs {
            [] => (Command::parse(rest)?, None),
            [only] if alone && only.content.starts_with("#!") => {
                only.check_file_name()?;
                let script = Script {
                    name: only.name.clone(),
                    content: only.content.clone(),
                };
                (Command::Line(rest.to_owned()), Some(script))
            }
            [only] if alone => (Command::Line(only.content.clone()), None),
            all => {
                // The shell reads them itself, so that they end as they do in the file.
                let mut line = format!("{rest}\n");
                for heredoc in all {
                    line.push_str(&heredoc.content);
                    line.push_str(&heredoc.name);
                    line.push('\n');
                }
                (Command::Line(line), None)
            }
        };
        Ok(Self {
            command,
            script,
            mounts,
            network,
        })
    }
}
