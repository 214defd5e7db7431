//! This program as a worker: every task linked into it can be run.
//!
//! ```no_run
//! # struct Pool;
//! # impl Pool { async fn open() -> Self { Self } }
//! fn main() -> bolthole::Result<()> {
//!     bolthole::worker::from_env()?.slots(8).state(Pool::open).run()
//! }
//! ```

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bolthole_broker::call::States;
use bolthole_broker::limits;
use bolthole_broker::registry::Registry;
use bolthole_worker::{ChildOptions, Options, Worker, child};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{ClientBuilder, variable};
use crate::error::{Error, ErrorKind, Result};
use crate::states::MakeStates;

/// The options of a worker.
#[must_use = "nothing runs before `run` is called"]
pub struct WorkerBuilder {
    servers: ClientBuilder,
    options: Options,
    states: MakeStates,
    drain: Duration,
}

/// A worker of the cluster that the environment names: see [`ClientBuilder::from_env`]. Further
/// variables, all of them optional: `BOLTHOLE_SLOTS` (a number), `BOLTHOLE_QUEUES` (names, separated
/// by commas), `BOLTHOLE_RESOURCES` (such as `gpu=1,licence=2`), `BOLTHOLE_BIND` and
/// `BOLTHOLE_HEALTH` (`address:port` of the data port and of the health endpoint),
/// `BOLTHOLE_ADVERTISE` (`host:port` under which others reach the data port), `BOLTHOLE_MEMORY`
/// (bytes for results), `BOLTHOLE_MEMORY_WAIT` (such as `60s`: see [`WorkerBuilder::memory_wait`]),
/// `BOLTHOLE_SPILL_DIR`, `BOLTHOLE_LEASE` (such as `5s`: see [`WorkerBuilder::lease`]),
/// `BOLTHOLE_ORDER` (`cone`, `path` or `arrival`, in place of what suits the tasks),
/// `BOLTHOLE_WITHOUT` (of `locality`, `sharing` and `ahead` what to do without, to see what it is
/// worth),
/// `BOLTHOLE_DRAIN` (such as `25s`: see [`WorkerBuilder::drain`]), `BOLTHOLE_ISOLATE` (queues whose
/// tasks run in child processes, `*` for all), `BOLTHOLE_CHILD_MEMORY` (bytes that a child may
/// allocate).
pub fn from_env() -> Result<WorkerBuilder> {
    let mut worker = with(ClientBuilder::from_env()?);
    let options = &mut worker.options;
    if let Some(slots) = parsed("BOLTHOLE_SLOTS", "a number")? {
        options.slots = slots;
    }
    if let Some(queues) = variable("BOLTHOLE_QUEUES")? {
        options.queues = queues.split(',').map(|name| name.trim().to_owned()).collect();
    }
    options.order = parsed("BOLTHOLE_ORDER", "`cone`, `path` or `arrival`")?;
    for tactic in variable("BOLTHOLE_WITHOUT")?.iter().flat_map(|all| all.split(',')) {
        let tactic = tactic.parse().map_err(|error: String| {
            Error::new(ErrorKind::Config, format!("BOLTHOLE_WITHOUT has {tactic:?}: {error}"))
        })?;
        options.without.push(tactic);
    }
    if let Some(resources) = variable("BOLTHOLE_RESOURCES")? {
        for resource in resources.split(',') {
            let parts = resource.split_once('=').map(|(name, amount)| (name, amount.parse()));
            let Some((name, Ok(amount))) = parts else {
                let message = format!("BOLTHOLE_RESOURCES has {resource:?}, not name=number");
                return Err(Error::new(ErrorKind::Config, message));
            };
            options.resources.insert(name.trim().to_owned(), amount);
        }
    }
    if let Some(bind) = parsed("BOLTHOLE_BIND", "address:port")? {
        options.bind = Some(bind);
    }
    let children = options.children.get_or_insert_default();
    if let Some(queues) = variable("BOLTHOLE_ISOLATE")? {
        children.queues = queues.split(',').map(|name| name.trim().to_owned()).collect();
    }
    children.memory_bytes = parsed("BOLTHOLE_CHILD_MEMORY", "a number of bytes")?;
    options.health = parsed("BOLTHOLE_HEALTH", "address:port")?;
    options.advertise = variable("BOLTHOLE_ADVERTISE")?;
    if let Some(bytes) = parsed("BOLTHOLE_MEMORY", "a number of bytes")? {
        options.memory_bytes = bytes;
    }
    if let Some(wait) = parsed::<humantime::Duration>("BOLTHOLE_MEMORY_WAIT", "a time such as 60s")?
    {
        options.memory_wait = *wait;
    }
    if let Some(dir) = variable("BOLTHOLE_SPILL_DIR")? {
        options.spill_dir = Some(PathBuf::from(dir));
    }
    if let Some(lease) = parsed::<humantime::Duration>("BOLTHOLE_LEASE", "a time such as 5s")? {
        options.lease = *lease;
    }
    if let Some(drain) = parsed::<humantime::Duration>("BOLTHOLE_DRAIN", "a time such as 25s")? {
        worker.drain = *drain;
    }
    Ok(worker)
}

