//! The store of the model: the executable specification itself, and beside it what must hold of
//! everything that was ever written to it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bolthole_broker::id::{Incarnation, TaskId};
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::spec::Run;
use bolthole_broker::run::{
    Commit, Committed, End, LeaseRequest, Leased, Lost, Rearmed, TaskStatus,
};
use bolthole_broker::state::TaskState;

use super::graph::{Graph, Task, id};
use super::plant::Plant;

/// Who computed a value: a task's so many-eth execution. Stands for its nonce and its bytes.
pub(crate) type Nonce = u8;
/// A value: whose, of which generation, computed by which execution.
pub(crate) type Value = (Task, u8, Nonce);

/// What one finished task of a commit was computed from.
pub(crate) type Sources = Vec<(Task, Nonce, Vec<Value>)>;

/// The store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) run: Run,
    /// Which execution was committed, by task and generation.
    pub(crate) committed: BTreeMap<(Task, u8), Nonce>,
    /// What was broken, if anything.
    pub(crate) broken: Option<&'static str>,
    /// Of all of the above: states of the model are hashed far more often than the store changes.
    fingerprint: u64,
}

impl Hash for Book {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

/// The locator of a value that a worker holds, and of one that is stored.
pub(crate) fn end_of(value: Value, holder: Option<u8>) -> End {
    let (_, _, nonce) = value;
    let Some(worker) = holder else {
        let record = bytes::Bytes::copy_from_slice(&[nonce; 8]);
        return End::Done { locator: Locator::Stored { length: 8 }, record, keep: true };
    };
    let record = HeldRecord {
        length: 1,
        digest: [nonce; 16],
        nonce: nonce.into(),
        copies: Copies::default(),
    };
    let record = bytes::Bytes::copy_from_slice(&record.to_bytes());
    let worker = bolthole_broker::id::WorkerIndex::new(worker.into());
    End::Done { locator: Locator::held(worker, 1), record, keep: false }
}

/// Which execution a stored record is of.
pub(crate) fn nonce_of(status: &TaskStatus) -> Nonce {
    let record = status.record.as_ref();
    record.and_then(|record| record.last()).copied().unwrap_or(0)
}

impl Book {
    pub(crate) fn new(run: Run) -> Self {
        Self { run, committed: BTreeMap::new(), broken: None, fingerprint: 0 }.sealed()
    }

    fn sealed(mut self) -> Self {
        let mut hasher = DefaultHasher::new();
        (&self.run, &self.committed, self.broken).hash(&mut hasher);
        self.fingerprint = hasher.finish();
        self
    }

    /// What becomes of the store by `change`.
    pub(crate) fn after<T>(&self, change: impl FnOnce(&mut Self) -> T) -> (Self, T) {
        let mut next = self.clone();
        let answer = change(&mut next);
        (next.sealed(), answer)
    }

    pub(crate) fn status(&self, task: Task) -> TaskStatus {
        self.run.inspect(id(task)).unwrap()
    }

    /// The nonce of a task's live lease.
    fn leased_to(&self, task: Task, now: u64) -> Option<u64> {
        let generation = self.status(task).state.generation();
        let request = LeaseRequest { task: id(task), generation, nonce: u64::MAX, over: None };
        match self.run.clone().lease(&request, Incarnation::new(u128::MAX), now, 1) {
            Leased::Taken { nonce, .. } => Some(nonce),
            _ => None,
        }
    }

