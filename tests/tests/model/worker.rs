//! A worker's rules, as far as they matter to others: what it runs, commits, publishes, reports.

use std::collections::BTreeMap;

use bolthole_broker::id::Incarnation;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Commit, Committed, LeaseRequest, Leased, Lost, Ready, TaskStatus};
use bolthole_broker::state::TaskState;

use super::book::{Nonce, Sources, Value, lost, nonce_of};
use super::graph::{Task, id};
use super::plant::Plant;
use super::world::{Message, State, System};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    #[default]
    Up,
    /// Does nothing since this time; what it had sent arrives all the same.
    Paused(u64),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Running,
    /// Waits for its commit.
    Finished,
    /// In the commit under way.
    Committing,
    /// Its failed attempt is being noted.
    Retrying,
}

/// A task on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub(crate) generation: u8,
    pub(crate) nonce: Nonce,
    pub(crate) stage: Stage,
    pub(crate) consumed: Vec<Value>,
    pub(crate) attempt: u32,
    pub(crate) lease: Option<u64>,
    /// Its lease was another's, who was found dead.
    pub(crate) took_over: bool,
    /// The task whose uncommitted value it uses.
    pub(crate) continues: Option<Task>,
    /// Its message is not acknowledged.
    pub(crate) delivered: bool,
    /// Another message named it.
    pub(crate) rung: bool,
    /// The outbox entry that released it to this worker.
    pub(crate) outbox: Option<u64>,
    pub(crate) end: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Done,
    Failed,
    Skipped(Task),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) life: Life,
    pub(crate) epoch: u8,
    pub(crate) flights: BTreeMap<Task, Flight>,
    /// Committed results that are here.
    pub(crate) held: BTreeMap<Task, (u8, Nonce)>,
    /// Released and neither published nor run here: outbox entry and task.
    pub(crate) releases: Vec<(u64, Ready)>,
    /// Releases of each entry that are not settled.
    pub(crate) unsettled: BTreeMap<u64, u8>,
    pub(crate) sequence: u64,
    /// The commit that is not answered; it is under way when it is `sent`.
    pub(crate) committing: Option<(Commit, Sources)>,
    pub(crate) sent: bool,
    pub(crate) inbox: Option<Committed>,
    /// Reports of lost results that are under way, by the task that misses them, and whether that was
    /// rung for meanwhile.
    pub(crate) reports: BTreeMap<Task, (Vec<Lost>, bool)>,
}

impl Worker {
    /// Others take it for dead: its record has run out.
    pub(crate) fn is_silent(&self, now: u64) -> bool {
        match self.life {
            Life::Up => false,
            Life::Paused(since) => since < now,
            Life::Gone => true,
        }
    }

    /// What its data port has of a task: a committed result, or one whose commit is not answered yet
    /// and which is waited for.
    fn serves(&self, task: Task, wanted: (u8, Nonce)) -> Option<(u8, Nonce)> {
        let committing = self.flights.get(&task).filter(|it| it.stage == Stage::Committing);
        let committing = committing.map(|flight| (flight.generation, flight.nonce));
        let found = committing.filter(|found| *found == wanted);
        found.or_else(|| self.held.get(&task).copied()).filter(|_| self.life == Life::Up)
    }

    /// It has been told, or will be, that the task is ready.
    pub(crate) fn is_about_to_ring(&self, task: Task) -> bool {
        let told = match &self.inbox {
            Some(Committed::Written { ready, .. }) => ready.as_slice(),
            _ => &[],
        };
        let released = self.releases.iter().map(|(_, ready)| ready);
        released.chain(told).any(|ready| ready.task == id(task)) || self.reports.contains_key(&task)
    }

    pub(crate) fn was_fenced(&self) -> bool {
        matches!(self.inbox, Some(Committed::Superseded(_)))
    }
}

/// The name that a worker commits under.
pub(crate) fn incarnation(worker: u8) -> Incarnation {
    Incarnation::new(worker.into())
}

/// What is known of an input.
enum Input {
    Value(Value),
    /// Pending: whoever commits it releases its consumers.
    NotYet,
    Without,
    Lost(Locator),
}

