//! The whole system as one value, and everything that can happen to it next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bolthole_broker::run::Ready;
use stateright::{Model, Property};

use super::book::Book;
use super::graph::{Graph, Task};
use super::plant::Plant;
use super::worker::{Life, Stage, Worker};

/// How often each fault may strike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    pub(crate) lose: u8,
    pub(crate) duplicate: u8,
    pub(crate) crash: u8,
    pub(crate) pause: u8,
    pub(crate) lose_reply: u8,
    pub(crate) fail: u8,
    pub(crate) rollback: u8,
}

/// What is explored: a graph, so many workers, so many faults.
#[derive(Debug, Clone)]
pub(crate) struct System {
    pub(crate) graph: Graph,
    pub(crate) workers: u8,
    pub(crate) faults: Faults,
    /// Whether workers run on with what they have released or computed, before others hear of it.
    pub(crate) eager: bool,
    pub(crate) plant: Option<Plant>,
}

/// A doorbell for one task. Without an epoch it says: ask the store first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Message {
    pub(crate) task: Task,
    pub(crate) generation: u8,
    pub(crate) epoch: Option<u8>,
}

impl Message {
    pub(crate) fn reminder(task: Task) -> Self {
        Self { task, generation: 0, epoch: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) book: Arc<Book>,
    /// The store as it was up to two changes ago, while it may still be rolled back.
    past: Vec<Arc<Book>>,
    pub(crate) epoch: u8,
    /// The store's clock, in lengths of a lease.
    pub(crate) now: u64,
    pub(crate) messages: BTreeMap<Message, u8>,
    pub(crate) workers: Vec<Worker>,
    /// Executions of each task.
    pub(crate) starts: Vec<u8>,
    pub(crate) left: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Deliver(Message, u8),
    Finish(u8, Task),
    Continue(u8, Task),
    SendCommit(u8),
    CommitArrives(u8),
    ReportArrives(u8),
    RetryArrives(u8, Task),
    Handle(u8),
    Publish(u8),
    Keep(u8),
    NoticeEpoch(u8),
    Scan(Task),
    RingForDead(u8, u64),
    LeasesRunOut,
    Resume(u8),
    // Faults.
    Lose(Message),
    Duplicate(Message),
    Crash(u8),
    Pause(u8),
    LoseReply(u8),
    Fail(u8, Task),
    RollBack(u8),
}

impl Action {
    fn is_fault(self) -> bool {
        use Action::{Crash, Duplicate, Fail, Lose, LoseReply, Pause, RollBack};
        matches!(
            self,
            Lose(_) | Duplicate(_) | Crash(_) | Pause(_) | LoseReply(_) | Fail(..) | RollBack(_)
        )
    }
}

impl State {
    pub(crate) fn send(&mut self, message: Message) {
        *self.messages.entry(message).or_default() += 1;
    }

    fn take(&mut self, message: Message) {
        match self.messages.get_mut(&message) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.messages.remove(&message)),
        }
    }

    /// Something is written to the store.
    pub(crate) fn write<T>(&mut self, change: impl FnOnce(&mut Book) -> T) -> T {
        let (next, answer) = self.book.after(change);
        if next != *self.book {
            let before = std::mem::replace(&mut self.book, Arc::new(next));
            if self.left.rollback > 0 {
                self.past.push(before);
                let old = self.past.len().saturating_sub(2);
                self.past.drain(..old);
            }
        }
        answer
    }

    fn up(&self) -> impl Iterator<Item = (u8, &Worker)> {
        (0..).zip(&self.workers).filter(|(_, worker)| worker.life == Life::Up)
    }

    /// Ready tasks that are neither leased nor waiting for their time.
    fn ready(&self) -> Vec<Ready> {
        if self.book.run.state().is_running() { self.book.run.ready(0, self.now) } else { vec![] }
    }

    /// Whether a living worker has the task or is about to ring for it, or a message does. A scan that
    /// comes too early is a message too many: that is a fault of its own.
    fn is_on_its_way(&self, task: Task) -> bool {
        let alive = |worker: &&Worker| match worker.life {
            Life::Up => true,
            Life::Paused(since) => since == self.now,
            Life::Gone => false,
        };
        self.messages.keys().any(|message| message.task == task)
            || self.workers.iter().filter(alive).any(|worker| worker.flights.contains_key(&task))
            || self.up().any(|(_, worker)| worker.is_about_to_ring(task))
    }

    /// Whether only the passing of time helps: somebody who is silent holds a lease, or a task waits
    /// for its next attempt.
    fn waits_for_time(&self) -> bool {
        let silent = self.workers.iter().any(|worker| worker.life == Life::Paused(self.now));
        let run = &self.book.run;
        let waiting = if run.state().is_running() { run.ready(0, u64::MAX) } else { Vec::new() };
        let ready = self.ready();
        let held = |task: Task| {
            self.up().any(|(_, worker)| {
                worker.flights.get(&task).is_some_and(|flight| flight.lease.is_some())
            })
        };
        let mut barred = waiting.iter().filter(|one| !ready.contains(one));
        silent || barred.any(|one| !held(one.task.index()))
    }
}

