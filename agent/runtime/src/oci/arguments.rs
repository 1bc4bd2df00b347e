//! The command line, as runc takes it: its callers know no other.

use std::ffi::OsString;

use super::error::{OciError, Result};

/// An option: its name, its letter, whether a value follows.
#[derive(Debug, Clone, Copy)]
struct Flag(&'static str, Option<char>, Takes);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
}

use Takes::{Nothing, Value};

/// A command: its options, and whether what follows its first operand is not looked at.
struct Grammar {
    name: &'static str,
    flags: &'static [Flag],
    stops_at_operand: bool,
    /// The least and the most operands.
    operands: (usize, usize),
}

const MANY: usize = usize::MAX;

const GLOBAL: &[Flag] = &[
    Flag("debug", None, Nothing),
    Flag("log", None, Value),
    Flag("log-format", None, Value),
    Flag("root", None, Value),
    Flag("systemd-cgroup", None, Nothing),
    Flag("rootless", None, Value),
    // Ignored by runc too: there is one way to find the program.
    Flag("criu", None, Value),
    Flag("help", Some('h'), Nothing),
    Flag("version", Some('v'), Nothing),
];

const CREATE: &[Flag] = &[
    Flag("bundle", Some('b'), Value),
    Flag("console-socket", None, Value),
    Flag("pidfd-socket", None, Value),
    Flag("pid-file", None, Value),
    Flag("no-pivot", None, Nothing),
    Flag("no-new-keyring", None, Nothing),
    Flag("preserve-fds", None, Value),
];

const RUN: &[Flag] = &[
    Flag("bundle", Some('b'), Value),
    Flag("console-socket", None, Value),
    Flag("pidfd-socket", None, Value),
    Flag("pid-file", None, Value),
    Flag("no-pivot", None, Nothing),
    Flag("no-new-keyring", None, Nothing),
    Flag("preserve-fds", None, Value),
    Flag("detach", Some('d'), Nothing),
    Flag("keep", None, Nothing),
    // Orphans of a container come to its own first process, or to whoever they came to before.
    Flag("no-subreaper", None, Nothing),
];

const EXEC: &[Flag] = &[
    Flag("console-socket", None, Value),
    Flag("pidfd-socket", None, Value),
    Flag("cwd", None, Value),
    Flag("env", Some('e'), Value),
    Flag("tty", Some('t'), Nothing),
    Flag("user", Some('u'), Value),
    Flag("additional-gids", Some('g'), Value),
    Flag("process", Some('p'), Value),
    Flag("detach", Some('d'), Nothing),
    Flag("pid-file", None, Value),
    Flag("process-label", None, Value),
    Flag("apparmor", None, Value),
    Flag("no-new-privs", None, Nothing),
    Flag("cap", Some('c'), Value),
    Flag("preserve-fds", None, Value),
    Flag("cgroup", None, Value),
    Flag("ignore-paused", None, Nothing),
];

const UPDATE: &[Flag] = &[
    Flag("resources", Some('r'), Value),
    Flag("blkio-weight", None, Value),
    Flag("cpu-period", None, Value),
    Flag("cpu-quota", None, Value),
    Flag("cpu-burst", None, Value),
    Flag("cpu-share", None, Value),
    Flag("cpu-rt-period", None, Value),
    Flag("cpu-rt-runtime", None, Value),
    Flag("cpu-idle", None, Value),
    Flag("cpuset-cpus", None, Value),
    Flag("cpuset-mems", None, Value),
    Flag("memory", None, Value),
    Flag("memory-reservation", None, Value),
    Flag("memory-swap", None, Value),
    Flag("pids-limit", None, Value),
];

const fn command(name: &'static str, flags: &'static [Flag], operands: (usize, usize)) -> Grammar {
    Grammar {
        name,
        flags,
        stops_at_operand: false,
        operands,
    }
}

const FORMAT: Flag = Flag("format", Some('f'), Value);

const COMMANDS: [Grammar; 15] = [
    command("create", CREATE, (1, 1)),
    command("run", RUN, (1, 1)),
    command("start", &[], (1, 1)),
    command("state", &[], (1, 1)),
    Grammar {
        stops_at_operand: true,
        ..command("kill", &[Flag("all", Some('a'), Nothing)], (1, 2))
    },
    command("delete", &[Flag("force", Some('f'), Nothing)], (1, 1)),
    Grammar {
        stops_at_operand: true,
        ..command("exec", EXEC, (1, MANY))
    },
    Grammar {
        stops_at_operand: true,
        ..command("ps", &[FORMAT], (1, MANY))
    },
    command("list", &[FORMAT, Flag("quiet", Some('q'), Nothing)], (0, 0)),
    command("pause", &[], (1, 1)),
    command("resume", &[], (1, 1)),
    command("update", UPDATE, (1, 1)),
    command(
        "events",
        &[Flag("interval", None, Value), Flag("stats", None, Nothing)],
        (1, 1),
    ),
    command("features", &[], (0, 0)),
    command(
        "spec",
        &[Flag("bundle", Some('b'), Value), Flag("rootless", None, Nothing)],
        (0, 0),
    ),
];

