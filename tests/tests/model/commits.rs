//! The second half of a worker's rules: ends, commits and what follows from their answers.

use std::collections::BTreeMap;

use bolthole_broker::run::{
    Commit, Committed, End, Finished, OutboxId, Rearmed, Retried, Retry, Setback,
};
use bolthole_broker::state::{RunState, TaskState};
use bytes::Bytes;

use super::book::{Sources, end_of, nonce_of};
use super::graph::{Task, id};
use super::plant::Plant;
use super::worker::{Ending, Flight, Life, Stage, Worker, incarnation};
use super::world::{Message, State, System};

/// Failed attempts of a task that may fail, before it has failed.
const RETRIES: u32 = 1;

impl System {
    pub(crate) fn finish(state: &mut State, worker: u8, task: Task) {
        let me = &mut state.workers[usize::from(worker)];
        if let Some(flight) = me.flights.get_mut(&task) {
            flight.stage = Stage::Finished;
        }
    }

    /// An attempt fails: the next one is noted, or the task has failed.
    pub(crate) fn fail(state: &mut State, worker: u8, task: Task) {
        let me = &mut state.workers[usize::from(worker)];
        let Some(flight) = me.flights.get_mut(&task) else { return };
        if flight.attempt <= RETRIES {
            flight.stage = Stage::Retrying;
        } else {
            flight.stage = Stage::Finished;
            flight.end = Ending::Failed;
        }
    }

    pub(crate) fn retry_arrives(state: &mut State, worker: u8, task: Task) {
        let me = &mut state.workers[usize::from(worker)];
        let Some(flight) = me.flights.get(&task) else { return };
        let retry = Retry {
            task: id(task),
            generation: flight.generation,
            setback: Setback::Failed,
            attempt: flight.attempt,
            lease: flight.lease,
            delay_ms: 1,
        };
        let now = state.now;
        let answer = state.write(|book| book.run.retry(&retry, now));
        // Either way it is rung for again: when it is due, or because nobody else may remember it.
        if answer == Retried::Stale {
            state.send(Message::reminder(task));
        }
        state.land(worker, task);
    }

    /// All that has finished goes into one commit, but what must stand alone.
    pub(crate) fn send_commit(&self, state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        me.sent = true;
        if me.committing.is_some() {
            return;
        }
        let finished = |flight: &Flight| flight.stage == Stage::Finished;
        let mut tasks: Vec<Task> =
            me.flights.iter().filter(|(_, it)| finished(it)).map(|(task, _)| *task).collect();
        let alone = |task: &Task| {
            self.graph.effect == Some(*task) || me.flights[task].end == Ending::Failed
        };
        if let Some(task) = tasks.iter().copied().find(alone) {
            tasks = vec![task];
        }
        let (mut releases, mut consumed) = (BTreeMap::new(), BTreeMap::new());
        for task in &tasks {
            for successor in self.graph.successors(*task) {
                *releases.entry(id(successor)).or_default() += 1;
            }
            for input in self.graph.inputs(*task) {
                *consumed.entry(id(*input)).or_default() += 1;
            }
        }
        me.sequence += 1;
        let sources: Sources = tasks.iter().map(|task| me.flights[task].source(*task)).collect();
        let commit = Commit {
            segment: 0,
            finished: tasks.iter().map(|task| self.finished(me, worker, *task)).collect(),
            releases: releases.into_iter().collect(),
            consumed: consumed.into_iter().collect(),
            outbox: OutboxId { owner: incarnation(worker), sequence: me.sequence },
            settled: vec![],
            spawn: None,
        };
        for task in tasks {
            me.flights.get_mut(&task).unwrap().stage = Stage::Committing;
        }
        me.committing = Some((commit, sources));
    }

    fn finished(&self, me: &Worker, worker: u8, task: Task) -> Finished {
        let flight = &me.flights[&task];
        let holder = (self.graph.effect != Some(task)).then_some(worker);
        let end = match flight.end {
            Ending::Done => end_of((task, flight.generation, flight.nonce), holder),
            Ending::Failed => End::Failed { error: Bytes::from_static(b"x") },
            Ending::Skipped(cause) => End::Skipped { cause: id(cause) },
        };
        Finished { index: task, generation: flight.generation, end, lease: flight.lease }
    }

    pub(crate) fn commit_arrives(&self, state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        me.sent = false;
        let Some((commit, sources)) = me.committing.clone() else { return };
        let now = state.now;
        let reply =
            state.write(|book| book.commit(&commit, &sources, &self.graph, self.plant, now));
        let me = &mut state.workers[usize::from(worker)];
        if me.life == Life::Gone {
            me.committing = None;
        } else {
            me.inbox = Some(reply);
        }
    }

