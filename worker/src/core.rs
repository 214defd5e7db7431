//! The worker's decisions. Events come in, [`Effect`]s go out; no I/O, no waiting, no clock of its
//! own. Everything that happens to a task on this worker happens in one of the `on_` functions.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::parcel::Parcel;
use bolthole_broker::queue::{Delivery, Tag};
use bolthole_broker::run::{Commit, FreedResult, LeaseRequest, OutboxId, Ready, Retry};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::flight::{Doubt, Kept, Key, Runnable, TaskInfo, Wanted};
use crate::options::{Order, Tactic};

mod batch;
mod commits;
mod drain;
mod finish;
mod life;
mod near;
mod parcels;
mod session;
mod sharing;
#[cfg(test)]
mod tests;
mod tick;

use batch::Batches;
use life::Life;
pub(crate) use life::{Compared, Recent};
pub(crate) use parcels::ParcelId;
use parcels::Parcels;
use session::Session;
use sharing::Sharing;
pub(crate) use sharing::Standing;
pub(crate) use tick::OnSlot;

/// A task's work should last about this long between two looks at the queue.
const PARCEL_WORK: Duration = Duration::from_millis(3);

/// What the worker must do.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Get what these tasks need.
    Prepare { run: RunId, tasks: Vec<Wanted> },
    /// Run these, in order of their priority and as [`Core::order`] says.
    Start(Vec<Runnable>),
    /// Send a commit.
    Commit { run: RunId, commit: Arc<Commit> },
    /// Ring for tasks that run elsewhere.
    Publish(Publish),
    /// Settle a delivery.
    Ack(Tag),
    /// Return a delivery.
    GiveBack(Tag),
    /// A commit has named these results: they may be served.
    Confirm(Vec<(Key, u64)>),
    /// These results lost a race, or nobody needs them.
    Discard(Vec<(Key, u64)>),
    /// The store has freed these results.
    Freed { run: RunId, freed: Vec<FreedResult> },
    /// The run takes no commits any more.
    RunOver { run: RunId, gone: bool },
    /// Note a failed attempt, and ring for the next one when it is due.
    Retry { run: RunId, retry: Retry, info: TaskInfo },
    /// Ring again later for a task that this build cannot run.
    Park { run: RunId, ready: Ready, info: TaskInfo, message: String },
    /// Ring for this task when it may start.
    Later { run: RunId, ready: Ready, info: TaskInfo, wait: Duration },
    /// Take these off the bench, unless they have started, and say which.
    TakeBack(Vec<Key>),
    /// Say for so long that this worker could run more tasks.
    Seek(Duration),
    /// Look whether another one could.
    Look,
    /// Give half of what waits for slots to others.
    Share,
    /// Drop a staged segment whose tasks will never start.
    Unstage { run: RunId, segment: u32 },
    /// Take or prolong leases.
    Lease { run: RunId, requests: Vec<LeaseRequest> },
    /// Delete outbox entries.
    Settle { run: RunId, sequences: Vec<u64> },
    /// A task was computed again and has another result than what was used before.
    Differs { run: RunId, task: TaskId },
    /// A slot's thread is stuck in this attempt, which has run out of time: start another one.
    SpareSlot { nonce: u64 },
}

/// Tasks to ring for, and on whose account.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) run: RunId,
    pub(crate) ready: Vec<Ready>,
    /// What receivers must know.
    pub(crate) doubt: Doubt,
    pub(crate) ticket: Ticket,
    /// Leases of these tasks by this worker, with their nonces: ended before anyone is rung for.
    pub(crate) leases: Vec<(TaskId, u64)>,
}

/// What waits for a publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    pub(crate) outbox: Option<u64>,
    pub(crate) parcel: Option<ParcelId>,
}

