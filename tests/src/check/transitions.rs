//! Every change of the run, in the order in which the store made them: C2 and C6.

use bolthole_broker::audit;

use super::{Finding, History, Invariant};

pub(super) fn check(history: &History, findings: &mut Vec<Finding>) {
    let Err(violations) = audit::check(&history.changes) else { return };
    for violation in violations {
        let refused = violation.what.contains("refused");
        let invariant = if refused { Invariant::Refused } else { Invariant::CommitsOnce };
        findings.push(Finding::new(invariant, violation.to_string()));
    }
}