    /// A commit is answered.
    pub(crate) fn handle(&self, state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        let Some(reply) = me.inbox.take() else { return };
        let Some((commit, sources)) = me.committing.take() else { return };
        match reply {
            Committed::Written { ready, run, .. } => {
                let entry = commit.outbox.sequence;
                if !ready.is_empty() {
                    me.unsettled.insert(entry, u8::try_from(ready.len()).unwrap());
                    me.releases.extend(ready.into_iter().map(|ready| (entry, ready)));
                }
                for (task, ..) in sources {
                    state.land_committed(worker, task);
                }
                if !run.is_running() {
                    Self::run_over(state, worker, run);
                }
            }
            Committed::Superseded(states) => {
                for (one, (seen, _)) in commit.finished.iter().zip(states) {
                    let pending = seen.state() == TaskState::Pending;
                    let strict =
                        matches!(one.end, End::Failed { .. } | End::Done { keep: true, .. });
                    let again = pending && seen.generation() == one.generation && !strict;
                    self.lost_race(state, worker, one, again);
                }
            }
            Committed::NotRunning(run) => {
                let run = run.unwrap_or(RunState::Purging);
                Self::run_over(state, worker, run);
            }
        }
    }

    /// One task of a commit that was not written.
    fn lost_race(&self, state: &mut State, worker: u8, one: &Finished, again: bool) {
        let task = one.index;
        let me = &mut state.workers[usize::from(worker)];
        let Some(flight) = me.flights.get_mut(&task) else { return };
        if again {
            flight.stage = Stage::Finished;
            return;
        }
        let nonce = flight.nonce;
        let status = state.book.status(task);
        let mine = status.state.state() == TaskState::Done
            && status.state.generation() == one.generation
            && nonce_of(&status) == nonce;
        if mine || self.plant == Some(Plant::ServeUncommitted) {
            state.land_committed(worker, task);
        } else {
            self.drop_result(state, worker, task);
        }
    }

    /// An attempt does not count; nor does anything computed from it.
    fn drop_result(&self, state: &mut State, worker: u8, task: Task) {
        let mut doomed = vec![task];
        while let Some(task) = doomed.pop() {
            let me = &state.workers[usize::from(worker)];
            if self.plant != Some(Plant::KeepAfterLoss) {
                let behind = me.flights.iter().filter(|(_, it)| it.continues == Some(task));
                doomed.extend(behind.map(|(task, _)| *task));
            }
            state.leave(worker, task);
        }
    }

    fn run_over(state: &mut State, worker: u8, run: RunState) {
        let me = &mut state.workers[usize::from(worker)];
        me.flights.clear();
        me.releases.clear();
        me.unsettled.clear();
        if run != RunState::Done {
            me.held.clear();
        }
    }

    /// The first of the released tasks is rung for.
    pub(crate) fn publish(state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        let (entry, ready) = me.releases.remove(0);
        let task = ready.task.index();
        let epoch = (ready.generation == 0).then_some(me.epoch);
        state.send(Message { task, generation: ready.generation, epoch });
        state.release_settled(worker, Some(entry));
    }

    /// A report of lost results arrives; the worker rings for what can be computed again at once.
    pub(crate) fn report_arrives(&self, state: &mut State, worker: u8) {
        let me = &mut state.workers[usize::from(worker)];
        let Some((consumer, (report, rung))) = me.reports.pop_first() else { return };
        let alive = me.life != Life::Gone;
        if alive && rung {
            state.send(Message::reminder(consumer));
        }
        let mut answers = BTreeMap::new();
        for lost in &report {
            let answer = state.write(|book| book.rearm(lost, self.plant));
            answers.insert(lost.task, answer);
        }
        let pending = |task| matches!(answers.get(task), Some(Rearmed::Pending(_)));
        for lost in report.iter().filter(|_| alive) {
            match answers[&lost.task] {
                Rearmed::Pending(0) if !lost.inputs.iter().any(pending) => {
                    state.send(Message::reminder(lost.task.index()));
                }
                Rearmed::Moved => state.send(Message::reminder(consumer)),
                _ => {}
            }
        }
    }

    /// What a dead worker had released and not settled is rung for.
    pub(crate) fn ring_for_dead(state: &mut State, worker: u8, sequence: u64) {
        let entry = OutboxId { owner: incarnation(worker), sequence };
        let found = state.book.run.outbox().find(|(id, _)| **id == entry);
        let Some(ready) = found.map(|(_, ready)| ready.clone()) else { return };
        for one in &ready {
            state.send(Message::reminder(one.task.index()));
        }
        state.write(|book| book.run.settle(entry, &ready));
    }