/// Where a task is on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Preparing,
    /// On the bench or on a slot.
    Running,
    /// Its attempt has failed, and the next one is being noted.
    Retrying,
    /// Waiting for its commit, or in one.
    Finished,
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
/// A task on this worker, from the moment it is known here until it is committed or dropped.
#[derive(Debug)]
struct Flight {
    ready: Ready,
    stage: Stage,
    parcel: Option<ParcelId>,
    /// The outbox entry of ours that released it.
    outbox: Option<u64>,
    info: Option<TaskInfo>,
    nonce: u64,
    attempt: u32,
    leased: bool,
    /// Whether it runs on a thread of this process, which cannot be stopped.
    threaded: bool,
    /// Of a suspect: how many that follow it are suspects, too, and itself.
    suspect: u16,
    /// Processes it is known to have brought down.
    crashes: u32,
    cancel: Option<CancellationToken>,
    result: Option<Kept>,
    /// Tasks between it and the last commit.
    depth: u16,
    /// It has ended, and others may run on its uncommitted value.
    leads: bool,
    /// Tasks that do.
    continued: Vec<Key>,
    /// Its end is dropped: it lost, or what it came from did, or it was given away.
    void: bool,
    /// It was released here and waits for a slot until then, for what it uses is here.
    stays_until: Option<Instant>,
    /// It was rung for since it entered. Then it must not leave without a commit before the store
    /// was asked once more: the message that was taken for a repetition may have been news.
    rung: bool,
    /// The digest of an earlier result, which others have used.
    earlier: Option<[u8; 16]>,
    /// Its delivery was lost while it was being prepared: another worker may have it by now.
    doubtful: bool,
    /// The store has begun another life while it was being prepared; or its commit was under way
    /// when the store turned out to have forgotten what it was computed from.
    outlived: bool,
}

/// What the core must know of the worker it decides for.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) slots: usize,
    pub(crate) queues: HashSet<String>,
    /// The order of tasks when it is not chosen here.
    pub(crate) order: Option<Order>,
    /// What it does not do.
    pub(crate) without: Vec<Tactic>,
    /// The most tasks that one commit finishes.
    pub(crate) tasks_per_commit: usize,
}

/// Looks up what is at hand.
pub(crate) trait Describe {
    /// The task's descriptor, without waiting.
    fn describe(&self, run: RunId, task: TaskId) -> Option<TaskInfo>;
    /// Whether the committed result of a task is in memory here.
    fn has(&self, key: Key) -> bool;
}

/// The worker's state. Its maps are ordered, so that equal events have equal effects in equal order.
#[derive(Debug)]
pub(crate) struct Core {
    me: Identity,
    flights: BTreeMap<Key, Flight>,
    parcels: Parcels,
    batches: Batches,
    /// Releases of each of our outbox entries that are neither published nor committed.
    releasing: BTreeMap<(RunId, u64), usize>,
    /// Commits under way, with what each finishes.
    committing: BTreeMap<OutboxId, (RunId, Arc<Commit>)>,
    /// How long tasks take here, in seconds: a moving average.
    task_seconds: f64,
    /// Memory for results is scarcer than it was.
    filling: bool,
    draining: bool,
    sharing: Sharing,
    session: Session,
    life: Life,
}

impl Core {
    pub(crate) fn new(me: Identity) -> Self {
        Self {
            batches: Batches::new(me.incarnation, me.tasks_per_commit),
            me,
            flights: BTreeMap::new(),
            parcels: Parcels::default(),
            releasing: BTreeMap::new(),
            committing: BTreeMap::new(),
            task_seconds: PARCEL_WORK.as_secs_f64(),
            filling: false,
            draining: false,
            sharing: Sharing::default(),
            session: Session::First,
            life: Life::default(),
        }
    }

