//! Every change of the run, in the order in which the store made them: C2 and C6.

use bolthole_broker::audit;

use super::{Finding, History, Invariant};

pub(super) fn check(history: &History, findings: &mut Vec<Finding>) {
    let Err(violations) = audit::check(&history.changes) else { return };
    for violation in violations {
        // Its input was committed, in the past that was undone: it is committed again.
        if history.rolled_back && violation.what.ends_with("was consumed, and never committed") {
            continue;
        }
        let refused = violation.what.contains("refused");
        let invariant = if refused { Invariant::Refused } else { Invariant::CommitsOnce };
        findings.push(Finding::new(invariant, violation.to_string()));
    }
}
