//! A worker from start to end: builds the parts, connects them, takes them down in order.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::call::States;
use bolthole_broker::clock;
use bolthole_broker::durable::{Durable, Folder};
use bolthole_broker::handoff::{Budget, Fetcher};
use bolthole_broker::id::{Incarnation, WorkerIndex};
use bolthole_broker::limits::{WORKER_LEASE_MAX, WORKER_LEASE_MIN};
use bolthole_broker::presence as message;
use bolthole_broker::queue::{BadName, ConsumeOptions, Queue, QueueName};
use bolthole_broker::registry::Registry;
use bolthole_broker::store::{self, Epoch, Store, WorkerRecord};
use bytes::Bytes;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Mutex, RwLock, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::child::Children;
use crate::copies::Copier;
use crate::core::{Core, Identity};
use crate::executor::Executor;
use crate::health::Health;
use crate::hold::{Held, HoldOptions};
use crate::inputs::{Gates, Inputs};
use crate::known::Known;
use crate::leaving::Leaving;
use crate::lineage::Lineage;
use crate::options::Options;
use crate::prepare::{Parked, Preparer};
use crate::presence::{InFlight, Presence};
use crate::publish::Publisher;
use crate::pulse::Pulse;
use crate::reconcile::Reconciler;
use crate::serve::ServeError;
use crate::shell::{Drain, Shell};
use crate::slots::{Driven, Slots};
use crate::spawn::Spawner;
use crate::takeover::{Contact, INHERITANCES_MAX, Inheritance, Takeover};
use crate::tasks::Tasks;
use crate::turns::Turns;
use crate::values::Values;

mod drain;
mod port;

use port::open_port;

