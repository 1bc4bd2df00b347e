//! The text of a Dockerfile, taken apart into statements: parser directives, comments, continued lines, here-documents.

use crate::error::{Error, Result};
use crate::limits::{DOCKERFILE_BYTES_MAX, STATEMENTS_MAX};
use crate::pairs::raw_words;

/// Most here-documents of one statement.
const HEREDOCS_MAX: usize = 64;

/// A file that lies in the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Its delimiter.
    pub name: String,
    /// What it holds.
    pub content: String,
    /// Variables in it are expanded: its delimiter is not quoted.
    pub expands: bool,
    /// Leading tabs are not part of it.
    pub strips_tabs: bool,
}

impl Heredoc {
    /// Refuses a name that is more than the name of one file: it becomes one.
    pub(crate) fn check_file_name(&self) -> Result<()> {
        match matches!(self.name.as_str(), "" | "." | "..") || self.name.contains('/') {
            true => Err(Error::new(format!(
                "the here-document {:?} cannot be a file: its name must not be a path",
                self.name
            ))),
            false => Ok(()),
        }
    }
}

/// One instruction, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Its first line, from 1.
    pub line: usize,
    /// The whole of it in one line, as a user reads it.
    pub text: String,
    pub heredocs: Vec<Heredoc>,
}

/// A Dockerfile's statements, and what its directives say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statements {
    pub escape: char,
    pub list: Vec<Statement>,
}

/// Reads a whole Dockerfile.
pub(crate) fn read(text: &str) -> Result<Statements> {
    if text.len() > DOCKERFILE_BYTES_MAX {
        return Err(Error::new(format!(
            "the Dockerfile is too large: at most {DOCKERFILE_BYTES_MAX} bytes are read"
        )));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let escape = directives(&lines)?;
    let mut reader = Reader {
        lines: &lines,
        next: 0,
        escape,
    };
    let mut list = Vec::new();
    while let Some(statement) = reader.statement()? {
        if list.len() == STATEMENTS_MAX {
            let error = Error::new(format!(
                "too many instructions: a Dockerfile can have {STATEMENTS_MAX}"
            ));
            return Err(error.at(statement.line));
        }
        list.push(statement);
    }
    if list.is_empty() {
        return Err(Error::new("file with no instructions"));
    }
    Ok(Statements { escape, list })
}

/// The escape character that the directives at the top name. An unknown directive is a comment, and ends them.
fn directives(lines: &[&str]) -> Result<char> {
    let mut escape = None;
    let mut seen: Vec<String> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let directive = line
            .strip_prefix('#')
            .and_then(|comment| comment.split_once('='))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
        let Some((name, value)) =
            directive.filter(|(name, _)| ["escape", "syntax", "check"].contains(&name.as_str()))
        else {
            break;
        };
        if seen.contains(&name) {
            return Err(Error::new(format!("only one {name} parser directive can be used")).at(index + 1));
        }
        if name == "escape" {
            escape = match value {
                "\\" => Some('\\'),
                "`" => Some('`'),
                _ => {
                    let problem = format!("invalid ESCAPE '{value}': it must be ` or \\");
                    return Err(Error::new(problem).at(index + 1));
                }
            };
        }
        seen.push(name);
    }
    Ok(escape.unwrap_or('\\'))
}

