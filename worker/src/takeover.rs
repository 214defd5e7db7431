//! Taking over from a worker that is gone: its leases end, and its tasks are rung for at once.
//!
//! Two things tell of an end. The broker sees that a process is gone the moment it is, and tells one
//! of the others, which asks the data port whether that is so. A process that is stopped, or whose
//! host is cut off, leaves its record in the store run out; two others, its neighbours, watch that.
//! A wrong guess costs a repetition, never safety: leases are fenced by their nonces.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::handoff::{Fetcher, Peer};
use bolthole_broker::id::{Incarnation, RunId, TaskId, WorkerIndex};
use bolthole_broker::presence::Presence;
use bolthole_broker::run::Ready;
use bolthole_broker::store::{Error, Store, WorkerRecord};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::flight::Doubt;
use crate::publish::Publisher;

mod watch;

use watch::Again;
pub(crate) use watch::Contact;

/// Tries to find out whether a worker lives, and the wait after the first, doubled each time. A
/// process that ends closes one thing after the other.
const PROBES: u32 = 5;
const PROBE_WAIT: Duration = Duration::from_millis(20);
/// The wait before the store is asked again, doubled each time up to the second.
const STORE_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Tasks to ring for in one message: few, so that many workers share them.
const PER_PARCEL: usize = 4;
/// Ready tasks of a run that are all rung for when a worker was lost without a word. It may have had
/// any of them; when there are more, only those that it was last known to have.
const SCAN_TASKS_MAX: usize = 256;

/// Tasks of a worker that is gone.
pub(crate) type Inheritance = (RunId, Vec<Ready>);
/// Inheritances that wait for the worker's loop.
pub(crate) const INHERITANCES_MAX: usize = 16;

/// Takes over.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) store: Store,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) fetcher: Fetcher,
    pub(crate) me: Incarnation,
    pub(crate) index: WorkerIndex,
    /// The lease of workers.
    pub(crate) lease: Duration,
    pub(crate) contact: Arc<Contact>,
    /// To the worker's loop: tasks that it may run.
    pub(crate) inherit: mpsc::Sender<Inheritance>,
    pub(crate) stop: CancellationToken,
}

impl Takeover {
    /// The broker has lost a worker. Nothing is done about one that lives, or that does not say: its
    /// record tells.
    pub(crate) async fn on_absent(&self, gone: &Presence) {
        let incarnation = gone.incarnation;
        if incarnation == self.me || !self.is_dead(gone).await {
            return;
        }
        tracing::info!(worker = %gone.index, %incarnation, "a worker is gone: taking over");
        let mut wait = STORE_WAIT.0;
        loop {
            match self.after_death(gone).await {
                Ok(()) => return,
                Err(error) if error.is_retryable() && !self.stop.is_cancelled() => {
                    tracing::warn!(%error, "cannot take over yet");
                    sleep(wait).await;
                    wait = (wait * 2).min(STORE_WAIT.1);
                }
                Err(error) => return tracing::error!(%error, "cannot take over"),
            }
        }
    }

    async fn is_dead(&self, gone: &Presence) -> bool {
        let peer = Peer { addr: gone.address.clone(), incarnation: gone.incarnation };
        let mut wait = PROBE_WAIT;
        for _ in 0..PROBES {
            match self.fetcher.probe(&peer).await {
                Ok(()) => return false,
                Err(error) if error.is_lost() => return true,
                Err(error) => tracing::debug!(%error, worker = %gone.index, "it does not say"),
            }
            sleep(wait).await;
            wait *= 2;
        }
        false
    }

    /// What the broker had given it comes back by itself; this is about the rest.
    async fn after_death(&self, gone: &Presence) -> Result<(), Error> {
        let record = self.store.worker(gone.index).await?;
        let record = record.filter(|record| record.incarnation == gone.incarnation);
        for run in self.runs_of(record.as_ref()).await? {
            self.end_claims(run, gone.incarnation).await?;
        }
        // Who looks for it from now on need not ask its port.
        if record.is_some() {
            self.store.bury(gone.index).await?;
        }
        Ok(())
    }

    /// A worker's record has run out: it is stopped, or cut off, or was killed and nobody noticed.
    async fn after_silence(&self, last: &WorkerRecord) -> Result<Vec<Again>, Error> {
        let workers = self.store.workers().await?;
        if workers.iter().any(|(_, record)| record.incarnation == last.incarnation) {
            return Ok(Vec::new());
        }
        tracing::info!(incarnation = %last.incarnation, "a worker is silent: taking over");
        let mut busy: BTreeMap<RunId, HashSet<TaskId>> = BTreeMap::new();
        for (run, tasks) in workers.iter().flat_map(|(_, record)| &record.in_flight) {
            busy.entry(*run).or_default().extend(tasks);
        }
        let mut again = Vec::new();
        for run in self.runs_of(Some(last)).await? {
            self.end_claims(run, last.incarnation).await?;
            let busy = busy.remove(&run).unwrap_or_default();
            let mut ready = self.ready(run, |task| !busy.contains(&task)).await?;
            if ready.len() > SCAN_TASKS_MAX {
                let own = last.in_flight.iter().filter(|(of, _)| *of == run);
                let own: HashSet<TaskId> = own.flat_map(|(_, tasks)| tasks).copied().collect();
                ready.retain(|ready| own.contains(&ready.task));
            }
            let tasks: HashSet<TaskId> = ready.iter().map(|ready| ready.task).collect();
            if !tasks.is_empty() {
                self.hand_on(run, ready).await;
                again.push(Again::new(run, tasks));
            }
        }
        Ok(again)
    }

    /// Tasks of a run that are ready and that nobody has leased.
    async fn ready(
        &self,
        run: RunId,
        wanted: impl Fn(TaskId) -> bool,
    ) -> Result<Vec<Ready>, Error> {
        let mut ready = Vec::new();
        for segment in self.store.segments(run).await? {
            let all = self.store.ready(run, segment).await?;
            ready.extend(all.into_iter().filter(|ready| wanted(ready.task)));
        }
        Ok(ready)
    }

    /// The runs that are running, first those in which the worker had tasks.
    async fn runs_of(&self, record: Option<&WorkerRecord>) -> Result<Vec<RunId>, Error> {
        let mut runs: Vec<RunId> =
            record.iter().flat_map(|record| &record.in_flight).map(|(run, _)| *run).collect();
        for run in self.store.runs().await? {
            if !runs.contains(&run) {
                let status = self.store.status(run).await?;
                runs.extend(status.filter(|status| status.state.is_running()).map(|_| run));
            }
        }
        Ok(runs)
    }

    /// Rings for what it had leased, and for what it had written down and not settled.
    async fn end_claims(&self, run: RunId, of: Incarnation) -> Result<(), Error> {
        let leased = self.store.evict(run, of).await?;
        self.hand_on(run, leased).await;
        for (id, ready) in self.store.outbox(run).await? {
            let due = id.owner == of;
            if due && self.publisher.ring(run, &ready, Doubt::DEADLY, PER_PARCEL).await {
                self.store.settle(run, id, &ready).await?;
            }
        }
        Ok(())
    }

    /// Lets this worker run tasks, or publish what it has no room for.
    async fn hand_on(&self, run: RunId, ready: Vec<Ready>) {
        if ready.is_empty() {
            return;
        }
        tracing::info!(%run, tasks = ready.len(), "hands on what a lost worker had");
        // An error means that this worker stops.
        let _ = self.inherit.send((run, ready)).await;
    }
}
