//! The parts of a worker, and how they are connected.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::call::States;
use bolthole_broker::durable::Durable;
use bolthole_broker::handoff::{Budget, Fetcher};
use bolthole_broker::id::{Incarnation, WorkerIndex};
use bolthole_broker::presence as message;
use bolthole_broker::queue::{ConsumeOptions, Levels, Queue, QueueName};
use bolthole_broker::registry::Registry;
use bolthole_broker::store::{Epoch, Store, WorkerRecord};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, RwLock, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::child::Children;
use crate::copies::Copier;
use crate::core::{Core, Identity};
use crate::executor::Executor;
use crate::hold::Held;
use crate::inputs::{Gates, Holders, Inputs, Reach};
use crate::known::Known;
use crate::options::Options;
use crate::permits;
use crate::prepare::{Parked, Preparer};
use crate::presence::{InFlight, Presence};
use crate::publish::Publisher;
use crate::pulse::Pulse;
use crate::reconcile::Reconciler;
use crate::shell::Shell;
use crate::slots::{Driven, Slots};
use crate::spawn::Spawner;
use crate::takeover::{Contact, Inheritance, Takeover};
use crate::tasks::Tasks;
use crate::turns::Turns;
use crate::values::Values;

/// Share of the memory limit that results on their way here may take.
const RECEIVE_SHARE: u64 = 10;
/// And the least they may.
const RECEIVE_BYTES_MIN: u64 = 64 << 20;

/// The user's code: its tasks, and the values that they share.
pub(super) struct Program {
    pub(super) registry: Registry,
    pub(super) states: States,
}

/// What the parts of a worker share.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) queue: Queue,
    pub(super) incarnation: Incarnation,
    pub(super) lease: Duration,
    pub(super) index: WorkerIndex,
    /// What errors call this worker.
    pub(super) address: String,
    pub(super) epoch: Arc<RwLock<Epoch>>,
    /// The same, as soon as another one is seen.
    pub(super) life: watch::Sender<Epoch>,
    pub(super) values: Arc<Values>,
    pub(super) known: Arc<Known>,
    pub(super) in_flight: InFlight,
    pub(super) pulse: Pulse,
    pub(super) copier: Arc<Copier>,
    pub(super) fetcher: Fetcher,
    pub(super) contact: Arc<Contact>,
    /// What tells others of this worker when it is gone; none without a data port, because nobody
    /// could ask whether it lives.
    pub(super) presence: Option<Bytes>,
    pub(super) stop: CancellationToken,
}

impl Parts {
    /// Joins the cluster: from now on others see the worker.
    pub(super) async fn new(
        store: Store,
        queue: Queue,
        options: &Options,
        record: &WorkerRecord,
        held: &Held,
    ) -> Result<Self, StartError> {
        let index = store.join(record, options.lease).await?;
        let epoch = store.epoch().await?;
        let (life, epoch) = (watch::Sender::new(epoch.clone()), Arc::new(RwLock::new(epoch)));
        let (incarnation, address) = (record.incarnation, record.address.clone());
        let left_behind = message::Presence { index, incarnation, address: address.clone() };
        let fetcher = fetcher(options);
        Ok(Self {
            copier: Copier::new(&store, held, &fetcher, index, options.results.clone()),
            values: Arc::new(Values::new(held.clone(), index)),
            known: Arc::new(Known::new(store.clone())),
            stop: CancellationToken::new(),
            store,
            queue,
            incarnation,
            lease: options.lease,
            index,
            presence: (!address.is_empty()).then(|| left_behind.encode()),
            address: if address.is_empty() { index.to_string() } else { address },
            epoch,
            life,
            in_flight: InFlight::default(),
            pulse: Pulse::new(held.clone()),
            fetcher,
            contact: Arc::new(Contact::new()),
        })
    }

    pub(super) fn publisher(&self) -> Arc<Publisher> {
        Arc::new(Publisher {
            queue: self.queue.clone(),
            known: Arc::clone(&self.known),
            epoch: Arc::clone(&self.epoch),
            levels: Levels::default(),
        })
    }

    pub(super) fn takeover(
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
        program: Program,
        queues: HashSet<String>,
    ) -> Arc<Preparer> {
        let Program { registry, states } = program;
        let holders = Holders {
            store: self.store.clone(),
            contact: Arc::clone(&self.contact),
            lease: self.lease,
        };
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
            reach: Reach::new(self.queue.clone(), self.index),
            holders,
            gates: Gates::default(),
            fetched_bytes: self.pulse.fetched_bytes.clone(),
        };
        Arc::new(Preparer {
            store: self.store.clone(),
            known: Arc::clone(&self.known),
            values: Arc::clone(&self.values),
            registry,
            states: Arc::new(states),
            queues,
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
    fn slots(
        &self,
        options: &Options,
        core: &Arc<std::sync::Mutex<Core>>,
        preparer: &Arc<Preparer>,
        bodies: Handle,
        tasks: &Tasks,
    ) -> io::Result<Slots> {
        let spawner = Spawner { store: self.store.clone(), io: Handle::current() };
        let preparer = (Arc::clone(preparer), options.memory_wait);
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
        Slots::start((options.slots, core), resources, preparer, spawner, executor, driven)
    }

    /// The loop, with its slots and its consumer.
    pub(super) fn shell(
        &self,
        options: &Options,
        program: Program,
        queues: Vec<QueueName>,
        (takeover, inherited): (&Arc<Takeover>, mpsc::Receiver<Inheritance>),
        bodies: Handle,
        tasks: &Tasks,
    ) -> Result<Shell, StartError> {
        let served: HashSet<String> = options.queues.iter().cloned().collect();
        let preparer = self.preparer(options, program, served.clone());
        let core = Arc::new(std::sync::Mutex::new(Core::new(Identity {
            incarnation: self.incarnation,
            address: self.address.clone(),
            slots: options.slots,
            queues: served,
            order: options.order,
            without: options.without.clone(),
            tasks_per_commit: options.tasks_per_commit,
        })));
        let slots = self.slots(options, &core, &preparer, bodies, tasks)?;
        let permits = permits::Keeper {
            store: self.store.clone(),
            slots: slots.clone(),
            me: self.incarnation,
            lease: self.lease,
            stop: self.stop.clone(),
        };
        tasks.spawn(permits.run());
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
            self.life.subscribe(),
            consumer,
            in_flight,
            pulse,
            me,
            tasks.beside(),
        ))
    }

    /// Starts what runs beside the loop.
    pub(super) fn look_after(
        &self,
        tasks: &Tasks,
        record: WorkerRecord,
        publisher: Arc<Publisher>,
        options: &Options,
        queues: Vec<QueueName>,
    ) {
        let presence = Presence {
            store: self.store.clone(),
            index: self.index,
            record,
            lease: self.lease,
            in_flight: Arc::clone(&self.in_flight),
            epoch: Arc::clone(&self.epoch),
            life: self.life.clone(),
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
            results: options.results.clone(),
            me: self.incarnation,
            queues,
            contact: Arc::clone(&self.contact),
            patience: options.reconcile.unwrap_or(self.lease),
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

fn prefetch(parcels: usize) -> u16 {
    u16::try_from(parcels).unwrap_or(u16::MAX)
}
