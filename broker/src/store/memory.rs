//! The store in this process: the specification behind a lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Epoch, Error, EventCursor, Events, WorkerRecord};
use crate::args::BlobDigest;
#[cfg(feature = "failpoints")]
use crate::audit::Call;
use crate::clock;
use crate::id::{Incarnation, RunId, TaskId, WorkerIndex};
use crate::line::Line;
use crate::locator::Locator;
use crate::run::spec::Run;
use crate::run::{
    Activate, Activated, Commit, Committed, FreedResult, LeaseRequest, Leased, Lost, Mend, Open,
    Opened, OutboxId, Ready, Rearmed, Refused, Relocation, Retried, Retry, Revive, Revived,
    RunDump, RunStatus, Stage, Tally, TaskStatus,
};

#[cfg(feature = "failpoints")]
mod audit;
mod workers;

/// Changes a run; in builds for tests, what was asked and answered is written down.
macro_rules! change {
    ($store:expr, $run:expr, $act:expr, $call:expr) => {{
        #[cfg(feature = "failpoints")]
        let reply = $store.change_audited($run, $act, $call);
        #[cfg(not(feature = "failpoints"))]
        let reply = $store.change($run, $act);
        reply
    }};
}

// Below the macro, which it uses.
mod steer;

/// Runs, workers and locks of one process. Clones share them.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Shared>,
    /// What requests of this clone travel on.
    line: Option<Arc<dyn Line>>,
}

/// Everything a store knew at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot(State);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told whenever events were added or a run has changed.
    changed: Notify,
    /// The store's clock is tokio's, so that tests can stop it.
    started: Instant,
    started_ms: u64,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// How often it was restored from a snapshot.
    restored: u32,
    runs: BTreeMap<RunId, Run>,
    names: HashMap<String, RunId>,
    blobs: HashMap<(RunId, BlobDigest), Bytes>,
    workers: BTreeMap<WorkerIndex, (WorkerRecord, u64)>,
    locks: HashMap<RunId, (Incarnation, u64)>,
    /// Permits of tasks, by who has them, and until when.
    permits: HashMap<String, BTreeMap<Incarnation, (u32, u64)>>,
    /// Queues for which a worker could run more tasks, and until when that is said.
    sought: HashMap<String, u64>,
    /// While there is to be one.
    #[cfg(feature = "failpoints")]
    audit: Option<Vec<crate::audit::Entry>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            line: None,
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Notify::new(),
                started: Instant::now(),
                started_ms: clock::unix_ms(),
            }),
        }
    }
}

