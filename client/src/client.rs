//! The asynchronous client.

use std::fmt;
use std::sync::Arc;

use bolthole_broker::args::EncodeError;
use bolthole_broker::durable::Folder;
use bolthole_broker::handoff::{Budget, ClusterSecret, Fetcher};
use bolthole_broker::id::RunId;
use bolthole_broker::limits::PARCEL_TASKS_MAX;
use bolthole_broker::queue::Queue;
use bolthole_broker::store::{self, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

use crate::blob::Blob;
use crate::completed::AsCompleted;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Handle;
use crate::local::Local;
use crate::outputs::Outputs;
use crate::run::{Run, RunBuilder, RunInner};
use crate::watch::Watch;

/// Bytes of large results that a client receives at one time.
const RECEIVE_BYTES_MAX: u64 = 256 << 20;

/// Submits graphs and reads their results. Cheap to clone; needs the tokio runtime on which it was
/// made. See [`crate::blocking::Client`] for programs that have none.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
}

/// How to reach a cluster.
#[derive(Clone)]
pub struct ClientBuilder {
    amqp_url: String,
    redis_url: String,
    namespace: String,
    secret: Option<ClusterSecret>,
    durable: Option<String>,
    tasks_per_parcel: usize,
}

impl ClientBuilder {
    /// Prefixes everything of this cluster on the servers, so that several can share them.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The secret that workers and clients of the cluster share. Needed to read large results from
    /// workers that have one.
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Result<Self> {
        let secret = ClusterSecret::new(secret);
        self.secret =
            Some(secret.map_err(|error| Error::new(ErrorKind::Config, error.to_string()))?);
        Ok(self)
    }

    /// The result folder, `file:///absolute/path`, on a disk that all workers and clients share:
    /// large outputs, and large results of effects, are written there by workers that have the same
    /// setting, and are read from there when no worker holds them any more.
    #[must_use]
    pub fn durable(mut self, url: impl Into<String>) -> Self {
        self.durable = Some(url.into());
        self
    }

    /// The most ready tasks that this client puts into one message; 256 by default, and no more. 1
    /// shows what messages of many tasks are worth.
    #[must_use]
    pub fn tasks_per_parcel(mut self, tasks: usize) -> Self {
        self.tasks_per_parcel = tasks;
        self
    }

    /// The settings of the environment: `BOLTHOLE_AMQP_URL` and `BOLTHOLE_REDIS_URL`, and, where
    /// they are set, `BOLTHOLE_NAMESPACE`, `BOLTHOLE_SECRET` and `BOLTHOLE_DURABLE`.
    pub fn from_env() -> Result<Self> {
        let amqp_url = required("BOLTHOLE_AMQP_URL", "amqp://user:password@host:5672/vhost")?;
        let redis_url = required("BOLTHOLE_REDIS_URL", "redis://user:password@host:6379/0")?;
        let mut builder = Client::builder(amqp_url, redis_url);
        if let Some(namespace) = variable("BOLTHOLE_NAMESPACE")? {
            builder = builder.namespace(namespace);
        }
        builder.durable = variable("BOLTHOLE_DURABLE")?;
        match variable("BOLTHOLE_SECRET")? {
            Some(secret) => builder.secret(secret),
            None => Ok(builder),
        }
    }

    /// Connects to both servers. Fails within 10 s, saying which one and what to do; also when the
    /// result folder cannot be used.
    pub async fn connect(self) -> Result<Client> {
        let folder = self.folder().await?;
        let (queue, store) = self.servers("client").await?;
        let fetcher = Fetcher::new(self.secret.as_ref(), Budget::new(RECEIVE_BYTES_MAX));
        let mut core = Core::new(store, queue, fetcher, folder, None).await?;
        core.tasks_per_parcel = self.tasks_per_parcel;
        Ok(Client { core: Arc::new(core) })
    }

    /// The result folder, if there is to be one.
    pub(crate) async fn folder(&self) -> Result<Option<Folder>> {
        let Some(url) = self.durable.clone() else { return Ok(None) };
        let namespace = self.namespace.clone();
        let opened = spawn_blocking(move || Folder::open(&url, &namespace)).await;
        match opened {
            Ok(Ok(folder)) => Ok(Some(folder)),
            Ok(Err(error)) => Err(Error::new(ErrorKind::Config, error.to_string())),
            Err(error) => Err(Error::new(ErrorKind::Config, error.to_string())),
        }
    }

    #[cfg(feature = "worker")]
    pub(crate) fn cluster_secret(&self) -> Option<&ClusterSecret> {
        self.secret.as_ref()
    }

    /// Connects as `role`.
    pub(crate) async fn servers(&self, role: &str) -> Result<(Queue, Store)> {
        #[cfg(feature = "worker")]
        crate::worker::refuse_in_child()?;
        let queue = Queue::connect(&self.amqp_url, &self.namespace, role).await?;
        let store = Store::Redis(store::Redis::connect(&self.redis_url, &self.namespace).await?);
        Ok((queue, store))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs carry passwords.
        f.debug_struct("ClientBuilder").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

pub(crate) fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::new(ErrorKind::Config, format!("{name} is not valid UTF-8")))
        }
    }
}

fn required(name: &str, example: &str) -> Result<String> {
    variable(name)?.ok_or_else(|| {
        let message = format!("{name} is not set: set it to something like {example}");
        Error::new(ErrorKind::Config, message)
    })
}

