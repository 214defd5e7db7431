//! What bodies did: C3, C4 and C5. A body that saw another input than the graph run in order gives
//! it, or gave another result, is none that the graph in order has.

use std::collections::{BTreeMap, BTreeSet};

use bolthole::{FailurePolicy, RunState};

use super::{Finding, History, Invariant};
use crate::ledger::Act;

pub(super) fn check(history: &History, findings: &mut Vec<Finding>) {
    let acts = &history.expected.acts;
    let begun: BTreeSet<(&str, u64)> =
        acts.iter().map(|act| (act.label.as_str(), act.inputs)).collect();
    for execution in &history.executions {
        let act = &execution.act;
        let task = &execution.task;
        if !begun.contains(&(&act.label, act.inputs)) {
            let what = format!("{} ({task}) ran on inputs {:016x}", act.label, act.inputs);
            findings.push(Finding::new(Invariant::Inputs, what));
        } else if act.outcome.is_some() && !acts.contains(act) {
            let what = format!("{} ({task}) ended with {:x?}", act.label, act.outcome);
            findings.push(Finding::new(Invariant::Values, what));
        }
    }
    missing(history, findings);
    repeated(history, findings);
}

/// What counts as finished must have run.
fn missing(history: &History, findings: &mut Vec<Finding>) {
    let complete = match history.policy {
        FailurePolicy::Continue => {
            history.state.is_some_and(|state| !state.is_running()) && !history.is_given_up()
        }
        FailurePolicy::FailFast => history.state == Some(RunState::Done),
    };
    if !complete {
        return;
    }
    let ran: BTreeSet<&Act> = history.executions.iter().map(|execution| &execution.act).collect();
    let missing: Vec<&Act> =
        history.expected.acts.iter().filter(|act| !ran.contains(act)).take(5).collect();
    if !missing.is_empty() {
        let what = format!("finished without having run: {missing:x?}");
        findings.push(Finding::new(Invariant::Values, what));
    }
}

/// Attempts that failed by themselves are told apart by their number.
fn repeated(history: &History, findings: &mut Vec<Finding>) {
    let mut counts: BTreeMap<(&str, &str, u32), u64> = BTreeMap::new();
    for execution in &history.executions {
        let attempt = (execution.run.as_str(), execution.task.as_str(), execution.attempt);
        *counts.entry(attempt).or_default() += 1;
    }
    let allowed = 1 + history.repeats;
    for ((_, task, attempt), count) in counts {
        if count > allowed {
            let what = format!("{task}, attempt {attempt}, ran {count} times, not {allowed}");
            findings.push(Finding::new(Invariant::Repeats, what));
        }
    }
}
