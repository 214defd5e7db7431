//! Slots: threads that run the bodies of tasks. User code runs here and nowhere else.
//!
//! `fn` bodies run on the slot's thread; `async fn` bodies are driven by it, with the worker's
//! runtime for user code behind them; some bodies run in a child process, for which the slot waits.
//! A panic is the end of that attempt, not of the slot. In a simulation slots are futures instead:
//! see `driven`.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bolthole_broker::call::{Outcome, Value};
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::graph::Captured;
use bolthole_broker::task::TaskKind;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::{Core, Effect, OnSlot, Standing};
use crate::executor::{self, Execution, Executor, THREAD_PREFIX};
use crate::flight::{Ended, Finish, Key, Runnable};
use crate::hold::Pressure;
use crate::options::Order;
use crate::prepare::Preparer;
use crate::spawn::{Spawned, Spawner};

mod bench;
mod carry;
mod driven;
mod room;
mod units;

use bench::Bench;
pub(crate) use bench::Wish;
use carry::Left;
pub(crate) use driven::{Driven, is_in_body};

/// Slots, and the bench of tasks that wait for one.
#[derive(Clone)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
}

struct Shared {
    bench: Mutex<Bench>,
    work: Condvar,
    done: Mutex<Vec<Finish>>,
    /// Told when there is something in `done` for the loop, or in `left`.
    finished: Notify,
    core: Arc<Mutex<Core>>,
    left: Mutex<Left>,
    preparer: Arc<Preparer>,
    /// How long a result waits for memory while none is freed.
    memory_wait: Duration,
    spawner: Spawner,
    executor: Executor,
    /// In a simulation: how slots are driven, in place of threads.
    driven: Option<Driven>,
    /// As `work`, for slots that are driven.
    driven_work: Notify,
    /// Told when permits are needed, or some no longer.
    permits: Notify,
}

impl Slots {
    /// Starts `count` slots: threads, unless they are `driven`.
    pub(crate) fn start(
        (count, core): (usize, &Arc<Mutex<Core>>),
        resources: BTreeMap<String, u32>,
        (preparer, memory_wait): (Arc<Preparer>, Duration),
        spawner: Spawner,
        executor: Executor,
        driven: Option<Driven>,
    ) -> std::io::Result<Self> {
        executor::install_panic_hook();
        let shared = Arc::new(Shared {
            bench: Mutex::new(Bench::new(resources)),
            work: Condvar::new(),
            done: Mutex::default(),
            finished: Notify::new(),
            core: Arc::clone(core),
            left: Mutex::default(),
            preparer,
            memory_wait,
            spawner,
            executor,
            driven,
            driven_work: Notify::new(),
            permits: Notify::new(),
        });
        let slots = Self { shared };
        for _ in 0..count {
            slots.add()?;
        }
        Ok(slots)
    }

    /// One more slot.
    fn add(&self) -> std::io::Result<()> {
        let number = {
            let mut bench = self.shared.bench();
            bench.slots += 1;
            bench.next_slot += 1;
            bench.next_slot
        };
        let shared = Arc::clone(&self.shared);
        if let Some(driven) = &self.shared.driven {
            driven.tasks.spawn(shared.drive(number));
            return Ok(());
        }
        let started = thread::Builder::new()
            .name(format!("{THREAD_PREFIX}{number}"))
            .spawn(move || shared.work_off(number));
        if started.is_err() {
            self.shared.bench().slots -= 1;
        }
        started.map(|_| ())
    }

    /// Another thread in the place of the one that is stuck in this attempt; that one ends when it
    /// comes back. False when too many are stuck by now.
    pub(crate) fn replace(&self, nonce: u64) -> bool {
        {
            // It may have just come back.
            if !self.shared.bench().abandon(nonce) {
                return true;
            }
        }
        if let Err(error) = self.add() {
            tracing::error!(%error, "cannot start a thread for a slot");
        }
        !self.shared.bench().is_worn_out()
    }