    /// A commit arrives: the specification decides; what it writes is entered and checked.
    pub(crate) fn commit(
        &mut self,
        commit: &Commit,
        sources: &Sources,
        graph: &Graph,
        plant: Option<Plant>,
        now: u64,
    ) -> Committed {
        let mut asked = commit.clone();
        for one in &mut asked.finished {
            if plant == Some(Plant::AnyGeneration) {
                one.generation = self.status(one.index).state.generation();
            }
            if plant == Some(Plant::NoFence) {
                one.lease = self.leased_to(one.index, now);
            }
        }
        if plant == Some(Plant::ReleaseTwice) {
            asked.releases.iter_mut().for_each(|(_, count)| *count *= 2);
        }
        if plant == Some(Plant::ForgetConsumed) {
            asked.consumed.clear();
        }
        let holders: Vec<_> =
            commit.finished.iter().map(|one| self.leased_to(one.index, now)).collect();
        let repeated = self.run.outbox().any(|(id, _)| *id == commit.outbox);
        let before = self.run.clone();
        let reply = self.run.commit(&asked, now);
        let fresh = matches!(reply, Committed::Written { .. }) && !repeated;
        if !fresh && before != self.run {
            self.broken = Some("a refused commit wrote something");
        }
        if fresh {
            for ((one, source), holder) in commit.finished.iter().zip(sources).zip(holders) {
                let done = matches!(one.end, End::Done { .. });
                self.enter(one.generation, source, done.then_some(graph));
                let strict = matches!(one.end, End::Failed { .. } | End::Done { keep: true, .. });
                if strict && holder.is_some() && holder != one.lease {
                    self.broken = Some("an attempt without the lease ended a leased task");
                }
            }
        }
        reply
    }

    /// A task's end is written: a result, computed from all inputs, or none.
    fn enter(&mut self, generation: u8, source: &(Task, Nonce, Vec<Value>), graph: Option<&Graph>) {
        let (task, nonce, consumed) = source;
        if self.committed.insert((*task, generation), *nonce).is_some() {
            self.broken = Some("committed twice");
        }
        if generation > 0 && !self.committed.contains_key(&(*task, generation - 1)) {
            self.broken = Some("a generation was skipped");
        }
        if graph.is_some_and(|graph| consumed.len() != graph.inputs(*task).len()) {
            self.broken = Some("committed without all inputs");
        }
        for (input, generation, nonce) in consumed {
            if self.committed.get(&(*input, *generation)) != Some(nonce) {
                self.broken = Some("consumed what was not committed");
            }
        }
    }

    /// A lost result is reported.
    pub(crate) fn rearm(&mut self, lost: &Lost, plant: Option<Plant>) -> Rearmed {
        let mut lost = lost.clone();
        if plant == Some(Plant::RearmWithoutBlocking) {
            lost.successors.clear();
        }
        self.run.rearm(&lost)
    }

    /// I1, I2, and that the header counts what the columns say.
    pub(crate) fn is_sound(&self, graph: &Graph) -> bool {
        let edges = graph
            .tasks()
            .flat_map(|task| graph.inputs(task).iter().map(move |input| (id(*input), id(task))));
        let edges: std::collections::BTreeSet<(TaskId, TaskId)> = edges.collect();
        let states = graph.tasks().map(|task| self.status(task).state.state());
        let finished = states.filter(|state| *state != TaskState::Pending).count();
        let counted = self.run.status().finished == finished as u64;
        counted && (!self.run.state().is_running() || self.run.check(&edges).is_ok())
    }

    /// Whether every result that a pending task needs and that was freed can be had again.
    pub(crate) fn can_be_had(&self, graph: &Graph) -> bool {
        if !self.run.state().is_running() {
            return true;
        }
        let pending = |task: &Task| self.status(*task).state.state() == TaskState::Pending;
        graph.tasks().filter(pending).flat_map(|task| graph.inputs(task)).all(|input| {
            let status = self.status(*input);
            if status.state.state() != TaskState::Freed {
                return true;
            }
            let again = self.run.clone().rearm(&lost(graph, *input, status.locator));
            matches!(again, Rearmed::Pending(_))
        })
    }
}

/// A report that a result cannot be had from where the locator says.
pub(crate) fn lost(graph: &Graph, task: Task, locator: Locator) -> Lost {
    Lost {
        task: id(task),
        locator,
        inputs: graph.inputs(task).iter().map(|input| id(*input)).collect(),
        successors: graph.successors(task).map(id).collect(),
    }
}
