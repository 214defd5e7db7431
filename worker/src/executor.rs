//! Where a body runs: on the slot's thread, or in a child process. Whichever it is, the slot waits
//! for it, and hears in the same words how it ended.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::thread;

use bolthole_broker::call::{Call, Outcome};
use bolthole_broker::graph::Captured;
use bolthole_broker::registry::Body;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::child::Children;
use crate::flight::Runnable;

/// Threads that run bodies have names that start so: a panic on one of them is its task's.
pub(crate) const THREAD_PREFIX: &str = "bolthole-slot-";

/// Runs bodies.
pub(crate) struct Executor {
    /// Where `async fn` bodies find timers and sockets.
    pub(crate) user: Handle,
    /// `None` where the program has no way in for children: then every body runs here.
    pub(crate) children: Option<Arc<Children>>,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Execution {
    /// The body returned; these graphs it has submitted.
    Returned { outcome: Outcome, submitted: Vec<Captured> },
    /// It panicked.
    Panicked { message: String, backtrace: Option<String> },
    /// It was cancelled before it returned.
    Cancelled,
    /// Its process died, in which it was alone: how, and the last it wrote.
    Crashed { how: String, last_lines: Vec<String> },
    /// No process could be started for it.
    NoProcess(String),
}

impl Executor {
    /// Runs one attempt to its end, whatever that is. `began` is told when the body's own time
    /// begins: starting a process is none of it.
    pub(crate) fn run(&self, runnable: &Runnable, began: &(dyn Fn() + Sync)) -> Execution {
        let Some(children) = self.children.as_ref().filter(|_| runnable.isolated) else {
            return run_here(runnable.body, &runnable.call, &runnable.cancel, &self.user);
        };
        let execution = children.run(runnable, began);
        match execution {
            // Better once more a risk for this worker than a run that never ends.
            Execution::NoProcess(reason) if !runnable.info.class().options.isolated => {
                tracing::warn!(%reason, "no process of its own for a suspect: it runs here");
                run_here(runnable.body, &runnable.call, &runnable.cancel, &self.user)
            }
            execution => execution,
        }
    }
}

/// Runs a body on this thread.
pub(crate) fn run_here(
    body: Body,
    call: &Call,
    cancel: &CancellationToken,
    user: &Handle,
) -> Execution {
    let _user = user.enter();
    let outcome = catch_unwind(AssertUnwindSafe(|| match body {
        Body::Sync(body) => Some(body(call)),
        // Nobody wants the result of a cancelled attempt, and it may never end by itself.
        Body::Async(body) => user.block_on(cancel.run_until_cancelled(body(call.clone()))),
    }));
    match outcome.transpose() {
        Some(outcome) => Execution::of(outcome, call),
        None => Execution::Cancelled,
    }
}

impl Execution {
    /// Of a body that was called with this call and ended like that.
    pub(crate) fn of(outcome: thread::Result<Outcome>, call: &Call) -> Self {
        match outcome {
            Ok(outcome) => Self::Returned { outcome, submitted: call.ctx.take_submitted() },
            Err(panic) => panicked(panic.as_ref()),
        }
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Execution {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("a panic without a message").to_owned();
    Execution::Panicked { message, backtrace: LAST_PANIC.with_borrow_mut(Option::take) }
}

thread_local! {
    /// Where the last panic on this thread happened, with its backtrace.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes place and backtrace of panics in bodies, which are reported with their task; panics
/// elsewhere go to the hook there was.
pub(crate) fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            if crate::slots::is_in_body() {
                // Backtraces are slow, and a simulation has many of them.
                return LAST_PANIC.set(Some(format!("at {place}")));
            }
            let on_slot = thread::current().name().is_some_and(|n| n.starts_with(THREAD_PREFIX));
            if !on_slot {
                return before(info);
            }
            let trace = std::backtrace::Backtrace::force_capture();
            LAST_PANIC.set(Some(format!("at {place}\n{trace}")));
        }));
    });
}
