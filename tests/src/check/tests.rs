use super::*;
use crate::ledger::Outcome;

fn act(label: &str, inputs: u64, result: u64) -> Act {
    Act { label: label.into(), inputs, outcome: Some(Outcome::Done(result)) }
}

fn execution(task: &str, act: Act) -> Execution {
    let run = "run".to_owned();
    let (process, began_ms, ended_ms, attempt) = (1, 1, Some(2), 1);
    Execution { process, began_ms, ended_ms, run, task: task.into(), attempt, act }
}

/// Two tasks, the second of which is the output.
fn good() -> History {
    let acts = [act("plain/0", 1, 10), act("plain/1", 10, 20)];
    let told = [
        Answer::Submitted("run".into()),
        Answer::Output(0, 20),
        Answer::End("Done".into()),
        Answer::Output(0, 20),
    ];
    History {
        policy: FailurePolicy::Continue,
        may_be_cancelled: false,
        expected: Expected { acts: acts.clone().into(), outputs: vec![Some(20)] },
        repeats: 0,
        executions: acts.into_iter().zip(["0:0", "0:1"]).map(|(a, t)| execution(t, a)).collect(),
        told: told.into_iter().map(|what| Told { process: 1, what }).collect(),
        changes: vec![],
        state: Some(RunState::Done),
        dump: None,
        left: Left::default(),
        secrets: vec!["hunter2".into()],
        logs: vec![("worker".into(), "started".into())],
    }
}

/// Fails unless the history breaks exactly this.
#[track_caller]
fn breaks(history: &History, invariant: Invariant) {
    let findings = check(history);
    assert!(!findings.is_empty(), "nothing was found");
    assert!(findings.iter().all(|finding| finding.invariant == invariant), "{findings:?}");
}

#[test]
fn a_run_as_it_should_be_breaks_nothing() {
    assert_eq!(check(&good()), []);
}

#[test]
fn c1_a_run_that_does_not_end() {
    let mut history = good();
    history.state = Some(RunState::Closed);
    breaks(&history, Invariant::Ends);
    history.state = None;
    breaks(&history, Invariant::Ends);
}

#[test]
fn c1_a_client_that_waits_in_vain() {
    let mut history = good();
    history.told.truncate(2);
    breaks(&history, Invariant::Ends);
    history.told = good().told;
    history.told.retain(|told| !matches!(told.what, Answer::Output(..)));
    breaks(&history, Invariant::Ends);
}

#[test]
fn a_run_that_may_be_cancelled_need_not_finish_and_no_other_may_be() {
    let mut history = good();
    let error = Answer::Error(0, "Cancelled: half is enough".into());
    history.executions.pop();
    history.told[1] = Told { process: 1, what: error.clone() };
    history.told[3] = Told { process: 1, what: error };
    history.state = Some(RunState::Cancelled);
    history.may_be_cancelled = true;
    assert_eq!(check(&history), []);
    history.may_be_cancelled = false;
    breaks(&history, Invariant::Counts);
}

#[test]
fn c2_and_c6_a_commit_that_comes_twice_and_one_that_was_refused() {
    use bolthole_broker::audit::{Call, Entry};
    use bolthole_broker::id::{Incarnation, RunId, TaskId};
    use bolthole_broker::run::{Commit, Committed, End, Finished, OutboxId, Ready};
    let finished = Finished {
        index: 0,
        generation: 0,
        end: End::Skipped { cause: TaskId::new(0, 0) },
        lease: None,
    };
    let commit = |sequence| Commit {
        segment: 0,
        finished: vec![finished.clone()],
        releases: vec![],
        consumed: vec![],
        outbox: OutboxId { owner: Incarnation::new(1), sequence },
        settled: vec![],
        spawn: None,
    };
    let ready: Vec<Ready> = vec![];
    let written = Committed::Written { ready, freed: vec![], run: RunState::Closed };
    let entry = |call| Entry { run: RunId::new(1, 1), at_ms: 1, wrote: true, call };
    let mut history = good();
    history.changes = vec![entry(Call::Commit(commit(1), written.clone()))];
    assert_eq!(check(&history), []);
    history.changes.push(entry(Call::Commit(commit(2), written)));
    breaks(&history, Invariant::CommitsOnce);
    history.changes.pop();
    history.changes.push(entry(Call::Commit(commit(2), Committed::Superseded(vec![]))));
    breaks(&history, Invariant::Refused);
}

