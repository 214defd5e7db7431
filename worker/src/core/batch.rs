//! Finished tasks on their way to a commit. Pure: builds the commits, decides when to send them.
//!
//! While a commit of a segment is under way, what finishes meanwhile gathers for the next one:
//! commits grow with the load by themselves. An idle worker commits at once, a busy one waits for
//! [`COMMIT_TASKS`] tasks or [`COMMIT_DELAY`].

use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::run::{Commit, End, Finished, OutboxId, SegmentDigest};
use tokio::time::Instant;

/// A commit is sent when this many tasks wait for it.
pub(crate) const COMMIT_TASKS: usize = 64;
/// Or when the first of them has waited this long.
pub(crate) const COMMIT_DELAY: Duration = Duration::from_micros(500);

/// One finished task with the edges that its commit touches.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) finished: Finished,
    /// Of the same segment; empty for a forwarded one, which releases nothing yet.
    pub(crate) successors: Vec<TaskId>,
    pub(crate) inputs: Vec<TaskId>,
    /// Committed alone and at once.
    pub(crate) alone: bool,
    pub(crate) spawn: Option<(u32, SegmentDigest)>,
}

#[derive(Debug, Default)]
struct Gathering {
    entries: BTreeMap<u16, Entry>,
    since: Option<Instant>,
    under_way: bool,
    urgent: bool,
}

impl Gathering {
    /// Whether it is to be committed, `most` tasks at a time.
    fn is_due(&self, now: Instant, idle: bool, most: usize) -> bool {
        let late = self.since.is_some_and(|since| now >= since + COMMIT_DELAY);
        let many = self.entries.len() >= COMMIT_TASKS.min(most);
        let due = idle || late || self.urgent || many;
        due && !self.under_way && !self.entries.is_empty()
    }
}

/// What waits to be committed, by run and segment.
#[derive(Debug)]
pub(crate) struct Batches {
    owner: Incarnation,
    /// The most tasks that one commit finishes.
    most: usize,
    sequence: u64,
    open: BTreeMap<(RunId, u32), Gathering>,
    /// Outbox entries whose releases are settled, to be deleted with the next commit of their run.
    settled: BTreeMap<RunId, Vec<u64>>,
}

impl Batches {
    pub(crate) fn new(owner: Incarnation, most: usize) -> Self {
        let most = most.clamp(1, limits::COMMIT_TASKS_MAX);
        Self { owner, most, sequence: 0, open: BTreeMap::new(), settled: BTreeMap::new() }
    }

    /// A task has finished.
    pub(crate) fn add(&mut self, run: RunId, segment: u32, entry: Entry, now: Instant) {
        let gathering = self.open.entry((run, segment)).or_default();
        gathering.since.get_or_insert(now);
        gathering.urgent |= entry.alone;
        gathering.entries.insert(entry.finished.index, entry);
    }

    /// The releases of an outbox entry are published or committed.
    pub(crate) fn settle(&mut self, run: RunId, sequence: u64) {
        self.settled.entry(run).or_default().push(sequence);
    }

    /// Settled entries of runs that have nothing to commit: to be deleted on their own.
    pub(crate) fn take_idle_settled(&mut self) -> Vec<(RunId, Vec<u64>)> {
        let busy = |run: &RunId| self.open.keys().any(|(open, _)| open == run);
        let idle: Vec<RunId> = self.settled.keys().filter(|run| !busy(run)).copied().collect();
        let taken = idle.into_iter().filter_map(|run| self.settled.remove_entry(&run));
        taken.collect()
    }

    /// The commits to send now; `idle` when no task could be run meanwhile.
    pub(crate) fn take_due(&mut self, now: Instant, idle: bool) -> Vec<(RunId, Commit)> {
        let due = self.open.iter().filter(|(_, gathering)| gathering.is_due(now, idle, self.most));
        let due: Vec<(RunId, u32)> = due.map(|(place, _)| *place).collect();
        due.into_iter().filter_map(|(run, segment)| self.take(run, segment)).collect()
    }

    /// Whether there are any.
    pub(crate) fn has_due(&self, now: Instant, idle: bool) -> bool {
        self.open.values().any(|gathering| gathering.is_due(now, idle, self.most))
    }

