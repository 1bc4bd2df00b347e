//! `PidMode`, `IpcMode`, `UTSMode`, `CgroupnsMode` and `UsernsMode`.

use super::Read;
use crate::http::Failure;
use muster_types::namespace::{CgroupNamespace, IpcMode, NamespaceMode};

/// Reads `PidMode`.
pub(crate) fn read_pid(mode: &str) -> Read<NamespaceMode> {
    match (mode, container(mode)) {
        ("", _) => Ok(NamespaceMode::Own),
        ("host", _) => Ok(NamespaceMode::Host),
        (_, Some(reference)) => Ok(NamespaceMode::Container(reference)),
        (_, None) => Err(Failure::invalid(format!("invalid PID mode: {mode}"))),
    }
}

/// Reads `IpcMode`.
pub(crate) fn read_ipc(mode: &str) -> Read<IpcMode> {
    match (mode, container(mode)) {
        ("" | "private", _) => Ok(IpcMode::Private),
        ("shareable", _) => Ok(IpcMode::Shareable),
        ("none", _) => Ok(IpcMode::None),
        ("host", _) => Ok(IpcMode::Host),
        (_, Some(reference)) => Ok(IpcMode::Container(reference)),
        (_, None) => Err(Failure::invalid(format!("invalid IPC mode: {mode}"))),
    }
}

/// Reads `UTSMode`: whether it is the host's.
pub(crate) fn read_uts(mode: &str) -> Read<bool> {
    host_or_own("UTS mode", mode)
}

/// Reads `UsernsMode`: whether it is the host's.
pub(crate) fn read_user(mode: &str) -> Read<bool> {
    host_or_own("user namespace mode", mode)
}

/// Reads `CgroupnsMode`.
pub(crate) fn read_cgroup(mode: &str) -> Read<CgroupNamespace> {
    match mode {
        "" => Ok(CgroupNamespace::Default),
        "private" => Ok(CgroupNamespace::Private),
        "host" => Ok(CgroupNamespace::Host),
        _ => Err(Failure::invalid(format!("invalid cgroup namespace mode: {mode}"))),
    }
}

/// Writes `PidMode`.
pub(crate) fn write_pid(mode: &NamespaceMode) -> String {
    match mode {
        NamespaceMode::Own => String::new(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
    }
}

/// Writes `IpcMode`.
pub(crate) fn write_ipc(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(id) => format!("container:{id}"),
    }
}

/// Writes `UTSMode` and `UsernsMode`.
pub(crate) fn write_host(host: bool) -> String {
    if host { "host" } else { "" }.to_owned()
}

/// Writes `CgroupnsMode` as it is in effect.
pub(crate) fn write_cgroup(mode: CgroupNamespace, privileged: bool) -> String {
    if mode.is_host(privileged) {
        "host"
    } else {
        "private"
    }
    .to_owned()
}

fn container(mode: &str) -> Option<String> {
    let reference = mode.strip_prefix("container:")?;
    (!reference.is_empty()).then(|| reference.to_owned())
}

fn host_or_own(field: &str, mode: &str) -> Read<bool> {
    match mode {
        "" => Ok(false),
        "host" => Ok(true),
        _ => Err(Failure::invalid(format!("invalid {field}: {mode}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_written_back() {
        for mode in ["", "host", "container:web"] {
            assert_eq!(write_pid(&read_pid(mode).unwrap()), mode);
        }
        for mode in ["private", "shareable", "none", "host", "container:web"] {
            assert_eq!(write_ipc(&read_ipc(mode).unwrap()), mode);
        }
        assert_eq!(write_ipc(&read_ipc("").unwrap()), "private");
        assert!(read_uts("host").unwrap() && !read_user("").unwrap());
        assert_eq!(write_cgroup(read_cgroup("").unwrap(), true), "host");
        assert_eq!(write_cgroup(read_cgroup("private").unwrap(), true), "private");
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        let message = |failure: Failure| failure.message;
        assert_eq!(
            message(read_pid("private").unwrap_err()),
            "invalid PID mode: private"
        );
        assert_eq!(
            message(read_pid("container:").unwrap_err()),
            "invalid PID mode: container:"
        );
        assert_eq!(message(read_ipc("x").unwrap_err()), "invalid IPC mode: x");
        assert_eq!(message(read_uts("x").unwrap_err()), "invalid UTS mode: x");
        assert_eq!(
            message(read_cgroup("x").unwrap_err()),
            "invalid cgroup namespace mode: x"
        );
        assert!(read_user("x").is_err());
    }
}
