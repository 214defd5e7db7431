//! What clients were told: C1, C3 and C7.

use std::collections::HashMap;

use super::{Answer, Finding, History, Invariant};

pub(super) fn check(history: &History, findings: &mut Vec<Finding>) {
    let ends = history.told.iter().any(|told| matches!(told.what, Answer::End(_)));
    match history.state {
        Some(state) if state.is_running() => {
            findings.push(Finding::new(Invariant::Ends, format!("the run is {state:?} still")));
        }
        None => findings.push(Finding::new(Invariant::Ends, "the store knows nothing of the run")),
        Some(_) if !ends => {
            findings.push(Finding::new(Invariant::Ends, "the client was not told of the end"));
        }
        Some(_) => {}
    }
    let mut read: HashMap<usize, &Answer> = HashMap::new();
    for told in &history.told {
        match &told.what {
            Answer::Output(place, digest) => {
                value(history, *place, *digest, findings);
                steady(history, read.insert(*place, &told.what), &told.what, findings);
            }
            Answer::Error(place, why) => {
                error(history, *place, why, findings);
                steady(history, read.insert(*place, &told.what), &told.what, findings);
            }
            Answer::Submitted(_) | Answer::End(_) => {}
        }
    }
    let unread = (0..history.expected.outputs.len()).filter(|place| !read.contains_key(place));
    let unread: Vec<usize> = unread.collect();
    if !unread.is_empty() {
        findings.push(Finding::new(Invariant::Ends, format!("never told of outputs {unread:?}")));
    }
}

fn value(history: &History, place: usize, digest: u64, findings: &mut Vec<Finding>) {
    let expected = history.expected.outputs.get(place).copied().flatten();
    if expected != Some(digest) {
        let what = format!("output {place} is {digest:016x}, not {expected:016x?}");
        findings.push(Finding::new(Invariant::Values, what));
    }
}

/// A run that is given up gives up outputs that could have been had; no other does.
fn error(history: &History, place: usize, why: &str, findings: &mut Vec<Finding>) {
    let of_task = why.starts_with("Task");
    let expected = history.expected.outputs.get(place).copied().flatten().is_none();
    if !(history.is_given_up() || (expected && of_task)) {
        findings.push(Finding::new(Invariant::Values, format!("output {place} has none: {why}")));
    }
}

fn steady(history: &History, before: Option<&Answer>, now: &Answer, findings: &mut Vec<Finding>) {
    let changed = match (before, now) {
        // What is lost of such a run is not computed again, or is skipped when it ends meanwhile.
        (Some(Answer::Output(..)), Answer::Error(_, why))
            if why.starts_with("Gone") || why.contains("was skipped, because") =>
        {
            !history.is_given_up()
        }
        (Some(Answer::Output(_, before)), Answer::Output(_, now)) => before != now,
        (Some(Answer::Output(..)), Answer::Error(..))
        | (Some(Answer::Error(..)), Answer::Output(..)) => true,
        _ => false,
    };
    if changed {
        findings.push(Finding::new(Invariant::Steady, format!("first {before:?}, then {now:?}")));
    }
}
