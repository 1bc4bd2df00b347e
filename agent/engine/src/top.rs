//! A container's processes, as `ps` on the host lists them. No program is run: the columns are read from /proc.

use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Ticks of /proc/PID/stat per second: fixed in the kernel's interface.
const TICKS_PER_SECOND: u64 = 100;
/// Bytes of a page in /proc/PID/stat.
const PAGE_BYTES: u64 = 4096;

/// Processes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTable {
    /// Column titles.
    pub titles: Vec<String>,
    /// Rows with as many cells.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// A container's processes. Of the arguments of `ps` these are served: `-ef`, `aux`, and lists of columns as in
    /// `-o pid,user,cmd`.
    pub async fn top(&self, reference: &str, arguments: &str) -> Result<ProcessTable> {
        let columns = columns(arguments)?;
        let container = self.inner.find(reference)?;
        self.inner.running(&container)?;
        let pids = self
            .inner
            .with_cgroup(&container, "list the processes of", |group| group.pids())
            .await?;
        let host = Host::read();
        let processes = pids.into_iter().filter_map(|pid| Process::read(pid, &host));
        Ok(ProcessTable {
            titles: columns.iter().map(|(title, _)| title.clone()).collect(),
            processes: processes
                .map(|process| {
                    columns
                        .iter()
                        .map(|(_, column)| process.cell(*column, &host))
                        .collect()
                })
                .collect(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    UserId,
    Pid,
    Parent,
    Processor,
    ProcessorShare,
    MemoryShare,
    VirtualSize,
    ResidentSize,
    Terminal,
    State,
    Started,
    Time,
    Elapsed,
    Nice,
    Threads,
    Name,
    Command,
}

impl Column {
    /// A column by the name that `-o` takes, with its title.
    fn named(name: &str) -> Option<(&'static str, Self)> {
        Some(match name {
            "user" | "euser" | "uname" => ("USER", Self::User),
            "uid" | "euid" => ("UID", Self::UserId),
            "pid" => ("PID", Self::Pid),
            "ppid" => ("PPID", Self::Parent),
            "c" => ("C", Self::Processor),
            "pcpu" | "%cpu" => ("%CPU", Self::ProcessorShare),
            "pmem" | "%mem" => ("%MEM", Self::MemoryShare),
            "vsz" | "vsize" => ("VSZ", Self::VirtualSize),
            "rss" | "rssize" | "rsz" => ("RSS", Self::ResidentSize),
            "tty" | "tt" | "tname" => ("TT", Self::Terminal),
            "stat" | "state" | "s" => ("STAT", Self::State),
            "stime" | "start_time" => ("STIME", Self::Started),
            "time" | "cputime" => ("TIME", Self::Time),
            "etime" => ("ELAPSED", Self::Elapsed),
            "ni" | "nice" => ("NI", Self::Nice),
            "nlwp" | "thcount" => ("NLWP", Self::Threads),
            "comm" | "ucmd" => ("COMMAND", Self::Name),
            "cmd" => ("CMD", Self::Command),
            "args" | "command" => ("COMMAND", Self::Command),
            _ => return None,
        })
    }
}

/// The columns that the arguments of `ps` ask for.
fn columns(arguments: &str) -> Result<Vec<(String, Column)>> {
    let titled = |columns: &[(&str, Column)]| {
        let columns = columns.iter();
        columns
            .map(|(title, column)| ((*title).to_owned(), *column))
            .collect()
    };
    let words: Vec<&str> = arguments.split_whitespace().collect();
    match words.as_slice() {
        [] | ["-ef" | "ef" | "-e -f" | "-fe"] => Ok(titled(&FULL)),
        ["aux" | "-aux" | "auxww" | "-auxww"] => Ok(titled(&BSD)),
        [options, lists @ ..] if options.trim_start_matches('-').ends_with('o') && !lists.is_empty() => {
            let known = options
                .trim_start_matches('-')
                .bytes()
                .all(|option| b"eaxwo".contains(&option));
            if !known {
                return Err(refused(arguments));
            }
            listed(&lists.join(","))
        }
        _ => Err(refused(arguments)),
    }
}

fn refused(arguments: &str) -> Error {
    Error::NotSupported {
        what: format!("top with the ps arguments {arguments:?} (-ef, aux and -o COLUMN,… are)"),
    }
}

/// Reads `pid,user,args` and `pid=NUMBER`.
fn listed(list: &str) -> Result<Vec<(String, Column)>> {
    let mut columns = Vec::new();
    for entry in list
        .split(',')
        .filter(|entry| !entry.is_empty() && *entry != "-o")
    {
        let (name, title) = entry
            .split_once('=')
            .map_or((entry, None), |(name, title)| (name, Some(title)));
        let (usual, column) = Column::named(&name.to_ascii_lowercase()).ok_or_else(|| {
            Error::invalid(format!(
                "ps: error: unknown user-defined format specifier \"{name}\""
            ))
        })?;
        columns.push((title.unwrap_or(usual).to_owned(), column));
    }
    // Docker finds a container's processes by it.
    if columns.iter().all(|(_, column)| *column != Column::Pid) {
        return Err(Error::invalid("Couldn't find PID field in ps output"));
    }
    Ok(columns)
}

const FULL: [(&str, Column); 8] = [
    ("UID", Column::User),
    ("PID", Column::Pid),
    ("PPID", Column::Parent),
    ("C", Column::Processor),
    ("STIME", Column::Started),
    ("TTY", Column::Terminal),
    ("TIME", Column::Time),
    ("CMD", Column::Command),
];

const BSD: [(&str, Column); 11] = [
    ("USER", Column::User),
    ("PID", Column::Pid),
    ("%CPU", Column::ProcessorShare),
    ("%MEM", Column::MemoryShare),
    ("VSZ", Column::VirtualSize),
    ("RSS", Column::ResidentSize),
    ("TTY", Column::Terminal),
    ("STAT", Column::State),
    ("START", Column::Started),
    ("TIME", Column::Time),
    ("COMMAND", Column::Command),
];

/// What of the host is needed to write cells.
struct Host {
    uptime_secs: u64,
    memory_bytes: u64,
    users: BTreeMap<String, String>,
}

impl Host {
    fn read() -> Self {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.to_owned(), name))
        };
        Self {
            uptime_secs: uptime
                .split('.')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            memory_bytes: crate::host::memory_bytes().max(1),
            users: passwd.lines().rev().filter_map(user).collect(),
        }
    }
}

