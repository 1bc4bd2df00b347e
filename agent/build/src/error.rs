//! What is wrong with a Dockerfile.

use std::fmt;

/// Result of reading a Dockerfile.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// Line of the file, from 1; 0 where there is no file.
    pub line: usize,
    /// What, in Docker's words.
    pub problem: String,
}

impl Error {
    /// A problem whose line its caller adds.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self {
            line: 0,
            problem: problem.into(),
        }
    }

    /// The same problem in this line, unless it has one.
    pub(crate) fn at(self, line: usize) -> Self {
        Self {
            line: if self.line == 0 { line } else { self.line },
            ..self
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.problem),
            line => write!(f, "dockerfile parse error on line {line}: {}", self.problem),
        }
    }
}
