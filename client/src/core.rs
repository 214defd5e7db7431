//! What every part of a client shares: the two servers, the fetcher of large results, the runs that
//! are open here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::control::Control;
use bolthole_broker::descriptor::{Chunk, Descriptor, chunk_of};
use bolthole_broker::durable::{Durable, Folder};
use bolthole_broker::handoff::Fetcher;
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::queue::{Levels, Queue};
use bolthole_broker::run::{OutboxId, TaskStatus};
use bolthole_broker::store::{self, Epoch, Store};
use bolthole_broker::task::TaskClass;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::capable::Capable;
use crate::error::Result;
use crate::local::Local;
use crate::reap::Reaper;
use crate::restage::Watchman;
use crate::run::RunInner;
use crate::stage::RINGING_MAX;

/// When a request of this client last found the store away. Shortly afterwards the records of workers
/// may be missing that live.
#[derive(Debug, Default)]
pub(crate) struct Away(Mutex<Option<Instant>>);

impl Away {
    /// It is away now.
    pub(crate) fn seen(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    /// Whether it was less than so long ago.
    pub(crate) fn was_within(&self, time: Duration) -> bool {
        lock(&self.0).is_some_and(|last| last.elapsed() < time)
    }
}

/// One client of a store and a queue.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    /// Where messages of each run wait.
    pub(crate) levels: Levels,
    pub(crate) fetcher: Fetcher,
    /// Copies of results whose holders are gone.
    pub(crate) durable: Durable,
    /// The worker of this process and what it holds, in embedded mode.
    pub(crate) local: Option<Local>,
    /// Where background work runs: the runtime on which the client was made.
    pub(crate) runtime: tokio::runtime::Handle,
    /// The most ready tasks that it puts into one message.
    pub(crate) tasks_per_parcel: usize,
    /// Owner of what this client writes into outboxes.
    incarnation: Incarnation,
    commits: AtomicU64,
    epoch: Mutex<(Epoch, Instant)>,
    /// When the store was last seen to be away.
    pub(crate) away: Arc<Away>,
    /// Writers that nobody uses any more and that have not finished: a program that ends should
    /// let them.
    pub(crate) leaving: TaskTracker,
    /// The runtime itself, when it is this client's own.
    own_runtime: OnceLock<OwnRuntime>,
    /// Whose turn it is to wait for the broker's confirms.
    pub(crate) ringing: Arc<Semaphore>,
    /// What living workers can run, as far as it was asked for.
    pub(crate) capable: Mutex<Capable>,
    /// Runs that nobody here uses any more.
    pub(crate) reaper: Reaper,
    /// What the store may forget of what this client told it.
    pub(crate) watchman: Watchman,
    /// Runs that take calls, for graphs that use handles of theirs.
    open: Mutex<HashMap<RunId, Weak<RunInner>>>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("local", &self.local.is_some()).finish_non_exhaustive()
    }
}

impl Core {
    /// A client on the current runtime.
    pub(crate) async fn new(
        store: Store,
        queue: Queue,
        fetcher: Fetcher,
        folder: Option<Folder>,
        local: Option<Local>,
    ) -> Result<Self> {
        let epoch = store.epoch().await?;
        Ok(Self {
            durable: Durable { store: store.clone(), fetcher: fetcher.clone(), folder },
            store,
            queue,
            levels: Levels::default(),
            fetcher,
            local,
            tasks_per_parcel: limits::PARCEL_TASKS_MAX,
            runtime: tokio::runtime::Handle::current(),
            incarnation: clock::new_incarnation(),
            commits: AtomicU64::new(0),
            epoch: Mutex::new((epoch, Instant::now())),
            away: Arc::default(),
            leaving: TaskTracker::new(),
            own_runtime: OnceLock::new(),
            ringing: Arc::new(Semaphore::new(RINGING_MAX)),
            capable: Mutex::default(),
            reaper: Reaper::default(),
            watchman: Watchman::default(),
            open: Mutex::default(),
        })
    }

    /// Keeps a runtime for as long as anyone uses the client.
    pub(crate) fn own(&self, runtime: OwnRuntime) {
        // There is none yet: a client is made once.
        let _ = self.own_runtime.set(runtime);
    }

    /// Returns when what was left behind by dropped runs and handles is staged, unpinned, closed.
    pub(crate) async fn settled(&self) {
        self.leaving.close();
        self.reaper.hurry();
        self.leaving.wait().await;
    }

