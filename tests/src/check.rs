//! What must hold of a run whatever has happened to the processes around it, held against everything
//! that is known afterwards: what bodies wrote down, what clients were told, what the store holds,
//! what is left. Pure: a history in, findings out, so that each rule can be tested on a history that
//! breaks it.
//!
//! ```text
//! check/executions.rs   what bodies did: values, inputs, how often
//! check/client.rs       what clients were told
//! check/transitions.rs  what the store has changed, in order
//! check/remains.rs      what the store holds, and what is left when the run is forgotten
//! ```

mod client;
mod executions;
mod remains;
#[cfg(test)]
mod tests;
mod transitions;

use std::collections::BTreeSet;
use std::fmt;

use bolthole::{FailurePolicy, RunState};
use bolthole_broker::audit;
use bolthole_broker::run::RunDump;

use crate::ledger::{Act, Execution};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// C1: an accepted graph ends, in time.
    Ends,
    /// C2: a task is committed once in a generation.
    CommitsOnce,
    /// C3: every result is that of the same graph run in order.
    Values,
    /// C4: a body sees the results that its inputs have.
    Inputs,
    /// C5: a body runs once, and once more at most for each fault that touched it.
    Repeats,
    /// C6: what was refused has left no trace.
    Refused,
    /// C7: what a client has read once, it reads always.
    Steady,
    /// C8: when the run is forgotten, nothing is left.
    Left,
    /// C9: the counts are those of the states.
    Counts,
    /// C10: counting again from the edges gives what is stored.
    Recount,
    /// C12: no secret is printed.
    Secrets,
    /// No process ends or fails that was not made to.
    Processes,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is broken.
    pub invariant: Invariant,
    /// By what.
    pub what: String,
}

impl Finding {
    /// A finding.
    pub fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// What the same graph does when it is run in order.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Everything that its bodies do.
    pub acts: BTreeSet<Act>,
    /// The digest of each output; `None` for one without a result.
    pub outputs: Vec<Option<u64>>,
}

/// Something a client was told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The id of its process.
    pub process: u32,
    /// What.
    pub what: Answer,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its graph is accepted, as this run.
    Submitted(String),
    /// The run has ended, in this state.
    End(String),
    /// An output, by its place, has a result of this digest.
    Output(usize, u64),
    /// It has none, because of this.
    Error(usize, String),
}

/// What is left when the run is forgotten and the workers have gone.
#[derive(Debug, Clone, Default)]
pub struct Left {
    /// Keys in the store that will not go by themselves.
    pub keys: Vec<String>,
    /// Messages in the lanes.
    pub messages: u64,
    /// Spilled results.
    pub files: Vec<String>,
    /// Sockets of processes that have gone: somebody else has them, or has not closed the other end.
    pub sockets: Vec<String>,
    /// Processes.
    pub processes: usize,
}

/// Everything that is known of a run.
#[derive(Debug, Clone)]
pub struct History {
    /// What a failed task meant for the rest.
    pub policy: FailurePolicy,
    /// Whether a client may have cancelled the run.
    pub may_be_cancelled: bool,
    /// What should have happened.
    pub expected: Expected,
    /// How often faults may have made one body run again.
    pub repeats: u64,
    /// What bodies did.
    pub executions: Vec<Execution>,
    /// What the store has changed, in order.
    pub changes: Vec<audit::Entry>,
    /// What clients were told.
    pub told: Vec<Told>,
    /// Where the run stood at last; `None` if it was not there.
    pub state: Option<RunState>,
    /// What the store held of it then.
    pub dump: Option<RunDump>,
    /// What is left.
    pub left: Left,
    /// What no process may print.
    pub secrets: Vec<String>,
    /// What each printed.
    pub logs: Vec<(String, String)>,
}

/// Everything about a history that must not be.
pub fn check(history: &History) -> Vec<Finding> {
    let mut findings = Vec::new();
    client::check(history, &mut findings);
    executions::check(history, &mut findings);
    transitions::check(history, &mut findings);
    remains::check(history, &mut findings);
    findings
}

impl History {
    /// Whether the run may be over before all of its tasks are: it was cancelled, or has failed fast.
    fn is_given_up(&self) -> bool {
        let fails = self.expected.outputs.iter().any(Option::is_none);
        let failed = fails && self.policy == FailurePolicy::FailFast;
        failed || self.state == Some(RunState::Cancelled)
    }

    /// Executions beyond the first of each attempt.
    pub fn repeated(&self) -> usize {
        let attempts: BTreeSet<_> =
            self.executions.iter().map(|one| (&one.run, &one.task, one.attempt)).collect();
        self.executions.len() - attempts.len()
    }
}