struct Reader<'a> {
    lines: &'a [&'a str],
    next: usize,
    escape: char,
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some(line)
    }

    /// The next statement; none at the end.
    fn statement(&mut self) -> Result<Option<Statement>> {
        let (first, start) = loop {
            let Some(line) = self.line() else { return Ok(None) };
            let line = line.trim_start();
            if !is_comment(line) && !line.trim_end().is_empty() {
                break (line, self.next);
            }
        };
        let (part, mut continues) = self.continued(first);
        let mut text = part.to_owned();
        while continues {
            let Some(line) = self.line() else { break };
            if is_comment(line) || line.trim().is_empty() {
                continue;
            }
            let (part, more) = self.continued(line);
            text.push_str(part);
            continues = more;
        }
        let text = text.trim().to_owned();
        if text.is_empty() {
            return self.statement_after(start);
        }
        let heredocs = self.heredocs(&text).map_err(|error| error.at(start))?;
        Ok(Some(Statement {
            line: start,
            text,
            heredocs,
        }))
    }

    /// Nothing but an escape character: there is no statement here.
    fn statement_after(&mut self, line: usize) -> Result<Option<Statement>> {
        match self.next >= self.lines.len() {
            true => Ok(None),
            false => Err(Error::new("a line that is continued holds no instruction").at(line)),
        }
    }

    /// A line without its escape character and line end, and whether the next line continues it.
    fn continued(&self, line: &'a str) -> (&'a str, bool) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        match line.trim_end_matches([' ', '\t']).strip_suffix(self.escape) {
            Some(part) => (part, true),
            None => (line, false),
        }
    }

    fn heredocs(&mut self, text: &str) -> Result<Vec<Heredoc>> {
        if !text.contains("<<") || !holds_heredocs(text) {
            return Ok(Vec::new());
        }
        let mut heredocs = Vec::new();
        for mut heredoc in raw_words(text, self.escape)
            .iter()
            .filter_map(|word| opening(word))
        {
            if heredocs.len() == HEREDOCS_MAX {
                return Err(Error::new(format!(
                    "an instruction can have {HEREDOCS_MAX} here-documents"
                )));
            }
            loop {
                let Some(line) = self.line() else {
                    return Err(Error::new(format!(
                        "unterminated heredoc: no line says {}",
                        heredoc.name
                    )));
                };
                let line = match heredoc.strips_tabs {
                    true => line.trim_start_matches('\t'),
                    false => line,
                };
                if line.strip_suffix('\r').unwrap_or(line) == heredoc.name {
                    break;
                }
                heredoc.content.push_str(line);
                heredoc.content.push('\n');
            }
            heredocs.push(heredoc);
        }
        Ok(heredocs)
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// `RUN`, `COPY` and `ADD` can have here-documents, also as triggers; lists in JSON cannot.
fn holds_heredocs(text: &str) -> bool {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match name.to_ascii_uppercase().as_str() {
        "RUN" | "COPY" | "ADD" => !rest.trim_start().starts_with('['),
        "ONBUILD" => holds_heredocs(rest.trim_start()),
        _ => false,
    }
}

/// The here-document that a word opens: `<<EOF`, `<<-EOF`, `3<<EOF`, `<<"EOF"`.
pub(crate) fn opening(word: &str) -> Option<Heredoc> {
    let after = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let after = after.strip_prefix("<<")?;
    let (strips_tabs, name) = match after.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, after),
    };
    let quoted = ['"', '\''].iter().find_map(|quote| {
        let inner = name.strip_prefix(*quote)?.strip_suffix(*quote)?;
        (!inner.contains(*quote)).then_some(inner)
    });
    let name = quoted.unwrap_or(name);
    let plain = !name.is_empty() && !name.contains(['<', '"', '\'', '\\', '$', '`', '(', ')']);
    plain.then(|| Heredoc {
        name: name.to_owned(),
        content: String::new(),
        expands: quoted.is_none(),
        strips_tabs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(usize, String)> {
        let statements = read(text).unwrap();
        statements
            .list
            .into_iter()
            .map(|statement| (statement.line, statement.text))
            .collect()
    }

    #[test]
    fn lines_are_continued_and_comments_are_skipped() {
        let text =
            "\u{feff}# a comment\n\n  FROM a\r\nRUN x \\\n# between\n\n  && y \\  \n  # last\n  && z\nCMD w";
        assert_eq!(
            texts(text),
            [
                (3, "FROM a".to_owned()),
                (4, "RUN x   && y   && z".to_owned()),
                (10, "CMD w".to_owned())
            ]
        );
    }

    #[test]
    fn directives_hold_at_the_top_only() {
        assert_eq!(
            texts("# syntax=docker/dockerfile:1\n# escape = `\nRUN a `\n b\\"),
            [(3, "RUN a  b\\".to_owned())]
        );
        assert_eq!(
            texts("# other=x\n# escape=`\nRUN a `"),
            [(3, "RUN a `".to_owned())]
        );
        for (text, line) in [("# escape=x\nFROM a", 1), ("# escape=`\n# escape=`\nFROM a", 2)] {
            assert_eq!(read(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn here_documents_are_read() {
        let text =
            "RUN <<A 3<<-\"B\"\none $x\n # kept\nA\n\t\ttwo\n\tB\nCOPY [\"<<C\", \"d\"]\nRUN echo \"<<D\"\n";
        let statements = read(text).unwrap().list;
        assert_eq!(statements.len(), 3);
        let heredocs = &statements[0].heredocs;
        assert_eq!(
            (heredocs[0].content.as_str(), heredocs[0].expands),
            ("one $x\n # kept\n", true)
        );
        assert_eq!(
            (heredocs[1].content.as_str(), heredocs[1].expands),
            ("two\n", false)
        );
        assert!(statements[1].heredocs.is_empty() && statements[2].heredocs.is_empty());
        let error = read("FROM a\nRUN <<A\nx\n").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.problem.contains("unterminated heredoc"), "{error}");
    }

    #[test]
    fn bounds_hold() {
        for text in [
            "".to_owned(),
            "# only\n\n".to_owned(),
            "RUN x\n".repeat(STATEMENTS_MAX + 1),
            " ".repeat(DOCKERFILE_BYTES_MAX + 1),
        ] {
            assert!(read(&text).is_err());
        }
    }
}
