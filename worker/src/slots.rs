//! Slots: threads that run the bodies of tasks. User code runs here and nowhere else.
//!
//! `fn` bodies run on the slot's thread; `async fn` bodies are driven by it, with the worker's
//! runtime for user code behind them. A panic is the end of that attempt, not of the slot.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use bolthole_broker::call::Outcome;
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::registry::Body;
use bolthole_broker::task::TaskKind;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::OnSlot;
use crate::flight::{Ended, Finish, Key, Runnable};
use crate::spawn::Spawner;
use crate::values::Values;

mod bench;

use bench::Bench;

/// Slots, and the bench of tasks that wait for one.
#[derive(Clone)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
}

struct Shared {
    bench: Mutex<Bench>,
    work: Condvar,
    done: Mutex<Vec<Finish>>,
    /// Told when `done` has become non-empty.
    finished: Notify,
    values: Arc<Values>,
    spawner: Spawner,
    /// Where `async fn` bodies find timers and sockets.
    user: Handle,
}

impl Slots {
    /// Starts `count` threads.
    pub(crate) fn start(
        count: usize,
        resources: BTreeMap<String, u32>,
        values: Arc<Values>,
        spawner: Spawner,
        user: Handle,
    ) -> std::io::Result<Self> {
        install_panic_hook();
        let shared = Arc::new(Shared {
            bench: Mutex::new(Bench::new(resources)),
            work: Condvar::new(),
            done: Mutex::default(),
            finished: Notify::new(),
            values,
            spawner,
            user,
        });
        let slots = Self { shared };
        for _ in 0..count {
            slots.add()?;
        }
        Ok(slots)
    }

    /// One more thread.
    fn add(&self) -> std::io::Result<()> {
        let number = {
            let mut bench = self.shared.bench();
            bench.slots += 1;
            bench.next_slot += 1;
            bench.next_slot
        };
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name(format!("bolthole-slot-{number}"))
            .spawn(move || shared.work_off(number));
        if started.is_err() {
            self.shared.bench().slots -= 1;
        }
        started.map(|_| ())
    }

    /// Another thread in the place of the one that is stuck in this attempt; that one ends when it
    /// comes back.
    pub(crate) fn replace(&self, nonce: u64) {
        {
            // It may have just come back.
            if !self.shared.bench().abandon(nonce) {
                return;
            }
        }
        if let Err(error) = self.add() {
            tracing::error!(%error, "cannot start a thread for a slot");
        }
    }

    /// One task at a time from now on, or as many as there are slots again.
    pub(crate) fn throttle(&self, on: bool) {
        self.shared.bench().throttled = on;
        self.shared.work.notify_all();
    }

    /// Puts tasks on the bench.
    pub(crate) fn push(&self, tasks: Vec<Runnable>) {
        let one = tasks.len() == 1;
        self.shared.bench().extend(tasks);
        if one {
            self.shared.work.notify_one();
        } else {
            self.shared.work.notify_all();
        }
    }

    /// Takes all tasks off the bench: they must not start after all.
    pub(crate) fn clear_bench(&self) -> Vec<Key> {
        self.shared.bench().clear()
    }

    /// Takes these off the bench; those that were there still.
    pub(crate) fn take_back(&self, keys: &[Key]) -> Vec<Key> {
        self.shared.bench().take_back(keys)
    }

    /// Waits until an attempt has ended.
    pub(crate) async fn finished(&self) {
        self.shared.finished.notified().await;
    }

