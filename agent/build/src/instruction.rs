//! One instruction of a stage.

use crate::command::{Command, Run, json_list};
use crate::error::{Error, Result};
use crate::expand::{Expansion, Lookup, Work};
use crate::healthcheck::Healthcheck;
use crate::pairs::{flags, pairs, raw_words};
use crate::statement::{Statement, read};
use crate::transfer::{Source, Transfer, TransferKind};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// An instruction. Its words are as they were written until [`Instruction::expanded`].
#[derive(Debug, Clone, PartialEq)]
pub enum Instruction {
    /// `ARG`: names with their defaults.
    Arg(Vec<(String, Option<String>)>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `ENV`
    Env(Vec<(String, String)>),
    /// `EXPOSE`.
    Expose(Exposed),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<(String, String)>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`: an instruction for the builds that begin with the image.
    OnBuild(String),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `COPY` or `ADD`
    Transfer(Transfer),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
}

/// Ports that an image says it listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// As they are written, `port[-port][/protocol]`, in the order of what is written.
    pub words: Vec<String>,
    /// `port/protocol` for every port, once expanded.
    pub ports: Vec<String>,
}

impl Instruction {
    /// Reads an instruction that stands alone: a trigger, or a change of a commit.
    pub fn parse(text: &str) -> Result<Self> {
        let statements = read(text)?;
        match statements.list.as_slice() {
            [only] => Self::of(only, statements.escape),
            _ => Err(Error::new("one instruction is expected")),
        }
    }

    pub(crate) fn of(statement: &Statement, escape: char) -> Result<Self> {
        read_instruction(statement, escape).map_err(|error| error.at(statement.line))
    }

    /// With its variables replaced and its quotes removed. What a shell reads (`RUN`, `CMD`, …) stays as it is.
    pub fn expanded(self, escape: char, lookup: Lookup<'_>) -> Result<Self> {
        let work = &Work::new();
        self.expanded_by(&Expansion { escape, lookup, work })
    }

    pub(crate) fn expanded_by(self, expansion: &Expansion<'_>) -> Result<Self> {
        let word = |text: &str| expansion.word(text);
        let words = |list: Vec<String>| list.iter().map(|text| word(text)).collect::<Result<Vec<_>>>();
        let both = |list: Vec<(String, String)>| {
            list.iter()
                .map(|(key, value)| Ok((word(key)?, word(value)?)))
                .collect::<Result<Vec<_>>>()
        };
        Ok(match self {
            Self::Arg(args) => Self::Arg(
                args.iter()
                    .map(|(name, value)| Ok((word(name)?, value.as_deref().map(word).transpose()?)))
                    .collect::<Result<_>>()?,
            ),
            Self::Env(list) => Self::Env(named("ENV", both(list)?)?),
            Self::Label(list) => Self::Label(named("LABEL", both(list)?)?),
            Self::Expose(exposed) => {
                let expanded = words(exposed.words)?;
                let words = expanded.iter().flat_map(|text| text.split_whitespace());
                let words: Vec<String> = words.map(str::to_owned).collect();
                let mut ports = BTreeSet::new();
                for word in &words {
                    let (range, protocol) = port_range(word)?;
                    expansion.work.spend(range.clone().count())?;
                    ports.extend(range.map(|port| (port, protocol)));
                }
                let named = ports.iter().map(|(port, protocol)| format!("{port}/{protocol}"));
                Self::Expose(Exposed {
                    ports: named.collect(),
                    words,
                })
            }
            Self::Volume(list) => {
                let list = words(list)?;
                if list.iter().any(|path| path.trim().is_empty()) {
                    return Err(Error::new("VOLUME specified can not be an empty string"));
                }
                Self::Volume(list)
            }
            Self::User(text) => Self::User(word(&text)?),
            Self::Workdir(text) => Self::Workdir(word(&text)?),
            Self::StopSignal(text) => Self::StopSignal(word(&text)?),
            Self::Transfer(transfer) => Self::Transfer(expanded_transfer(transfer, expansion)?),
            same @ (Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::OnBuild(_)
            | Self::Run(_)
            | Self::Shell(_)) => same,
        })
    }
}

fn expanded_transfer(transfer: Transfer, expansion: &Expansion<'_>) -> Result<Transfer> {
    let word = |text: &str| expansion.word(text);
    let optional = |text: Option<String>| text.as_deref().map(word).transpose();
    let source = |source: Source| match source {
        Source::Path(path) => word(&path).map(Source::Path),
        Source::Inline(mut heredoc) => {
            if heredoc.expands {
                heredoc.content = expansion.content(&heredoc.content)?;
            }
            Ok(Source::Inline(heredoc))
        }
    };
    Ok(Transfer {
        sources: transfer.sources.into_iter().map(source).collect::<Result<_>>()?,
        destination: word(&transfer.destination)?,
        chown: optional(transfer.chown)?,
        chmod: optional(transfer.chmod)?,
        exclude: transfer
            .exclude
            .iter()
            .map(|pattern| word(pattern))
            .collect::<Result<_>>()?,
        ..transfer
    })
}

fn named(instruction: &str, list: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    match list.iter().any(|(key, _)| key.is_empty()) {
        true => Err(Error::new(format!("{instruction} names can not be blank"))),
        false => Ok(list),
    }
}

fn read_instruction(statement: &Statement, escape: char) -> Result<Instruction> {
    let text = statement.text.as_str();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (upper, rest) = (name.to_ascii_uppercase(), rest.trim());
    let heredocs = statement.heredocs.as_slice();
    if rest.is_empty() && KNOWN.contains(&upper.as_str()) {
        return Err(Error::new(match upper.as_str() {
            "COPY" | "ADD" => format!("{upper} requires at least two arguments"),
            "USER" | "WORKDIR" | "STOPSIGNAL" | "MAINTAINER" => {
                format!("{upper} requires exactly one argument")
            }
            _ => format!("{upper} requires at least one argument"),
        }));
    }
    if TAKES_NO_FLAGS.contains(&upper.as_str()) {
        let (given, _) = flags(rest)?;
        if let Some((flag, _)) = given.first() {
            return Err(Error::new(format!("Unknown flag: {flag}")));
        }
    }
    Ok(match upper.as_str() {
        "ADD" => Instruction::Transfer(Transfer::parse(TransferKind::Add, rest, heredocs)?),
        "COPY" => Instruction::Transfer(Transfer::parse(TransferKind::Copy, rest, heredocs)?),
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "CMD" => Instruction::Cmd(Command::parse(rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(Command::parse(rest)?),
        "ENV" => Instruction::Env(pairs("ENV", rest, escape)?),
        "EXPOSE" => {
            let mut words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            words.sort_unstable();
            Instruction::Expose(Exposed {
                words,
                ports: Vec::new(),
            })
        }
        "HEALTHCHECK" => Instruction::Healthcheck(Healthcheck::parse(rest)?),
        "LABEL" => Instruction::Label(pairs("LABEL", rest, escape)?),
        "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
        "ONBUILD" => Instruction::OnBuild(trigger(rest, statement)?),
        "RUN" => Instruction::Run(Run::parse(rest, heredocs, escape)?),
        "SHELL" => Instruction::Shell(match json_list(rest)? {
            Some(words) if !words.is_empty() => words,
            Some(_) => return Err(Error::new("SHELL requires at least one argument")),
            None => return Err(Error::new("SHELL requires the arguments to be in JSON form")),
        }),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "USER" => Instruction::User(rest.to_owned()),
        "VOLUME" => Instruction::Volume(match json_list(rest)? {
            Some(paths) => paths,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        }),
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "FROM" => return Err(Error::new("FROM begins a stage; it cannot stand here")),
        _ => return Err(Error::new(format!("unknown instruction: {name}"))),
    })
}

const KNOWN: [&str; 17] = [
    "ADD",
    "COPY",
    "ARG",
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
const TAKES_NO_FLAGS: [&str; 3] = ["ENV", "EXPOSE", "VOLUME"];

pub(crate) fn arguments(text: &str, escape: char) -> Result<Vec<(String, Option<String>)>> {
    let argument = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::new("ARG names can not be blank")),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((word.clone(), None)),
    };
    raw_words(text, escape).iter().map(argument).collect()
}

/// The text of a trigger with its here-documents, checked as far as its words allow.
fn trigger(rest: &str, statement: &Statement) -> Result<String> {
    let first = rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match first.as_str() {
        "ONBUILD" => {
            return Err(Error::new("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
        }
        "MAINTAINER" | "FROM" => {
            return Err(Error::new(format!("{first} isn't allowed as an ONBUILD trigger")));
        }
        _ => {}
    }
    let mut text = rest.to_owned();
    for heredoc in &statement.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Instruction::parse(&text).map_err(|error| Error::new(error.problem))?;
    Ok(text)
}

/// `port[-port][/protocol]`
fn port_range(text: &str) -> Result<(RangeInclusive<u16>, &'static str)> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let protocol = ["tcp", "udp", "sctp"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(protocol));
    match (port(first), port(last), protocol) {
        (Some(first), Some(last), Some(protocol)) if first <= last => Ok((first..=last, protocol)),
        _ => Err(Error::new(format!("invalid containerPort: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "A").then(|| "one two".to_owned())
    }

    #[test]
    fn words_of_instructions_are_expanded() {
        for (text, expected) in [
            (
                "EXPOSE 80 53/UDP 1-2 2",
                Instruction::Expose(Exposed {
                    words: ["1-2", "2", "53/UDP", "80"].map(str::to_owned).into(),
                    ports: ["1/tcp", "2/tcp", "53/udp", "80/tcp"].map(str::to_owned).into(),
                }),
            ),
            (
                "VOLUME [\"/a b\", \"$A\"]",
                Instruction::Volume(vec!["/a b".into(), "one two".into()]),
            ),
            (
                "ENV X=$A Y=\"$A\" Z='$A'",
                Instruction::Env(vec![
                    ("X".into(), "one two".into()),
                    ("Y".into(), "one two".into()),
                    ("Z".into(), "$A".into()),
                ]),
            ),
            (
                "LABEL \"a b\"=c",
                Instruction::Label(vec![("a b".into(), "c".into())]),
            ),
            ("workdir $A/x", Instruction::Workdir("one two/x".into())),
            ("CMD echo $A", Instruction::Cmd(Command::Line("echo $A".into()))),
            (
                "CMD [\"a\", \"b\"]",
                Instruction::Cmd(Command::List(vec!["a".into(), "b".into()])),
            ),
            (
                "ENTRYPOINT [\"a\", b]",
                Instruction::Entrypoint(Command::Line("[\"a\", b]".into())),
            ),
            (
                "ARG X=${A} Y",
                Instruction::Arg(vec![("X".into(), Some("one two".into())), ("Y".into(), None)]),
            ),
        ] {
            let expanded = Instruction::parse(text).unwrap().expanded('\\', &env).unwrap();
            assert_eq!(expanded, expected, "{text}");
        }
    }

    #[test]
    fn transfers_are_read() {
        let Instruction::Transfer(copy) = Instruction::parse("COPY --from=x --chown=1:2 a b* /c/").unwrap()
        else {
            panic!("no transfer")
        };
        assert_eq!((copy.from.as_deref(), copy.sources.len()), (Some("x"), 2));
        let text = "COPY <<A b <<'C' /d/\n$A $$\nA\n$A\nC";
        let expanded = Instruction::parse(text).unwrap().expanded('\\', &env).unwrap();
        let Instruction::Transfer(copy) = expanded else {
            panic!("no transfer")
        };
        let contents: Vec<&str> = copy
            .sources
            .iter()
            .filter_map(|source| match source {
                Source::Inline(heredoc) => Some(heredoc.content.as_str()),
                Source::Path(_) => None,
            })
            .collect();
        assert_eq!(contents, ["one two $$\n", "$A\n"]);
    }

    #[test]
    fn runs_are_read() {
        let run = |text: &str| match Instruction::parse(text).unwrap() {
            Instruction::Run(run) => run,
            other => panic!("{other:?}"),
        };
        assert_eq!(run("RUN [\"a\"]").command, Command::List(vec!["a".into()]));
        assert_eq!(run("RUN <<E\nx\ny\nE").command, Command::Line("x\ny\n".into()));
        assert_eq!(
            run("RUN cat <<E > f\nx\nE").command,
            Command::Line("cat <<E > f\nx\nE\n".into())
        );
        assert_eq!(
            run("RUN <<E\n#!/bin/p\nx\nE").script.unwrap().content,
            "#!/bin/p\nx\n"
        );
        let with = run("RUN --mount=type=tmpfs,target=/t --network=none a --b");
        assert_eq!(
            (with.mounts.len(), with.command),
            (1, Command::Line("a --b".into()))
        );
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for bad in [
            "NONSENSE x",
            "CMD",
            "COPY a",
            "COPY --what a b",
            "COPY <<a/b /c/\nx\na/b",
            "COPY <<../b /c/\nx\n../b",
            "ADD <<.. /c/\nx\n..",
            "RUN <<../b\n#!/bin/p\nx\n../b",
            "ADD --from=x a b",
            "SHELL a",
            "SHELL []",
            "ONBUILD ONBUILD RUN x",
            "ONBUILD FROM x",
            "ONBUILD NONSENSE",
            "FROM x",
            "RUN --mount=type=secret,id=x y",
            "CMD [1]",
            "ENV =x",
            "RUN a\nRUN b",
            "HEALTHCHECK x",
        ] {
            assert!(Instruction::parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 5-1",
            "EXPOSE 1-2-3",
            "EXPOSE 80/x",
            "VOLUME $U",
            "ENV $U=x",
        ] {
            assert!(
                Instruction::parse(bad).unwrap().expanded('\\', &env).is_err(),
                "{bad}"
            );
        }
    }
}