    /// Tasks that one slot should have before it looks for more.
    pub(crate) fn tasks_per_slot(&self) -> usize {
        let fit = PARCEL_WORK.as_secs_f64() / self.task_seconds.max(1e-7);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 1..=256 first"
        )]
        let fit = fit.clamp(1.0, 256.0) as usize;
        fit
    }

    /// In which order tasks get slots now. For short ones the end of a graph does not matter as much
    /// as that slots run on.
    pub(crate) fn order(&self) -> Order {
        let cone = self.filling || self.tasks_per_slot() > 1;
        self.me.order.unwrap_or(if cone { Order::Cone } else { Order::Path })
    }

    /// Memory for results has filled up, or emptied.
    pub(crate) fn on_filling(&mut self, filling: bool) {
        self.filling = filling;
    }

    /// Tasks here that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.flights.values().filter(|flight| flight.stage != Stage::Finished).count()
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.batches.is_empty() && self.parcels.len() == 0
    }

    /// What this worker has in flight, for its record.
    pub(crate) fn in_flight(&self) -> Vec<(RunId, Vec<TaskId>)> {
        let mut by_run: BTreeMap<RunId, Vec<TaskId>> = BTreeMap::new();
        for (run, task) in self.flights.keys() {
            by_run.entry(*run).or_default().push(*task);
        }
        by_run.into_iter().collect()
    }

    /// A delivery has arrived. Tasks that are in flight here already are left to those.
    pub(crate) fn on_delivery(
        &mut self,
        delivery: &Delivery,
        parcel: Parcel,
        doubt: Doubt,
        now: Instant,
    ) -> Vec<Effect> {
        if self.draining {
            return vec![Effect::GiveBack(delivery.tag)];
        }
        let run = parcel.run;
        let chunks: Vec<(u32, Arc<Chunk>)> =
            parcel.chunks.into_iter().map(|(segment, chunk)| (segment, Arc::new(chunk))).collect();
        let id = self.parcels.open(delivery.tag, now);
        let old = doubt == Doubt::None && self.session.is_doubtful(now);
        let doubt = if old { Doubt::Old } else { doubt };
        let mut tasks = Vec::new();
        for ready in parcel.tasks {
            let task = ready.task;
            if self.is_here((run, task), id) {
                continue;
            }
            let of_segment = chunks.iter().filter(|(segment, _)| *segment == task.segment());
            let mut found = of_segment.filter_map(|(_, chunk)| TaskInfo::find(chunk, task.index()));
            let info = found.next();
            let wanted = Wanted { ready, info, doubt, lazy: None };
            self.parcels.add_tasks(id, 1);
            self.take_off(run, &wanted, Some(id), None, 0);
            tasks.push(wanted);
        }
        let mut effects = Vec::new();
        if !tasks.is_empty() {
            effects.push(Effect::Prepare { run, tasks });
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// Whether the task is in flight; if so, notes that it was rung for. A delivery that came again
    /// after its session had ended takes the place of the lost one.
    fn is_here(&mut self, key: Key, delivery: ParcelId) -> bool {
        let Some(flight) = self.flights.get_mut(&key) else { return false };
        flight.rung = true;
        if !flight.parcel.is_some_and(|parcel| self.parcels.holds(parcel)) {
            flight.parcel = Some(delivery);
            self.parcels.add_tasks(delivery, 1);
        }
        true
    }

    /// Tasks that the slots are short of.
    fn room(&self) -> usize {
        let wanted = self.me.slots * self.tasks_per_slot();
        if self.draining { 0 } else { wanted.saturating_sub(self.load()) }
    }

    /// A publication was confirmed, or given up: then reconciling rings for it.
    pub(crate) fn on_published(
        &mut self,
        publish: &Publish,
        confirmed: bool,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(parcel) = publish.ticket.parcel {
            self.parcels.confirmed(parcel, publish.ready.len());
        }
        if let Some(sequence) = publish.ticket.outbox.filter(|_| confirmed) {
            self.release_settled(publish.run, sequence, publish.ready.len());
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// These waited for a slot and will not get one.
    pub(crate) fn on_taken_back(&mut self, keys: &[Key], now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        for key in keys {
            match self.flights.get(key) {
                Some(flight) if flight.void => self.leave(*key, &mut effects),
                // Whatever releases it shares it out.
                Some(flight) if flight.is_ahead() => {
                    self.land(*key);
                    self.sharing.owe();
                }
                _ => self.give_away(*key, Doubt::Old, &mut effects),
            }
        }
        let mut effects = drain::together(effects);
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// A task enters.
    fn take_off(
        &mut self,
        run: RunId,
        wanted: &Wanted,
        parcel: Option<ParcelId>,
        outbox: Option<u64>,
        depth: u16,
    ) {
        let flight = Flight {
            ready: wanted.ready,
            stage: Stage::Preparing,
            parcel,
            outbox,
            info: wanted.info.clone(),
            nonce: 0,
            attempt: 1,
            leased: false,
            threaded: false,
            suspect: if let Doubt::Deadly(reach) = wanted.doubt { reach } else { 0 },
            crashes: 0,
            cancel: None,
            result: None,
            depth,
            leads: false,
            continued: Vec::new(),
            void: false,
            outlived: false,
            stays_until: None,
            rung: false,
            earlier: None,
            doubtful: false,
        };
        self.flights.insert((run, wanted.ready.task), flight);
    }

    /// A task leaves: committed, or certainly none of ours.
    fn land(&mut self, key: Key) -> Option<Flight> {
        let flight = self.flights.remove(&key)?;
        if let Some(parcel) = flight.parcel {
            self.parcels.task_over(parcel);
        }
        if let Some(sequence) = flight.outbox {
            self.release_settled(key.0, sequence, 1);
        }
        Some(flight)
    }

    /// A task leaves without a commit. When it was rung for meanwhile it begins anew, by asking the
    /// store where it stands.
    fn leave(&mut self, key: Key, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.get(&key) else { return };
        if !flight.rung {
            self.land(key);
            return;
        }
        if self.draining {
            self.give_away_now(key, Doubt::Old, effects);
            return;
        }
        let (parcel, outbox) = (flight.parcel, flight.outbox);
        let doubt = if flight.suspect > 0 { Doubt::Deadly(flight.suspect) } else { Doubt::Old };
        let wanted = Wanted { ready: flight.ready, info: flight.info.clone(), doubt, lazy: None };
        self.take_off(key.0, &wanted, parcel, outbox, 0);
        effects.push(Effect::Prepare { run: key.0, tasks: vec![wanted] });
    }

    /// A task leaves by being published; its delivery and outbox entry wait for the confirm. While
    /// it is being prepared its place is kept, so that the answer meets no later attempt.
    fn give_away(&mut self, key: Key, doubt: Doubt, effects: &mut Vec<Effect>) {
        let flight = self.flights.get(&key);
        let Some(flight) = flight.filter(|flight| flight.stage == Stage::Preparing) else {
            self.give_away_now(key, doubt, effects);
            return;
        };
        let wanted = Wanted { ready: flight.ready, info: None, doubt, lazy: None };
        self.give_away_now(key, doubt, effects);
        self.take_off(key.0, &wanted, None, None, 0);
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.void = true;
        }
    }

    fn give_away_now(&mut self, key: Key, doubt: Doubt, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.remove(&key) else { return };
        if let Some(cancel) = flight.cancel {
            cancel.cancel();
        }
        let doubt = if flight.suspect > 0 { Doubt::DEADLY } else { doubt };
        let ticket = Ticket { outbox: flight.outbox, parcel: flight.parcel };
        if let Some(parcel) = flight.parcel {
            self.parcels.publishing(parcel, 1);
            self.parcels.task_over(parcel);
        }
        let ready = vec![flight.ready];
        let leases = flight.leased.then_some((key.1, flight.nonce)).into_iter().collect();
        effects.push(Effect::Publish(Publish { run: key.0, ready, doubt, ticket, leases }));
    }

    /// `count` releases of an outbox entry are taken care of.
    fn release_settled(&mut self, run: RunId, sequence: u64, count: usize) {
        let Some(open) = self.releasing.get_mut(&(run, sequence)) else { return };
        *open = open.saturating_sub(count);
        if *open == 0 {
            self.releasing.remove(&(run, sequence));
            self.batches.settle(run, sequence);
        }
    }

    fn settle_deliveries(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        effects.extend(self.parcels.take_settled(now).into_iter().map(Effect::Ack));
    }

    /// Whether this worker goes about it so.
    fn does(&self, tactic: Tactic) -> bool {
        !self.me.without.contains(&tactic)
    }

    /// Whether a task of this class may run on values that are not committed.
    fn may_continue(&self, info: &TaskInfo, depth: u16) -> bool {
        let served = self.me.queues.contains(&info.class().options.queue);
        // Where tasks are long a commit takes no time, and those that come before this one in the
        // order may be on their way.
        let joins = info.descriptor().inputs.len() > 1;
        let ordered = joins && self.tasks_per_slot() == 1;
        let ahead = self.does(Tactic::Ahead) && !self.draining;
        served && ahead && !ordered && info.may_continue(depth)
    }
}
