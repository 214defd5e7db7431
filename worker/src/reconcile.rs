//! Finding lost work. Every message may be lost and every process may die; what is runnable can
//! always be found again in the store, and this is what finds it. Costs nothing per task while all
//! is well: one look at the status of each run every few seconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::durable::Folder;
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::queue::{QueueName, Route};
use bolthole_broker::run::Ready;
use bolthole_broker::store::{Error, Store, WorkerRecord};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::flight::Doubt;
use crate::known::Known;
use crate::publish::Publisher;
use crate::takeover::Contact;
use crate::values::Values;

mod taken;

use taken::Taken;

/// Looks in the time after which a run without progress is scanned; each with up to half as much
/// jitter, so that workers take turns.
const LOOKS: u32 = 5;
/// The longest time without progress before a run is scanned again, in first such times.
const PATIENCE_MAX: u32 = 12;
/// Ready tasks that one scan rings for: they may all be waiting in the queue, and ringing for a
/// million of them again and again would fill it. The others have their turn as these finish.
const SCAN_TASKS_MAX: usize = 4_096;
/// Scans of a run without progress that are put off while messages wait: the run may stand still
/// because it is not its turn, and to ring for all that waits would have it run twice.
const PUT_OFF_MAX: u32 = 4;
/// Tasks to ring for in one message.
const PER_PARCEL: usize = 16;

/// Looks after runs.
pub(crate) struct Reconciler {
    pub(crate) store: Store,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) values: Arc<Values>,
    pub(crate) known: Arc<Known>,
    /// The result folder, if there is one.
    pub(crate) results: Option<Folder>,
    pub(crate) me: Incarnation,
    /// The queues of this worker.
    pub(crate) queues: Vec<QueueName>,
    /// A run without progress for this long is scanned.
    pub(crate) patience: Duration,
    pub(crate) contact: Arc<Contact>,
    /// The lease of workers.
    pub(crate) lease: Duration,
    pub(crate) stop: CancellationToken,
}

/// What was last seen of a run.
#[derive(Clone, Copy)]
struct Seen {
    finished: u64,
    since: Instant,
    patience: Duration,
    /// Scans that were put off since then.
    put_off: u32,
    /// When it is to be scanned whatever its progress.
    scan_at: Option<Instant>,
}

