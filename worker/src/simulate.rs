//! What makes a worker part of a simulation: all of it runs on the runtime that starts it, slots
//! included, so that a seed and a paused clock determine everything it does; and its process can be
//! stopped, set going again and killed, between any two steps. Its code is the same in every other
//! respect.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bolthole_broker::handoff::frame::Reason;
use bolthole_broker::handoff::ports::Answer;
use bolthole_broker::handoff::{Digest, Port, Ports, Pushed};
use bolthole_broker::id::{Incarnation, ResultKey, RunId, TaskId};
use bytes::Bytes;

use crate::hold::Held;

/// A worker's place in a simulation.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// Its process.
    pub process: Process,
    /// Where its data port is found, and those of its peers.
    pub ports: Ports,
    /// Who is told of its attempts, and decides what befalls them.
    pub script: Arc<dyn Script>,
}

/// Is told of every attempt on a slot.
pub trait Script: fmt::Debug + Send + Sync {
    /// An attempt is about to run: how long its body takes, beside what its code waits for. May
    /// kill the process: then the body does not run.
    fn starts(&self, attempt: &Attempt<'_>) -> Duration;
    /// Its body has ended.
    fn ended(&self, attempt: &Attempt<'_>);
}

/// An attempt at a task.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Who runs it.
    pub worker: Incarnation,
    /// Of which run it is.
    pub run: RunId,
    /// Which task.
    pub task: TaskId,
    /// Its name.
    pub name: &'a str,
    /// 1 for the first.
    pub number: u32,
    /// Which computation of the result it is; 0 for the first.
    pub generation: u8,
    /// Drawn for this attempt.
    pub nonce: u64,
    /// The tasks whose results it uses.
    pub inputs: &'a [TaskId],
}

/// The process of a simulated worker. Clones are the same process.
#[derive(Clone, Default)]
pub struct Process {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    state: State,
    /// Who wakes each of its futures.
    wakers: BTreeMap<u64, Waker>,
    last: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Running,
    Stopped,
    Killed,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({:?})", self.shared().state)
    }
}

impl Process {
    /// A process that runs.
    pub fn new() -> Self {
        Self::default()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops it where it stands: nothing of it takes a step until it goes on.
    pub fn stop(&self) {
        self.become_(State::Stopped);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.become_(State::Running);
    }

    /// Ends it where it stands: everything of it is dropped, nothing is said to anyone.
    pub fn kill(&self) {
        self.become_(State::Killed);
    }

    /// Whether it has not been killed.
    pub fn is_alive(&self) -> bool {
        self.shared().state != State::Killed
    }

    /// Whether it takes steps.
    pub fn is_running(&self) -> bool {
        self.shared().state == State::Running
    }

    fn become_(&self, state: State) {
        let wakers: Vec<Waker> = {
            let mut shared = self.shared();
            if shared.state == State::Killed {
                return;
            }
            shared.state = state;
            shared.wakers.values().cloned().collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Runs a future of this process: to its end, or until the process is killed.
    pub(crate) async fn run(self, future: impl Future<Output = ()>) {
        let number = {
            let mut shared = self.shared();
            shared.last += 1;
            shared.last
        };
        let mut future = pin!(future);
        poll_fn(|context| match self.may_step(number, context) {
            State::Running => future.as_mut().poll(context),
            State::Stopped => Poll::Pending,
            State::Killed => Poll::Ready(()),
        })
        .await;
        self.shared().wakers.remove(&number);
    }

    fn may_step(&self, number: u64, context: &Context<'_>) -> State {
        let mut shared = self.shared();
        shared.wakers.insert(number, context.waker().clone());
        shared.state
    }
}

/// The data port of a simulated worker, until it is closed.
pub(crate) struct SimulatedPort {
    ports: Ports,
    address: String,
}

struct Served {
    held: Held,
    process: Process,
}

impl SimulatedPort {
    pub(crate) fn open(simulated: &Simulated, incarnation: Incarnation, held: Held) -> Self {
        let address = format!("{incarnation}:1");
        let (ports, process) = (simulated.ports.clone(), simulated.process.clone());
        ports.open(&address, incarnation, Arc::new(Served { held, process }));
        Self { ports, address }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn close(self) {
        self.ports.close(&self.address);
    }
}

impl Port for Served {
    fn serve(&self, key: ResultKey) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.held.serve(&key).await.map(|value| value.bytes) })
    }

    fn take(&self, key: ResultKey, digest: Digest, bytes: Bytes) -> Pushed {
        if self.held.admit(bytes.len() as u64).is_none() {
            return Pushed::Refused(Reason::Busy);
        }
        self.held.insert_with_digest(key, bytes, digest, None);
        self.held.confirm(&key);
        Pushed::Stored
    }

    fn forget(&self, keys: &[ResultKey]) {
        for key in keys {
            self.held.drop_attempts(key.run, key.task, key.generation);
        }
    }

    fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    fn is_running(&self) -> bool {
        self.process.is_running()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_takes_steps_while_it_runs() {
        let process = Process::new();
        let steps = Arc::new(AtomicU32::new(0));
        let walk = {
            let steps = Arc::clone(&steps);
            async move {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let walking = tokio::spawn(process.clone().run(walk));
        let pause = Duration::from_millis(5_500);
        sleep(pause).await;
        assert_eq!(steps.load(Ordering::Relaxed), 5);
        process.stop();
        sleep(pause).await;
        assert_eq!(steps.load(Ordering::Relaxed), 5);
        process.go_on();
        sleep(pause).await;
        assert_eq!(steps.load(Ordering::Relaxed), 11, "one was due at once");
        process.kill();
        process.go_on();
        walking.await.unwrap();
        assert!(!process.is_alive());
        assert_eq!((Arc::strong_count(&steps), steps.load(Ordering::Relaxed)), (1, 11));
    }
}