impl System {
    fn worker_actions(&self, state: &State, index: u8, worker: &Worker, out: &mut Vec<Action>) {
        if worker.sent {
            out.push(Action::CommitArrives(index));
        }
        if !worker.reports.is_empty() {
            out.push(Action::ReportArrives(index));
        }
        let retrying = worker.flights.iter().filter(|(_, flight)| flight.stage == Stage::Retrying);
        out.extend(retrying.map(|(task, _)| Action::RetryArrives(index, *task)));
        if let Life::Paused(_) = worker.life {
            out.push(Action::Resume(index));
        }
        if worker.life != Life::Up {
            return;
        }
        for (task, flight) in &worker.flights {
            if flight.stage == Stage::Running {
                out.push(Action::Finish(index, *task));
                if self.graph.fails == Some(*task) && state.left.fail > 0 {
                    out.push(Action::Fail(index, *task));
                }
            }
            if let Some(next) = self.continues(worker, *task).filter(|_| self.eager) {
                out.push(Action::Continue(index, next));
            }
        }
        let current = worker.epoch == state.epoch || self.plant == Some(Plant::TrustThePast);
        if !current {
            out.push(Action::NoticeEpoch(index));
        }
        if worker.inbox.is_some() {
            out.push(Action::Handle(index));
        } else if current && !worker.sent {
            let finished = worker.flights.values().any(|flight| flight.stage == Stage::Finished);
            if worker.committing.is_some() || finished {
                out.push(Action::SendCommit(index));
            }
        }
        if !worker.releases.is_empty() {
            out.push(Action::Publish(index));
            if worker.flights.len() < 2 && self.eager {
                out.push(Action::Keep(index));
            }
        }
    }

    fn fault_actions(state: &State, out: &mut Vec<Action>) {
        let left = state.left;
        for (message, count) in &state.messages {
            if left.lose > 0 {
                out.push(Action::Lose(*message));
            }
            if left.duplicate > 0 && *count == 1 {
                out.push(Action::Duplicate(*message));
            }
        }
        let up = state.up().count();
        for (index, worker) in state.up() {
            if left.crash > 0 && up > 1 {
                out.push(Action::Crash(index));
            }
            if left.pause > 0 {
                out.push(Action::Pause(index));
            }
            if left.lose_reply > 0 && worker.inbox.is_some() {
                out.push(Action::LoseReply(index));
            }
        }
        if left.rollback > 0 {
            let steps = u8::try_from(state.past.len()).unwrap();
            out.extend((1..=steps).map(Action::RollBack));
        }
    }

