//! Workers and clients as processes of their own, around the servers of a test.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bolthole::{Client, ClientBuilder, RunStatus};
use bolthole_broker::queue::Queue;
use bolthole_broker::store::{Redis, Store};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use crate::proxy::Proxy;
use crate::servers::group::{Group, Process};
use crate::servers::port::Port;
use crate::servers::{self, Pair};
use crate::workload::{self, HOLD};

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// A namespace on two servers, with a folder and the processes started in it. All of them end with
/// this value or with this process.
#[derive(Debug)]
pub struct Cluster {
    group: Group,
    program: PathBuf,
    amqp_url: String,
    redis_url: String,
    namespace: String,
}

/// A worker or a client: a process, killed when dropped.
#[derive(Debug)]
pub struct Member {
    process: Process,
}

impl Cluster {
    /// A new namespace on these servers, for processes of `program`.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn new(program: impl Into<PathBuf>, servers: &Pair) -> anyhow::Result<Self> {
        Self::at(program, servers.rabbit.url(), servers.redis.url())
    }

    /// The same, for servers that are reached at these URLs.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn at(
        program: impl Into<PathBuf>,
        amqp_url: String,
        redis_url: String,
    ) -> anyhow::Result<Self> {
        let (group, namespace) = (Group::new()?, servers::namespace());
        Ok(Self { group, program: program.into(), amqp_url, redis_url, namespace })
    }

    /// The same namespace on the same servers, for processes of another program.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn beside(&self, program: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let other = Self::at(program, self.amqp_url.clone(), self.redis_url.clone())?;
        Ok(Self { namespace: self.namespace.clone(), ..other })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How many processes of this cluster are left.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn processes(&self) -> anyhow::Result<usize> {
        self.group.processes()
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.group.folder()
    }

    /// Starts a process of the program; `name` is the name of its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        &self,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Member> {
        let mut command = self.group.command(&self.program)?;
        command
            .env("BOLTHOLE_AMQP_URL", &self.amqp_url)
            .env("BOLTHOLE_REDIS_URL", &self.redis_url)
            .env("BOLTHOLE_NAMESPACE", &self.namespace)
            .env("BOLTHOLE_SLOTS", "2")
            .env("BOLTHOLE_DRAIN", "5s")
            .env("BOLTHOLE_SPILL_DIR", self.folder())
            .envs(environment.iter().copied())
            .args(args);
        Ok(Member { process: self.group.spawn(name, command)? })
    }

    /// Starts a worker with two slots and waits until it has said that it is there.
    ///
    /// # Errors
    /// When it ends instead; the message has what it said.
    pub async fn worker(&self, name: &str) -> anyhow::Result<Member> {
        self.worker_with(name, &[]).await
    }

    /// A worker with further variables of the environment.
    ///
    /// # Errors
    /// As for [`Cluster::worker`].
    pub async fn worker_with(
        &self,
        name: &str,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Member> {
        let mut worker = self.start(name, &["worker"], environment)?;
        until("the worker has started", async || {
            if let Some(status) = worker.process.ended()? {
                bail!("the worker ended with {status}: {}", worker.output()?);
            }
            let output = worker.output()?;
            Ok((output.contains("worker started") && output.contains("consuming")).then_some(()))
        })
        .await?;
        Ok(worker)
    }

    /// A worker whose data port others reach through a proxy only.
    ///
    /// # Errors
    /// As for [`Cluster::worker`], and when no port can be opened.
    pub async fn worker_behind_proxy(&self, name: &str) -> anyhow::Result<(Member, Proxy)> {
        let port = Port::reserve()?;
        let proxy = Proxy::before(port.number()).await?;
        let (bind, advertise) =
            (format!("127.0.0.1:{}", port.number()), format!("127.0.0.1:{}", proxy.port()));
        drop(port);
        let environment = [("BOLTHOLE_BIND", &*bind), ("BOLTHOLE_ADVERTISE", &*advertise)];
        Ok((self.worker_with(name, &environment).await?, proxy))
    }

    /// A client of this cluster in the process of the test.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.client_with(None).await
    }

    /// The same with a result folder.
    ///
    /// # Errors
    /// When a server does not answer, or the folder cannot be used.
    pub async fn client_with(&self, durable: Option<&str>) -> anyhow::Result<Client> {
        let mut builder = self.servers();
        if let Some(url) = durable {
            builder = builder.durable(url);
        }
        Ok(builder.connect().await?)
    }

    /// What a client or a worker in the process of the test connects to.
    pub fn servers(&self) -> ClientBuilder {
        Client::builder(&self.amqp_url, &self.redis_url).namespace(&self.namespace)
    }

    /// The store of this cluster.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::Redis(Redis::connect(&self.redis_url, &self.namespace).await?))
    }

    /// The queue of this cluster.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn queue(&self) -> anyhow::Result<Queue> {
        Ok(Queue::connect(&self.amqp_url, &self.namespace, "test").await?)
    }

    /// The keys of this cluster in the store, but for what workers say of themselves.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn keys_of_runs(&self, servers: &Pair) -> anyhow::Result<Vec<String>> {
        let keys = servers.redis.cli(["--scan", "--pattern", &format!("{}:*", self.namespace)])?;
        let of_workers = ["w", "i"].map(|kind| format!("{}:bh:{kind}", self.namespace));
        let is_of_workers = |key: &str| of_workers.iter().any(|prefix| key.starts_with(prefix));
        let keys = keys.lines().filter(|key| !key.is_empty() && !is_of_workers(key));
        Ok(keys.map(ToOwned::to_owned).collect())
    }

    /// Messages of this cluster on the broker, by queue: waiting ones and unacknowledged ones, but
    /// for the one that each living worker holds so that others hear of its end.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn messages(&self, servers: &Pair) -> anyhow::Result<HashMap<String, u64>> {
        let list = ["list_queues", "--silent", "--no-table-headers", "name", "messages"];
        let list = block_in_place(|| servers.rabbit.ctl(list))?;
        let mut messages = HashMap::new();
        let of_tasks =
            |line: &&str| line.starts_with(&self.namespace) && !line.contains(".presence.");
        for line in list.lines().filter(of_tasks) {
            let (name, count) = line.split_once('\t').context("two columns were asked for")?;
            messages.insert(name.to_owned(), count.trim().parse()?);
        }
        Ok(messages)
    }
}