/// One process.
struct Process {
    pid: i32,
    name: String,
    user_id: String,
    parent: String,
    threads: String,
    command: String,
    /// Fields of /proc/PID/stat from the state on.
    fields: Vec<String>,
    age_secs: u64,
}

impl Process {
    /// Reads it; `None` when it ended meanwhile.
    fn read(pid: i32, host: &Host) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|text| text.split_whitespace().next())
                .unwrap_or("?")
                .to_owned()
        };
        // The name in parentheses may hold anything, so count from the last one.
        let fields = stat
            .trim_end()
            .rsplit_once(") ")?
            .1
            .split(' ')
            .map(str::to_owned)
            .collect();
        let command = String::from_utf8_lossy(&line)
            .trim_end_matches('\0')
            .replace('\0', " ");
        let mut process = Self {
            pid,
            name: field("Name"),
            user_id: field("Uid"),
            parent: field("PPid"),
            threads: field("Threads"),
            command,
            fields,
            age_secs: 0,
        };
        process.age_secs = host
            .uptime_secs
            .saturating_sub(process.number(19) / TICKS_PER_SECOND);
        Some(process)
    }

    fn number(&self, index: usize) -> u64 {
        let field = self.fields.get(index);
        field.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Time of the processors in tenths of a percent of its age.
    fn share(&self) -> u64 {
        (self.number(11) + self.number(12)) * 1000 / TICKS_PER_SECOND / self.age_secs.max(1)
    }

    fn cell(&self, column: Column, host: &Host) -> String {
        let tenths = |value: u64| format!("{}.{}", value / 10, value % 10);
        let clock = |seconds: u64| {
            format!(
                "{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            )
        };
        let resident_bytes = self.number(21) * PAGE_BYTES;
        match column {
            Column::User => host.users.get(&self.user_id).unwrap_or(&self.user_id).clone(),
            Column::UserId => self.user_id.clone(),
            Column::Pid => self.pid.to_string(),
            Column::Parent => self.parent.clone(),
            Column::Processor => (self.share() / 10).to_string(),
            Column::ProcessorShare => tenths(self.share()),
            Column::MemoryShare => tenths(resident_bytes * 1000 / host.memory_bytes),
            Column::VirtualSize => (self.number(20) / 1024).to_string(),
            Column::ResidentSize => (resident_bytes / 1024).to_string(),
            Column::Terminal => match self.number(4) {
                0 => "?".to_owned(),
                device => format!("pts/{}", device & 0xff),
            },
            Column::State => self.fields.first().cloned().unwrap_or_default(),
            Column::Started => {
                let started = clock::now()
                    .before(Duration::from_secs(self.age_secs))
                    .to_string();
                started.get(11..16).unwrap_or_default().to_owned()
            }
            Column::Time => clock((self.number(11) + self.number(12)) / TICKS_PER_SECOND),
            Column::Elapsed => match self.age_secs {
                age @ ..3600 => format!("{:02}:{:02}", age / 60, age % 60),
                age => clock(age),
            },
            Column::Nice => self.fields.get(16).cloned().unwrap_or_default(),
            Column::Threads => self.threads.clone(),
            Column::Name => self.name.clone(),
            Column::Command if self.command.is_empty() => format!("[{}]", self.name),
            Column::Command => self.command.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(arguments: &str) -> Vec<String> {
        let columns = columns(arguments).unwrap();
        columns.into_iter().map(|(title, _)| title).collect()
    }

    #[test]
    fn arguments_choose_columns() {
        assert_eq!(titles("").join(" "), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("-ef"), titles(""));
        assert_eq!(titles("aux").last().unwrap(), "COMMAND");
        assert_eq!(titles("-eo pid,comm"), ["PID", "COMMAND"]);
        assert_eq!(titles("-o pid=NUMBER -o user"), ["NUMBER", "USER"]);
        for bad in ["-o user", "-o pid,colour", "-Z", "-o", "; reboot"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_process_can_be_read() {
        let host = Host::read();
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::read(own, &host).unwrap();
        assert_eq!(process.cell(Column::Pid, &host), own.to_string());
        assert_ne!(process.cell(Column::ResidentSize, &host), "0");
        assert!(!process.cell(Column::Command, &host).is_empty());
        for (_, column) in FULL.into_iter().chain(BSD) {
            assert!(!process.cell(column, &host).is_empty(), "{column:?}");
        }
    }
}