    /// The store has begun another life: what it said before is compared with what it says now.
    pub(crate) fn notice_epoch(state: &mut State, worker: u8) {
        let book = std::sync::Arc::clone(&state.book);
        let stands = |task: Task, generation: u8, nonce: u8| {
            let status = book.status(task);
            status.state.state() == TaskState::Done
                && status.state.generation() == generation
                && nonce_of(&status) == nonce
        };
        let epoch = state.epoch;
        let me = &mut state.workers[usize::from(worker)];
        me.epoch = epoch;
        // An answer of an earlier life counts for nothing: the commit is sent again, or dropped.
        me.inbox = None;
        me.held.retain(|task, (generation, nonce)| stands(*task, *generation, *nonce));
        let releases = std::mem::take(&mut me.releases);
        me.unsettled.clear();
        let all: Vec<Task> = me.flights.keys().copied().collect();
        for task in all {
            let flight = &me.flights[&task];
            let fresh = |(input, generation, nonce): &(Task, u8, u8)| {
                let own = me.flights.get(input).is_some_and(|own| own.nonce == *nonce);
                own || stands(*input, *generation, *nonce)
            };
            let status = book.status(task);
            let open = status.state.state() == TaskState::Pending
                && status.state.generation() == flight.generation;
            let finished =
                flight.stage != Stage::Running && stands(task, flight.generation, flight.nonce);
            if !(open || finished) || !flight.consumed.iter().all(fresh) {
                me.flights.remove(&task);
            }
        }
        let kept = |task: &Task| me.flights.contains_key(task);
        if me.committing.as_ref().is_some_and(|(_, of)| !of.iter().all(|(task, ..)| kept(task))) {
            me.committing = None;
            for flight in me.flights.values_mut().filter(|it| it.stage == Stage::Committing) {
                flight.stage = Stage::Finished;
            }
        }
        for (_, ready) in releases {
            state.send(Message::reminder(ready.task.index()));
        }
    }

    /// The store is started again: what was under way to it is lost, and sent once more.
    pub(crate) fn cut_connections(&self, state: &mut State) {
        for worker in &mut state.workers {
            worker.sent = false;
            if worker.life == Life::Gone {
                worker.committing = None;
            }
        }
        let gone = |worker: &Worker| worker.life == Life::Gone;
        let missing: Vec<Task> = state
            .workers
            .iter_mut()
            .flat_map(|worker| {
                let reports = std::mem::take(&mut worker.reports);
                if gone(worker) { BTreeMap::new() } else { reports }
            })
            .map(|(consumer, _)| consumer)
            .collect();
        for consumer in missing {
            state.send(Message::reminder(consumer));
        }
    }

    /// Time passes: whoever is up has renewed its leases, those of the others have run out.
    pub(crate) fn leases_run_out(state: &mut State) {
        let next = state.now + 1;
        let mut void = Vec::new();
        let mut returned = Vec::new();
        let mut book = (*state.book).clone();
        for (index, worker) in (0..).zip(&mut state.workers) {
            match worker.life {
                Life::Up => {
                    for (task, flight) in &worker.flights {
                        let Some(nonce) = flight.lease else { continue };
                        let me = incarnation(index);
                        let generation = flight.generation;
                        if !book.run.renew(id(*task), generation, nonce, me, state.now, 2) {
                            void.push((index, *task));
                        }
                    }
                }
                Life::Paused(_) => {
                    let unacknowledged = worker.flights.iter_mut().filter(|(_, it)| it.delivered);
                    returned.extend(unacknowledged.map(|(task, flight)| {
                        flight.delivered = false;
                        *task
                    }));
                }
                Life::Gone => {}
            }
        }
        state.write(|old| old.run = book.run);
        for (worker, task) in void {
            let me = &state.workers[usize::from(worker)];
            if me.flights.get(&task).is_some_and(|it| it.stage == Stage::Running) {
                state.leave(worker, task);
            }
        }
        for task in returned {
            state.send(Message::reminder(task));
        }
        state.now = next;
    }
}

impl Flight {
    fn source(&self, task: Task) -> (Task, u8, Vec<super::book::Value>) {
        (task, self.nonce, self.consumed.clone())
    }
}

impl State {
    /// One release of an outbox entry is published or committed; with the last one it goes.
    pub(crate) fn release_settled(&mut self, worker: u8, entry: Option<u64>) {
        let Some(entry) = entry else { return };
        let me = &mut self.workers[usize::from(worker)];
        let Some(count) = me.unsettled.get_mut(&entry) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        me.unsettled.remove(&entry);
        let id = OutboxId { owner: incarnation(worker), sequence: entry };
        let found = self.book.run.outbox().find(|(found, _)| **found == id);
        if let Some(ready) = found.map(|(_, ready)| ready.clone()) {
            self.write(|book| book.run.settle(id, &ready));
        }
    }

    /// The task is no longer on this worker.
    fn land(&mut self, worker: u8, task: Task) -> Option<Flight> {
        let flight = self.workers[usize::from(worker)].flights.remove(&task)?;
        self.release_settled(worker, flight.outbox);
        Some(flight)
    }

    /// Its result is the committed one.
    fn land_committed(&mut self, worker: u8, task: Task) {
        if let Some(flight) = self.land(worker, task)
            && flight.end == Ending::Done
        {
            let me = &mut self.workers[usize::from(worker)];
            me.held.insert(task, (flight.generation, flight.nonce));
        }
    }

    /// It is dropped; was it rung for meanwhile, it is looked at once more.
    fn leave(&mut self, worker: u8, task: Task) {
        if self.land(worker, task).is_some_and(|flight| flight.rung) {
            self.send(Message::reminder(task));
        }
    }
}