/// Options that were given, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// The last value of an option.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let given = self.0.iter().rev();
        given
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
            .next()
    }

    /// Every value of an option.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether an option without a value is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// A number.
    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>> {
        let number = |text: &str| {
            text.parse()
                .map_err(|_| OciError::usage(format!("--{name} {text:?} is no number that fits")))
        };
        self.value(name).map(number).transpose()
    }
}

/// A command line that was understood.
#[derive(Debug)]
pub(super) struct Arguments {
    pub global: Flags,
    /// The command's name; none with `--version` or `--help`.
    pub command: Option<&'static str>,
    pub flags: Flags,
    pub operands: Vec<String>,
}

/// Reads a command line, without the program's name.
pub(super) fn parse(arguments: &[OsString]) -> Result<Arguments> {
    let texts = arguments
        .iter()
        .map(|argument| argument.to_str().map(str::to_owned))
        .collect::<Option<Vec<String>>>()
        .ok_or_else(|| OciError::usage("an argument is no UTF-8"))?;
    let mut rest = texts.into_iter();
    let (global, mut found) = parse_flags(GLOBAL, &mut rest, true)?;
    let Some(name) = found.pop() else {
        return Ok(Arguments {
            global,
            command: None,
            flags: Flags::default(),
            operands: Vec::new(),
        });
    };
    let unknown = || OciError::usage(format!("unknown command {name:?}"));
    let grammar = COMMANDS
        .iter()
        .find(|command| command.name == name)
        .ok_or_else(unknown)?;
    let (flags, operands) = parse_flags(grammar.flags, &mut rest, grammar.stops_at_operand)?;
    let operands: Vec<String> = operands.into_iter().chain(rest).collect();
    let (least, most) = grammar.operands;
    if !(least..=most).contains(&operands.len()) {
        return Err(OciError::usage(format!(
            "{name} takes {least} to {most} operands, not {}",
            operands.len()
        )));
    }
    Ok(Arguments {
        global,
        command: Some(grammar.name),
        flags,
        operands,
    })
}

/// Reads options; what is none comes back, the first one alone where that ends them.
fn parse_flags(
    known: &[Flag],
    rest: &mut dyn Iterator<Item = String>,
    stops_at_operand: bool,
) -> Result<(Flags, Vec<String>)> {
    let mut flags = Flags::default();
    let mut operands = Vec::new();
    while let Some(text) = rest.next() {
        let Some(option) = text.strip_prefix('-').filter(|option| !option.is_empty()) else {
            operands.push(text);
            if stops_at_operand {
                break;
            }
            continue;
        };
        if option == "-" {
            operands.extend(&mut *rest);
            break;
        }
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, attached) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let Flag(name, _, takes) = known
            .iter()
            .find(|Flag(known, letter, _)| {
                *known == name || letter.is_some_and(|letter| name == letter.to_string())
            })
            .ok_or_else(|| OciError::usage(format!("unknown option {text:?}")))?;
        let value = match (takes, attached) {
            (_, Some(value)) => value,
            (Takes::Nothing, None) => "true".to_owned(),
            (Takes::Value, None) => rest
                .next()
                .ok_or_else(|| OciError::usage(format!("--{name} needs a value")))?,
        };
        flags.0.push((name, value));
    }
    Ok((flags, operands))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn lines_of_the_shim_and_of_conmon_are_understood() {
        let line = parsed(
            "--root /r --log /l --log-format json --systemd-cgroup=false create --bundle /b --pid-file /p \
             -no-pivot=false --preserve-fds 2 id",
        )
        .expect("it is valid");
        assert_eq!(line.global.value("root"), Some("/r"));
        assert!(!line.global.is_set("systemd-cgroup"));
        assert_eq!(line.command, Some("create"));
        assert_eq!(line.flags.number("preserve-fds").expect("a number"), Some(2u32));
        assert_eq!(line.operands, ["id"]);
        let line = parsed("update --resources=- id").expect("it is valid");
        assert_eq!(line.flags.value("resources"), Some("-"));
        let line = parsed("delete id --force").expect("it is valid");
        assert!(line.flags.is_set("force"));
    }

    #[test]
    fn what_is_run_keeps_its_own_options() {
        let line = parsed("exec -e A=1 --env B=2 -t id ls -l --color").expect("it is valid");
        assert_eq!(line.flags.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert!(line.flags.is_set("tty"));
        assert_eq!(line.operands, ["id", "ls", "-l", "--color"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, wanted) in [
            ("fly id", "unknown command"),
            ("create --fast id", "unknown option"),
            ("create", "operands"),
            ("create a b", "operands"),
            ("create --bundle", "needs a value"),
        ] {
            let error = parsed(line).expect_err("it is wrong").to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
        let line = parsed("exec --preserve-fds x id true").expect("the number is looked at later");
        assert!(line.flags.number::<u32>("preserve-fds").is_err());
    }
}
