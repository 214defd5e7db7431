//! What the store holds when the run has ended, and what is left when it is forgotten: C8, C9, C10
//! and C12.

use std::collections::BTreeSet;

use bolthole::RunState;
use bolthole_broker::run::RunDump;
use bolthole_broker::state::TaskState;

use super::{Finding, History, Invariant};

pub(super) fn check(history: &History, findings: &mut Vec<Finding>) {
    let ended = history.state.is_some_and(|state| !state.is_running());
    if let Some(dump) = history.dump.as_ref().filter(|_| ended) {
        counts(history, dump, findings);
    }
    if history.state == Some(RunState::Cancelled) && !history.may_be_cancelled {
        findings.push(Finding::new(Invariant::Counts, "the run was cancelled by nobody"));
    }
    left(history, findings);
    for (name, log) in &history.logs {
        if history.secrets.iter().any(|secret| log.contains(secret.as_str())) {
            findings.push(Finding::new(Invariant::Secrets, format!("{name} prints a password")));
        }
    }
}

fn counts(history: &History, dump: &RunDump, findings: &mut Vec<Finding>) {
    let active = dump.segments.values().filter(|segment| segment.active);
    let tasks = active.flat_map(|segment| &segment.tasks).map(|task| task.state.state());
    let tasks: Vec<TaskState> = tasks.collect();
    let count = |state| tasks.iter().filter(|found| **found == state).count() as u64;
    let (pending, failed) = (count(TaskState::Pending), count(TaskState::Failed));
    let counted = (tasks.len() as u64, tasks.len() as u64 - pending, failed);
    let status = &dump.status;
    if counted != (status.tasks, status.finished, status.failed) {
        let what = format!("(tasks, finished, failed) are {counted:?}: {status:?}");
        findings.push(Finding::new(Invariant::Counts, what));
    }
    let fails = history.expected.outputs.iter().any(Option::is_none);
    let state = if fails { RunState::Failed } else { RunState::Done };
    if dump.status.state != state && dump.status.state != RunState::Cancelled {
        let what = format!("the run is {:?}, not {state:?}", dump.status.state);
        findings.push(Finding::new(Invariant::Counts, what));
    }
    let all = !history.is_given_up() || status.state == RunState::Done;
    if all && pending > 0 {
        let what = format!("{pending} tasks are pending and the run is {:?}", status.state);
        findings.push(Finding::new(Invariant::Counts, what));
    } else if all && let Err(error) = dump.check(&BTreeSet::new()) {
        findings.push(Finding::new(Invariant::Recount, error));
    }
}

fn left(history: &History, findings: &mut Vec<Finding>) {
    let left = &history.left;
    let mut found = |what| findings.push(Finding::new(Invariant::Left, what));
    if !left.keys.is_empty() {
        found(format!("keys: {:?}", left.keys));
    }
    if left.messages > 0 {
        found(format!("{} messages", left.messages));
    }
    if !left.files.is_empty() {
        found(format!("files: {:?}", left.files));
    }
    if !left.sockets.is_empty() {
        found(format!("sockets: {:?}", left.sockets));
    }
    if left.processes > 0 {
        found(format!("{} processes", left.processes));
    }
}
