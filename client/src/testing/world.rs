//! The cluster of a simulation: its servers in memory, its workers, and what befalls them in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::call::States;
use bolthole_broker::handoff::{Fetcher, Ports};
use bolthole_broker::queue::{Memory as MemoryQueue, MemoryBroker, Queue};
use bolthole_broker::store::{Memory, Snapshot, Store};
use bolthole_worker::simulate::{Process, Simulated};
use bolthole_worker::{ChildOptions, Options, Worker};
use tokio::time::{Instant, sleep_until};

use super::faults::{Faults, Kind};
use super::weather::{Inside, Weather};
use crate::client::Client;
use crate::embedded::queues_of;
use crate::error::{Error, ErrorKind, Result};
use crate::worker::linked;

/// Memory of a simulated worker: it has no disk to spill to.
const MEMORY_BYTES: u64 = 1 << 40;
/// How long a worker that drains may take.
const DRAIN: Duration = Duration::from_secs(30);
/// How long after the loss of a machine the queue gives up its connection: two heartbeats.
const HOST_NOTICED: Duration = Duration::from_secs(20);
/// How long nothing is planned for.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) workers: usize,
    pub(super) slots: usize,
    pub(super) lease: Duration,
    pub(super) resources: BTreeMap<String, u32>,
    pub(super) states: States,
}

/// A worker in its process.
struct Member {
    party: u32,
    process: Process,
    worker: Worker,
}

/// What is to happen.
enum Action {
    /// A fault of this kind, and the next one later.
    Cause(Kind),
    /// A worker starts.
    Start,
    GoOn(Process),
    Kill(Process),
    Rejoin(u32),
    EndAlarm,
    EndOutage,
    Restore(Box<Snapshot>),
}

/// The cluster.
pub(super) struct World {
    setup: Setup,
    faults: Faults,
    weather: Arc<Weather>,
    store: Memory,
    queue: MemoryQueue,
    broker: MemoryBroker,
    ports: Ports,
    members: Vec<Member>,
    parties: u32,
    /// What is to happen, in order of time and then of planning.
    agenda: BTreeMap<(Instant, u64), Action>,
    planned: u64,
}

impl World {
    /// A cluster without workers.
    pub(super) fn new(setup: Setup, faults: Faults, weather: Arc<Weather>) -> Result<Self> {
        let broker = MemoryBroker::new();
        let queue = broker.client("").map_err(|error| {
            Error::new(ErrorKind::Config, format!("no queue for the simulation: {error}"))
        })?;
        Ok(Self {
            setup,
            faults,
            weather,
            store: Memory::new(),
            queue,
            broker,
            ports: Ports::default(),
            members: Vec::new(),
            parties: 0,
            agenda: BTreeMap::new(),
            planned: 0,
        })
    }

    /// The servers themselves.
    pub(super) fn inside(&self) -> Inside {
        Inside {
            weather: Arc::clone(&self.weather),
            store: Store::Memory(self.store.clone()),
            queue: Queue::Memory(self.queue.clone()),
            broker: self.broker.clone(),
        }
    }

    /// A client of the cluster.
    pub(super) async fn client(&self) -> Result<Client> {
        let line = self.weather.actor(0, None);
        let store = Store::Memory(self.store.over(line.clone()));
        let queue = Queue::Memory(self.queue.clone().over(line));
        Client::on(store, queue, Fetcher::simulated(self.ports.clone()), None, None).await
    }

    /// Starts the workers, and lets happen what is to happen, for ever.
    pub(super) async fn turn(mut self) -> Result<std::convert::Infallible> {
        for _ in 0..self.setup.workers {
            self.plan(Duration::ZERO, Action::Start);
        }
        for (kind, mean) in self.faults.every.clone() {
            self.plan(self.weather.around(mean), Action::Cause(kind));
        }
        let weather = Arc::clone(&self.weather);
        loop {
            let next = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let next = next.unwrap_or_else(|| Instant::now() + FAR);
            tokio::select! {
                biased;
                () = weather.crashed.notified() => self.replace_the_dead(),
                () = sleep_until(next) => {
                    if let Some((_, action)) = self.agenda.pop_first() {
                        self.act(action).await?;
                    }
                }
            }
        }
    }

    fn plan(&mut self, after: Duration, action: Action) {
        self.planned += 1;
        self.agenda.insert((Instant::now() + after, self.planned), action);
    }

