//! A worker from start to end: builds the parts, connects them, takes them down in order.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bolthole_broker::call::States;
use bolthole_broker::clock;
use bolthole_broker::id::{Incarnation, WorkerIndex};
use bolthole_broker::limits::{WORKER_LEASE_MAX, WORKER_LEASE_MIN};
use bolthole_broker::queue::{BadName, Queue, QueueName};
use bolthole_broker::registry::Registry;
use bolthole_broker::store::{self, Store, WorkerRecord};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::hold::{Held, HoldOptions};
use crate::leaving::Leaving;
use crate::options::Options;
use crate::serve::ServeError;
use crate::shell::Drain;
use crate::takeover::INHERITANCES_MAX;
use crate::tasks::Tasks;

mod drain;
mod parts;
mod port;

use parts::{Parts, Program};
use port::open_port;

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No slot was asked for.
    #[error("a worker needs at least one slot")]
    NoSlots,
    /// The lease is too short or too long.
    #[error("a worker's lease of {0:?} was asked for; it may be {min:?} to {max:?}",
        min = WORKER_LEASE_MIN, max = WORKER_LEASE_MAX)]
    Lease(Duration),
    /// A queue's name is no name.
    #[error(transparent)]
    Queue(#[from] BadName),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The data port cannot be opened.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A thread, a folder or a runtime cannot be made.
    #[error("failed to start the worker: {0}")]
    Io(#[from] io::Error),
}

/// A running worker. Dropping it stops the worker at once; [`Worker::drain`] lets it finish.
#[derive(Debug)]
pub struct Worker {
    index: WorkerIndex,
    incarnation: Incarnation,
    address: String,
    held: Held,
    health: Option<Health>,
    drain: watch::Sender<Drain>,
    drained: watch::Receiver<bool>,
    leaving: Leaving,
    stop: CancellationToken,
    worn_out: CancellationToken,
    tasks: Tasks,
    /// Ends with the worker; taken down without waiting for bodies that are stuck.
    user: Option<Runtime>,
}

impl Worker {
    /// Starts a worker on the current runtime, which becomes its runtime for I/O. Bodies of tasks
    /// run on threads and a runtime of their own.
    pub async fn start(
        store: Store,
        queue: Queue,
        registry: Registry,
        states: States,
        options: Options,
    ) -> Result<Self, StartError> {
        let queues = checked(&options)?;
        let incarnation = clock::new_incarnation();
        let spill_dir = options.spill_dir.clone();
        let memory_bytes = options.memory_bytes;
        let held = Held::open(HoldOptions { memory_bytes, spill_dir, incarnation }).await?;
        let (address, port) = open_port(&options, incarnation, &held).await?;
        let record = WorkerRecord {
            incarnation,
            address,
            slots: u32::try_from(options.slots).unwrap_or(u32::MAX),
            queues: options.queues.clone(),
            in_flight: Vec::new(),
            held_bytes: 0,
            tasks: tasks_of(&registry),
        };
        let parts = Parts::new(store, queue, &options, &record, &held).await?;
        let health = match options.health {
            Some(bind) => {
                let (pulse, metrics) = (parts.pulse.clone(), parts.pulse.metrics.clone());
                Some(Health::bind(bind, pulse, metrics).await?)
            }
            None => None,
        };
        let program = Program { registry, states };
        let mut worker = Self::connect(parts, &options, program, queues, record, held)?;
        if let Some(port) = port {
            let (asked, stop) = (worker.drain.subscribe(), worker.stop.clone());
            worker.tasks.spawn(port.serve_until(asked, stop));
        }
        worker.tasks.close();
        tracing::info!(index = %worker.index, address = %worker.address, "worker started");
        worker.health = health;
        Ok(worker)
    }

    /// Starts the loop and what runs beside it.
    fn connect(
        parts: Parts,
        options: &Options,
        program: Program,
        queues: Vec<QueueName>,
        record: WorkerRecord,
        held: Held,
    ) -> Result<Self, StartError> {
        // A simulation has one runtime for everything.
        let user = if options.simulated.is_none() { Some(user_runtime()?) } else { None };
        let bodies = user.as_ref().map_or_else(Handle::current, |user| user.handle().clone());
        let (drain, drain_asked) = watch::channel(Drain::Stay);
        let (drained_tell, drained) = watch::channel(false);
        let tasks =
            Tasks::new(options.simulated.as_ref().map(|simulated| simulated.process.clone()));
        let publisher = parts.publisher();
        let (inherit, inherited) = mpsc::channel(INHERITANCES_MAX);
        let takeover = parts.takeover(&publisher, inherit);
        let inheritance = (&takeover, inherited);
        let shell = parts.shell(options, program, queues.clone(), inheritance, bodies, &tasks)?;
        let address = record.address.clone();
        tasks.spawn(takeover.watch());
        tasks.spawn(shell.run(drain_asked, drained_tell, parts.stop.clone()));
        parts.look_after(&tasks, record, publisher, options, queues);
        Ok(Self {
            index: parts.index,
            incarnation: parts.incarnation,
            address,
            held,
            health: None,
            drain,
            drained,
            leaving: Leaving::new(parts.copier),
            stop: parts.stop,
            worn_out: parts.pulse.worn_out,
            tasks,
            user,
        })
    }

    /// The worker's index in locators.
    pub fn index(&self) -> WorkerIndex {
        self.index
    }

    /// This life of the worker.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Where its data port is reached; empty when it has none.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where health and metrics are served, when they are.
    pub fn health(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(Health::local_addr)
    }

    /// Waits until more threads than can be borne are stuck in bodies whose time is over, and which
    /// nothing but the end of the process stops: see [`STUCK_PER_SLOT_MAX`]. Then it should be
    /// drained, and its process replaced.
    ///
    /// [`STUCK_PER_SLOT_MAX`]: bolthole_broker::limits::STUCK_PER_SLOT_MAX
    pub async fn worn_out(&self) {
        self.worn_out.cancelled().await;
    }

    /// The results it holds.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// Stops at once: what is not committed is run again by others.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.held.close().await;
        if let Some(health) = self.health.take() {
            health.shutdown().await;
        }
        if let Some(user) = self.user.take() {
            user.shutdown_background();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(user) = self.user.take() {
            user.shutdown_background();
        }
    }
}

/// The queues to serve, of options that make sense.
fn checked(options: &Options) -> Result<Vec<QueueName>, StartError> {
    if options.slots == 0 {
        return Err(StartError::NoSlots);
    }
    if !(WORKER_LEASE_MIN..=WORKER_LEASE_MAX).contains(&options.lease) {
        return Err(StartError::Lease(options.lease));
    }
    let names = options.queues.iter().map(|name| QueueName::new(name));
    Ok(names.collect::<Result<Vec<QueueName>, BadName>>()?)
}

/// Where `async fn` bodies find timers and sockets.
fn user_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).thread_name("bolthole-user").enable_all().build()
}

fn tasks_of(registry: &Registry) -> Vec<(String, String)> {
    let named = registry.names().filter_map(|name| registry.get(name));
    let mut tasks: Vec<_> =
        named.map(|entry| (entry.name.to_owned(), entry.signature.to_owned())).collect();
    tasks.sort();
    tasks
}
