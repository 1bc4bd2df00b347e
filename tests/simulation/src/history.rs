//! What clients asked for and what they were told.

use muster_types::{NodeId, ServiceId};

/// What an operation is about: histories of different keys are independent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The service of this name.
    Service(String),
    /// This node's spec.
    Node(NodeId),
}

/// What a key holds: the service that has the name, and the mark of its newest write. A node has no service.
pub type Register = Option<(ServiceId, u64)>;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the service, with this id and mark.
    Create(ServiceId, u64),
    /// Replace the mark that was read by a new one.
    Update(ServiceId, u64, u64),
    /// Remove the service.
    Remove(ServiceId),
    /// Read.
    Read,
}

/// What the client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// The version was stale.
    Stale,
    /// Something of that name or id is, or is not, there.
    Refused,
    /// Refused for a reason that the register does not know; nothing changed.
    Nothing,
    /// The register held this.
    Saw(Register),
    /// Nobody knows.
    Unknown,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What it is about.
    pub key: Key,
    /// What was asked for.
    pub action: Action,
    /// When it began.
    pub begun_us: u64,
    /// When the client was told; never for an unknown outcome.
    pub told_us: Option<u64>,
    /// What the client was told.
    pub told: Told,
}

impl Operation {
    /// The register after this operation, if it may be told so from this register.
    pub fn apply(&self, register: Register) -> Option<Register> {
        let done = match &self.action {
            Action::Create(id, mark) => register.is_none().then_some(Some((*id, *mark))),
            Action::Update(id, from, to) => (register == Some((*id, *from))).then_some(Some((*id, *to))),
            Action::Remove(id) => register.filter(|(held, _)| held == id).map(|_| None),
            Action::Read => Some(register),
        };
        match self.told {
            Told::Done => done,
            Told::Unknown => done,
            Told::Nothing => Some(register),
            Told::Saw(seen) => (seen == register).then_some(register),
            Told::Stale => {
                let Action::Update(id, from, _) = &self.action else {
                    return None;
                };
                // A service that is being removed has changed, too.
                (register != Some((*id, *from))).then_some(register)
            }
            Told::Refused => {
                let refused = match &self.action {
                    Action::Create(..) => register.is_some(),
                    Action::Update(id, ..) | Action::Remove(id) => {
                        register.is_none_or(|(held, _)| held != *id)
                    }
                    Action::Read => false,
                };
                refused.then_some(register)
            }
        }
    }
}
