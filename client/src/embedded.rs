//! A whole cluster in this process: client, worker, queue and store. The same program runs without
//! any server, on all cores, and stops with the last clone of its client.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bolthole_broker::handoff::{Budget, Fetcher};
use bolthole_broker::queue::Queue;
use bolthole_broker::registry::Registry;
use bolthole_broker::store::{Memory, Store};
use bolthole_broker::task::DEFAULT_QUEUE;
use bolthole_worker::{ChildOptions, Options, Worker, child};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::local::Local;
use crate::states::MakeStates;
use crate::worker::{linked, refuse_in_child};

/// The options of an embedded cluster.
pub struct EmbeddedBuilder {
    slots: Option<usize>,
    memory_bytes: Option<u64>,
    queues: BTreeSet<String>,
    resources: BTreeMap<String, u32>,
    states: MakeStates,
}

impl Client {
    /// A client with a worker in this process that runs a task on every core, and no server.
    pub async fn embedded() -> Result<Self> {
        Self::embedded_builder().start().await
    }

    /// The options of an embedded cluster.
    pub fn embedded_builder() -> EmbeddedBuilder {
        let queues = BTreeSet::from([DEFAULT_QUEUE.to_owned()]);
        let resources = BTreeMap::new();
        let states = MakeStates::default();
        EmbeddedBuilder { slots: None, memory_bytes: None, queues, resources, states }
    }
}

impl EmbeddedBuilder {
    /// Tasks to run at once; by default as many as there are cores.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Memory for results, in bytes, before they go to disk; by default what the machine allows.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Serves this queue too. Those that tasks name in their attribute are served in any case.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queues.insert(queue.into());
        self
    }

    /// So much of something that tasks may ask for by name, such as one `gpu`.
    #[must_use]
    pub fn resource(mut self, name: impl Into<String>, amount: u32) -> Self {
        self.resources.insert(name.into(), amount);
        self
    }

    /// A value that tasks borrow as `State<T>`, made once: a database pool, a model.
    #[must_use]
    pub fn state<T, F, R>(mut self, make: F) -> Self
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        self.states.add(make);
        self
    }

    /// Starts the worker and the client on the current runtime.
    pub async fn start(self) -> Result<Client> {
        refuse_in_child()?;
        let (store, queue) = (Store::Memory(Memory::new()), Queue::memory());
        let registry = linked()?;
        let options = Options::default();
        let options = Options {
            slots: self.slots.unwrap_or(options.slots),
            memory_bytes: self.memory_bytes.unwrap_or(options.memory_bytes),
            queues: queues_of(&registry, self.queues),
            resources: self.resources,
            bind: None,
            children: child::is_possible().then(ChildOptions::default),
            ..options
        };
        let states = self.states.make().await;
        let started = Worker::start(store.clone(), queue.clone(), registry, states, options).await;
        let worker = Arc::new(started.map_err(Error::of_start)?);
        let local = Local::new(move |key| {
            let held = worker.held();
            async move { held.serve(&key).await.map(|value| value.bytes) }
        });
        let fetcher = Fetcher::new(None, Budget::new(0));
        Client::on(store, queue, fetcher, None, Some(local)).await
    }
}

impl fmt::Debug for EmbeddedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBuilder").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// The given queues and those that tasks name in their attribute.
pub(crate) fn queues_of(registry: &Registry, mut queues: BTreeSet<String>) -> Vec<String> {
    let entries = registry.names().filter_map(|name| registry.get(name));
    queues.extend(entries.map(|entry| (entry.options)().queue));
    queues.into_iter().collect()
}