impl Client {
    /// Connects to RabbitMQ at `amqp://user:password@host:port/vhost` and Redis at
    /// `redis://user:password@host:port/db`. Fails within 10 s, saying which one and what to do.
    pub async fn connect(amqp_url: &str, redis_url: &str) -> Result<Self> {
        Self::builder(amqp_url, redis_url).connect().await
    }

    /// Connects as the environment says: see [`ClientBuilder::from_env`].
    pub async fn from_env() -> Result<Self> {
        ClientBuilder::from_env()?.connect().await
    }

    /// The options of a connection.
    pub fn builder(amqp_url: impl Into<String>, redis_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            amqp_url: amqp_url.into(),
            redis_url: redis_url.into(),
            namespace: String::new(),
            secret: None,
            durable: None,
            tasks_per_parcel: PARCEL_TASKS_MAX,
        }
    }

    /// A client of servers that are connected already: for tests and for tools.
    #[doc(hidden)]
    pub async fn with(store: Store, queue: Queue) -> Result<Self> {
        let fetcher = Fetcher::new(None, Budget::new(RECEIVE_BYTES_MAX));
        Self::on(store, queue, fetcher, None, None).await
    }

    pub(crate) async fn on(
        store: Store,
        queue: Queue,
        fetcher: Fetcher,
        folder: Option<Folder>,
        local: Option<Local>,
    ) -> Result<Self> {
        Ok(Self { core: Arc::new(Core::new(store, queue, fetcher, folder, local).await?) })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The options of a run with a name: the same graph under the same name is computed once, and
    /// found again by every process that asks for it.
    pub fn run(&self, name: impl Into<String>) -> RunBuilder {
        RunBuilder::new(self, Some(name.into()))
    }

    /// The options of a run without a name.
    pub fn unnamed(&self) -> RunBuilder {
        RunBuilder::new(self, None)
    }

    /// Opens a run of this name that takes calls one by one: `task::submit(&run, ..)`.
    pub async fn open(&self, name: impl Into<String>) -> Result<Run> {
        self.run(name).open().await
    }

    /// The run of this name, to look at, to wait for and to cancel.
    pub async fn attach(&self, name: &str) -> Result<Run> {
        let found = self.core.persist_in(|| self.core.store.find(name)).await?;
        let id = found.ok_or_else(|| {
            let message = format!(
                "there is no run named {name:?}: it was never submitted, its retention is over, or \
                 the store has lost its data"
            );
            Error::new(ErrorKind::Gone, message)
        })?;
        Ok(self.look_at(id, Some(name.to_owned())))
    }

    /// The run of this id, to look at, to wait for and to cancel. Whether it is there shows when it
    /// is asked.
    pub fn attach_id(&self, id: RunId) -> Run {
        self.look_at(id, None)
    }

    /// Returns when what was submitted to runs that are no longer in use is staged, and those runs
    /// are closed. To be awaited before the runtime ends, by a program that waits for no results.
    pub async fn settled(&self) {
        self.core.settled().await;
    }

    /// The ids of all runs that the store has, oldest first, whoever submitted them.
    pub async fn runs(&self) -> Result<Vec<RunId>> {
        self.core.persist_in(|| self.core.store.runs()).await
    }

    /// Segments that this client has staged again, because the store had lost them.
    #[doc(hidden)]
    pub fn staged_again(&self) -> u64 {
        self.core.watchman.counted()
    }

    fn look_at(&self, id: RunId, name: Option<String>) -> Run {
        let watch = Watch::new(id, &self.core);
        Run::of(RunInner::new(&self.core, id, name, watch, None, None))
    }

    /// Computes the outputs, in a run without a name, and returns their values: a call, several, or
    /// a mixture in the shape of the answer. What they share is computed once.
    pub async fn compute<O: Outputs>(&self, outputs: O) -> Result<O::Values> {
        self.unnamed().compute(outputs).await
    }

    /// Starts computing the outputs and returns handles of them, which further graphs may use.
    pub async fn persist<O: Outputs>(&self, outputs: O) -> Result<O::Handles> {
        self.unnamed().persist(outputs).await
    }

    /// Starts computing the outputs and returns handles of them. The client may go.
    pub async fn submit<O: Outputs>(&self, outputs: O) -> Result<O::Handles> {
        self.unnamed().submit(outputs).await
    }

    /// The results of many handles, in their order; the first error ends it.
    pub async fn gather<T: DeserializeOwned>(&self, handles: &[Handle<T>]) -> Result<Vec<T>> {
        crate::gather::gather(handles).await
    }

    /// The handles' results one by one as their tasks finish: a stream.
    pub fn as_completed<T>(&self, handles: impl IntoIterator<Item = Handle<T>>) -> AsCompleted<T> {
        AsCompleted::new(handles)
    }

    /// Encodes a large value once, to be an argument of many calls; it is stored with the graph.
    pub fn put<T: Serialize>(&self, value: &T) -> Result<Blob<T>> {
        Blob::new(value).map_err(|error| {
            let kind = match &error {
                EncodeError::TooLarge { .. } => ErrorKind::Limit,
                EncodeError::Serialize { .. } => ErrorKind::Codec,
            };
            Error::new(kind, error.to_string())
        })
    }

    /// [`Client::put`] of each value of a collection.
    pub fn scatter<'a, T: Serialize + 'a>(
        &self,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<Vec<Blob<T>>> {
        values.into_iter().map(|value| self.put(value)).collect()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
