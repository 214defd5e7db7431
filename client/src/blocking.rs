//! The same client for programs without an async runtime: every verb returns when it is done.
//!
//! A blocking client runs its I/O on a runtime of its own. Its calls must not be made inside an
//! async runtime, where they would hold up everything else: they return an error there. While a
//! call waits for results, it shows how the run gets on: see [`Client::progress`].

mod completed;
mod handle;
mod run;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::id::RunId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;
use tokio::time::timeout;

pub use completed::AsCompleted;
pub use handle::{Handle, wait_all, wait_any};
pub use run::{Run, RunBuilder};

use crate::blob::Blob;
use crate::capture::capture;
use crate::client::{Client as AsyncClient, ClientBuilder};
use crate::compute::{Compute, sealed};
use crate::core::{Core, OwnRuntime};
use crate::delayed::Delayed;
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::Outputs;
use crate::submit::Submit;

use handle::BlockingHandles;

/// How long a program that ends waits until what it has submitted is staged.
const SETTLE: Duration = Duration::from_secs(10);

/// Submits graphs and reads their results. Cheap to clone. Dropping the last clone waits until what
/// was submitted to runs that are no longer in use is staged.
#[derive(Clone, Debug)]
pub struct Client {
    inner: AsyncClient,
    progress: bool,
    _settle: Arc<Settle>,
}

/// Lets runs that were dropped settle, when the last client goes.
#[derive(Debug)]
struct Settle {
    core: Arc<Core>,
}

impl Drop for Settle {
    fn drop(&mut self) {
        // Inside a runtime nothing can wait; the client's own goes on for as long as it can.
        if refuse_async().is_ok() {
            let settled = async { timeout(SETTLE, self.core.settled()).await };
            if self.core.runtime.block_on(settled).is_err() {
                tracing::warn!("the client ends although not all that was submitted is staged");
            }
        }
    }
}

/// Waits for a future on the client's runtime.
pub(crate) fn wait<T>(core: &Core, future: impl Future<Output = Result<T>>) -> Result<T> {
    refuse_async()?;
    core.runtime.block_on(future)
}

fn refuse_async() -> Result<()> {
    if tokio::runtime::Handle::try_current().is_ok() {
        let message = "a blocking client was used inside an async runtime, which it would hold \
                       up: use `bolthole::Client` there, and `.await`";
        return Err(Error::new(ErrorKind::Config, message));
    }
    Ok(())
}

/// A client on a runtime of its own.
fn start(connect: impl Future<Output = Result<AsyncClient>>) -> Result<Client> {
    refuse_async()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("bolthole-client")
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| {
        let message = format!("failed to start the client's runtime: {error}");
        Error::new(ErrorKind::Config, message)
    })?;
    let inner = match runtime.block_on(connect) {
        Ok(inner) => inner,
        Err(error) => {
            runtime.shutdown_background();
            return Err(error);
        }
    };
    let core = Arc::clone(inner.core());
    core.own(OwnRuntime(Some(runtime)));
    Ok(Client { inner, progress: true, _settle: Arc::new(Settle { core }) })
}

impl Client {
    /// See [`crate::Client::embedded`].
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self> {
        Self::start_embedded(AsyncClient::embedded_builder())
    }

    /// An embedded cluster with these options.
    #[cfg(feature = "embedded")]
    pub fn start_embedded(builder: crate::embedded::EmbeddedBuilder) -> Result<Self> {
        start(builder.start())
    }

    /// See [`crate::Client::connect`].
    pub fn connect(amqp_url: &str, redis_url: &str) -> Result<Self> {
        Self::connect_with(AsyncClient::builder(amqp_url, redis_url))
    }

    /// See [`crate::Client::from_env`].
    pub fn from_env() -> Result<Self> {
        Self::connect_with(ClientBuilder::from_env()?)
    }

    /// Connects with these options.
    pub fn connect_with(builder: ClientBuilder) -> Result<Self> {
        start(builder.connect())
    }

    /// Whether calls that wait for results show how the run gets on, on standard error: bars on a
    /// terminal, elsewhere a line for every 5 % of the tasks. They do by default.
    #[must_use]
    pub fn progress(mut self, progress: bool) -> Self {
        self.progress = progress;
        self
    }

    fn core(&self) -> &Arc<Core> {
        self.inner.core()
    }

    /// See [`crate::Client::run`].
    pub fn run(&self, name: impl Into<String>) -> RunBuilder {
        RunBuilder::new(self.inner.run(name).progress(self.progress))
    }

    /// See [`crate::Client::unnamed`].
    pub fn unnamed(&self) -> RunBuilder {
        RunBuilder::new(self.inner.unnamed().progress(self.progress))
    }

    /// See [`crate::Client::open`].
    pub fn open(&self, name: impl Into<String>) -> Result<Run> {
        self.run(name).open()
    }

    /// See [`crate::Client::attach`].
    pub fn attach(&self, name: &str) -> Result<Run> {
        wait(self.core(), self.inner.attach(name)).map(Run::new)
    }

    /// See [`crate::Client::attach_id`].
    pub fn attach_id(&self, id: RunId) -> Run {
        Run::new(self.inner.attach_id(id))
    }

    /// See [`crate::Client::runs`].
    pub fn runs(&self) -> Result<Vec<RunId>> {
        wait(self.core(), self.inner.runs())
    }

    /// See [`crate::Client::compute`].
    pub fn compute<O: Outputs>(&self, outputs: O) -> Result<O::Values> {
        self.unnamed().compute(outputs)
    }

    /// See [`crate::Client::persist`].
    pub fn persist<O: Outputs>(
        &self,
        outputs: O,
    ) -> Result<<O::Handles as BlockingHandles>::Blocking>
    where
        O::Handles: BlockingHandles,
    {
        self.unnamed().persist(outputs)
    }

    /// See [`crate::Client::submit`].
    pub fn submit<O: Outputs>(
        &self,
        outputs: O,
    ) -> Result<<O::Handles as BlockingHandles>::Blocking>
    where
        O::Handles: BlockingHandles,
    {
        self.unnamed().submit(outputs)
    }

    /// See [`crate::Client::gather`].
    pub fn gather<T: DeserializeOwned>(&self, handles: &[Handle<T>]) -> Result<Vec<T>> {
        wait(self.core(), handle::gather(handles))
    }

    /// See [`crate::Client::as_completed`]: an iterator.
    pub fn as_completed<T>(&self, handles: impl IntoIterator<Item = Handle<T>>) -> AsCompleted<T> {
        AsCompleted::new(handles)
    }

    /// See [`crate::Client::put`].
    pub fn put<T: Serialize>(&self, value: &T) -> Result<Blob<T>> {
        self.inner.put(value)
    }

    /// See [`crate::Client::scatter`].
    pub fn scatter<'a, T: Serialize + 'a>(
        &self,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<Vec<Blob<T>>> {
        self.inner.scatter(values)
    }
}

impl sealed::Sealed for Client {}
impl Compute for Client {
    type Reply<'a, T: Send + 'static> = T;

    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Result<O::Values>
    where
        O: Outputs + Send + Sync + 'a,
    {
        self.compute(outputs)
    }
}

/// A client opens a run for the call, which takes no other.
impl Submit for Client {
    type Handle<T> = Result<Handle<T>>;

    fn submit_delayed<T>(&self, call: Delayed<T>) -> Result<Handle<T>> {
        let graph = capture(&[&call])?;
        let (run, task) = wait(self.core(), self.inner.unnamed().submit_one(graph))?;
        Ok(Handle::new(crate::handle::Handle::new(run, task)))
    }
}