/// Share of the memory limit that results on their way here may take.
const RECEIVE_SHARE: u64 = 10;
/// And the least they may.
const RECEIVE_BYTES_MIN: u64 = 64 << 20;

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
        if options.slots == 0 {
            return Err(StartError::NoSlots);
        }
        if !(WORKER_LEASE_MIN..=WORKER_LEASE_MAX).contains(&options.lease) {
            return Err(StartError::Lease(options.lease));
        }
        let names = options.queues.iter().map(|name| QueueName::new(name));
        let queues = names.collect::<Result<Vec<QueueName>, BadName>>()?;
        let incarnation = clock::new_incarnation();
        let spill_dir = options.spill_dir.clone();
        let memory_bytes = options.memory_bytes;
        let held = Held::open(HoldOptions { memory_bytes, spill_dir, incarnation }).await?;
        let (address, port) = open_port(&options, incarnation, &held).await?;
        let record = WorkerRecord {
            incarnation,
            address: address.clone(),
            slots: u32::try_from(options.slots).unwrap_or(u32::MAX),
            queues: options.queues.clone(),
            in_flight: Vec::new(),
            held_bytes: 0,
            tasks: tasks_of(&registry),
        };
        let index = store.join(&record, options.lease).await?;
        let epoch = Arc::new(RwLock::new(store.epoch().await?));
        let left_behind = message::Presence { index, incarnation, address: address.clone() };
        let fetcher = fetcher(&options);
        let copier = Copier::new(&store, &held, &fetcher, index, options.results.clone());
        let parts = Parts {
            copier,
            values: Arc::new(Values::new(held.clone(), index)),
            known: Arc::new(Known::new(store.clone())),
            stop: CancellationToken::new(),
            store,
            queue,
            incarnation,
            lease: options.lease,
            index,
            address: if address.is_empty() { index.to_string() } else { address.clone() },
            epoch,
            in_flight: InFlight::default(),
            pulse: Pulse::new(held.clone()),
            fetcher,
            contact: Arc::new(Contact::new()),
            presence: (!address.is_empty()).then(|| left_behind.encode()),
        };
        // A simulation has one runtime for everything.
        let user = match options.simulated {
            Some(_) => None,
            None => Some(
                Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("bolthole-user")
                    .enable_all()
                    .build()?,
            ),
        };
        let bodies = user.as_ref().map_or_else(Handle::current, |user| user.handle().clone());
        let (drain, drain_asked) = watch::channel(Drain::Stay);
        let (drained_tell, drained) = watch::channel(false);
        let tasks =
            Tasks::new(options.simulated.as_ref().map(|simulated| simulated.process.clone()));
        let health = match options.health {
            Some(bind) => {
                let (pulse, metrics) = (parts.pulse.clone(), parts.pulse.metrics.clone());
                Some(Health::bind(bind, pulse, metrics).await?)
            }
            None => None,
        };
        let publisher = parts.publisher();
        let (inherit, inherited) = mpsc::channel(INHERITANCES_MAX);
        let takeover = parts.takeover(&publisher, inherit);
        let shell = parts.shell(
            &options,
            registry,
            states,
            queues,
            (&takeover, inherited),
            bodies,
            &tasks,
        )?;
        tasks.spawn(takeover.watch());
        tasks.spawn(shell.run(drain_asked.clone(), drained_tell, parts.stop.clone()));
        parts.look_after(&tasks, record, publisher, options.results, options.reconcile);
        if let Some(port) = port {
            tasks.spawn(port.serve_until(drain_asked, parts.stop.clone()));
        }
        tasks.close();
        tracing::info!(%index, %address, slots = options.slots, "worker started");
        let (stop, worn_out) = (parts.stop, parts.pulse.worn_out);
        let leaving = Leaving::new(parts.copier);
        Ok(Self {
            index,
            incarnation,
            address,
            held,
            health,
            drain,
            drained,
            leaving,
            stop,
            worn_out,
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

/// What the parts of a worker share.
struct Parts {
    store: Store,
    queue: Queue,
    incarnation: Incarnation,
    lease: Duration,
    index: WorkerIndex,
    /// What errors call this worker.
    address: String,
    epoch: Arc<RwLock<Epoch>>,
    values: Arc<Values>,
    known: Arc<Known>,
    in_flight: InFlight,
    pulse: Pulse,
    copier: Arc<Copier>,
    fetcher: Fetcher,
    contact: Arc<Contact>,
    /// What tells others of this worker when it is gone; none without a data port, because nobody
    /// could ask whether it lives.
    presence: Option<Bytes>,
    stop: CancellationToken,
}

impl Parts {
    fn publisher(&self) -> Arc<Publisher> {
        Arc::new(Publisher {
            queue: self.queue.clone(),
            known: Arc::clone(&self.known),
            epoch: Arc::clone(&self.epoch),
        })
    }

    fn takeover(
        &self,
        publisher: &Arc<Publisher>,
        inherit: mpsc::Sender<Inheritance>,
    ) -> Arc<Takeover> {
        Arc::new(Takeover {
            store: self.store.clone(),
            publisher: Arc::clone(publisher),
            fetcher: self.fetcher.clone(),
            me: self.incarnation,
            index: self.index,
            lease: self.lease,
            contact: Arc::clone(&self.contact),
            inherit,
            stop: self.stop.clone(),
        })
    }

    /// What gets tasks ready to run.
    fn preparer(
        &self,
        options: &Options,
        registry: Registry,
        states: States,
        queues: HashSet<String>,
    ) -> Arc<Preparer> {
        let inputs = Inputs {
            store: self.store.clone(),
            values: Arc::clone(&self.values),
            fetcher: self.fetcher.clone(),
            durable: Durable {
                store: self.store.clone(),
                fetcher: self.fetcher.clone(),
                folder: options.results.clone(),
            },
            me: self.index,
            gates: Gates::default(),
        };
        Arc::new(Preparer {
            store: self.store.clone(),
            known: Arc::clone(&self.known),
            values: Arc::clone(&self.values),
            registry,
            states: Arc::new(states),
            queues,
            lineage: Lineage {
                store: self.store.clone(),
                known: Arc::clone(&self.known),
                fetcher: inputs.fetcher.clone(),
            },
            resources: options.resources.clone(),
            turns: Turns {
                store: self.store.clone(),
                fetcher: inputs.fetcher.clone(),
                me: self.incarnation,
                lease: self.lease,
                deaths: Mutex::default(),
            },
            children: options.children.clone(),
            copier: Arc::clone(&self.copier),
            inputs,
            parked: Parked::default(),
            stop: self.stop.child_token(),
        })
    }

    /// Where tasks run.
    fn slots(&self, options: &Options, bodies: Handle, tasks: &Tasks) -> io::Result<Slots> {
        let spawner = Spawner { store: self.store.clone(), io: Handle::current() };
        let values = Arc::clone(&self.values);
        let driven = options.simulated.as_ref().map(|simulated| Driven {
            tasks: tasks.beside(),
            script: Arc::clone(&simulated.script),
            worker: self.incarnation,
        });
        let resources = options.resources.clone();
        // A simulation has no processes but its own.
        let children = options.children.as_ref().filter(|_| driven.is_none());
        let children = children.map(|children| Children::new(children.memory_bytes));
        let executor = Executor { user: bodies, children };
        Slots::start(options.slots, resources, values, spawner, executor, driven)
    }

    /// The loop, with its slots and its consumer.
    fn shell(
        &self,
        options: &Options,
        registry: Registry,
        states: States,
        queues: Vec<QueueName>,
        (takeover, inherited): (&Arc<Takeover>, mpsc::Receiver<Inheritance>),
        bodies: Handle,
        tasks: &Tasks,
    ) -> Result<Shell, StartError> {
        let served: HashSet<String> = options.queues.iter().cloned().collect();
        let preparer = self.preparer(options, registry, states, served.clone());
        let core = Core::new(Identity {
            incarnation: self.incarnation,
            address: self.address.clone(),
            slots: options.slots,
            queues: served,
        });
        let slots = self.slots(options, bodies, tasks)?;
        let consumer = self.queue.consume(ConsumeOptions {
            queues,
            prefetch_hi: prefetch(2 * options.slots + 2),
            prefetch_lo: prefetch(options.slots + 1),
            presence: self.presence.clone(),
        });
        let in_flight = Arc::clone(&self.in_flight);
        let publisher = Arc::clone(&takeover.publisher);
        let pulse = self.pulse.clone();
        let me = self.incarnation;
        let takeover = Arc::clone(takeover);
        Ok(Shell::new(
            core,
            slots,
            preparer,
            publisher,
            takeover,
            inherited,
            consumer,
            in_flight,
            pulse,
            me,
            tasks.beside(),
        ))
    }

    /// Starts what runs beside the loop.
    fn look_after(
        &self,
        tasks: &Tasks,
        record: WorkerRecord,
        publisher: Arc<Publisher>,
        results: Option<Folder>,
        patience: Option<Duration>,
    ) {
        let presence = Presence {
            store: self.store.clone(),
            index: self.index,
            record,
            lease: self.lease,
            in_flight: Arc::clone(&self.in_flight),
            epoch: Arc::clone(&self.epoch),
            pulse: self.pulse.clone(),
            stop: self.stop.clone(),
        };
        tasks.spawn(Arc::clone(&self.copier).run(self.stop.clone()));
        tasks.spawn(presence.keep());
        let reconciler = Reconciler {
            store: self.store.clone(),
            publisher,
            values: Arc::clone(&self.values),
            known: Arc::clone(&self.known),
            results,
            me: self.incarnation,
            contact: Arc::clone(&self.contact),
            patience: patience.unwrap_or(self.lease),
            lease: self.lease,
            stop: self.stop.clone(),
        };
        tasks.spawn(reconciler.run());
    }
}

fn fetcher(options: &Options) -> Fetcher {
    let receive = (options.memory_bytes / RECEIVE_SHARE).max(RECEIVE_BYTES_MIN);
    match &options.simulated {
        Some(simulated) => Fetcher::simulated(simulated.ports.clone()),
        None => Fetcher::new(options.secret.as_ref(), Budget::new(receive)),
    }
}

fn tasks_of(registry: &Registry) -> Vec<(String, String)> {
    let named = registry.names().filter_map(|name| registry.get(name));
    let mut tasks: Vec<_> =
        named.map(|entry| (entry.name.to_owned(), entry.signature.to_owned())).collect();
    tasks.sort();
    tasks
}

fn prefetch(parcels: usize) -> u16 {
    u16::try_from(parcels).unwrap_or(u16::MAX)
}
