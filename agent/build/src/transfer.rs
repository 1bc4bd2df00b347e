//! `COPY` and `ADD`.

use crate::command::json_list;
use crate::error::{Error, Result};
use crate::pairs::{flags, needed, truth};
use crate::statement::{Heredoc, opening};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// Files as they are.
    Copy,
    /// Archives of the context are unpacked.
    Add,
}

impl TransferKind {
    /// Its name in a Dockerfile.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY",
            Self::Add => "ADD",
        }
    }
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or a pattern.
    Path(String),
    /// A here-document.
    Inline(Heredoc),
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Which.
    pub kind: TransferKind,
    /// From where: a stage or an image; the context where `None`.
    pub from: Option<String>,
    /// What; at least one.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: String,
    /// `user[:group]` that owns it.
    pub chown: Option<String>,
    /// Its mode, octal.
    pub chmod: Option<String>,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
}

impl Transfer {
    pub(crate) fn parse(kind: TransferKind, text: &str, heredocs: &[Heredoc]) -> Result<Self> {
        let name = kind.name();
        let (given, rest) = flags(text)?;
        let mut transfer = Self {
            kind,
            from: None,
            sources: Vec::new(),
            destination: String::new(),
            chown: None,
            chmod: None,
            exclude: Vec::new(),
        };
        for (flag, value) in given {
            match flag.as_str() {
                "from" if kind == TransferKind::Copy => transfer.from = Some(needed(&flag, value)?),
                "chown" => transfer.chown = Some(needed(&flag, value)?),
                "chmod" => transfer.chmod = Some(needed(&flag, value)?),
                "exclude" => transfer.exclude.push(needed(&flag, value)?),
                // It says how layers are made, not what is in them.
                "link" => drop(truth(&flag, value)?),
                "parents" | "keep-git-dir" | "checksum" | "unpack" => {
                    return Err(Error::new(format!("{name} --{flag} is not supported")));
                }
                _ => return Err(Error::new(format!("Unknown flag: {flag}"))),
            }
        }
        let mut words = match json_list(rest)? {
            Some(words) => words,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        };
        let too_few = || {
            Error::new(format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            ))
        };
        transfer.destination = words.pop().filter(|_| !words.is_empty()).ok_or_else(too_few)?;
        heredocs.iter().try_for_each(Heredoc::check_file_name)?;
        let mut inline = heredocs.iter();
        for word in words {
            let source = match opening(&word).filter(|_| !heredocs.is_empty()) {
                None => Source::Path(word),
                Some(_) => Source::Inline(
                    inline
                        .next()
                        .ok_or_else(|| Error::new(format!("{name}: a here-document is missing")))?
                        .clone(),
                ),
            };
            transfer.sources.push(source);
        }
        if transfer.from.is_some() && !heredocs.is_empty() {
            return Err(Error::new("COPY --from takes no here-documents"));
        }
        Ok(transfer)
    }
}
