//! The loop around the core: events in, effects out. All waiting is done in tasks beside it, which
//! send their answers back; the loop itself never waits for anything but the next event.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::control::Control;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::id::{Incarnation, RunId};
use bolthole_broker::limits;
use bolthole_broker::parcel::Parcel;
use bolthole_broker::queue::{Consumer, Delivery, Event, Settler};
use bolthole_broker::run::{Committed, LeaseRequest, Leased, OutboxId};
use bolthole_broker::store::Epoch;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::core::{Compared, Core, Effect, Publish};
use crate::flight::{Doubt, Key, Prepared};
use crate::hold::Pressure;
use crate::prepare::Preparer;
use crate::presence::InFlight;
use crate::publish::Publisher;
use crate::pulse::Pulse;
use crate::slots::Slots;
use crate::takeover::{Inheritance, Takeover};
use crate::tasks::Tasks;

mod life;
mod requests;

/// Answers on their way to the loop. Senders wait when it is full; the loop never sends to itself.
const ANSWERS_MAX: usize = 1024;
/// How often time is looked at: leases, time limits, old deliveries.
const TICK: Duration = Duration::from_millis(50);
/// How long a task that this build cannot run waits before it is rung for again.
const PARK: Duration = Duration::from_secs(1);

/// What the loop is to do about leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// Nothing: the worker stays.
    Stay,
    /// Take nothing new, finish what has begun.
    Finish,
    /// Let go what has not finished.
    LetGo,
}

/// An answer.
enum Answer {
    Prepared(Vec<(Key, Prepared)>),
    Committed(OutboxId, Committed),
    /// The store is in another life than this, in which the commit was made.
    Outlived(OutboxId, Epoch),
    Published(Publish, bool),
    Leased(RunId, Vec<(LeaseRequest, Leased)>),
    Retried(Key),
    /// Whether another worker could run more tasks.
    Sought(bool),
    Compared(Epoch, Compared),
}

/// The loop and what it drives.
pub(crate) struct Shell {
    /// Slots take ends of attempts to it as well.
    core: Arc<Mutex<Core>>,
    slots: Slots,
    preparer: Arc<Preparer>,
    publisher: Arc<Publisher>,
    takeover: Arc<Takeover>,
    inherited: mpsc::Receiver<Inheritance>,
    life: watch::Receiver<Epoch>,
    /// The life with which all that is here was compared, or is being compared.
    compared: Epoch,
    consumer: Consumer,
    settler: Settler,
    in_flight: InFlight,
    pulse: Pulse,
    me: Incarnation,
    answers: mpsc::Sender<Answer>,
    inbox: mpsc::Receiver<Answer>,
    tracker: Tasks,
}

impl Shell {
    #[expect(clippy::too_many_arguments, reason = "the parts of a worker, connected here")]
    pub(crate) fn new(
        core: Arc<Mutex<Core>>,
        slots: Slots,
        preparer: Arc<Preparer>,
        publisher: Arc<Publisher>,
        takeover: Arc<Takeover>,
        inherited: mpsc::Receiver<Inheritance>,
        life: watch::Receiver<Epoch>,
        consumer: Consumer,
        in_flight: InFlight,
        pulse: Pulse,
        me: Incarnation,
        tracker: Tasks,
    ) -> Self {
        let (answers, inbox) = mpsc::channel(ANSWERS_MAX);
        let settler = consumer.settler();
        let compared = life.borrow().clone();
        Self {
            core,
            slots,
            preparer,
            publisher,
            takeover,
            inherited,
            life,
            compared,
            consumer,
            settler,
            in_flight,
            pulse,
            me,
            answers,
            inbox,
            tracker,
        }
    }