/// A worker of the cluster that a client with these options would connect to.
pub fn with(servers: ClientBuilder) -> WorkerBuilder {
    let options = Options { secret: servers.cluster_secret().cloned(), ..Options::default() };
    let options = Options { children: Some(ChildOptions::default()), ..options };
    WorkerBuilder { servers, options, states: MakeStates::default(), drain: limits::DRAIN }
}

impl WorkerBuilder {
    /// Tasks to run at once; by default as many as there are cores.
    pub fn slots(mut self, slots: usize) -> Self {
        self.options.slots = slots;
        self
    }

    /// The queues to serve, in place of `default`.
    pub fn queues(mut self, queues: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.queues = queues.into_iter().map(Into::into).collect();
        self
    }

    /// So much of something that tasks may ask for by name, such as one `gpu`.
    pub fn resource(mut self, name: impl Into<String>, amount: u32) -> Self {
        self.options.resources.insert(name.into(), amount);
        self
    }

    /// Where peers and clients reach the data port; by default a free port on loopback. Elsewhere it
    /// needs a secret.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.options.bind = Some(address);
        self
    }

    /// `host:port` under which others reach the data port, when it is not the address bound to.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.options.advertise = Some(address.into());
        self
    }

    /// Where health and metrics are served; by default nowhere.
    pub fn health(mut self, address: SocketAddr) -> Self {
        self.options.health = Some(address);
        self
    }

    /// Memory for results, in bytes, before they go to disk; by default what the machine allows.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.options.memory_bytes = bytes;
        self
    }

    /// How long a task whose result does not fit into memory waits while none is freed and nothing
    /// can be moved to disk, before it has failed; by default a minute.
    pub fn memory_wait(mut self, wait: Duration) -> Self {
        self.options.memory_wait = wait;
        self
    }

    /// Where results go when memory is short; by default the system's temporary folder.
    pub fn spill_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.spill_dir = Some(folder.into());
        self
    }

    /// The result folder, `file:///absolute/path`, on a disk that all workers and clients share:
    /// large outputs and large results of effects are written there. See
    /// [`ClientBuilder::durable`].
    pub fn durable(mut self, url: impl Into<String>) -> Self {
        self.servers = self.servers.durable(url);
        self
    }

    /// How long after its last sign of life others may take over what this worker runs; 10 s by
    /// default, and from 0.5 s to 15 s. A longer one bears longer outages of the network without
    /// repeating anything, a shorter one finds the dead sooner. All workers of a cluster should have
    /// the same.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// Runs all tasks of a queue in child processes, `*` for those of all queues: see
    /// [`serve_as_child`].
    pub fn isolate(mut self, queue: impl Into<String>) -> Self {
        self.options.children.get_or_insert_default().queues.push(queue.into());
        self
    }

    /// The most that one child process may allocate, in bytes; by default there is no limit of its
    /// own.
    pub fn child_memory_bytes(mut self, bytes: u64) -> Self {
        self.options.children.get_or_insert_default().memory_bytes = Some(bytes);
        self
    }

    /// How long to take when told to go: to finish what has begun, to give back the rest, to hand
    /// results on. 9 s by default, since containers are killed after 10 s; give more to tasks that
    /// take longer, and a little less than the orchestrator does.
    pub fn drain(mut self, patience: Duration) -> Self {
        self.drain = patience;
        self
    }

    /// The most tasks that one commit finishes; 256 by default, and no more. 1 shows what commits of
    /// many tasks are worth; it makes nothing safer.
    pub fn tasks_per_commit(mut self, tasks: usize) -> Self {
        self.options.tasks_per_commit = tasks;
        self
    }

    /// A value that tasks borrow as `State<T>`, made once: a database pool, a model.
    pub fn state<T, F, R>(mut self, make: F) -> Self
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        self.states.add(make);
        self
    }

    /// Runs the worker on a runtime of its own until the process is told to go (SIGTERM or SIGINT);
    /// then finishes what has begun, gives the rest back and hands results on. A second signal ends
    /// it within a second.
    pub fn run(self) -> Result<()> {
        if tokio::runtime::Handle::try_current().is_ok() {
            let message = "the worker was started inside an async runtime: await `run_async`";
            return Err(Error::new(ErrorKind::Config, message));
        }
        let runtime = Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Error::new(ErrorKind::Config, format!("failed to start the runtime: {error}"))
        })?;
        let result = runtime.block_on(self.run_async());
        runtime.shutdown_background();
        result
    }

    /// The same on the current runtime.
    pub async fn run_async(self) -> Result<()> {
        if child::asked() {
            let states = self.states.make().await;
            return serve(states).await;
        }
        child::set_possible();
        // Before anything is taken: a signal during the start must not kill.
        let (mut term, mut int) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let patience = self.drain;
        let worker = tokio::select! {
            worker = self.start() => worker?,
            () = either(&mut term, &mut int) => return Ok(()),
        };
        let worn_out = tokio::select! {
            () = worker.worn_out() => true,
            () = either(&mut term, &mut int) => false,
        };
        tracing::info!(?patience, worn_out, "told to go: finishing what has begun");
        let again = async {
            either(&mut term, &mut int).await;
            tracing::warn!("told again: stopping at once");
        };
        if !worker.drain_unless(patience, again).await {
            tracing::warn!("not all that had begun was finished: others run it");
        }
        if worn_out {
            let message = "too many threads are stuck in tasks that are out of time: start this \
                           worker again, and declare such tasks `isolated`, so that they are killed";
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(())
    }

    /// Connects and starts the worker.
    async fn start(self) -> Result<Worker> {
        let registry = linked()?;
        let mut options = self.options;
        options.results = self.servers.folder().await?;
        let (queue, store) = self.servers.servers("worker").await?;
        let states = self.states.make().await;
        let started = Worker::start(store, queue, registry, states, options).await;
        started.map_err(Error::of_start)
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("servers", &self.servers)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Lets this program run tasks in child processes where it computes by itself, with
/// [`Client::embedded`](crate::Client::embedded): call it first of all in `main`. A worker needs no
/// such call.
///
/// A task that is declared `isolated`, or that may have brought down a worker, runs alone in a child
/// process, which a time limit or a cancellation kills. The child is this program, started again with
/// the same arguments: what it does before this call, or before it runs the worker, it does in each
/// child. In a child this call does not return. Tasks that it runs there find no `State`.
pub fn serve_as_child() -> Result<()> {
    if child::asked() {
        return serve_on_this_thread(States::default());
    }
    child::set_possible();
    Ok(())
}

async fn serve(states: States) -> Result<()> {
    let served = tokio::task::spawn_blocking(|| serve_on_this_thread(states)).await;
    served.unwrap_or_else(|error| Err(Error::new(ErrorKind::Config, error.to_string())))
}

fn serve_on_this_thread(states: States) -> Result<()> {
    match child::serve(linked()?, states) {
        Ok(never) => match never {},
        Err(error) => {
            let message = format!("this process cannot serve as a child: {error}");
            Err(Error::new(ErrorKind::Config, message))
        }
    }
}

/// An error in a child that has not come to where it serves: nothing may be done twice.
pub(crate) fn refuse_in_child() -> Result<()> {
    if !child::asked() {
        return Ok(());
    }
    let message = "this process was started to run single tasks for another: it must run the worker, \
                   or call `bolthole::worker::serve_as_child`, before it connects or computes";
    Err(Error::new(ErrorKind::Config, message))
}

/// Every task linked into this program.
pub(crate) fn linked() -> Result<Registry> {
    Registry::linked().map_err(|error| Error::new(ErrorKind::Config, error.to_string()))
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| {
        Error::new(ErrorKind::Config, format!("failed to listen for signals: {error}"))
    })
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

fn parsed<T: FromStr>(name: &str, form: &str) -> Result<Option<T>> {
    let Some(text) = variable(name)? else { return Ok(None) };
    let value = text.parse().map_err(|_| {
        Error::new(ErrorKind::Config, format!("{name} is {text:?} and should be {form}"))
    })?;
    Ok(Some(value))
}