    fn fault(&self, state: &mut State, action: Action) {
        match action {
            Action::Lose(message) => {
                state.left.lose -= 1;
                state.take(message);
            }
            Action::Duplicate(message) => {
                state.left.duplicate -= 1;
                state.send(message);
            }
            Action::Crash(worker) => {
                state.left.crash -= 1;
                self.crash(state, worker);
            }
            Action::Pause(worker) => {
                state.left.pause -= 1;
                state.workers[usize::from(worker)].life = Life::Paused(state.now);
            }
            Action::LoseReply(worker) => {
                state.left.lose_reply -= 1;
                state.workers[usize::from(worker)].inbox = None;
            }
            Action::Fail(worker, task) => {
                state.left.fail -= 1;
                Self::fail(state, worker, task);
            }
            Action::RollBack(steps) => {
                state.left.rollback -= 1;
                let back = state.past.len() - usize::from(steps);
                state.book = Arc::clone(&state.past[back]);
                state.past.clear();
                state.epoch += 1;
                self.cut_connections(state);
            }
            _ => {}
        }
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Deliver(message, worker) => {
                state.take(message);
                self.deliver(state, message, worker);
            }
            Action::Finish(worker, task) => Self::finish(state, worker, task),
            Action::Continue(worker, task) => self.run_on(state, worker, task),
            Action::SendCommit(worker) => self.send_commit(state, worker),
            Action::CommitArrives(worker) => self.commit_arrives(state, worker),
            Action::ReportArrives(worker) => self.report_arrives(state, worker),
            Action::RetryArrives(worker, task) => Self::retry_arrives(state, worker, task),
            Action::Handle(worker) => self.handle(state, worker),
            Action::Publish(worker) => Self::publish(state, worker),
            Action::Keep(worker) => self.keep(state, worker),
            Action::NoticeEpoch(worker) => Self::notice_epoch(state, worker),
            Action::Scan(task) => state.send(Message::reminder(task)),
            Action::RingForDead(worker, sequence) => Self::ring_for_dead(state, worker, sequence),
            Action::LeasesRunOut => Self::leases_run_out(state),
            Action::Resume(worker) => state.workers[usize::from(worker)].life = Life::Up,
            fault => self.fault(state, fault),
        }
    }

    /// Nothing is left to happen but faults.
    fn is_at_rest(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().all(Action::is_fault)
    }
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (run, sources) = self.graph.accepted();
        let mut state = State {
            book: Arc::new(Book::new(run)),
            past: Vec::new(),
            epoch: 0,
            now: 0,
            messages: BTreeMap::new(),
            workers: vec![Worker::default(); usize::from(self.workers)],
            starts: vec![0; self.graph.inputs.len()],
            left: self.faults,
        };
        for task in sources {
            state.send(Message { task, generation: 0, epoch: Some(0) });
        }
        vec![state]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        for (index, worker) in (0..).zip(&state.workers) {
            self.worker_actions(state, index, worker, out);
        }
        for message in state.messages.keys() {
            out.extend(state.up().map(|(worker, _)| Action::Deliver(*message, worker)));
        }
        if self.plant != Some(Plant::NeverScan) {
            let lost = state.ready().into_iter().map(|ready| ready.task.index());
            let lost = lost.filter(|task| !state.is_on_its_way(*task));
            out.extend(lost.map(Action::Scan));
        }
        for (entry, _) in state.book.run.outbox() {
            let owner = u8::try_from(u128::from_be_bytes(entry.owner.to_bytes())).unwrap();
            if state.workers[usize::from(owner)].is_silent(state.now) {
                out.push(Action::RingForDead(owner, entry.sequence));
            }
        }
        if state.waits_for_time() {
            out.push(Action::LeasesRunOut);
        }
        Self::fault_actions(state, out);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is written keeps the promise", |_, state: &State| {
                state.book.broken.is_none()
            }),
            Property::always("I1 and I2 hold", |system: &System, state: &State| {
                state.book.is_sound(&system.graph)
            }),
            Property::always("what is needed can be had", |system: &System, state: &State| {
                state.book.can_be_had(&system.graph)
            }),
            Property::always("at rest, the run has ended", |system: &System, state: &State| {
                !state.book.run.state().is_running() || !system.is_at_rest(state)
            }),
            Property::always("effects run under leases", |system: &System, state: &State| {
                let flights = state.workers.iter().flat_map(|worker| &worker.flights);
                let mut effects = flights.filter(|(task, _)| system.graph.effect == Some(**task));
                effects.all(|(_, it)| it.stage != Stage::Running || it.lease.is_some())
            }),
            Property::eventually("the run ends", |_, state: &State| {
                !state.book.run.state().is_running()
            }),
            Property::sometimes("a commit is fenced off", |_, state: &State| {
                state.workers.iter().any(Worker::was_fenced)
            }),
            Property::sometimes("a lease is taken over", |_, state: &State| {
                state
                    .workers
                    .iter()
                    .flat_map(|worker| worker.flights.values())
                    .any(|it| it.took_over)
            }),
            Property::sometimes("a result is recomputed", |_, state: &State| {
                state.book.committed.keys().any(|(_, generation)| *generation > 0)
            }),
            Property::sometimes("the store is rolled back", |_, state: &State| state.epoch > 0),
        ]
    }
}
