//! From a task that is prepared to a task that has ended.

use bolthole_broker::error::{TaskError, TaskErrorKind};
use bolthole_broker::limits::CRASHES_MAX;
use bolthole_broker::run::{End, Finished, Ready, Retry, Setback};
use bolthole_broker::task::TaskKind;
use bytes::Bytes;
use tokio::time::Instant;

use super::batch::{Entry, stands_alone};
use super::{Core, Describe, Effect, Flight, Publish, Stage, Ticket};
use crate::flight::{Begun, Doubt, Ended, Finish, Kept, Key, Lead, Prepared, TaskInfo, Wanted};

impl Core {
    /// Preparations have ended.
    pub(crate) fn on_prepared(
        &mut self,
        prepared: Vec<(Key, Prepared)>,
        random: u64,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut start = Vec::new();
        for (key, prepared) in prepared {
            let void = self.flights.get(&key).is_none_or(|flight| flight.void);
            if void {
                if let Prepared::Relayed { nonce, .. } = prepared {
                    effects.push(Effect::Discard(vec![(key, nonce)]));
                }
                self.leave(key, &mut effects);
                if let Prepared::Run(runnable) = prepared
                    && runnable.leased
                {
                    effects.push(Self::end_lease(key.0, runnable.ready, runnable.nonce));
                }
                continue;
            }
            let flight = self.flights.get(&key).filter(|flight| flight.outlived);
            let Some(prepared) = (match flight {
                Some(_) => self.prepare_again(key, prepared, &mut effects),
                None => Some(prepared),
            }) else {
                continue;
            };
            let doubtful = self.flights.get_mut(&key).filter(|flight| flight.doubtful);
            match prepared {
                Prepared::Run(runnable) if doubtful.is_some() && !runnable.leased => {
                    if let Some(flight) = doubtful {
                        flight.rung = true;
                    }
                    self.leave(key, &mut effects);
                }
                Prepared::Run(runnable) => {
                    if let Some(flight) = self.flights.get_mut(&key) {
                        flight.stage = Stage::Running;
                        flight.ready = runnable.ready;
                        flight.info = Some(runnable.info.clone());
                        flight.nonce = runnable.nonce;
                        flight.attempt = runnable.attempt;
                        flight.leased = runnable.leased;
                        flight.earlier = runnable.earlier;
                        flight.threaded = runnable.is_threaded();
                        flight.suspect = runnable.suspect;
                        flight.crashes = runnable.crashes;
                        flight.cancel = Some(runnable.cancel.clone());
                        start.push(*runnable);
                    }
                }
                other => self.settle_unrun(key, other, random, now, &mut effects),
            }
        }
        if !start.is_empty() {
            effects.push(Effect::Start(start));
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// A task that will not run here.
    fn settle_unrun(
        &mut self,
        key: Key,
        prepared: Prepared,
        random: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        match prepared {
            Prepared::Run(_) => {}
            Prepared::Relayed { ready, info, nonce, result } => {
                self.know(key, ready, info, nonce);
                self.finish(key, done(result, false), None, now);
            }
            Prepared::Skip { ready, info, cause } => {
                self.know(key, ready, info, 0);
                self.finish(key, End::Skipped { cause }, None, now);
            }
            Prepared::Fail { ready, info, attempt, kind, message } => {
                self.know(key, ready, info, 0);
                if let Some(flight) = self.flights.get_mut(&key) {
                    flight.attempt = attempt;
                }
                let ended = Ended::Failed {
                    kind,
                    chain: vec![message],
                    backtrace: None,
                    encoded: None,
                    retryable: false,
                };
                self.fail(key, ended, random, now, effects);
            }
            Prepared::Elsewhere => self.give_away_now(key, Doubt::None, effects),
            Prepared::Park { info, message } => {
                if let Some(flight) = self.land(key) {
                    effects.push(Effect::Park { run: key.0, ready: flight.ready, info, message });
                }
            }
            Prepared::Later { ready, info, wait } => {
                self.land(key);
                effects.push(Effect::Later { run: key.0, ready, info, wait });
            }
            Prepared::Drop { rearmed } => {
                self.leave(key, effects);
                if !rearmed.is_empty() {
                    let ticket = Ticket::default();
                    let leases = Vec::new();
                    let publish =
                        Publish { run: key.0, ready: rearmed, doubt: Doubt::Old, ticket, leases };
                    effects.push(Effect::Publish(publish));
                }
            }
        }
    }

    fn know(&mut self, key: Key, ready: Ready, info: TaskInfo, nonce: u64) {
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.ready = ready;
            flight.info = Some(info);
            flight.nonce = nonce;
        }
    }

    /// Attempts have ended on their slots.
    pub(crate) fn on_finished(
        &mut self,
        finished: Vec<Finish>,
        known: &impl Describe,
        random: u64,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for finish in finished {
            self.task_seconds += (finish.took.as_secs_f64() - self.task_seconds) / 16.0;
            let key = finish.key;
            let current = self.flights.get(&key);
            let current = current.is_some_and(|flight| {
                flight.stage == Stage::Running && flight.nonce == finish.nonce && !flight.void
            });
            if !current {
                if let Some(begun) = finish.next {
                    begun.cancel.cancel();
                }
                effects.push(Effect::Discard(vec![(key, finish.nonce)]));
                if let Some((segment, _)) = finish.spawn {
                    effects.push(Effect::Unstage { run: key.0, segment });
                }
                let void = self.flights.get(&key).filter(|flight| flight.void);
                if void.is_some_and(|flight| flight.nonce == finish.nonce) {
                    self.leave(key, &mut effects);
                }
                continue;
            }
            if self.differs(key, &finish.ended) {
                effects.push(Effect::Differs { run: key.0, task: key.1 });
                if self.kind_of(key) == TaskKind::Pure {
                    effects.push(Effect::Discard(vec![(key, finish.nonce)]));
                    self.fail(key, non_deterministic(), random, now, &mut effects);
                    continue;
                }
            }
            match finish.ended {
                Ended::Done(result) => {
                    let effect = self.kind_of(key) == TaskKind::Effect;
                    self.finish(key, done(result, effect), finish.spawn, now);
                    if let Some(begun) = finish.next {
                        self.run_on(key, begun);
                    }
                    if finish.spawn.is_none() && !effect {
                        self.continue_from(key, known, &mut effects);
                    }
                }
                Ended::Forwarded(to) => {
                    self.finish(key, End::Forwarded { to }, finish.spawn, now);
                }
                Ended::Crashed { how, last_lines } => {
                    self.crash(key, &how, &last_lines, random, now, &mut effects);
                }
                failed @ Ended::Failed { .. } => self.fail(key, failed, random, now, &mut effects),
            }
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// Whether the task has another result than the one of an earlier generation that others have
    /// used: what they computed and what will be computed do not go together.
    fn differs(&self, key: Key, ended: &Ended) -> bool {
        let earlier = self.flights.get(&key).and_then(|flight| flight.earlier);
        match (earlier, ended) {
            (Some(digest), Ended::Done(result)) => !result.has_digest(digest),
            _ => false,
        }
    }

    fn kind_of(&self, key: Key) -> TaskKind {
        let info = self.flights.get(&key).and_then(|flight| flight.info.as_ref());
        info.map(|info| info.class().kind).unwrap_or_default()
    }

    /// A task has ended: it waits for its commit.
    pub(super) fn finish(
        &mut self,
        key: Key,
        end: End,
        spawn: Option<(u32, bolthole_broker::run::SegmentDigest)>,
        now: Instant,
    ) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        let Some(info) = flight.info.clone() else {
            self.land(key);
            return;
        };
        flight.stage = Stage::Finished;
        if let End::Done { locator, record, .. } = &end {
            flight.result = Some(Kept { locator: *locator, record: record.clone() });
        }
        let forwards = matches!(end, End::Forwarded { .. });
        let entry = Entry {
            alone: stands_alone(&end, spawn.as_ref()),
            successors: if forwards { Vec::new() } else { info.descriptor().successors.clone() },
            inputs: info.inputs(&flight.ready).to_vec(),
            finished: Finished {
                index: key.1.index(),
                generation: flight.ready.generation,
                end,
                lease: flight.leased.then_some(flight.nonce),
            },
            spawn,
        };
        self.batches.add(key.0, key.1.segment(), entry, now);
    }

    /// A slot has gone on with a successor of the task that has just ended there.
    fn run_on(&mut self, key: Key, begun: Begun) {
        let next = begun.key;
        // Committed elsewhere, and ready by that: it has come here by a message.
        if self.flights.contains_key(&next) {
            begun.cancel.cancel();
            return;
        }
        let Some(flight) = self.flights.get_mut(&key) else { return };
        flight.continued.push(next);
        let (depth, parcel) = (flight.depth + 1, flight.parcel);
        let parcel = parcel.filter(|parcel| self.parcels.lends(*parcel));
        let (ready, info) = (Ready::first(next.1), Some(begun.info));
        let wanted = Wanted { ready, info, doubt: Doubt::None, lazy: None };
        self.take_off(next.0, &wanted, parcel, None, depth);
        if let Some(parcel) = parcel {
            self.parcels.add_tasks(parcel, 1);
        }
        if let Some(flight) = self.flights.get_mut(&next) {
            flight.stage = Stage::Running;
            flight.nonce = begun.nonce;
            flight.threaded = begun.threaded;
            flight.cancel = Some(begun.cancel);
        }
    }

    /// Runs on with the successors for which all results are here, before they are committed.
    fn continue_from(&mut self, key: Key, known: &impl Describe, effects: &mut Vec<Effect>) {
        let (run, _) = key;
        let slots = self.me.slots;
        let Some(flight) = self.flights.get_mut(&key) else { return };
        // What follows a recomputed task may be anywhere: the commit tells. What follows a suspect
        // is one, too, and its crashes can be counted only when it is ready.
        if flight.ready != Ready::first(key.1) || flight.suspect > 0 {
            return;
        }
        flight.leads = true;
        let parcel = flight.parcel.filter(|parcel| self.parcels.lends(*parcel));
        let Some(info) = flight.info.clone() else { return };
        let mut tasks = Vec::new();
        let mut room = None;
        for successor in &info.descriptor().successors {
            if tasks.len() >= slots && tasks.len() >= *room.get_or_insert_with(|| self.room()) {
                break;
            }
            let next = (run, *successor);
            if self.flights.contains_key(&next) {
                continue;
            }
            let Some(info) = known.describe(run, *successor) else { continue };
            let Some(lead) = self.lead(key, &info, known) else { continue };
            let leaders = lead.others.iter().map(|(task, _)| *task).chain([key.1]);
            for leader in leaders {
                if let Some(flight) = self.flights.get_mut(&(run, leader)) {
                    flight.continued.push(next);
                }
            }
            let (ready, depth) = (Ready::first(*successor), lead.depth);
            let wanted = Wanted { ready, info: Some(info), doubt: Doubt::None, lazy: Some(lead) };
            self.take_off(run, &wanted, parcel, None, depth);
            if let Some(parcel) = parcel {
                self.parcels.add_tasks(parcel, 1);
            }
            tasks.push(wanted);
        }
        if !tasks.is_empty() {
            effects.push(Effect::Prepare { run, tasks });
        }
    }

    /// What a task would continue: the attempt that has just ended, and others. `None` when a result
    /// that it uses is not here; or is not committed and of another segment, whose commits are not in
    /// order with those of this one.
    fn lead(&self, key: Key, info: &TaskInfo, known: &impl Describe) -> Option<Lead> {
        let (run, ended) = key;
        let flight = self.flights.get(&key)?;
        let mut lead = Lead { nonce: flight.nonce, others: Vec::new(), depth: flight.depth + 1 };
        if !self.may_continue(info, lead.depth) {
            return None;
        }
        for input in info.descriptor().inputs.iter().filter(|input| **input != ended) {
            match self.flights.get(&(run, *input)) {
                Some(flight) if flight.may_lead() && input.segment() == ended.segment() => {
                    lead.others.push((*input, flight.nonce));
                    lead.depth = lead.depth.max(flight.depth + 1);
                }
                None if known.has((run, *input)) => {}
                _ => return None,
            }
        }
        self.may_continue(info, lead.depth).then_some(lead)
    }

    /// An attempt has failed: the next one is noted, or the task has failed.
    pub(super) fn fail(
        &mut self,
        key: Key,
        ended: Ended,
        random: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Ended::Failed { kind, chain, backtrace, encoded, retryable } = ended else { return };
        let Some(flight) = self.flights.get(&key) else { return };
        let Some(info) = flight.info.clone() else { return };
        let options = &info.class().options;
        if retryable && flight.attempt <= options.retries {
            let wait = options.backoff.wait(flight.attempt, random);
            // It may do the same again, and next time its process is killed.
            let stuck = kind == TaskErrorKind::Timeout && flight.threaded;
            let retry = Retry {
                task: key.1,
                generation: flight.ready.generation,
                setback: if stuck { Setback::Stuck } else { Setback::Failed },
                attempt: flight.attempt,
                lease: flight.leased.then_some(flight.nonce),
                delay_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            };
            effects.push(Effect::Retry { run: key.0, retry, info });
            if let Some(flight) = self.flights.get_mut(&key) {
                flight.stage = Stage::Retrying;
            }
            return;
        }
        let error = TaskError {
            kind,
            name: info.class().task.clone(),
            run: key.0,
            task: key.1,
            attempt: flight.attempt,
            worker: self.me.address.clone(),
            chain,
            backtrace,
            encoded,
        };
        let error = Bytes::from(error.encode());
        self.finish(key, End::Failed { error }, None, now);
    }

    /// An attempt has brought down the process in which it was alone: it is tried again, for others
    /// may have killed that process, but not often.
    fn crash(
        &mut self,
        key: Key,
        how: &str,
        last_lines: &[String],
        random: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        let Some(info) = flight.info.clone() else { return };
        let crashes = flight.crashes + 1;
        if crashes >= CRASHES_MAX {
            let mut chain = vec![format!("it has ended {crashes} processes, alone in each: {how}")];
            if !last_lines.is_empty() {
                chain.push(format!("the last of them wrote: {}", last_lines.join("\n")));
            }
            let ended = Ended::Failed {
                kind: TaskErrorKind::Crashed,
                chain,
                backtrace: None,
                encoded: None,
                retryable: false,
            };
            self.fail(key, ended, random, now, effects);
            return;
        }
        flight.stage = Stage::Retrying;
        let retry = Retry {
            task: key.1,
            generation: flight.ready.generation,
            setback: Setback::Crashed,
            attempt: crashes,
            lease: flight.leased.then_some(flight.nonce),
            delay_ms: 0,
        };
        tracing::warn!(run = %key.0, task = %key.1, name = info.class().label(), crashes, how, "crashed");
        effects.push(Effect::Retry { run: key.0, retry, info });
    }

    /// A failed attempt was noted, and its next one rung for.
    pub(crate) fn on_retried(&mut self, key: Key, now: Instant) -> Vec<Effect> {
        if self.flights.get(&key).is_some_and(|flight| flight.stage == Stage::Retrying) {
            self.land(key);
        }
        let mut effects = Vec::new();
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// A task has run longer than its class allows. A process of its own is killed; a thread cannot
    /// be stopped: its end will be dropped and another thread takes its place.
    pub(super) fn time_out(
        &mut self,
        key: Key,
        random: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(flight) = self.flights.get(&key) else { return };
        if let Some(cancel) = &flight.cancel {
            cancel.cancel();
        }
        let limit = flight.info.as_ref().and_then(|info| info.class().options.timeout);
        let ended = Ended::Failed {
            kind: TaskErrorKind::Timeout,
            chain: vec![format!("the limit is {:?}", limit.unwrap_or_default())],
            backtrace: None,
            encoded: None,
            retryable: true,
        };
        effects.push(Effect::SpareSlot { nonce: flight.nonce });
        self.fail(key, ended, random, now, effects);
    }
}

impl Flight {
    /// Whether others may run on its result, which is not committed.
    fn may_lead(&self) -> bool {
        self.leads && self.stage == Stage::Finished && !self.void && !self.outlived
    }
}

pub(super) fn done(result: Kept, keep: bool) -> End {
    End::Done { locator: result.locator, record: result.record, keep }
}

fn non_deterministic() -> Ended {
    let why = "its result was lost after others had used it, and is another one now";
    Ended::Failed {
        kind: TaskErrorKind::NonDeterministic,
        chain: vec![why.to_owned()],
        backtrace: None,
        encoded: None,
        retryable: false,
    }
}
