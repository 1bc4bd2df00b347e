//! What a node does with the Raft log that it opened under its Raft id.

/// What is there when the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The log names the members of a group: it was begun here, or came from a leader.
    pub initialized: bool,
    /// The first state of a new cluster is to go into it.
    pub begins_cluster: bool,
    /// The cluster has just given out the Raft id, with members that will send the log.
    pub joins: bool,
}

/// What the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It takes part with the log as it is.
    TakePart,
    /// It puts the first state of a new cluster into the log, and takes part.
    BeginCluster,
    /// It had a log under this id and has lost it, or never received one. It no longer knows what it acknowledged and
    /// for whom it voted, so it must not speak under this id again.
    GiveUpRaftId,
}

/// Decides before the first message under the Raft id goes out.
pub fn opening(opened: Opened) -> Opening {
    match opened {
        Opened {
            initialized: true, ..
        } => Opening::TakePart,
        Opened {
            begins_cluster: true, ..
        } => Opening::BeginCluster,
        Opened { joins: true, .. } => Opening::TakePart,
        Opened { .. } => Opening::GiveUpRaftId,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_log_that_nobody_will_fill_costs_the_raft_id() {
        let decide = |initialized, begins_cluster, joins| {
            opening(Opened {
                initialized,
                begins_cluster,
                joins,
            })
        };
        for (begins_cluster, joins) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(decide(true, begins_cluster, joins), Opening::TakePart);
        }
        assert_eq!(decide(false, true, false), Opening::BeginCluster);
        assert_eq!(decide(false, false, true), Opening::TakePart);
        assert_eq!(decide(false, false, false), Opening::GiveUpRaftId);
    }
}