    /// When the next gathering is due by its age.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let waiting = self.open.values().filter(|gathering| !gathering.under_way);
        waiting.filter_map(|gathering| Some(gathering.since? + COMMIT_DELAY)).min()
    }

    /// The commit of a segment has been answered.
    pub(crate) fn answered(&mut self, run: RunId, segment: u32, now: Instant) {
        if let Some(gathering) = self.open.get_mut(&(run, segment)) {
            gathering.under_way = false;
            gathering.since = (!gathering.entries.is_empty()).then_some(now);
            if gathering.entries.is_empty() {
                self.open.remove(&(run, segment));
            }
        }
    }

    /// Takes back a task that must not be committed after all.
    pub(crate) fn remove(&mut self, run: RunId, task: TaskId) -> Option<Entry> {
        let place = (run, task.segment());
        let gathering = self.open.get_mut(&place)?;
        let entry = gathering.entries.remove(&task.index());
        // An empty one would be due for ever.
        if gathering.entries.is_empty() && !gathering.under_way {
            self.open.remove(&place);
        }
        entry
    }

    /// Forgets a run that takes no commits any more.
    pub(crate) fn drop_run(&mut self, run: RunId) {
        self.open.retain(|(open, _), gathering| *open != run || gathering.under_way);
        for ((open, _), gathering) in &mut self.open {
            if *open == run {
                gathering.entries.clear();
                gathering.urgent = false;
            }
        }
        self.settled.remove(&run);
    }

    /// Whether nothing waits and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn take(&mut self, run: RunId, segment: u32) -> Option<(RunId, Commit)> {
        let gathering = self.open.get_mut(&(run, segment))?;
        let mut releases: Vec<(TaskId, u32)> = Vec::new();
        let mut consumed: Vec<(TaskId, u32)> = Vec::new();
        let mut finished = Vec::new();
        let mut spawn = None;
        while let Some(next) = gathering.entries.first_entry() {
            let entry = next.get();
            let more = releases.len() + entry.successors.len();
            let full =
                finished.len() >= self.most || more > limits::COMMIT_SUCCESSORS_MAX || entry.alone;
            if full && !finished.is_empty() {
                break;
            }
            let entry = next.remove();
            releases.extend(entry.successors.iter().map(|task| (*task, 1)));
            consumed.extend(entry.inputs.iter().map(|task| (*task, 1)));
            spawn = entry.spawn;
            finished.push(entry.finished);
            if entry.alone {
                break;
            }
        }
        gathering.under_way = true;
        gathering.urgent = gathering.entries.values().any(|entry| entry.alone);
        self.sequence += 1;
        let outbox = OutboxId { owner: self.owner, sequence: self.sequence };
        let settled = self.settled.remove(&run).unwrap_or_default();
        let (releases, consumed) = (summed(releases), summed(consumed));
        let commit = Commit { segment, finished, releases, consumed, outbox, settled, spawn };
        Some((run, commit))
    }
}

/// Equal tasks once each, with the sum of their counts, ascending.
fn summed(mut counts: Vec<(TaskId, u32)>) -> Vec<(TaskId, u32)> {
    counts.sort_unstable_by_key(|(task, _)| *task);
    counts.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    counts
}

/// Whether a task that ends like this must be committed by itself: an effect, a failure, or one
/// that brings a segment of its own.
pub(crate) fn stands_alone(end: &End, spawn: Option<&(u32, SegmentDigest)>) -> bool {
    let alone = match end {
        End::Done { keep, .. } => *keep,
        End::Failed { .. } | End::Forwarded { .. } => true,
        End::Skipped { .. } => false,
    };
    alone || spawn.is_some()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(index: u16, successors: &[u16], alone: bool) -> Entry {
        let end = End::Skipped { cause: TaskId::new(0, 0) };
        Entry {
            finished: Finished { index, generation: 0, end, lease: None },
            successors: successors.iter().map(|index| TaskId::new(0, *index)).collect(),
            inputs: vec![TaskId::new(0, 0)],
            alone,
            spawn: None,
        }
    }

    fn batches() -> (Batches, RunId, Instant) {
        (
            Batches::new(Incarnation::new(1), limits::COMMIT_TASKS_MAX),
            RunId::new(0, 1),
            Instant::now(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn what_finishes_while_a_commit_is_under_way_goes_with_the_next_one() {
        let (mut batches, run, now) = batches();
        batches.add(run, 0, entry(1, &[5, 6], false), now);
        batches.add(run, 0, entry(2, &[5], false), now);
        assert!(batches.take_due(now, false).is_empty(), "young and few");
        let first = batches.take_due(now, true);
        let (_, commit) = &first[0];
        assert_eq!(commit.releases, [(TaskId::new(0, 5), 2), (TaskId::new(0, 6), 1)]);
        assert_eq!(commit.consumed, [(TaskId::new(0, 0), 2)]);
        batches.add(run, 0, entry(3, &[], false), now);
        assert!(batches.take_due(now, true).is_empty(), "one at a time");
        batches.answered(run, 0, now);
        let second = batches.take_due(now, true);
        assert_eq!(second[0].1.finished.len(), 1);
        assert!(second[0].1.outbox > first[0].1.outbox);
        batches.answered(run, 0, now);
        assert!(batches.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn effects_and_failures_are_committed_alone() {
        let (mut batches, run, now) = batches();
        batches.add(run, 0, entry(1, &[], false), now);
        batches.add(run, 0, entry(2, &[], true), now);
        let sizes = |commits: Vec<(RunId, Commit)>| commits[0].1.finished.len();
        assert_eq!(sizes(batches.take_due(now, false)), 1);
        batches.answered(run, 0, now);
        assert_eq!(sizes(batches.take_due(now, false)), 1);
        let failed = End::Failed { error: Bytes::new() };
        assert!(stands_alone(&failed, None));
    }

    #[tokio::test(start_paused = true)]
    async fn commits_may_be_of_one_task_each() {
        for most in [0, 1] {
            let (_, run, now) = batches();
            let mut batches = Batches::new(Incarnation::new(1), most);
            batches.add(run, 0, entry(1, &[], false), now);
            batches.add(run, 0, entry(2, &[], false), now);
            for left in [1, 0] {
                let commits = batches.take_due(now, false);
                assert_eq!(commits[0].1.finished.len(), 1, "{left} are left");
                batches.answered(run, 0, now);
            }
            assert!(batches.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn commits_are_cut_at_their_limits() {
        let (mut batches, run, now) = batches();
        for index in 0..300 {
            batches.add(run, 0, entry(index, &[1000], false), now);
        }
        let commits = batches.take_due(now, false);
        assert_eq!(commits[0].1.finished.len(), limits::COMMIT_TASKS_MAX);
        let wide: Vec<u16> = (1000..1600).collect();
        let (mut batches, run, now) = self::batches();
        batches.add(run, 0, entry(1, &wide, false), now);
        batches.add(run, 0, entry(2, &wide, false), now);
        assert_eq!(batches.take_due(now, true)[0].1.finished.len(), 1);
    }
}