    /// Runs until `stop`, or until a drain has nothing left to do.
    pub(crate) async fn run(
        mut self,
        mut drain: watch::Receiver<Drain>,
        drained: watch::Sender<bool>,
        stop: CancellationToken,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        let mut pressure = self.preparer.values.held().watch_pressure();
        let mut draining = false;
        let mut consuming = true;
        loop {
            self.pulse.beat();
            let due = {
                let core = self.core();
                [core.next_commit(), core.next_sharing()].into_iter().flatten().min()
            };
            let timer = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // In this order nothing starves: what comes first is rare, deliveries are bounded by
            // their prefetch, all answers are taken at once, the last two only wake the loop.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = drain.changed() => {
                    let asked = *drain.borrow_and_update();
                    self.drain(asked, !std::mem::replace(&mut draining, true)).await;
                }
                _ = tick.tick() => {
                    let renew = renewed.elapsed() >= self.preparer.turns.lease / limits::WORKER_RENEWALS;
                    if renew {
                        renewed = Instant::now();
                    }
                    self.on_tick(renew).await;
                }
                Ok(()) = self.life.changed() => self.begin_life().await,
                Ok(()) = pressure.changed() => {
                    let now = *pressure.borrow_and_update();
                    self.on_pressure(now).await;
                }
                event = self.consumer.next(), if consuming => match event {
                    Some(event) => self.take_event(event).await,
                    None => consuming = false,
                },
                answer = self.inbox.recv() => self.take_answers(answer).await,
                () = timer => {}
                Some((run, ready)) = self.inherited.recv() => {
                    let effects = self.core().on_inherited(run, ready);
                    self.perform(effects).await;
                }
                () = self.slots.finished() => {}
            }
            let now = Instant::now();
            let effects = self.end_attempts(now);
            // A task that looks whether it is cancelled may have ended just because of that: the end of
            // none is acted upon before it is certain that nobody was told to stop until then.
            if stop.is_cancelled() {
                break;
            }
            self.perform(effects).await;
            let due = self.due(now);
            if stop.is_cancelled() {
                break;
            }
            self.perform(due).await;
            if draining && self.core().is_idle() {
                drained.send_replace(true);
                break;
            }
        }
        self.close().await;
        stop.cancelled().await;
    }

    /// Takes down what the loop has driven.
    async fn close(mut self) {
        self.slots.clear_bench();
        self.slots.close();
        self.preparer.stop.cancel();
        // What still waits for the store or the queue is cut short: others take over.
        self.tracker.close();
        self.inbox.close();
        let settle = self.settler.stop();
        let _ = tokio::time::timeout(TICK * 20, settle).await;
        self.consumer.close().await;
    }

    /// Takes in what has ended, and what slots have left to be done.
    fn end_attempts(&self, now: Instant) -> Vec<Effect> {
        // Taken under the lock: what a slot has gone on with must not end before that is known.
        let mut core = self.core();
        let (started, mut effects) = self.slots.take_left();
        let finished = self.slots.take_finished();
        let followed = finished.iter().filter(|finish| finish.next.is_some()).count();
        self.pulse.started.add(started + followed as u64);
        if !finished.is_empty() {
            let known = &*self.preparer;
            effects.extend(core.on_finished(finished, known, clock::random_u64(), now));
            self.slots.set_order(core.order());
        }
        effects
    }

    /// What time and the slots ask for now.
    fn due(&self, now: Instant) -> Vec<Effect> {
        let mut core = self.core();
        let standing = self.slots.standing();
        let mut due = core.due_commits(now, standing);
        due.extend(core.due_sharing(now, standing));
        due
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_answers(&mut self, first: Option<Answer>) {
        let mut next = first;
        while let Some(answer) = next {
            let effects = self.take_answer(answer);
            self.perform(effects).await;
            next = self.inbox.try_recv().ok();
        }
    }

    fn take_answer(&mut self, answer: Answer) -> Vec<Effect> {
        let now = Instant::now();
        match answer {
            Answer::Prepared(prepared) => {
                self.core().on_prepared(prepared, clock::random_u64(), now)
            }
            Answer::Committed(id, reply) => {
                let known = Arc::clone(&self.preparer);
                let blocked = self.publisher.queue.is_blocked();
                match &reply {
                    Committed::Written { .. } => self.pulse.commits.add(1),
                    Committed::Superseded(_) => self.pulse.superseded.add(1),
                    Committed::NotRunning(_) => {}
                }
                self.core().on_committed(id, reply, &*known, blocked, now)
            }
            Answer::Outlived(id, life) => self.core().on_outlived(id, life == self.compared, now),
            Answer::Published(publish, confirmed) => {
                let pulse = &self.pulse;
                let counter = if confirmed { &pulse.published } else { &pulse.unpublished };
                counter.add(publish.ready.len() as u64);
                self.core().on_published(&publish, confirmed, now)
            }
            Answer::Leased(run, answers) => self.core().on_leased(run, answers, now),
            Answer::Retried(key) => self.core().on_retried(key, now),
            Answer::Sought(sought) => self.core().on_sought(sought, now),
            Answer::Compared(epoch, compared) => self.on_compared(epoch, compared, now),
        }
    }

    async fn take_event(&mut self, event: Event) {
        match event {
            Event::SessionStarted { epoch } => {
                tracing::info!(%epoch, "consuming");
                self.pulse.consuming(true);
                self.core().on_session_started(Instant::now());
            }
            Event::Delivery(delivery) => self.take_delivery(delivery).await,
            Event::Absent { presence, tag } => self.take_over(&presence, tag),
            Event::Control(body) => match Control::decode(&body) {
                Ok(Control::Ended(run)) => {
                    let status = self.preparer.store.status(run).await;
                    let state = status.ok().flatten().map(|status| status.state);
                    if state.is_none_or(|state| !state.is_running()) {
                        let mut effects = Vec::new();
                        self.core().run_over(run, state, &mut effects);
                        self.perform(effects).await;
                    }
                }
                Ok(Control::Relay { run, holder, to, tasks }) => self.relay(run, holder, to, tasks),
                Err(error) => tracing::warn!(%error, "a control message is not understood"),
            },
            Event::SessionLost { epoch, reason } => {
                tracing::warn!(%epoch, %reason, "the session with the queue is lost");
                self.pulse.consuming(false);
                let effects = self.core().on_session_lost(epoch);
                self.perform(effects).await;
            }
        }
    }

    async fn take_delivery(&mut self, delivery: Delivery) {
        failpoint::reach(Point::DeliveryReceived).await;
        let mut parcel = match Parcel::decode(&delivery.body) {
            Ok(parcel) => parcel,
            Err(error) => {
                let queue = self.publisher.queue.clone();
                let settler = self.settler.clone();
                self.pulse.dead_letters.add(1);
                let reason = format!("it cannot be read as a parcel: {error}");
                tracing::error!(%error, route = %delivery.route, "an undecodable parcel");
                self.tracker.spawn(async move {
                    if queue.dead_letter(delivery.body, &reason).await.is_ok() {
                        settler.ack(delivery.tag).await;
                    } else {
                        settler.give_back(delivery.tag).await;
                    }
                });
                return;
            }
        };
        self.pulse.parcels.add(1);
        if let Some(header) = parcel.header.take() {
            self.preparer.known.put_header(parcel.run, header);
        }
        let doubt = if parcel.epoch == Epoch::suspicious() {
            Doubt::DEADLY
        } else if delivery.redelivered {
            Doubt::Repeated
        } else if parcel.epoch == *self.publisher.epoch.read().await {
            Doubt::None
        } else {
            Doubt::Old
        };
        let effects = self.core().on_delivery(&delivery, parcel, doubt, Instant::now());
        self.perform(effects).await;
    }

    async fn on_tick(&mut self, renew: bool) {
        let running = self.slots.running();
        let now = Instant::now();
        let effects = self.core().on_tick(&running, renew, clock::random_u64(), now);
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = self.core().in_flight();
        self.perform(effects).await;
    }

    /// Memory has filled up or emptied: no new sources above the high mark, one task at a time
    /// above the critical one, so that what frees most can still finish.
    async fn on_pressure(&mut self, pressure: Pressure) {
        tracing::info!(?pressure, "memory for results");
        if pressure >= Pressure::High {
            self.settler.pause_lo().await;
        } else {
            self.settler.resume_lo().await;
        }
        self.slots.set_pressure(pressure);
        self.core().on_filling(pressure >= Pressure::Filling);
        self.slots.set_order(self.core().order());
    }

    async fn begin_drain(&mut self) {
        tracing::info!("draining: no new work");
        self.pulse.draining();
        self.settler.stop().await;
        let effects = {
            // Slots put nothing on the bench in between.
            let mut core = self.core();
            let benched = self.slots.clear_bench();
            core.on_drain(&benched, Instant::now())
        };
        self.perform(effects).await;
        failpoint::reach(Point::DrainMid).await;
    }

    /// The worker is to leave; `first` when it was not told so before.
    async fn drain(&mut self, asked: Drain, first: bool) {
        if first {
            self.begin_drain().await;
        }
        if asked == Drain::LetGo {
            self.let_go().await;
        }
    }

    async fn let_go(&mut self) {
        let effects = self.core().on_let_go(Instant::now());
        let (runs, tasks) = effects.iter().fold((0, 0), |(runs, tasks), effect| match effect {
            Effect::Publish(publish) => (runs + 1, tasks + publish.ready.len()),
            _ => (runs, tasks),
        });
        if runs > 0 {
            tracing::warn!(tasks, "not finished in time: others run these");
        }
        self.perform(effects).await;
    }

    /// Carries out effects, and those of what could be answered at once.
    async fn perform(&mut self, effects: Vec<Effect>) {
        let mut open = effects;
        while !open.is_empty() {
            let mut next = Vec::new();
            for effect in open {
                next.extend(self.perform_one(effect).await);
            }
            open = next;
        }
    }

    async fn perform_one(&mut self, effect: Effect) -> Vec<Effect> {
        let values = &self.preparer.values;
        match effect {
            Effect::Prepare { run, tasks } => {
                failpoint::reach(Point::PrepareBefore).await;
                return self.prepare(run, tasks);
            }
            Effect::Start(tasks) => {
                self.pulse.started.add(tasks.len() as u64);
                self.slots.push(tasks);
            }
            Effect::Commit { run, commit } => {
                self.count_failures(&commit);
                self.commit(run, commit);
            }
            Effect::Publish(publish) => self.publish(publish),
            Effect::Ack(tag) => {
                failpoint::reach(Point::AckBefore).await;
                self.settler.ack(tag).await;
                failpoint::reach(Point::AckAfter).await;
            }
            Effect::GiveBack(tag) => {
                self.settler.give_back(tag).await;
            }
            Effect::TakeBack(keys) => {
                let back = self.slots.take_back(&keys);
                return self.core().on_taken_back(&back, Instant::now());
            }
            Effect::Seek(hold) => self.seek(hold),
            Effect::Look => self.look(),
            Effect::Share => return vec![self.share()],
            Effect::Unstage { run, segment } => self.unstage(run, segment),
            Effect::Later { run, ready, info, wait } => self.ring_later(run, ready, info, wait),
            Effect::Confirm(keys) => {
                self.pulse.committed.add(keys.len() as u64);
                for (key, nonce) in keys {
                    values.confirm(key, nonce);
                }
            }
            Effect::Discard(keys) => {
                for (key, nonce) in keys {
                    values.discard(key, nonce);
                }
            }
            Effect::Freed { run, freed } => self.forget(run, &freed),
            Effect::RunOver { run, gone } => {
                if gone {
                    values.drop_run(run);
                }
            }
            Effect::Retry { run, retry, info } => {
                self.pulse.retries.add(1);
                self.retry(run, retry, info);
            }
            Effect::Park { run, ready, info, message } => {
                tracing::warn!(%run, task = %ready.task, %message, "parked");
                self.pulse.parked.add(1);
                self.ring_later(run, ready, info, PARK);
            }
            Effect::Lease { run, requests } => self.lease(run, requests),
            Effect::Settle { run, sequences } => self.settle(run, sequences),
            Effect::Differs { run, task } => {
                tracing::warn!(%run, %task, "a result was computed again and is another one");
                self.pulse.differing.add(1);
            }
            Effect::SpareSlot { nonce } => self.spare_slot(nonce),
        }
        Vec::new()
    }
}
