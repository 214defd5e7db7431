use bytes::Bytes;

use super::*;
use crate::clock;
use crate::id::Incarnation;
use crate::locator::Locator;
use crate::run::{Finished, LeaseRequest, Lost, OutboxId, Retry, Setback};
use crate::state::{StateByte, TaskState};

fn task(index: u16) -> TaskId {
    TaskId::new(0, index)
}

fn entry(wrote: bool, call: Call) -> Entry {
    Entry { run: RunId::new(1, 2), at_ms: 0, wrote, call }
}

/// A commit of one task that has consumed others.
fn commit(index: u16, generation: u8, consumed: &[u16]) -> Commit {
    let end = End::Done { locator: Locator::Empty, record: Bytes::new(), keep: false };
    Commit {
        segment: 0,
        finished: vec![Finished { index, generation, end, lease: None }],
        releases: vec![],
        consumed: consumed.iter().map(|input| (task(*input), 1)).collect(),
        outbox: OutboxId { owner: Incarnation::new(1), sequence: clock::unix_ms() },
        settled: vec![],
        spawn: None,
    }
}

fn written(commit: Commit, run: RunState) -> Entry {
    entry(true, Call::Commit(commit, Committed::Written { ready: vec![], freed: vec![], run }))
}

fn done(index: u16, generation: u8) -> Entry {
    written(commit(index, generation, &[]), RunState::Open)
}

fn superseded(wrote: bool) -> Entry {
    let standing = vec![(StateByte::new(TaskState::Done, 0), Locator::Empty)];
    entry(wrote, Call::Commit(commit(0, 0, &[]), Committed::Superseded(standing)))
}

fn rearmed(index: u16, answer: Rearmed) -> Entry {
    let lost =
        Lost { task: task(index), locator: Locator::Empty, inputs: vec![], successors: vec![] };
    entry(answer == Rearmed::Pending(0), Call::Rearm(vec![lost], vec![answer]))
}

/// The first thing that is wrong.
fn wrong(history: &[Entry]) -> String {
    check(history).expect_err("a violation").remove(0).to_string()
}

#[test]
fn a_history_that_holds_is_summed_up() {
    let over = LeaseRequest { task: task(0), generation: 0, nonce: 2, over: Some(1) };
    let granted = Leased::Granted { attempt: 1, crashes: None };
    let lease = Call::Lease {
        holder: Incarnation::new(1),
        requests: vec![LeaseRequest { over: None, nonce: 1, ..over }, over],
        answers: vec![granted, granted],
    };
    let retry = Retry {
        task: task(1),
        generation: 0,
        setback: Setback::Failed,
        attempt: 1,
        lease: None,
        delay_ms: 0,
    };
    let again = Call::Commit(
        commit(0, 0, &[]),
        Committed::Written { ready: vec![], freed: vec![], run: RunState::Open },
    );
    let history = [
        entry(true, lease),
        done(0, 0),
        entry(false, again),
        superseded(false),
        entry(true, Call::Retry(retry, Retried::Due { at_ms: 1 })),
        rearmed(0, Rearmed::Pending(0)),
        rearmed(0, Rearmed::Already),
        done(0, 1),
        written(commit(1, 0, &[0]), RunState::Done),
    ];
    let expected = Summary {
        committed: 3,
        superseded: 1,
        repeated: 1,
        leased: 2,
        taken_over: 1,
        rearmed: 1,
        given_up: 0,
        retried: 1,
        ended: 1,
    };
    assert_eq!(check(&history), Ok(expected));
}

#[test]
fn what_must_not_be_is_found() {
    assert!(wrong(&[done(0, 0), done(0, 0)]).contains("twice"));
    assert!(wrong(&[done(0, 1)]).contains("is at 0"));
    assert!(wrong(&[done(0, 0), rearmed(0, Rearmed::Pending(0)), done(0, 0)]).contains("is at 1"));
    assert!(wrong(&[written(commit(1, 0, &[0]), RunState::Open)]).contains("never committed"));
    assert!(wrong(&[superseded(true)]).contains("left a trace"));
    let over = [written(commit(0, 0, &[]), RunState::Done), done(1, 0)];
    assert!(wrong(&over).contains("is Done"));
}

#[test]
fn runs_are_told_apart() {
    let other = Entry { run: RunId::new(3, 4), ..done(0, 0) };
    assert_eq!(check(&[done(0, 0), other]).map(|summary| summary.committed), Ok(2));
}

#[test]
fn a_run_that_was_done_goes_on_when_a_result_is_lost() {
    let ended = written(commit(0, 0, &[]), RunState::Done);
    let again = written(commit(0, 1, &[]), RunState::Done);
    let history = [ended, rearmed(0, Rearmed::Pending(0)), again];
    assert_eq!(check(&history).map(|summary| summary.ended), Ok(2));
}
