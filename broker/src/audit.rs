//! Every change of every run, in the one order in which the store made them: for tests which prove
//! that nothing was committed twice. Part of builds with the feature `failpoints` alone.
//!
//! A store writes entries from [`crate::store::Store::start_audit`] on, each by the very call that
//! makes the change, so an entry and its change cannot part: what a store has lost is in neither.
//! [`check`] proves what can be said without knowing the graphs.

use bytes::Bytes;

use crate::id::{Incarnation, RunId, TaskId};
use crate::run::{
    Activate, Activated, Commit, Committed, End, FreedResult, LeaseRequest, Leased, Lost, OutboxId,
    Ready, Rearmed, Refused, Relocation, Retried, Retry, Revive, Revived,
};
use crate::state::RunState;

mod check;

pub use check::{Summary, Violation, check};

/// One call that may change a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The run.
    pub run: RunId,
    /// When, in milliseconds since 1970 by the store's clock.
    pub at_ms: u64,
    /// Whether anything that is stored of the run was different afterwards, but for times at which
    /// its client was last seen.
    pub wrote: bool,
    /// What was asked, and what was answered.
    pub call: Call,
}

/// What was asked of a store, and what it answered. Values of results and texts of errors are left
/// out: records are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// A segment becomes part of the run, or some of its edges do.
    Activate(Activate, Activated),
    /// Tasks are finished. [`Committed::Written`] by a call that wrote nothing is the answer to a
    /// repeated one.
    Commit(Commit, Committed),
    /// Results are lost.
    Rearm(Vec<Lost>, Vec<Rearmed>),
    /// Failed and skipped tasks are taken up again.
    Revive(Vec<Revive>, Vec<Revived>),
    /// Results are somewhere else from now on.
    Relocate(Vec<Relocation>, Vec<bool>),
    /// Leases are asked for, prolonged or taken over.
    Lease {
        /// By whom.
        holder: Incarnation,
        /// Which.
        requests: Vec<LeaseRequest>,
        /// An answer to each.
        answers: Vec<Leased>,
    },
    /// The leases of this holder end; what was ready of its tasks.
    Evict(Incarnation, Vec<Ready>),
    /// Leases of these nonces end.
    Unlease(Vec<(TaskId, u64)>),
    /// An attempt has failed, and another is to follow.
    Retry(Retry, Retried),
    /// Handles are dropped.
    Unpin(Vec<TaskId>, Vec<FreedResult>),
    /// The run is closed, cancelled or resumed: its state afterwards.
    Steer(RunState),
    /// An outbox entry is done with.
    Settle(OutboxId),
    /// A call that the store refused, by its name.
    Refused(String),
    /// Any other call, by its name, whatever the answer: `open`, `stage`, `purge`.
    Other(String),
}

impl Call {
    pub(crate) fn activate(asked: &Activate, answer: &Result<Activated, Refused>) -> Self {
        match answer {
            Ok(answer) => Self::Activate(asked.clone(), answer.clone()),
            Err(_) => Self::Refused("activate".to_owned()),
        }
    }

    pub(crate) fn commit(asked: &Commit, answer: &Committed) -> Self {
        let mut asked = asked.clone();
        for finished in &mut asked.finished {
            // The store is told of leases only where they decide.
            if matches!(finished.end, End::Done { keep: false, .. } | End::Skipped { .. }) {
                finished.lease = None;
            }
            match &mut finished.end {
                End::Done { record: bytes, .. } | End::Failed { error: bytes } => bytes.clear(),
                End::Skipped { .. } | End::Forwarded { .. } => {}
            }
        }
        Self::Commit(asked, answer.clone())
    }

    pub(crate) fn relocate(asked: &[Relocation], answers: &[bool]) -> Self {
        let bare = |one: &Relocation| Relocation { record: Bytes::new(), ..one.clone() };
        Self::Relocate(asked.iter().map(bare).collect(), answers.to_vec())
    }
}
