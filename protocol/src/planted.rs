//! Bugs that a run can be given on purpose, to prove that the simulator would find them: no release has them.
//!
//! Always true: without the feature `planted-bugs` every question here is answered `false` at compile time, so nothing
//! of a bug is in the binary.

macro_rules! planted_bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal,)+) => {
        /// Something that a core does wrong on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[cfg_attr(not(feature = "planted-bugs"), expect(unreachable_pub, reason = "public with the feature"))]
        pub enum PlantedBug {
            $($(#[doc = $doc])+ $bug,)+
        }

        #[cfg(feature = "planted-bugs")]
        impl PlantedBug {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];

            /// The name on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }
        }
    };
}

planted_bugs! {
    /// A job is acknowledged before any other node has it.
    AcknowledgesAlone = "acknowledges-alone",
    /// An outcome is acknowledged to its executor before another custodian has it.
    RecordsAlone = "records-alone",
    /// A stop is not persisted.
    ForgetsStops = "forgets-stops",
    /// One attempt more than `retry.max` allows.
    RetriesOnceMore = "retries-once-more",
    /// One attempt more than `retry.lost_max` allows.
    RetriesLostOnceMore = "retries-lost-once-more",
    /// A promise is not persisted.
    ForgetsPromises = "forgets-promises",
    /// An arbiter that promised a higher epoch grants on.
    IgnoresEpochs = "ignores-epochs",
    /// A stage starts before those that it needs.
    IgnoresNeeds = "ignores-needs",
    /// A lease of an executor that is gone never ends.
    KeepsDeadLeases = "keeps-dead-leases",
    /// Tasks of a stopped job are granted.
    GrantsStopped = "grants-stopped",
    /// A grant that arrives twice is started twice.
    StartsTwice = "starts-twice",
    /// The first facts after a restart replace the last before it.
    OverwritesSegments = "overwrites-segments",
    /// Custodians take their copies for equal.
    SkipsRepair = "skips-repair",
    /// A node that is no longer custodian does not hand over what it knows.
    DropsHandOver = "drops-hand-over",
    /// Holders of a job tell its custodians only while they are custodians themselves.
    TellsJobsAsCustodian = "tells-jobs-as-custodian",
    /// Outcomes are recorded before their outputs have a second holder.
    SkipsOutputs = "skips-outputs",
    /// A node leaves without handing over.
    LeavesInDebt = "leaves-in-debt",
    /// A lease has more tasks than were wanted.
    GrantsBeyondWants = "grants-beyond-wants",
    /// A report counts whoever held the lease.
    TakesFencedReports = "takes-fenced-reports",
    /// What was counted on both sides of a partition is added up.
    CountsTwice = "counts-twice",
    /// What a task left here is not in use unless this node keeps its shard, too.
    ForgetsUses = "forgets-uses",
    /// A shard is repaired from facts of failures only.
    MergesFailuresOnly = "merges-failures-only",
}