impl System {
    /// A message is received: the worker prepares its task.
    pub(crate) fn deliver(&self, state: &mut State, message: Message, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        if let Some(flight) = me.flights.get_mut(&message.task) {
            flight.rung = true;
            return;
        }
        if let Some((_, rung)) = me.reports.get_mut(&message.task) {
            *rung = true;
            return;
        }
        let check = message.epoch != Some(me.epoch);
        let mut generation = message.generation;
        if check {
            let status = state.book.status(message.task);
            if status.state.state() != TaskState::Pending || status.pending > 0 {
                return;
            }
            generation = status.state.generation();
        }
        self.begin(state, worker, message.task, generation, check, None);
        let me = &mut state.workers[usize::from(worker)];
        if let Some(flight) = me.flights.get_mut(&message.task) {
            flight.delivered = true;
        }
    }

    /// Looks for a task's inputs, takes its lease when there is doubt, and starts it.
    fn begin(
        &self,
        state: &mut State,
        worker: u8,
        task: Task,
        generation: u8,
        check: bool,
        outbox: Option<u64>,
    ) {
        let mut consumed = Vec::new();
        let mut missing = Vec::new();
        let mut waits = false;
        for input in self.graph.inputs(task) {
            match self.look_for(state, worker, *input) {
                Input::Value(value) => consumed.push(value),
                Input::NotYet => waits = true,
                Input::Without => {
                    let flight = Flight::new(generation, outbox).skipped(*input);
                    state.workers[usize::from(worker)].flights.insert(task, flight);
                    return;
                }
                Input::Lost(locator) => missing.push((*input, locator)),
            }
        }
        if !missing.is_empty() {
            let report = self.lineage(state, missing);
            state.workers[usize::from(worker)].reports.insert(task, (report, false));
            waits = true;
        }
        let mut flight = Flight::new(generation, outbox);
        let leased = (check || self.graph.effect == Some(task)) && !waits;
        if waits || leased && !self.take_lease(state, worker, task, &mut flight) {
            state.release_settled(worker, outbox);
            return;
        }
        state.starts[usize::from(task)] += 1;
        flight.nonce = state.starts[usize::from(task)];
        flight.consumed = consumed;
        state.workers[usize::from(worker)].flights.insert(task, flight);
    }

    fn look_for(&self, state: &State, worker: u8, input: Task) -> Input {
        if let Some((generation, nonce)) = state.workers[usize::from(worker)].held.get(&input) {
            return Input::Value((input, *generation, *nonce));
        }
        let status = state.book.status(input);
        let generation = status.state.generation();
        match (status.state.state(), status.locator) {
            (TaskState::Pending, _) => Input::NotYet,
            (TaskState::Failed | TaskState::Skipped, _) => Input::Without,
            (TaskState::Done, Locator::Stored { .. }) => {
                Input::Value((input, generation, nonce_of(&status)))
            }
            (TaskState::Done, Locator::Held { worker: holder, .. }) => {
                let holder = &state.workers[usize::try_from(holder.get()).unwrap()];
                let wanted = (generation, nonce_of(&status));
                match holder.serves(input, wanted) {
                    Some(held) if held == wanted => Input::Value((input, held.0, held.1)),
                    _ => Input::Lost(status.locator),
                }
            }
            (_, locator) => Input::Lost(locator),
        }
    }

    /// The lost results, and of what they were computed from all that is gone; consumers first.
    fn lineage(&self, state: &State, missing: Vec<(Task, Locator)>) -> Vec<Lost> {
        let mut all: BTreeMap<Task, Locator> = missing.into_iter().collect();
        let mut open: Vec<Task> = all.keys().copied().collect();
        while let Some(task) = open.pop() {
            for input in self.graph.inputs(task) {
                let status = state.book.status(*input);
                if !all.contains_key(input) && is_gone(state, &status) {
                    all.insert(*input, status.locator);
                    open.push(*input);
                }
            }
        }
        all.into_iter().rev().map(|(task, locator)| lost(&self.graph, task, locator)).collect()
    }