    /// A moment later, at most `max`.
    fn soon(&self, max: Duration) -> Duration {
        let ms = usize::try_from(max.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(self.weather.below(ms).max(1) as u64)
    }

    async fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Start => return self.start().await,
            Action::Cause(kind) => {
                if self.weather.is_calm() {
                    return Ok(());
                }
                self.cause(kind);
                let mean = self.faults.every.get(&kind).copied().unwrap_or(FAR);
                self.plan(self.weather.around(mean), Action::Cause(kind));
            }
            Action::GoOn(process) => {
                self.weather.step(format_args!("a worker goes on"));
                process.go_on();
            }
            Action::Kill(process) => {
                process.kill();
                self.replace_the_dead();
            }
            Action::Rejoin(party) => self.weather.set_cut(party, false),
            Action::EndAlarm => self.broker.block(None),
            Action::EndOutage => self.weather.set_store_down(false),
            Action::Restore(snapshot) => {
                self.weather.step(format_args!("the store is back at an earlier time"));
                self.store.restore(*snapshot);
                // What was taken since belongs to a past that has not been.
                self.agenda.retain(|_, action| !matches!(action, Action::Restore(_)));
            }
        }
        Ok(())
    }

    /// Starts a worker; when it cannot, tries again later, as a supervisor does.
    async fn start(&mut self) -> Result<()> {
        self.parties += 1;
        let party = self.parties;
        let process = Process::new();
        let actor = self.weather.actor(party, Some(process.clone()));
        let registry = linked()?;
        let options = Options {
            slots: self.setup.slots,
            queues: queues_of(&registry, std::collections::BTreeSet::new()),
            resources: self.setup.resources.clone(),
            bind: None,
            memory_bytes: MEMORY_BYTES,
            spill_dir: None,
            lease: self.setup.lease,
            children: Some(ChildOptions::default()),
            simulated: Some(Simulated {
                process: process.clone(),
                ports: self.ports.clone(),
                script: actor.clone(),
            }),
            ..Options::default()
        };
        let store = Store::Memory(self.store.over(actor.clone()));
        let queue = Queue::Memory(self.queue.clone().over(actor));
        let states = self.setup.states.clone();
        match Worker::start(store, queue, registry, states, options).await {
            Ok(worker) => {
                self.weather.step(format_args!("worker {party} started"));
                self.members.push(Member { party, process, worker });
            }
            Err(error) => {
                tracing::debug!(%error, "a simulated worker did not start");
                self.plan(Duration::from_secs(1), Action::Start);
            }
        }
        Ok(())
    }

    fn replace_the_dead(&mut self) {
        let before = self.members.len();
        self.members.retain(|member| member.process.is_alive());
        for _ in self.members.len()..before {
            let after = self.soon(Duration::from_secs(2));
            self.plan(after, Action::Start);
        }
    }

    fn cause(&mut self, kind: Kind) {
        let chosen = self.weather.below(self.members.len());
        let of_worker =
            matches!(kind, Kind::Crash | Kind::Pause | Kind::LoseHost | Kind::Drain | Kind::Cut);
        if of_worker && self.members.is_empty() {
            return;
        }
        self.weather.fault(kind.name());
        match kind {
            Kind::Crash => {
                self.members[chosen].process.kill();
                self.replace_the_dead();
            }
            Kind::CrashAll => {
                self.members.iter().for_each(|member| member.process.kill());
                self.replace_the_dead();
            }
            Kind::Pause => {
                let process = self.members[chosen].process.clone();
                process.stop();
                let after = self.soon(self.setup.lease * 3);
                self.plan(after, Action::GoOn(process));
            }
            Kind::LoseHost => {
                let process = self.members[chosen].process.clone();
                process.stop();
                self.plan(HOST_NOTICED, Action::Kill(process));
            }
            Kind::Drain => {
                let member = self.members.swap_remove(chosen);
                tokio::spawn(member.worker.drain(DRAIN));
                let after = self.soon(Duration::from_secs(2));
                self.plan(after, Action::Start);
            }
            Kind::Cut => {
                let party = self.members[chosen].party;
                self.weather.set_cut(party, true);
                let after = self.soon(self.setup.lease * 2);
                self.plan(after, Action::Rejoin(party));
            }
            Kind::DropSession => self.broker.drop_session(chosen),
            Kind::DropSessions => self.broker.drop_sessions(),
            Kind::Wipe => self.broker.wipe(),
            Kind::Alarm => {
                self.broker.block(Some("an alarm"));
                let after = self.soon(Duration::from_secs(5));
                self.plan(after, Action::EndAlarm);
            }
            Kind::Outage => {
                self.weather.set_store_down(true);
                let after = self.soon(Duration::from_secs(30));
                self.plan(after, Action::EndOutage);
            }
            Kind::Rollback => {
                let snapshot = Box::new(self.store.snapshot());
                let after = self.soon(Duration::from_secs(1));
                self.plan(after, Action::Restore(snapshot));
            }
        }
    }
}
