//! Events that the Engine API streams.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One event, in the Engine API's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Kind of object.
    pub kind: EventKind,
    /// What happened, for example `start`.
    pub action: String,
    /// The object's id.
    pub actor_id: String,
    /// Further attributes, for example `name` and `image`.
    pub attributes: BTreeMap<String, String>,
    /// `local` for engine objects, `swarm` for cluster objects.
    pub scope: EventScope,
    /// When.
    pub at: Timestamp,
}

/// Kind of object that an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// The daemon.
    Daemon,
    /// A service.
    Service,
    /// A node.
    Node,
    /// A secret.
    Secret,
    /// A config.
    Config,
}

impl EventKind {
    /// Lower-case name as the Engine API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
            Self::Service => "service",
            Self::Node => "node",
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventScope {
    /// The node's engine.
    Local,
    /// The cluster.
    Swarm,
}