impl Reconciler {
    /// Looks after runs until the worker stops.
    pub(crate) async fn run(self) {
        let mut seen: HashMap<RunId, Seen> = HashMap::new();
        let mut taken = Taken::default();
        let mut epoch = self.publisher.epoch.read().await.clone();
        loop {
            let look = self.look_every();
            let half = u64::try_from(look.as_millis() / 2).unwrap_or(0).max(1);
            let jitter = Duration::from_millis(clock::random_u64() % half);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(look + jitter) => {}
            }
            if self.contact.was_lost_within(2 * self.lease) {
                // Records and leases may have run out while nobody could renew them.
                seen.clear();
                continue;
            }
            let now = self.publisher.epoch.read().await.clone();
            if now != epoch {
                // The store may have forgotten what was rung for in its last life. Every run is
                // scanned once, also one that gets on, when all have said again what they have.
                epoch = now;
                let at = Instant::now() + self.lease;
                for seen in seen.values_mut() {
                    seen.scan_at = Some(at);
                }
            }
            // Nobody is judged dead before the store has been reachable for two leases.
            let sure = self.contact.stands_for(2 * self.lease);
            if let Err(error) = self.look(&mut seen, &mut taken, sure).await {
                tracing::debug!(%error, "cannot look after runs");
                self.contact.lost();
            }
        }
    }

    fn look_every(&self) -> Duration {
        self.patience / LOOKS
    }

    /// How long one worker looks after a run before another may.
    fn hold(&self) -> Duration {
        self.look_every() * 3 / 2
    }

    async fn look(
        &self,
        seen: &mut HashMap<RunId, Seen>,
        taken: &mut Taken,
        sure: bool,
    ) -> Result<(), Error> {
        let runs = self.store.runs().await?;
        seen.retain(|run, _| runs.contains(run));
        self.known.retain(&runs);
        self.values.retain_small(&runs);
        self.bury().await?;
        self.sweep().await?;
        taken.sweep(&self.store, &self.values).await?;
        if let Some(folder) = &self.results {
            taken.clear(&self.store, folder).await?;
        }
        for run in runs {
            match self.look_after(run, seen, sure).await {
                Ok(()) => {}
                Err(error) if error.is_retryable() => return Err(error),
                // What is wrong with one run keeps no other from being looked after.
                Err(error) => tracing::error!(%run, %error, "cannot look after a run"),
            }
        }
        Ok(())
    }

    async fn look_after(
        &self,
        run: RunId,
        seen: &mut HashMap<RunId, Seen>,
        sure: bool,
    ) -> Result<(), Error> {
        let Some(status) = self.store.status(run).await? else { return Ok(()) };
        if !status.state.is_running() {
            seen.remove(&run);
            return Ok(());
        }
        let now = Instant::now();
        let (finished, patience) = (status.finished, self.patience);
        let fresh = Seen { finished, since: now, patience, put_off: 0, scan_at: None };
        let entry = seen.entry(run).or_insert(fresh);
        if entry.finished != finished {
            *entry = Seen { scan_at: entry.scan_at, ..fresh };
        }
        let asked = entry.scan_at.is_some_and(|at| now >= at);
        let stalled = asked || now >= entry.since + entry.patience;
        if !self.store.lock(run, self.me, self.hold()).await? {
            return Ok(());
        }
        let workers: Vec<WorkerRecord> =
            self.store.workers().await?.into_iter().map(|(_, record)| record).collect();
        if sure {
            self.ring_for_the_dead(run, &workers).await?;
        }
        if stalled && !asked && entry.put_off < PUT_OFF_MAX && self.do_messages_wait().await {
            entry.since = now;
            entry.put_off += 1;
        } else if stalled && self.scan(run, &workers).await? {
            entry.since = now;
            entry.scan_at = None;
            entry.patience = (entry.patience * 2).min(self.patience * PATIENCE_MAX);
        }
        Ok(())
    }

    /// Whether messages wait for the workers of these queues, as far as the broker says.
    async fn do_messages_wait(&self) -> bool {
        for queue in &self.queues {
            for route in Route::all(queue) {
                if self.publisher.queue.depth(&route).await.is_ok_and(|waiting| waiting > 0) {
                    return true;
                }
            }
        }
        false
    }

    /// What receivers of lost tasks must know: a worker that died may have died of them.
    async fn doubt(&self) -> Result<Doubt, Error> {
        let died = !self.store.deaths().await?.is_empty();
        Ok(if died { Doubt::DEADLY } else { Doubt::Old })
    }

    /// Publishes what the dead had written down and not settled.
    async fn ring_for_the_dead(&self, run: RunId, workers: &[WorkerRecord]) -> Result<(), Error> {
        for (id, ready) in self.store.outbox(run).await? {
            let alive =
                id.owner == self.me || workers.iter().any(|record| record.incarnation == id.owner);
            if !alive && self.publisher.ring(run, &ready, self.doubt().await?, PER_PARCEL).await {
                self.store.settle(run, id, &ready).await?;
                tracing::info!(%run, tasks = ready.len(), owner = %id.owner, "rang for the dead");
            }
        }
        Ok(())
    }

    /// Rings for what is ready of a run and what no living worker has; false when that failed.
    async fn scan(&self, run: RunId, workers: &[WorkerRecord]) -> Result<bool, Error> {
        let busy: HashSet<TaskId> = workers
            .iter()
            .flat_map(|record| record.in_flight.iter())
            .filter(|(of, _)| *of == run)
            .flat_map(|(_, tasks)| tasks.iter().copied())
            .collect();
        let mut room = SCAN_TASKS_MAX;
        for segment in self.store.segments(run).await? {
            let ready = self.store.ready(run, segment).await?;
            let lost = ready.into_iter().filter(|ready| !busy.contains(&ready.task));
            let lost: Vec<Ready> = lost.take(room).collect();
            room -= lost.len();
            if !lost.is_empty() {
                tracing::info!(%run, segment, tasks = lost.len(), "rings again for ready tasks");
                if !self.publisher.ring(run, &lost, self.doubt().await?, PER_PARCEL).await {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Closes open runs whose client is gone, deletes ended ones that have outlived their retention.
    async fn bury(&self) -> Result<(), Error> {
        for run in self.store.overdue().await? {
            if !self.store.lock(run, self.me, self.hold()).await? {
                continue;
            }
            let status = self.store.status(run).await?;
            if status.is_some_and(|status| status.state.is_running()) {
                tracing::info!(%run, "its client is gone: closed");
                self.store.close(run).await?;
            } else {
                tracing::info!(%run, "has outlived its retention: deleted");
                self.store.purge(run).await?;
            }
        }
        Ok(())
    }

    /// Drops results that no locator names any more.
    async fn sweep(&self) -> Result<(), Error> {
        let mut by_run: BTreeMap<RunId, Vec<TaskId>> = BTreeMap::new();
        for (run, task) in self.values.committed() {
            by_run.entry(run).or_default().push(task);
        }
        for (run, tasks) in by_run {
            if self.store.status(run).await?.is_none() {
                self.values.drop_run(run);
                continue;
            }
            for part in tasks.chunks(limits::COMMIT_SUCCESSORS_MAX) {
                let statuses = self.store.inspect(run, part).await?;
                for (task, status) in part.iter().zip(statuses) {
                    use bolthole_broker::state::TaskState;
                    let freed = status.is_none_or(|s| s.state.state() == TaskState::Freed);
                    if freed {
                        self.values.forget((run, *task));
                    }
                }
            }
        }
        Ok(())
    }
}