#[allow(clippy::unused_async, reason = "every store has the same asynchronous methods")]
impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same store at the end of a line.
    #[must_use]
    pub fn over(&self, line: Arc<dyn Line>) -> Self {
        Self { shared: Arc::clone(&self.shared), line: Some(line) }
    }

    pub(super) fn line(&self) -> Option<&Arc<dyn Line>> {
        self.line.as_ref()
    }

    /// What it knows now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state().clone())
    }

    /// Goes back to what it knew, as a server that has lost its last second: another epoch begins.
    pub fn restore(&self, snapshot: Snapshot) {
        {
            let mut state = self.state();
            let restored = state.restored + 1;
            *state = State { restored, ..snapshot.0 };
        }
        self.shared.changed.notify_waiters();
    }

    fn now_ms(&self) -> u64 {
        let elapsed = self.shared.started.elapsed().as_millis();
        self.shared.started_ms + u64::try_from(elapsed).unwrap_or(u64::MAX / 2)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a run and wakes those who wait for its events.
    fn change<R>(&self, run: RunId, act: impl FnOnce(&mut Run, u64) -> R) -> Option<R> {
        let now_ms = self.now_ms();
        let reply = self.state().runs.get_mut(&run).map(|run| act(run, now_ms));
        self.shared.changed.notify_waiters();
        reply
    }

    fn read<R>(&self, run: RunId, look: impl FnOnce(&Run, u64) -> R) -> Option<R> {
        let now_ms = self.now_ms();
        self.state().runs.get(&run).map(|run| look(run, now_ms))
    }

    pub(super) async fn epoch(&self) -> Result<Epoch, Error> {
        Ok(Epoch(format!("memory {}", self.state().restored)))
    }

    pub(super) async fn open(&self, run: RunId, open: &Open) -> Result<Opened, Error> {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let named = open.name.as_ref().and_then(|name| state.names.get(name).copied());
        let there = named.or(Some(run)).and_then(|id| Some((id, state.runs.get(&id)?)));
        if let Some((id, other)) = there {
            let same = other.is_same(open);
            return Ok(if same { Opened::Attached(id) } else { Opened::Conflict(id) });
        }
        if let Some(name) = &open.name {
            state.names.insert(name.clone(), run);
        }
        state.runs.insert(run, Run::new(open.clone(), now_ms));
        Ok(Opened::Created)
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<RunId>, Error> {
        let state = self.state();
        Ok(state.names.get(name).copied().filter(|run| state.runs.contains_key(run)))
    }

    pub(super) async fn runs(&self) -> Result<Vec<RunId>, Error> {
        Ok(self.state().runs.keys().copied().collect())
    }

    pub(super) async fn status(&self, run: RunId) -> Result<Option<RunStatus>, Error> {
        Ok(self.read(run, |run, _| run.status()))
    }

    pub(super) async fn dump(&self, run: RunId) -> Result<Option<RunDump>, Error> {
        Ok(self.read(run, |run, _| run.dump()))
    }

    pub(super) async fn stage(&self, run: RunId, stage: &Stage) -> Result<(), Error> {
        Ok(self.change(run, |run, _| run.stage(stage)).unwrap_or(Err(Refused::Unknown))?)
    }

    pub(super) async fn activate(
        &self,
        run: RunId,
        activate: &Activate,
    ) -> Result<Activated, Error> {
        let reply = change!(self, run, |run, _| run.activate(activate), |reply| Call::activate(
            activate, reply
        ));
        Ok(reply.unwrap_or(Err(Refused::Unknown))?)
    }

    pub(super) async fn begin(
        &self,
        run: RunId,
        open: Option<&Open>,
        stage: &Stage,
        activate: &Activate,
        close: bool,
    ) -> Result<Activated, Error> {
        if let Some(open) = open
            && let Opened::Conflict(_) = self.open(run, open).await?
        {
            return Err(Refused::Conflict.into());
        }
        self.stage(run, stage).await?;
        let activated = self.activate(run, activate).await?;
        if close {
            self.close_whole(run, stage.segment + 1).await?;
        }
        Ok(activated)
    }

    pub(super) async fn reserve(&self, run: RunId) -> Result<u32, Error> {
        Ok(self.change(run, |run, _| run.reserve()).ok_or(Refused::Unknown)?)
    }

    pub(super) async fn unstage(&self, run: RunId, segment: u32) -> Result<(), Error> {
        self.change(run, |run, _| run.unstage(segment));
        Ok(())
    }

    pub(super) async fn commit(&self, run: RunId, commit: &Commit) -> Result<Committed, Error> {
        let act = |run: &mut Run, now_ms| run.commit(commit, now_ms);
        let reply = change!(self, run, act, |reply| Call::commit(commit, reply));
        Ok(reply.unwrap_or(Committed::NotRunning(None)))
    }

    pub(super) async fn commit_in(
        &self,
        run: RunId,
        life: &Epoch,
        commit: &Commit,
    ) -> Result<Option<Committed>, Error> {
        let same = self.epoch().await? == *life;
        let act = |run: &mut Run, now_ms| run.commit_in(same, commit, now_ms);
        let reply = change!(self, run, act, |reply| match reply {
            Some(reply) => Call::commit(commit, reply),
            None => Call::Refused("commit".to_owned()),
        });
        Ok(reply.unwrap_or(Some(Committed::NotRunning(None))))
    }

    pub(super) async fn retry(&self, run: RunId, retry: &Retry) -> Result<Retried, Error> {
        let act = |run: &mut Run, now_ms| run.retry(retry, now_ms);
        let reply = change!(self, run, act, |reply| Call::Retry(retry.clone(), *reply));
        Ok(reply.unwrap_or(Retried::Stale))
    }

    pub(super) async fn rearm(&self, run: RunId, lost: &[Lost]) -> Result<Vec<Rearmed>, Error> {
        let act = |run: &mut Run, _| lost.iter().map(|lost| run.rearm(lost)).collect::<Vec<_>>();
        let reply = change!(self, run, act, |reply| Call::Rearm(lost.to_vec(), reply.clone()));
        Ok(reply.unwrap_or_else(|| vec![Rearmed::NotNeeded; lost.len()]))
    }

    pub(super) async fn revive(&self, run: RunId, tasks: &[Revive]) -> Result<Vec<Revived>, Error> {
        let act = |run: &mut Run, _| tasks.iter().map(|one| run.revive(one)).collect::<Vec<_>>();
        let reply = change!(self, run, act, |reply| Call::Revive(tasks.to_vec(), reply.clone()));
        Ok(reply.unwrap_or_else(|| vec![Revived::NotEnded; tasks.len()]))
    }

    pub(super) async fn mend(&self, run: RunId, tasks: &[Mend]) -> Result<Vec<bool>, Error> {
        let reply = self.change(run, |run, _| tasks.iter().map(|one| run.mend(one)).collect());
        Ok(reply.unwrap_or_else(|| vec![false; tasks.len()]))
    }

    pub(super) async fn recount(
        &self,
        run: RunId,
        found: Tally,
        right: Tally,
    ) -> Result<bool, Error> {
        let reply = self.change(run, |run, now_ms| run.recount(found, right, now_ms));
        Ok(reply.unwrap_or(false))
    }

    pub(super) async fn lease(
        &self,
        run: RunId,
        holder: Incarnation,
        hold: Duration,
        requests: &[LeaseRequest],
    ) -> Result<Vec<Leased>, Error> {
        let hold_ms = millis(hold);
        let act = |run: &mut Run, now_ms| {
            requests
                .iter()
                .map(|request| run.lease(request, holder, now_ms, hold_ms))
                .collect::<Vec<_>>()
        };
        let reply = change!(self, run, act, |reply| Call::Lease {
            holder,
            requests: requests.to_vec(),
            answers: reply.clone()
        });
        Ok(reply.unwrap_or_else(|| vec![Leased::Over; requests.len()]))
    }

    pub(super) async fn unlease(&self, run: RunId, leases: &[(TaskId, u64)]) -> Result<(), Error> {
        let act = |run: &mut Run, _| {
            for (task, nonce) in leases {
                run.unlease(*task, *nonce);
            }
        };
        change!(self, run, act, |()| Call::Unlease(leases.to_vec()));
        Ok(())
    }

    pub(super) async fn relocate(
        &self,
        run: RunId,
        relocations: &[Relocation],
    ) -> Result<Vec<bool>, Error> {
        let act =
            |run: &mut Run, _| relocations.iter().map(|one| run.relocate(one)).collect::<Vec<_>>();
        let reply = change!(self, run, act, |reply| Call::relocate(relocations, reply));
        Ok(reply.unwrap_or_else(|| vec![false; relocations.len()]))
    }

    pub(super) async fn evict(&self, run: RunId, holder: Incarnation) -> Result<Vec<Ready>, Error> {
        let act = |run: &mut Run, _| run.evict(holder);
        let reply = change!(self, run, act, |ready| Call::Evict(holder, ready.clone()));
        Ok(reply.unwrap_or_default())
    }

    pub(super) async fn inspect(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> Result<Vec<Option<TaskStatus>>, Error> {
        let reply = self.read(run, |run, _| tasks.iter().map(|task| run.inspect(*task)).collect());
        Ok(reply.unwrap_or_else(|| vec![None; tasks.len()]))
    }

    pub(super) async fn chunks(
        &self,
        run: RunId,
        which: &[(u32, u32)],
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let reply = self.read(run, |run, _| {
            which.iter().map(|(segment, number)| run.chunk(*segment, *number as usize)).collect()
        });
        Ok(reply.unwrap_or_else(|| vec![None; which.len()]))
    }

    pub(super) async fn held_by(
        &self,
        run: RunId,
        segment: u32,
        worker: WorkerIndex,
    ) -> Result<Vec<(TaskId, Locator)>, Error> {
        Ok(self.read(run, |run, _| run.held_by(segment, worker)).unwrap_or_default())
    }

    pub(super) async fn states(&self, run: RunId, segment: u32) -> Result<Option<Bytes>, Error> {
        let reply = self.read(run, |run, _| run.states(segment).map(Bytes::copy_from_slice));
        Ok(reply.flatten())
    }

    pub(super) async fn segments(&self, run: RunId) -> Result<Vec<u32>, Error> {
        Ok(self.read(run, |run, _| run.active_segments()).unwrap_or_default())
    }

    pub(super) async fn ready(&self, run: RunId, segment: u32) -> Result<Vec<Ready>, Error> {
        Ok(self.read(run, |run, now_ms| run.ready(segment, now_ms)).unwrap_or_default())
    }

    pub(super) async fn unpin(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> Result<Vec<FreedResult>, Error> {
        let act = |run: &mut Run, _| run.unpin(tasks);
        let reply = change!(self, run, act, |freed| Call::Unpin(tasks.to_vec(), freed.clone()));
        Ok(reply.unwrap_or_default())
    }

    pub(super) async fn overdue(&self) -> Result<Vec<RunId>, Error> {
        let now_ms = self.now_ms();
        let state = self.state();
        let due = |run: &Run| run.is_abandoned(now_ms) || run.is_expired(now_ms);
        Ok(state.runs.iter().filter(|(_, run)| due(run)).map(|(id, _)| *id).collect())
    }

    pub(super) async fn outbox(&self, run: RunId) -> Result<Vec<(OutboxId, Vec<Ready>)>, Error> {
        let reply =
            self.read(run, |run, _| run.outbox().map(|(id, ready)| (*id, ready.clone())).collect());
        Ok(reply.unwrap_or_default())
    }

    pub(super) async fn settle(
        &self,
        run: RunId,
        id: OutboxId,
        read: &[Ready],
    ) -> Result<bool, Error> {
        let act = |run: &mut Run, _| run.settle(id, read);
        Ok(change!(self, run, act, |_| Call::Settle(id)).unwrap_or(false))
    }

    pub(super) async fn events(
        &self,
        run: RunId,
        after: &EventCursor,
        patience: Duration,
    ) -> Result<Events, Error> {
        let (life, seen) = after.0.split_once(' ').unwrap_or_default();
        let read: (u32, usize) = (life.parse().unwrap_or(0), seen.parse().unwrap_or(0));
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a change between look and wait wakes us.
            changed.as_mut().enable();
            let life = self.state().restored;
            // Some of what was read is undone since the store was restored.
            let gap = life != read.0;
            let seen = if gap { 0 } else { read.1 };
            let found = self.read(run, |run, _| (run.events(seen).to_vec(), run.state()));
            let (finished, state) = match found {
                Some((finished, state)) => (finished, Some(state)),
                None => (Vec::new(), None),
            };
            let over = state.is_none_or(|state| !state.is_running());
            let late = tokio::time::timeout_at(deadline, async {
                if finished.is_empty() && !over && !gap {
                    changed.await;
                    return false;
                }
                true
            });
            let woken = late.await == Ok(false);
            if !woken {
                let cursor = EventCursor(format!("{life} {}", seen + finished.len()));
                return Ok(Events { finished, cursor, gap, run: state });
            }
        }
    }

    pub(super) async fn put_blob(
        &self,
        run: RunId,
        digest: BlobDigest,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let mut state = self.state();
        if !state.runs.contains_key(&run) {
            return Err(Refused::Unknown.into());
        }
        state.blobs.insert((run, digest), bytes);
        Ok(())
    }

    pub(super) async fn blob(
        &self,
        run: RunId,
        digest: BlobDigest,
    ) -> Result<Option<Bytes>, Error> {
        Ok(self.state().blobs.get(&(run, digest)).cloned())
    }

    pub(super) async fn lock(
        &self,
        run: RunId,
        owner: Incarnation,
        hold: Duration,
    ) -> Result<bool, Error> {
        let now_ms = self.now_ms();
        let until = now_ms + millis(hold);
        let mut state = self.state();
        let free = state.locks.get(&run).is_none_or(|(by, until)| *by == owner || *until <= now_ms);
        if free {
            state.locks.insert(run, (owner, until));
        }
        Ok(free)
    }
}

fn millis(hold: Duration) -> u64 {
    u64::try_from(hold.as_millis()).unwrap_or(u64::MAX / 2)
}