    /// The attempts that have ended since the last call.
    pub(crate) fn take_finished(&self) -> Vec<Finish> {
        std::mem::take(&mut *self.shared.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What runs at this moment.
    pub(crate) fn running(&self) -> Vec<OnSlot> {
        self.shared.bench().running()
    }

    /// Whether a slot has nothing to run.
    pub(crate) fn is_starving(&self) -> bool {
        self.shared.bench().is_starving()
    }

    /// No more tasks: threads end when they come back.
    pub(crate) fn close(&self) {
        self.shared.bench().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn bench(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a slot's thread.
    fn work_off(&self, number: usize) {
        while let Some(runnable) = self.next(number) {
            let began = Instant::now();
            let (key, nonce) = (runnable.key, runnable.nonce);
            let (ended, spawn) = self.run(&runnable);
            let took = began.elapsed();
            let finish = Finish { key, nonce, ended, spawn, took };
            drop(runnable);
            let replaced = self.free(number);
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push(finish);
            let first = done.len() == 1;
            drop(done);
            if first {
                self.finished.notify_one();
            }
            if replaced {
                return;
            }
        }
    }

    /// The slot's attempt has ended; true when another thread has its place.
    fn free(&self, number: usize) -> bool {
        let ended = self.bench().give_back(number);
        if ended.awaited {
            self.work.notify_all();
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
                return Some(runnable);
            }
            bench = self.work.wait(bench).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs one attempt to its end, whatever that is.
    fn run(&self, runnable: &Runnable) -> (Ended, Option<crate::spawn::Spawned>) {
        if runnable.cancel.is_cancelled() {
            return cancelled();
        }
        failpoint::hit(Point::RunMid);
        let _user = self.user.enter();
        let outcome = catch_unwind(AssertUnwindSafe(|| match runnable.body {
            Body::Sync(body) => Some(body(&runnable.call)),
            // Nobody wants the result of a cancelled attempt, and it may never end by itself.
            Body::Async(body) => {
                let body = runnable.cancel.run_until_cancelled(body(runnable.call.clone()));
                self.user.block_on(body)
            }
        }));
        let Some(outcome) = outcome.transpose() else { return cancelled() };
        match outcome {
            Ok(Outcome::Done(value)) => {
                let effect = runnable.info.class().kind == TaskKind::Effect;
                let generation = runnable.ready.generation;
                let submitted = runnable.call.ctx.take_submitted();
                let spawn = if submitted.is_empty() {
                    None
                } else {
                    match self.spawner.stage(runnable.key.0, submitted, None) {
                        Ok((spawned, _)) => Some(spawned),
                        Err(error) => return (error.into(), None),
                    }
                };
                match self.values.keep(runnable.key, generation, runnable.nonce, value, effect) {
                    Ok(kept) => {
                        failpoint::hit(Point::ResultStored);
                        (Ended::Done(kept), spawn)
                    }
                    Err(error) => {
                        (failed(TaskErrorKind::Unusable, &error.to_string(), false), None)
                    }
                }
            }
            Ok(Outcome::Forwarded(captured)) => {
                let submitted = runnable.call.ctx.take_submitted();
                match self.spawner.stage(runnable.key.0, submitted, Some(*captured)) {
                    Ok((spawned, Some(to))) => (Ended::Forwarded(to), Some(spawned)),
                    Ok((_, None)) => {
                        let message = "the task returned a graph without a result";
                        (failed(TaskErrorKind::Unusable, message, false), None)
                    }
                    Err(error) => (error.into(), None),
                }
            }
            Ok(Outcome::Failed(failure)) => {
                let ended = Ended::Failed {
                    kind: TaskErrorKind::User,
                    chain: failure.chain,
                    backtrace: None,
                    encoded: failure.encoded,
                    retryable: true,
                };
                (ended, None)
            }
            Ok(Outcome::Unusable(message)) => {
                (failed(TaskErrorKind::Unusable, &message, false), None)
            }
            Err(panic) => (panicked(panic.as_ref()), None),
        }
    }
}

/// The end of an attempt that was cancelled: nobody hears of it.
fn cancelled() -> (Ended, Option<crate::spawn::Spawned>) {
    (failed(TaskErrorKind::Cancelled, "it was cancelled", false), None)
}

/// The end of an attempt that failed with `message`.
pub(crate) fn failed(kind: TaskErrorKind, message: &str, retryable: bool) -> Ended {
    let chain = vec![message.to_owned()];
    Ended::Failed { kind, chain, backtrace: None, encoded: None, retryable }
}

fn panicked(payload: &(dyn Any + Send)) -> Ended {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("a panic without a message").to_owned();
    let backtrace = LAST_PANIC.with_borrow_mut(Option::take);
    let kind = TaskErrorKind::Panic;
    Ended::Failed { kind, chain: vec![message], backtrace, encoded: None, retryable: true }
}

thread_local! {
    /// Where the last panic on this thread happened, with its backtrace.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes place and backtrace of panics on slots, which are reported with their task; panics
/// elsewhere go to the hook there was.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let on_slot = thread::current().name().is_some_and(|n| n.starts_with("bolthole-slot-"));
            if !on_slot {
                return before(info);
            }
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let trace = std::backtrace::Backtrace::force_capture();
            LAST_PANIC.set(Some(format!("at {place}\n{trace}")));
        }));
    });
}
