//! What holds of every history.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Call, Entry};
use crate::id::{RunId, TaskId};
use crate::run::{Commit, Committed, End, Leased, Rearmed, Retried, Revived};
use crate::state::RunState;

/// How much of what was found in a history that holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tasks that were finished, each generation for itself.
    pub committed: u64,
    /// Tasks of commits that were answered as another's or as too late.
    pub superseded: u64,
    /// Commits that were answered again.
    pub repeated: u64,
    /// Leases that were granted, prolonged ones included.
    pub leased: u64,
    /// Those among them that were taken over from a dead holder.
    pub taken_over: u64,
    /// Results that were computed again.
    pub rearmed: u64,
    /// Results that were lost too often to be computed once more.
    pub given_up: u64,
    /// Failed attempts that were to be repeated.
    pub retried: u64,
    /// Runs that came to an end.
    pub ended: u64,
}

/// Something in a history that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The run.
    pub run: RunId,
    /// The place of the entry in the history, from zero.
    pub entry: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of run {}: {}", self.entry, self.run, self.what)
    }
}

/// What is known of a run so far.
#[derive(Debug, Default)]
struct Seen {
    /// The generation of each task that was ever rearmed or revived.
    generations: BTreeMap<TaskId, u8>,
    /// Finished tasks with their generations.
    finished: BTreeSet<(TaskId, u8)>,
    /// Tasks that have had a result.
    results: BTreeSet<TaskId>,
    /// A revival puts consumers one generation on without naming them.
    revived: bool,
    ended: Option<RunState>,
}

/// Proves of a history, from its start on: a task is finished once per generation, and only at the
/// generation that it is at; a generation follows only upon a loss or a revival; inputs that a
/// commit has consumed had been committed; what was refused, fenced off or answered again has
/// changed nothing; a run that has ended takes no commits.
///
/// # Errors
/// Every entry that is wrong.
pub fn check(history: &[Entry]) -> Result<Summary, Vec<Violation>> {
    let mut runs: BTreeMap<RunId, Seen> = BTreeMap::new();
    let mut summary = Summary::default();
    let mut violations = Vec::new();
    for (place, entry) in history.iter().enumerate() {
        let seen = runs.entry(entry.run).or_default();
        let found = seen.take(entry, &mut summary);
        let one = |what| Violation { run: entry.run, entry: place, what };
        violations.extend(found.into_iter().map(one));
    }
    if violations.is_empty() { Ok(summary) } else { Err(violations) }
}

impl Seen {
    fn take(&mut self, entry: &Entry, summary: &mut Summary) -> Vec<String> {
        let mut wrong = Vec::new();
        let may_write = match &entry.call {
            Call::Commit(commit, Committed::Written { run, .. }) if entry.wrote => {
                self.commit(commit, summary, &mut wrong);
                self.be(*run, summary);
                true
            }
            Call::Commit(commit, answer) => {
                let tasks = commit.finished.len() as u64;
                match answer {
                    Committed::Written { .. } => summary.repeated += 1,
                    _ => summary.superseded += tasks,
                }
                false
            }
            Call::Rearm(lost, answers) => {
                let pending = lost.iter().zip(answers);
                let pending: Vec<TaskId> = pending
                    .filter(|(_, answer)| matches!(answer, Rearmed::Pending(_)))
                    .map(|(lost, _)| lost.task)
                    .collect();
                summary.rearmed += pending.len() as u64;
                let given_up = |answer: &&Rearmed| matches!(answer, Rearmed::TooOften);
                summary.given_up += answers.iter().filter(given_up).count() as u64;
                self.next_generation(&pending);
                if !pending.is_empty() {
                    // It may have been done: then it goes on.
                    self.ended = None;
                }
                !pending.is_empty()
            }
            Call::Revive(tasks, answers) => {
                let pending = tasks.iter().zip(answers);
                let pending = pending.filter(|(_, answer)| matches!(answer, Revived::Pending(_)));
                for (revive, _) in pending {
                    self.revived = true;
                    self.generations.insert(revive.task, revive.generation + 1);
                }
                true
            }
            Call::Lease { requests, answers, .. } => {
                let granted = |answer: &&Leased| matches!(answer, Leased::Granted { .. });
                let count = answers.iter().filter(granted).count() as u64;
                summary.leased += count;
                let over = requests.iter().zip(answers).filter(|(request, answer)| {
                    request.over.is_some() && matches!(answer, Leased::Granted { .. })
                });
                summary.taken_over += over.count() as u64;
                count > 0
            }
            Call::Retry(_, Retried::Due { .. }) => {
                summary.retried += 1;
                true
            }
            Call::Relocate(_, answers) => answers.contains(&true),
            Call::Steer(state) => {
                self.be(*state, summary);
                true
            }
            Call::Retry(_, Retried::Stale) | Call::Refused(_) => false,
            // These say nothing of whether they found something to do.
            _ => true,
        };
        if entry.wrote && !may_write {
            wrong.push(format!("it was refused, and has left a trace: {:?}", entry.call));
        }
        wrong
    }

    fn commit(&mut self, commit: &Commit, summary: &mut Summary, wrong: &mut Vec<String>) {
        if let Some(state) = self.ended {
            wrong.push(format!("a commit in a run that is {state:?}"));
        }
        for finished in &commit.finished {
            let task = TaskId::new(commit.segment, finished.index);
            let generation = self.generations.get(&task).copied().unwrap_or(0);
            let later = self.revived && finished.generation > generation;
            if finished.generation != generation && !later {
                wrong.push(format!(
                    "task {task} was finished at generation {}, and is at {generation}",
                    finished.generation
                ));
            }
            match finished.end {
                // It is pending still, on another task.
                End::Forwarded { .. } => continue,
                End::Done { .. } => {
                    self.results.insert(task);
                }
                End::Failed { .. } | End::Skipped { .. } => {}
            }
            summary.committed += 1;
            if !self.finished.insert((task, finished.generation)) {
                wrong.push(format!("task {task} was finished twice at {}", finished.generation));
            }
        }
        let without = |finished: &End| !matches!(finished, End::Skipped { .. });
        // Some inputs of a skipped task have no result.
        if commit.finished.iter().all(|finished| without(&finished.end)) {
            for (input, _) in &commit.consumed {
                if !self.results.contains(input) {
                    let by = commit.finished.iter().map(|finished| finished.index);
                    let by: Vec<String> = by.map(|index| index.to_string()).collect();
                    wrong.push(format!(
                        "input {input} was consumed by {}:{}, and never committed",
                        commit.segment,
                        by.join(",")
                    ));
                }
            }
        }
    }

    fn next_generation(&mut self, tasks: &[TaskId]) {
        for task in tasks {
            *self.generations.entry(*task).or_insert(0) += 1;
        }
    }

    /// The run is in this state.
    fn be(&mut self, state: RunState, summary: &mut Summary) {
        let ended = (!state.is_running()).then_some(state);
        if ended.is_some() && self.ended.is_none() {
            summary.ended += 1;
        }
        self.ended = ended;
    }
}

#[cfg(test)]
mod tests;