#[test]
fn c3_a_wrong_value_of_a_body_or_at_the_client() {
    let mut history = good();
    history.executions.push(execution("0:2", act("plain/1", 10, 21)));
    breaks(&history, Invariant::Values);
    let mut history = good();
    history.told.retain(|told| !matches!(told.what, Answer::Output(..)));
    history.told.push(Told { process: 1, what: Answer::Output(0, 21) });
    breaks(&history, Invariant::Values);
}

#[test]
fn c3_an_error_where_there_is_a_result() {
    let mut history = good();
    history.told.retain(|told| !matches!(told.what, Answer::Output(..)));
    let error = |why: &str| Told { process: 1, what: Answer::Error(0, why.into()) };
    history.told.push(error("Task(DataLost)"));
    breaks(&history, Invariant::Values);
    history.expected.outputs = vec![None];
    assert_eq!(check(&history), []);
    history.told.push(error("Store: away"));
    breaks(&history, Invariant::Values);
    history.policy = FailurePolicy::FailFast;
    assert_eq!(check(&history), []);
}

#[test]
fn c3_a_task_that_counts_as_finished_and_never_ran() {
    let mut history = good();
    history.executions.pop();
    breaks(&history, Invariant::Values);
    history.executions.push(execution("0:1", Act { outcome: None, ..act("plain/1", 10, 20) }));
    breaks(&history, Invariant::Values);
}

#[test]
fn c4_a_body_that_saw_another_input() {
    let mut history = good();
    history.repeats = 1;
    history.executions.push(execution("0:1", act("plain/1", 11, 20)));
    breaks(&history, Invariant::Inputs);
}

#[test]
fn c5_a_body_that_ran_too_often() {
    let mut history = good();
    history.executions.push(execution("0:1", act("plain/1", 10, 20)));
    breaks(&history, Invariant::Repeats);
    history.repeats = 1;
    assert_eq!(check(&history), []);
    history.repeats = 0;
    history.executions[2].attempt = 2;
    assert_eq!(check(&history), [], "a retry is no repetition");
}

#[test]
fn c7_a_result_that_changes() {
    let mut history = good();
    let error = Answer::Error(0, "Task(DataLost)".into());
    history.told.push(Told { process: 1, what: error });
    let findings = check(&history);
    assert!(findings.iter().any(|finding| finding.invariant == Invariant::Steady), "{findings:?}");
}

#[test]
fn c8_whatever_is_left() {
    let lefts = [
        Left { keys: vec!["bh:run".into()], ..Left::default() },
        Left { messages: 1, ..Left::default() },
        Left { files: vec!["spill/1".into()], ..Left::default() },
        Left { sockets: vec!["a b 8".into()], ..Left::default() },
        Left { processes: 1, ..Left::default() },
    ];
    for left in lefts {
        breaks(&History { left, ..good() }, Invariant::Left);
    }
}

#[test]
fn c9_and_c10_counts_that_are_not_those_of_the_states() {
    use bolthole_broker::run::{RunStatus, SegmentDump, TaskDump};
    use bolthole_broker::state::{StateByte, TaskState};
    let task = |state, consumers| TaskDump {
        state: StateByte::new(state, 0),
        pending: 0,
        consumers,
        locator: [0; 8],
        record: None,
        later: vec![],
    };
    let status = |finished| RunStatus {
        state: RunState::Done,
        tasks: 2,
        finished,
        failed: 0,
        segments: 1,
        spawned: 0,
        name: None,
        header: [].into(),
        reason: None,
    };
    let dump = |finished, last, consumers| {
        let tasks = vec![task(TaskState::Freed, 0), task(last, consumers)];
        let segment = SegmentDump { active: true, cursor: 0, tasks };
        let (outbox, failures, suspects) = Default::default();
        let (status, segments) = (status(finished), [(0, segment)].into());
        Some(RunDump { status, segments, outbox, failures, suspects })
    };
    let with = |dump| History { dump, ..good() };
    assert_eq!(check(&with(dump(2, TaskState::Done, 0))), []);
    breaks(&with(dump(1, TaskState::Done, 0)), Invariant::Counts);
    breaks(&with(dump(1, TaskState::Pending, 0)), Invariant::Counts);
    breaks(&with(dump(2, TaskState::Done, 1)), Invariant::Recount);
}

#[test]
fn c12_a_password_in_a_log() {
    let mut history = good();
    history.logs.push(("client".into(), "connecting to redis://x:hunter2@host".into()));
    breaks(&history, Invariant::Secrets);
}
