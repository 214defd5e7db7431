//! Slots in a simulation: futures on the runtime of everything else. An `fn` body runs to its end in
//! one step, after the virtual time that it takes; an `async fn` body is awaited.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use bolthole_broker::call::Outcome;
use bolthole_broker::id::Incarnation;
use bolthole_broker::registry::Body;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};

use super::{Returned, Shared, cancelled};
use crate::executor::Execution;
use crate::flight::{Ended, Finish, Runnable};
use crate::simulate::{Attempt, Script};
use crate::spawn::Spawned;
use crate::tasks::Tasks;

/// How the slots of a simulated worker are driven.
pub(crate) struct Driven {
    pub(crate) tasks: Tasks,
    pub(crate) script: Arc<dyn Script>,
    pub(crate) worker: Incarnation,
}

thread_local! {
    static IN_BODY: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a body that is driven.
pub(crate) fn is_in_body() -> bool {
    IN_BODY.get()
}

/// While it lives, this thread is in a body.
struct Inside;

impl Inside {
    fn enter() -> Self {
        IN_BODY.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IN_BODY.set(false);
    }
}

/// Marks every step of a body.
async fn in_body<T>(body: impl Future<Output = T>) -> T {
    let mut body = pin!(body);
    poll_fn(|context| {
        let _leaves = Inside::enter();
        body.as_mut().poll(context)
    })
    .await
}

impl Shared {
    /// The life of a slot.
    pub(super) async fn drive(self: Arc<Self>, number: usize) {
        let mut follows = None;
        loop {
            let runnable = match follows.take() {
                Some(next) => next,
                None => match self.next_driven(number).await {
                    Some(next) => next,
                    None => return,
                },
            };
            let began = Instant::now();
            let (ended, spawn) = self.run_driven(&runnable).await;
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

    /// As `next`.
    async fn next_driven(&self, number: usize) -> Option<Runnable> {
        loop {
            let mut woken = pin!(self.driven_work.notified());
            // Before looking, so that no wake-up is missed.
            woken.as_mut().enable();
            let held = {
                let mut bench = self.bench();
                if bench.closed {
                    bench.slots -= 1;
                    return None;
                }
                if let Some(runnable) = bench.take(number) {
                    self.tell_of_permits(&bench);
                    return Some(runnable);
                }
                bench.held_for(Instant::now())
            };
            match held {
                None => woken.await,
                Some(rest) => _ = timeout(rest, woken).await,
            }
        }
    }

    /// As `run`.
    async fn run_driven(&self, runnable: &Runnable) -> (Ended, Option<Spawned>) {
        if runnable.cancel.is_cancelled() {
            return (cancelled(), None);
        }
        let Some(driven) = &self.driven else { return (cancelled(), None) };
        let attempt = Attempt {
            worker: driven.worker,
            run: runnable.key.0,
            task: runnable.key.1,
            name: &runnable.info.class().task,
            number: runnable.attempt,
            generation: runnable.ready.generation,
            nonce: runnable.nonce,
            inputs: runnable.info.inputs(&runnable.ready),
        };
        let takes = driven.script.starts(&attempt);
        if !driven.tasks.are_alive() {
            pending::<()>().await;
        }
        let body = async {
            if !takes.is_zero() {
                sleep(takes).await;
            }
            in_body(call(runnable)).await
        };
        let body = AssertUnwindSafe(runnable.cancel.run_until_cancelled(body)).catch_unwind();
        let outcome = body.await.transpose();
        driven.script.ended(&attempt);
        let Some(outcome) = outcome else { return (cancelled(), None) };
        match Returned::of(Execution::of(outcome, &runnable.call)) {
            Err(ended) => (ended, None),
            Ok(returned) if returned.is_plain() => (self.keep(runnable, returned.value), None),
            Ok(returned) => self.stage(runnable, returned).await,
        }
    }
}

async fn call(runnable: &Runnable) -> Outcome {
    match runnable.body {
        Body::Sync(body) => body(&runnable.call),
        Body::Async(body) => body(runnable.call.clone()).await,
    }
}