    /// The life of the store's data, as it was at most [`limits::EPOCH_AGE_MAX`] ago.
    pub(crate) async fn epoch(&self) -> Result<Epoch> {
        {
            let (epoch, asked) = &*lock(&self.epoch);
            if asked.elapsed() < limits::EPOCH_AGE_MAX {
                return Ok(epoch.clone());
            }
        }
        self.epoch_now().await
    }

    /// The life of the store's data, as it is.
    pub(crate) async fn epoch_now(&self) -> Result<Epoch> {
        self.persist_in(|| self.look_at_epoch()).await
    }

    /// The same, asked for once.
    pub(crate) async fn look_at_epoch(&self) -> Result<Epoch, store::Error> {
        let epoch = self.store.epoch().await?;
        *lock(&self.epoch) = (epoch.clone(), Instant::now());
        Ok(epoch)
    }

    /// The life of the store's data, as it was when it was last asked for.
    pub(crate) fn known_epoch(&self) -> Epoch {
        lock(&self.epoch).0.clone()
    }

    /// The name of this client's next outbox entry.
    pub(crate) fn next_outbox(&self) -> OutboxId {
        let sequence = self.commits.fetch_add(1, Ordering::Relaxed);
        OutboxId { owner: self.incarnation, sequence }
    }

    /// Asks the store, and again while it cannot be reached, for [`limits::CLIENT_PATIENCE`]: every
    /// request may be repeated, and a store that restarts is back within that time.
    pub(crate) async fn persist_in<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, store::Error>>,
    {
        let deadline = Instant::now() + limits::CLIENT_PATIENCE;
        let mut pause = Duration::from_millis(50);
        loop {
            match ask().await {
                Ok(reply) => return Ok(reply),
                Err(error) if error.is_retryable() && Instant::now() + pause < deadline => {
                    self.away.seen();
                    tracing::warn!(%error, "asking the store again");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the store knows of a task; `None` when its segment is not active.
    pub(crate) async fn inspect(&self, run: RunId, task: TaskId) -> Result<Option<TaskStatus>> {
        let tasks = [task];
        let statuses = self.persist_in(|| self.store.inspect(run, &tasks)).await?;
        Ok(statuses.into_iter().next().flatten())
    }

    /// The descriptors of staged tasks, and their classes. Of those that the store does not have
    /// nothing is said.
    pub(crate) async fn descriptions(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> Result<HashMap<TaskId, (Descriptor, TaskClass)>, store::Error> {
        let mut chunks: BTreeMap<(u32, u32), Vec<TaskId>> = BTreeMap::new();
        for task in tasks {
            chunks.entry(chunk_of(*task)).or_default().push(*task);
        }
        let places: Vec<(u32, u32)> = chunks.keys().copied().collect();
        let read = self.store.chunks(run, &places).await?;
        let mut described = HashMap::with_capacity(tasks.len());
        for (((segment, _), tasks), bytes) in chunks.into_iter().zip(read) {
            let Some(bytes) = bytes else { continue };
            let chunk = Chunk::decode(&bytes, segment)
                .map_err(|error| store::Error::Corrupt(format!("descriptors of {run}: {error}")))?;
            for task in tasks {
                let descriptor = chunk.task(task.index());
                if let Some((descriptor, class)) =
                    descriptor.zip(descriptor.and_then(|descriptor| chunk.class(descriptor)))
                {
                    described.insert(task, (descriptor.clone(), class.clone()));
                }
            }
        }
        Ok(described)
    }

    /// Tells workers to stop what they run of it. They would find out by themselves when they next
    /// renew their leases, so nobody waits for this, and it may fail.
    pub(crate) fn tell_ended(&self, run: RunId) {
        let queue = self.queue.clone();
        self.runtime.spawn(async move {
            if let Err(error) = queue.broadcast(Control::Ended(run).encode()).await {
                tracing::debug!(%run, %error, "workers were not told that the run has ended");
            }
        });
    }

    /// The open run of this id, when it was opened by this client and is still in use.
    pub(crate) fn open_run(&self, id: RunId) -> Option<Arc<RunInner>> {
        self.runs().get(&id)?.upgrade()
    }

    /// Makes an open run known, so that graphs which use its handles find it.
    pub(crate) fn remember(&self, run: &Arc<RunInner>) {
        let mut runs = self.runs();
        runs.retain(|_, run| run.strong_count() > 0);
        runs.insert(run.id, Arc::downgrade(run));
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<RunId, Weak<RunInner>>> {
        lock(&self.open)
    }
}

/// A runtime that stops without waiting when it is dropped, wherever that is.
pub(crate) struct OwnRuntime(pub(crate) Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Takes a lock whose holders never leave half a change behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
