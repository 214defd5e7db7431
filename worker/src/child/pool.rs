//! The children of a worker: as many as have run at once, kept warm for a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bolthole_broker::limits;
use tokio::runtime::Handle;
use tokio::time::{Instant, interval, sleep};

use super::process::Process;
use crate::executor::Execution;
use crate::flight::Runnable;

/// Tries to start a child, and the wait after the first, doubled each time.
const START_TRIES: u32 = 5;
const START_WAIT: Duration = Duration::from_millis(200);

/// Children.
pub(crate) struct Children {
    /// The runtime for I/O.
    io: Handle,
    memory_bytes: Option<u64>,
    idle: Mutex<Vec<(Process, Instant)>>,
    /// Whether one was started ever: the program has a way in for them.
    known_good: AtomicBool,
}

impl Children {
    /// None yet. Call it on the runtime for I/O.
    pub(crate) fn new(memory_bytes: Option<u64>) -> Arc<Self> {
        let io = Handle::current();
        let (idle, known_good) = (Mutex::default(), AtomicBool::new(false));
        let children = Arc::new(Self { io, memory_bytes, idle, known_good });
        tokio::spawn(let_go(Arc::downgrade(&children)));
        children
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Process, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one attempt in a child, alone, and waits for its end on this thread, which must not be
    /// of the runtime for I/O. `began` is told when the child has the job.
    pub(crate) fn run(&self, runnable: &Runnable, began: &(dyn Fn() + Sync)) -> Execution {
        self.io.block_on(async {
            let process = tokio::select! {
                process = self.get() => process,
                () = runnable.cancel.cancelled() => return Execution::Cancelled,
            };
            let process = match process {
                Ok(process) => process,
                Err(reason) => return Execution::NoProcess(reason),
            };
            began();
            let (execution, process) = process.run(runnable).await;
            if let Some(process) = process {
                self.idle().push((process, Instant::now()));
            }
            execution
        })
    }

    /// A child that waits for a job.
    async fn get(&self) -> Result<Process, String> {
        if let Some((process, _)) = self.idle().pop() {
            return Ok(process);
        }
        let mut wait = START_WAIT;
        for attempt in 1.. {
            match Process::start(self.memory_bytes).await {
                Ok(process) => {
                    self.known_good.store(true, Ordering::Relaxed);
                    return Ok(process);
                }
                // The next one would fail as well, and may have cost a minute.
                Err(reason) if !self.known_good.load(Ordering::Relaxed) => return Err(reason),
                Err(reason) if attempt == START_TRIES => return Err(reason),
                Err(reason) => tracing::warn!(%reason, "no child was started; trying again"),
            }
            sleep(wait).await;
            wait *= 2;
        }
        Err("no child was started".to_owned())
    }
}

/// Ends children that have waited for long.
async fn let_go(children: Weak<Children>) {
    let mut look = interval(limits::CHILD_IDLE / 2);
    loop {
        look.tick().await;
        let Some(children) = children.upgrade() else { return };
        children.idle().retain(|(_, since)| since.elapsed() < limits::CHILD_IDLE);
    }
}
