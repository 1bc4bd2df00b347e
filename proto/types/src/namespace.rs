//! Whose namespaces a container lives in.

use serde::{Deserialize, Deserializer, Serialize};

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The container has one of its own.
    #[default]
    Own,
    /// The host's.
    Host,
    /// Another container's, by reference; by id once the container is made.
    Container(String),
}

/// Where the namespace of System V and POSIX message queues comes from, with the shared memory in /dev/shm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IpcMode {
    /// The container's own, which no other may join.
    #[default]
    Private,
    /// The container's own, which others may join.
    Shareable,
    /// The container's own, without a /dev/shm.
    None,
    /// The host's.
    Host,
    /// Another container's, by reference; by id once the container is made.
    Container(String),
}

/// Which part of the control groups a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CgroupNamespace {
    /// What fits: everything for a privileged container, else its own group.
    #[default]
    Default,
    /// Its own group.
    Private,
    /// Everything.
    Host,
}

impl NamespaceMode {
    /// The container whose namespace is joined.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Container(reference) => Some(reference),
            Self::Own | Self::Host => None,
        }
    }
}

impl IpcMode {
    /// The container whose namespace is joined.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Container(reference) => Some(reference),
            Self::Private | Self::Shareable | Self::None | Self::Host => None,
        }
    }
}

impl CgroupNamespace {
    /// Whether a container with or without all rights sees everything.
    pub fn is_host(self, privileged: bool) -> bool {
        match self {
            Self::Default => privileged,
            Self::Private => false,
            Self::Host => true,
        }
    }
}

impl From<bool> for NamespaceMode {
    fn from(host: bool) -> Self {
        if host { Self::Host } else { Self::Own }
    }
}

impl From<bool> for IpcMode {
    fn from(host: bool) -> Self {
        if host { Self::Host } else { Self::Private }
    }
}

/// Reads a mode, or the flag that earlier versions stored in its place: whether the namespace is the host's.
pub(crate) fn mode_or_flag<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + From<bool>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored<T> {
        Flag(bool),
        Mode(T),
    }
    Ok(match Stored::deserialize(deserializer)? {
        Stored::Flag(host) => T::from(host),
        Stored::Mode(mode) => mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::HostConfig;

    #[test]
    fn rows_of_earlier_versions_are_read() {
        let old: HostConfig = serde_json::from_str(r#"{"pid_host": true, "ipc_host": false}"#).unwrap();
        assert_eq!((old.pid, old.ipc), (NamespaceMode::Host, IpcMode::Private));
        let new = HostConfig {
            pid: NamespaceMode::Container("a".into()),
            ipc: IpcMode::Shareable,
            ..HostConfig::default()
        };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<HostConfig>(&text).unwrap(), new);
    }

    #[test]
    fn privileged_containers_see_all_control_groups_unless_they_ask_otherwise() {
        assert!(CgroupNamespace::Default.is_host(true) && !CgroupNamespace::Default.is_host(false));
        assert!(!CgroupNamespace::Private.is_host(true) && CgroupNamespace::Host.is_host(false));
    }
}