    /// How full the memory is: at the worst one task at a time, before that no sources for a while.
    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        self.shared.bench().set_pressure(pressure, Instant::now());
        self.shared.wake_all();
    }

    /// In which order tasks get slots from now on.
    pub(crate) fn set_order(&self, order: Order) {
        self.shared.bench().set_order(order);
    }

    /// Puts tasks on the bench.
    pub(crate) fn push(&self, tasks: Vec<Runnable>) {
        let one = tasks.len() == 1;
        {
            let mut bench = self.shared.bench();
            bench.extend(tasks);
            self.shared.tell_of_permits(&bench);
        }
        if one && self.shared.driven.is_none() {
            self.shared.work.notify_one();
        } else {
            self.shared.wake_all();
        }
    }

    /// Takes all tasks off the bench: they must not start after all, nor does anything else.
    pub(crate) fn clear_bench(&self) -> Vec<Key> {
        self.shared.bench().clear()
    }

    /// Takes these off the bench; those that were there still.
    pub(crate) fn take_back(&self, keys: &[Key]) -> Vec<Key> {
        let mut bench = self.shared.bench();
        let taken = bench.take_back(keys);
        // Others may have waited for a stricter one.
        let others = bench.have_permits();
        drop(bench);
        if others {
            self.shared.wake_all();
        }
        taken
    }

    /// What tasks here need of permits for which all workers have to ask.
    pub(crate) fn permit_wishes(&self) -> Vec<Wish> {
        self.shared.bench().permit_wishes()
    }

    /// What to ask for of one task's: until the answer, no more than that is used of them.
    pub(crate) fn ask_permits(&self, task: &str) -> Option<Wish> {
        self.shared.bench().ask_permits(task)
    }

    /// So many of a task's permits, of so many, are this worker's now.
    pub(crate) fn grant_permits(&self, task: &str, granted: u32, max: u32) {
        if self.shared.bench().grant_permits(task, granted, max) {
            self.shared.wake_all();
        }
    }

    /// Waits until other permits are wanted than there are.
    pub(crate) async fn permits_changed(&self) {
        self.shared.permits.notified().await;
    }

    /// Waits until an attempt has ended.
    pub(crate) async fn finished(&self) {
        self.shared.finished.notified().await;
    }

    /// The attempts that have ended since the last call.
    pub(crate) fn take_finished(&self) -> Vec<Finish> {
        std::mem::take(&mut *self.shared.done())
    }

    /// What slots have left to the loop since the last call: how many tasks they have started, and
    /// what is still to be done.
    pub(crate) fn take_left(&self) -> (u64, Vec<Effect>) {
        let Left { started, effects } = std::mem::take(&mut *self.shared.left());
        (started, effects)
    }

    /// What runs at this moment.
    pub(crate) fn running(&self) -> Vec<OnSlot> {
        self.shared.bench().running()
    }

    /// What waits, and whether a slot has nothing to run.
    pub(crate) fn standing(&self) -> Standing {
        self.shared.bench().standing()
    }

    /// A queue whose tasks wait.
    pub(crate) fn queue(&self) -> Option<String> {
        self.shared.bench().queue().map(str::to_owned)
    }

    /// Half of the tasks of that queue that wait and `may` be run by others.
    pub(crate) fn last_half(&self, may: impl Fn(Key) -> bool) -> Vec<Key> {
        self.shared.bench().last_half(may)
    }

    /// No more tasks: threads end when they come back.
    pub(crate) fn close(&self) {
        self.shared.bench().closed = true;
        self.shared.wake_all();
    }
}

