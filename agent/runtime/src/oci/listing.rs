//! `list` and `ps`.

use serde_json::json;

use super::Context;
use super::arguments::Flags;
use super::error::{OciError, Result};
use super::journal::Level;
use super::record::{ContainerDirectory, Record, Status};
use crate::error::RuntimeError;

/// The two forms of a list.
enum Format {
    Table,
    Json,
}

fn format_of(flags: &Flags) -> Result<Format> {
    match flags.value("format") {
        None | Some("table") => Ok(Format::Table),
        Some("json") => Ok(Format::Json),
        Some(_) => Err(OciError::usage("invalid format option: it is table or json")),
    }
}

/// Shows the containers below `--root`.
pub(super) fn list(context: &Context, flags: &Flags) -> Result<()> {
    let format = format_of(flags)?;
    let found = containers(context)?;
    if flags.is_set("quiet") {
        for (record, _) in found {
            println!("{}", record.id);
        }
        return Ok(());
    }
    match format {
        Format::Json => {
            let all: Vec<_> = found
                .iter()
                .map(|(record, status)| entry(record, *status))
                .collect();
            println!("{}", json!(all));
        }
        Format::Table => {
            println!(
                "{:<40} {:<8} {:<8} {:<31} BUNDLE",
                "ID", "PID", "STATUS", "CREATED"
            );
            for (record, status) in found {
                let pid = if status == Status::Stopped { 0 } else { record.pid };
                println!(
                    "{:<40} {pid:<8} {:<8} {:<31} {}",
                    record.id,
                    status.word(),
                    record.created,
                    record.bundle.display()
                );
            }
        }
    }
    Ok(())
}

fn entry(record: &Record, status: Status) -> serde_json::Value {
    json!({
        "ociVersion": record.spec.version(),
        "id": record.id,
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "status": status.word(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.spec.annotations().clone().unwrap_or_default(),
        "owner": "root",
    })
}

fn containers(context: &Context) -> Result<Vec<(Record, Status)>> {
    let entries = match std::fs::read_dir(&context.root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OciError::io(format!("list {}", context.root.display()), error)),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let read = || {
            let directory = ContainerDirectory::open(&context.root, &name)?;
            let record = directory.read(&name)?;
            let status = directory.status(&record)?;
            Ok::<_, OciError>((record, status))
        };
        match read() {
            Ok(container) => found.push(container),
            // One that is being made or removed.
            Err(OciError::NotExist { .. }) => {}
            Err(error) => {
                let message = format!("container {name}: {}", crate::error::chain(&error));
                context.journal.write(Level::Warning, &message);
            }
        }
    }
    Ok(found)
}

/// Shows the processes of a container.
pub(super) fn processes(context: &Context, flags: &Flags, operands: &[String]) -> Result<()> {
    let format = format_of(flags)?;
    let [id, more @ ..] = operands else {
        return Err(OciError::usage("ps takes the name of a container"));
    };
    let directory = ContainerDirectory::open(&context.root, id)?;
    let record = directory.read(id)?;
    let pids = if record.is_alive() {
        let pids = record.group()?.pids();
        pids.map_err(|source| RuntimeError::cgroup("list the processes of", source))?
    } else {
        Vec::new()
    };
    match format {
        Format::Json => println!("{}", json!(pids)),
        Format::Table if !more.is_empty() => {
            return Err(OciError::Unsupported {
                what: "passing options to ps",
                instead: "use --format json and give the ids to ps yourself",
            });
        }
        Format::Table => {
            println!("{:<10} {:>8} {:>8} CMD", "UID", "PID", "PPID");
            for line in pids.into_iter().filter_map(process_line) {
                println!("{line}");
            }
        }
    }
    Ok(())
}

/// A line about a process; nothing when it has ended.
fn process_line(pid: i32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    // A process without arguments is shown by its name, as ps does.
    let command = if words.is_empty() {
        format!("[{}]", field("Name:")?)
    } else {
        words.join(" ")
    };
    // What a container calls its processes must not steer the terminal that shows it.
    let command: String = command
        .chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect();
    Some(format!(
        "{:<10} {pid:>8} {:>8} {command}",
        field("Uid:")?,
        field("PPid:")?
    ))
}
