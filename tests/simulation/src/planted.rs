//! Bugs to be found: each is put between the production code and its surroundings, never into it.

use clap::ValueEnum;

/// A bug that the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlantedBug {
    /// Disks say that they synced and did not.
    SkippedSync,
    /// Controllers vote for every candidate of a term.
    DoubleVote,
    /// Controllers answer reads without asking a quorum.
    StaleRead,
    /// A write's version is replaced by the newest before it is decided.
    IgnoredPrecondition,
    /// A retry carries a new request id.
    ForgottenRequestId,
    /// A write is acknowledged when it is proposed.
    EarlyAcknowledgement,
    /// A final status is dropped on its way and acknowledged.
    LostFinalStatus,
    /// Nodes do not hear that no task needs a secret any more.
    KeptSecrets,
    /// What completed is reported as failed, now and then.
    MisreportedCompletion,
    /// Agents take older assignment sets.
    OlderAssignments,
    /// An assignment set is dropped on its way.
    LostAssignments,
    /// What changed in a network is dropped on its way.
    LostNetworkNews,
    /// Places that nodes give back stay held.
    LostReturns,
    /// A node is sent the tasks of another.
    MovedTask,
    /// Leases of dead nodes are renewed.
    EternalLease,
    /// Daemons that restart say so again and again, and never come back.
    EternalRestart,
    /// Heartbeats are accepted and not counted.
    ForgottenHeartbeat,
    /// A controller that lost its log comes back under its old Raft id.
    ReusedRaftId,
    /// A certificate's word is enough, whatever its node's record says.
    BelievedCertificate,
}