impl Shared {
    fn bench(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self) -> MutexGuard<'_, Vec<Finish>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_of_permits(&self, bench: &Bench) {
        if bench.have_permits_changed() {
            self.permits.notify_one();
        }
    }

    fn wake_all(&self) {
        self.work.notify_all();
        self.driven_work.notify_waiters();
    }

    /// The life of a slot's thread.
    fn work_off(self: &Arc<Self>, number: usize) {
        let mut follows = None;
        while let Some(runnable) = follows.take().or_else(|| self.next(number)) {
            let began = Instant::now();
            let (ended, spawn) = self.run(number, &runnable);
            let took = began.elapsed();
            follows = self.follow(number, &runnable, &ended, spawn.is_some());
            let (key, nonce) = (runnable.key, runnable.nonce);
            drop(runnable);
            let next = follows.as_ref().map(Runnable::begun);
            if self.finish(number, Finish { key, nonce, ended, spawn, took, next }) {
                return;
            }
        }
    }

    /// What the slot runs on with.
    fn follow(
        &self,
        number: usize,
        runnable: &Runnable,
        ended: &Ended,
        spawns: bool,
    ) -> Option<Runnable> {
        if spawns || !matches!(ended, Ended::Done(_)) {
            return None;
        }
        let next = self.preparer.next_of(runnable)?;
        self.bench().follow(number, &next).then_some(next)
    }

    /// Tells of the end of a slot's attempt and of what the slot goes on with, or frees it; true when
    /// another slot has its place.
    fn finish(&self, number: usize, finish: Finish) -> bool {
        let goes_on = finish.next.is_some();
        let replaced = !goes_on && self.free(number);
        self.done().push(finish);
        if !self.carry(!goes_on && !replaced) {
            self.finished.notify_one();
        }
        replaced
    }

    /// The slot's attempt has ended; true when another thread has its place.
    fn free(&self, number: usize) -> bool {
        let ended = {
            let mut bench = self.bench();
            let ended = bench.give_back(number);
            self.tell_of_permits(&bench);
            ended
        };
        if ended.awaited {
            self.wake_all();
        }
        ended.replaced
    }

    /// Waits for the next task; `None` when the thread is to end.
    fn next(&self, number: usize) -> Option<Runnable> {
        let mut bench = self.bench();
        loop {
            if bench.closed {
                bench.slots -= 1;
                return None;
            }
            if let Some(runnable) = bench.take(number) {
                self.tell_of_permits(&bench);
                return Some(runnable);
            }
            bench = match bench.held_for(Instant::now()) {
                None => self.work.wait(bench).unwrap_or_else(PoisonError::into_inner),
                Some(rest) => {
                    let woken = self.work.wait_timeout(bench, rest);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Runs one attempt to its end, whatever that is.
    fn run(self: &Arc<Self>, number: usize, runnable: &Runnable) -> (Ended, Option<Spawned>) {
        if runnable.cancel.is_cancelled() {
            return (cancelled(), None);
        }
        failpoint::hit(Point::RunMid);
        let began = || self.bench().begin(number);
        let mut returned = match Returned::of(self.executor.run(runnable, &began)) {
            Err(ended) => return (ended, None),
            Ok(returned) => returned,
        };
        match self.make_room(number, runnable, returned.value.as_mut()).map(|()| returned) {
            Err(ended) => (ended, None),
            Ok(returned) if returned.is_plain() => (self.keep(runnable, returned.value), None),
            Ok(returned) => self.spawner.io.block_on(self.stage(runnable, returned)),
        }
    }

    /// Stages what an attempt has submitted, then keeps its result.
    async fn stage(&self, runnable: &Runnable, returned: Returned) -> (Ended, Option<Spawned>) {
        let Returned { value, forwarded, submitted } = returned;
        let forwards = forwarded.is_some();
        let staging = self.spawner.stage(runnable.key.0, submitted, forwarded);
        let Some(staged) = runnable.cancel.run_until_cancelled(staging).await else {
            return (cancelled(), None);
        };
        match staged {
            Ok((spawned, Some(to))) if forwards => (Ended::Forwarded(to), Some(spawned)),
            Ok(_) if forwards => {
                let message = "the task returned a graph without a result";
                (failed(TaskErrorKind::Unusable, message, false), None)
            }
            Ok((spawned, _)) => match self.keep(runnable, value) {
                done @ Ended::Done(_) => (done, Some(spawned)),
                unusable => (unusable, None),
            },
            Err(error) => (error.into(), None),
        }
    }

    /// Keeps the result of an attempt, until its commit.
    fn keep(&self, runnable: &Runnable, value: Option<Value>) -> Ended {
        let effect = runnable.info.class().kind == TaskKind::Effect;
        let generation = runnable.ready.generation;
        let Some(value) = value else {
            return failed(TaskErrorKind::Unusable, "the task returned nothing", false);
        };
        match self.preparer.values.keep(runnable.key, generation, runnable.nonce, value, effect) {
            Ok(kept) => {
                failpoint::hit(Point::ResultStored);
                Ended::Done(kept)
            }
            Err(error) => failed(TaskErrorKind::Unusable, &error.to_string(), false),
        }
    }
}

/// What a body has returned and submitted.
struct Returned {
    value: Option<Value>,
    forwarded: Option<Captured>,
    submitted: Vec<Captured>,
}

impl Returned {
    /// Of an attempt that ended like this; without a result, how it has.
    fn of(execution: Execution) -> Result<Self, Ended> {
        let (outcome, submitted) = match execution {
            Execution::Returned { outcome, submitted } => (outcome, submitted),
            Execution::Panicked { message, backtrace } => {
                let (kind, chain) = (TaskErrorKind::Panic, vec![message]);
                return Err(Ended::Failed {
                    kind,
                    chain,
                    backtrace,
                    encoded: None,
                    retryable: true,
                });
            }
            Execution::Cancelled => return Err(cancelled()),
            Execution::Crashed { how, last_lines } => {
                return Err(Ended::Crashed { how, last_lines });
            }
            Execution::NoProcess(reason) => {
                let message = format!("it is to run in a process of its own: {reason}");
                return Err(failed(TaskErrorKind::NoCapableWorker, &message, true));
            }
        };
        let (value, forwarded) = match outcome {
            Outcome::Done(value) => (Some(value), None),
            Outcome::Forwarded(captured) => (None, Some(*captured)),
            Outcome::Failed(failure) => {
                return Err(Ended::Failed {
                    kind: TaskErrorKind::User,
                    chain: failure.chain,
                    backtrace: None,
                    encoded: failure.encoded,
                    retryable: true,
                });
            }
            Outcome::Unusable(message) => {
                return Err(failed(TaskErrorKind::Unusable, &message, false));
            }
        };
        Ok(Self { value, forwarded, submitted })
    }

    /// Whether nothing has to be staged.
    fn is_plain(&self) -> bool {
        self.forwarded.is_none() && self.submitted.is_empty()
    }
}

/// The end of an attempt that was cancelled: nobody hears of it.
fn cancelled() -> Ended {
    failed(TaskErrorKind::Cancelled, "it was cancelled", false)
}

/// The end of an attempt that failed with `message`.
pub(crate) fn failed(kind: TaskErrorKind, message: &str, retryable: bool) -> Ended {
    let chain = vec![message.to_owned()];
    Ended::Failed { kind, chain, backtrace: None, encoded: None, retryable }
}