    /// Takes the task's lease; from a holder that is certainly dead at once.
    fn take_lease(&self, state: &mut State, worker: u8, task: Task, flight: &mut Flight) -> bool {
        let nonce = u64::from(state.starts[usize::from(task)]) + 1;
        let mut request =
            LeaseRequest { task: id(task), generation: flight.generation, nonce, over: None };
        let now = state.now;
        let ask = |state: &mut State, request: &LeaseRequest| {
            state.write(|book| book.run.lease(request, incarnation(worker), now, 1))
        };
        let mut answer = ask(state, &request);
        if let Leased::Taken { holder, nonce } = answer {
            let holder = usize::from(holder.to_bytes()[15]);
            if state.workers[holder].life == Life::Gone {
                request.over = Some(nonce);
                answer = ask(state, &request);
                flight.took_over = true;
            }
        }
        match answer {
            Leased::Granted { attempt, .. } => {
                flight.attempt = attempt;
                flight.lease = Some(nonce);
                true
            }
            Leased::Taken { .. } => self.plant == Some(Plant::IgnoreRefusal),
            _ => false,
        }
    }

    /// The task that may run on the uncommitted value of `task`.
    pub(crate) fn continues(&self, worker: &Worker, task: Task) -> Option<Task> {
        let flight = worker.flights.get(&task)?;
        let plain = |task: Task| self.graph.effect != Some(task) && self.graph.fails != Some(task);
        let fit = matches!(flight.stage, Stage::Finished | Stage::Committing)
            && flight.end == Ending::Done
            && flight.generation == 0
            && plain(task);
        let alone = |next: &Task| {
            self.graph.inputs(*next).len() == 1
                && plain(*next)
                && !worker.flights.contains_key(next)
        };
        let next = self.graph.successors(task).find(alone);
        next.filter(|_| fit)
    }

    /// Runs a successor before what it uses is committed.
    pub(crate) fn run_on(&self, state: &mut State, worker: u8, task: Task) {
        let input = self.graph.inputs(task)[0];
        state.starts[usize::from(task)] += 1;
        let nonce = state.starts[usize::from(task)];
        let me = &mut state.workers[usize::from(worker)];
        let consumed = vec![(input, 0, me.flights[&input].nonce)];
        let flight = Flight { nonce, consumed, continues: Some(input), ..Flight::new(0, None) };
        me.flights.insert(task, flight);
    }

    /// A released task is run where it was released.
    pub(crate) fn keep(&self, state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        let (entry, ready) = me.releases.remove(0);
        let task = ready.task.index();
        let here = me.flights.get_mut(&task).map(|flight| &mut flight.rung);
        let missing = me.reports.get_mut(&task).map(|(_, rung)| rung);
        if let Some(rung) = here.or(missing) {
            *rung = true;
            state.release_settled(worker, Some(entry));
            return;
        }
        let check = ready.generation > 0;
        let mut generation = ready.generation;
        if check {
            let status = state.book.status(task);
            if status.state.state() != TaskState::Pending || status.pending > 0 {
                state.release_settled(worker, Some(entry));
                return;
            }
            generation = status.state.generation();
        }
        self.begin(state, worker, task, generation, check, Some(entry));
    }

    /// A worker dies: what it had not acknowledged is delivered again.
    pub(crate) fn crash(&self, state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        me.life = Life::Gone;
        me.held.clear();
        me.releases.clear();
        me.unsettled.clear();
        me.inbox = None;
        if !me.sent {
            me.committing = None;
        }
        let flights = std::mem::take(&mut me.flights);
        for (task, _) in flights.into_iter().filter(|(_, flight)| flight.delivered) {
            state.send(Message::reminder(task));
        }
    }
}

/// Whether nobody has a result any more.
fn is_gone(state: &State, status: &TaskStatus) -> bool {
    match (status.state.state(), status.locator) {
        (TaskState::Freed, _) => true,
        (TaskState::Done, Locator::Held { worker, .. }) => {
            state.workers[usize::try_from(worker.get()).unwrap()].life == Life::Gone
        }
        _ => false,
    }
}

impl Flight {
    fn new(generation: u8, outbox: Option<u64>) -> Self {
        Self {
            generation,
            nonce: 0,
            stage: Stage::Running,
            consumed: Vec::new(),
            attempt: 1,
            lease: None,
            took_over: false,
            continues: None,
            delivered: false,
            rung: false,
            outbox,
            end: Ending::Done,
        }
    }

    /// It will not run: an input has no result.
    fn skipped(self, cause: Task) -> Self {
        Self { stage: Stage::Finished, end: Ending::Skipped(cause), ..self }
    }
}
