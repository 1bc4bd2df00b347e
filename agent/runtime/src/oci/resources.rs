//! `pause`, `resume` and `update`.

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};
use std::io::Read;

use super::Context;
use super::arguments::Flags;
use super::error::{OciError, Result};
use super::record::{ContainerDirectory, Record, Status};
use super::systemd::Systemd;
use crate::error::RuntimeError;

/// Stops every process.
pub(super) fn pause(context: &Context, id: &str) -> Result<()> {
    let (directory, record) = open(context, id)?;
    match directory.status(&record)? {
        Status::Running | Status::Created => {}
        status @ (Status::Paused | Status::Stopped) => {
            return Err(wrong("pause", id, "running", status));
        }
    }
    let frozen = record.group()?.freeze();
    frozen.map_err(|source| RuntimeError::cgroup("freeze", source).into())
}

/// Lets every process go on.
pub(super) fn resume(context: &Context, id: &str) -> Result<()> {
    let (directory, record) = open(context, id)?;
    match directory.status(&record)? {
        // A created container that is paused still waits for its start.
        Status::Paused | Status::Created => {}
        status @ (Status::Running | Status::Stopped) => return Err(wrong("resume", id, "paused", status)),
    }
    let thawed = record.group()?.thaw();
    thawed.map_err(|source| RuntimeError::cgroup("thaw", source).into())
}

fn open(context: &Context, id: &str) -> Result<(ContainerDirectory, Record)> {
    let directory = ContainerDirectory::open(&context.root, id)?;
    directory.lock()?;
    let record = directory.read(id)?;
    Ok((directory, record))
}

fn wrong(operation: &'static str, id: &str, wanted: &'static str, status: Status) -> OciError {
    OciError::WrongState {
        operation,
        id: id.to_owned(),
        wanted,
        status: status.word(),
    }
}

/// Changes limits.
pub(super) fn update(context: &Context, flags: &Flags, id: &str) -> Result<()> {
    let (directory, record) = open(context, id)?;
    if directory.status(&record)? == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    let resources = match flags.value("resources") {
        Some(path) => read_resources(path)?,
        None => resources_of(flags)?,
    };
    if let Some(scope) = &record.scope {
        Systemd::connect(record.cgroup.version())?.update(scope, &resources)?;
    }
    let updated = record.group()?.update(&resources);
    updated.map_err(|source| RuntimeError::cgroup("change", source).into())
}

fn read_resources(path: &str) -> Result<LinuxResources> {
    let mut content = Vec::new();
    let read = if path == "-" {
        std::io::stdin().read_to_end(&mut content).map(drop)
    } else {
        std::fs::read(path).map(|read| content = read)
    };
    read.map_err(|error| OciError::io(format!("read resources from {path}"), error))?;
    serde_json::from_slice(&content)
        .map_err(|error| OciError::io(format!("understand the resources in {path}"), error))
}

/// Options and where their numbers belong in the specification's resources.
const NUMBERS: [(&str, [&str; 2]); 11] = [
    ("blkio-weight", ["blockIO", "weight"]),
    ("cpu-period", ["cpu", "period"]),
    ("cpu-quota", ["cpu", "quota"]),
    ("cpu-burst", ["cpu", "burst"]),
    ("cpu-share", ["cpu", "shares"]),
    ("cpu-rt-period", ["cpu", "realtimePeriod"]),
    ("cpu-rt-runtime", ["cpu", "realtimeRuntime"]),
    ("cpu-idle", ["cpu", "idle"]),
    ("memory", ["memory", "limit"]),
    ("memory-reservation", ["memory", "reservation"]),
    ("memory-swap", ["memory", "swap"]),
];
const TEXTS: [(&str, [&str; 2]); 2] = [("cpuset-cpus", ["cpu", "cpus"]), ("cpuset-mems", ["cpu", "mems"])];

fn resources_of(flags: &Flags) -> Result<LinuxResources> {
    let mut resources = json!({});
    let mut put = |[group, field]: [&str; 2], value: Value| resources[group][field] = value;
    for (option, place) in NUMBERS {
        if let Some(number) = flags.number::<i64>(option)? {
            put(place, number.into());
        }
    }
    for (option, place) in TEXTS {
        if let Some(text) = flags.value(option) {
            put(place, text.into());
        }
    }
    if let Some(number) = flags.number::<i64>("pids-limit")? {
        put(["pids", "limit"], number.into());
    }
    serde_json::from_value(resources).map_err(|error| OciError::io("understand the limits", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::arguments::parse;

    #[test]
    fn options_become_resources() {
        let words = [
            "update",
            "--memory",
            "1000000",
            "--cpuset-cpus=0",
            "--cpu-quota",
            "-1",
            "id",
        ];
        let parsed = parse(&words.map(Into::into)).expect("it is valid");
        let resources = resources_of(&parsed.flags).expect("it is valid");
        assert_eq!(resources.memory().expect("it is set").limit(), Some(1_000_000));
        let cpu = resources.cpu().clone().expect("it is set");
        assert_eq!((cpu.quota(), cpu.cpus().as_deref()), (Some(-1), Some("0")));
        let parsed = parse(&["update", "--memory", "lots", "id"].map(Into::into)).expect("it is valid");
        assert!(resources_of(&parsed.flags).is_err());
    }
}