impl Member {
    /// Ends the process without warning (SIGKILL).
    pub fn kill(self) {
        drop(self);
    }

    /// Sends a signal: `STOP`, `CONT`, `TERM`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        self.process.signal(name)
    }

    /// Asks the process to go (SIGTERM); the code it ends with.
    ///
    /// # Errors
    /// When it does not go, or is ended by a signal.
    pub fn terminate(self) -> anyhow::Result<i32> {
        let status = block_in_place(|| self.process.terminate())?;
        status.code().with_context(|| format!("it ended with {status}"))
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Whether the process is running.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// What the process wrote, once it has ended by itself, and its code.
    ///
    /// # Errors
    /// When it does not end, or is ended by a signal.
    pub fn finish(mut self) -> anyhow::Result<(i32, String)> {
        let status = block_in_place(|| self.process.wait())?;
        let output = self.output()?;
        Ok((status.code().with_context(|| format!("{status}: {output}"))?, output))
    }

    /// The answer of a client that ends by itself.
    ///
    /// # Errors
    /// When it has none.
    pub fn answer(self) -> anyhow::Result<u64> {
        let (code, output) = self.finish()?;
        let answer = output.lines().find_map(|line| line.strip_prefix("answer "));
        ensure!(code == 0, "the client ended with {code}: {output}");
        Ok(answer.with_context(|| format!("no answer in: {output}"))?.parse()?)
    }

    /// Everything that it has written so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        self.process.output()
    }
}

/// Looks again and again until there is something, for [`PATIENCE`] at most.
///
/// # Errors
/// When looking fails, or there never is.
pub async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let waiting = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            sleep(POLL).await;
        }
    };
    let found = timeout(PATIENCE, waiting).await;
    found.with_context(|| format!("waited {PATIENCE:?} in vain until {what}"))?
}

/// Waits until a named run has at least `count` finished tasks and at least one unfinished one.
///
/// # Errors
/// When it is over before, or does not get there.
pub async fn underway(client: &Client, name: &str, count: u64) -> anyhow::Result<RunStatus> {
    until("the run is underway", async || {
        let Ok(run) = client.attach(name).await else { return Ok(None) };
        let status = run.status().await?;
        if status.finished < count {
            return Ok(None);
        }
        ensure!(status.finished < status.tasks, "the run was over too soon");
        Ok(Some(status))
    })
    .await
}

/// Two workers compute while `harm` is done, `pause` milliseconds a task and when `count` tasks have
/// finished: the answer is right, so is that of what is submitted afterwards, and the workers live.
///
/// # Errors
/// When one of that is not so; with what the workers have written.
pub async fn survives(
    cluster: &Cluster,
    pause: &'static str,
    count: u64,
    harm: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    let client = cluster.client().await?;
    let run = client.run("run").header(HOLD, pause);
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "run", count).await?;
    block_in_place(harm)?;
    let silence = |which: &str| {
        let logs = workers.iter().map(|worker| worker.output().unwrap_or_default());
        format!("no {which} answer; the workers wrote:\n{}", logs.collect::<Vec<_>>().join("\n"))
    };
    let answer = timeout(PATIENCE, computing).await.with_context(|| silence("first"))???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    let more = client.run("more").compute(workload::map_reduce());
    let more = timeout(PATIENCE, more).await.with_context(|| silence("second"))??;
    ensure!(more == workload::map_reduce_answer(), "{more:?}");
    let status = client.attach("run").await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    for worker in &mut workers {
        ensure!(worker.is_running()?, "a worker has ended: {}", worker.output()?);
    }
    Ok(())
}

/// Makes this process one of a cluster, whose log is read by tests: what it was started with, and
/// its log on standard error.
pub fn member() -> Vec<String> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    std::env::args().skip(1).collect()
}
