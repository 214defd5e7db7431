//! Random graphs on one to three workers with real threads and sockets, some of which end at random
//! times, against the same graphs run in order. What goes wrong elsewhere is simulated: see
//! `simulation`. Each case follows from its seed; a case that fails says which one it is:
//! `ORACLE_SEEDS=17 cargo test -p bolthole-tests --test oracle` runs it again, `0..500` that many.
#![cfg(test)]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bolthole::capture::capture;
use bolthole::delayed::AnyDelayed;
use bolthole::testing::{SequentialError, run_sequential};
use bolthole_broker::call::{States, Value};
use bolthole_broker::descriptor::Chunk;
use bolthole_broker::error::{TaskError, TaskErrorKind};
use bolthole_broker::id::{ResultKey, RunId, TaskId};
use bolthole_broker::limits::CHUNK_TASKS;
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::parcel::Parcel;
use bolthole_broker::queue::{MemoryBroker, Queue, QueueName, Route};
use bolthole_broker::registry::Registry;
use bolthole_broker::run::{Lost, OutboxId, Ready, Rearmed, TaskStatus};
use bolthole_broker::state::{FailurePolicy, TaskState};
use bolthole_broker::store::{Epoch, Memory, Store};
use bolthole_tests::dag::{Dag, Random};
use bolthole_tests::staging::{statuses, submit_open};
use bolthole_worker::{Options, Worker};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

/// The longest a case may take: some hundred times what it takes.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(1);

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A worker ends and another one starts.
    Stop,
    /// The same without waiting for its end.
    Vanish,
    /// A worker is drained and another one starts.
    Drain,
}

const FAULTS: [Fault; 3] = [Fault::Stop, Fault::Vanish, Fault::Drain];

struct Cluster {
    broker: MemoryBroker,
    queue: Queue,
    store: Store,
    workers: Vec<Worker>,
    random: Random,
}

impl Cluster {
    async fn start(mut random: Random) -> anyhow::Result<Self> {
        let broker = MemoryBroker::new();
        let queue = Queue::on(&broker, "oracle")?;
        queue.declare(&[QueueName::default()]).await?;
        let workers = 1 + random.below(3);
        let store = Store::Memory(Memory::new());
        let mut cluster = Self { broker, queue, store, workers: vec![], random };
        for _ in 0..workers {
            cluster.add().await?;
        }
        Ok(cluster)
    }

    async fn add(&mut self) -> anyhow::Result<()> {
        let options = Options {
            slots: 1 + self.random.below(3),
            spill_dir: None,
            reconcile: Some(Duration::from_millis(200)),
            ..Options::default()
        };
        let (store, queue) = (self.store.clone(), self.queue.clone());
        let registry = Registry::linked()?;
        self.workers.push(Worker::start(store, queue, registry, States::new(), options).await?);
        Ok(())
    }

    async fn cause(&mut self, fault: Fault) -> anyhow::Result<()> {
        let place = self.random.below(self.workers.len());
        let worker = self.workers.swap_remove(place);
        match fault {
            Fault::Stop => worker.stop().await,
            Fault::Vanish => drop(worker),
            Fault::Drain => ensure!(worker.drain(PATIENCE).await, "a drain did not end"),
        }
        self.add().await
    }

    /// Causes faults until every task has ended.
    async fn finish(&mut self, run: RunId, faults: usize) -> anyhow::Result<()> {
        let tasks = self.store.status(run).await?.context("the run is gone")?.tasks;
        let mut at: Vec<u64> = (0..faults).map(|_| self.random.draw() % tasks.max(1)).collect();
        at.sort_unstable();
        let deadline = Instant::now() + PATIENCE;
        let mut caused = 0;
        loop {
            let status = self.store.status(run).await?.context("the run is gone")?;
            if caused < at.len() && status.finished >= at[caused] {
                caused += 1;
                let fault = FAULTS[self.random.below(FAULTS.len())];
                self.cause(fault).await.with_context(|| format!("{fault:?}"))?;
                continue;
            }
            if status.finished == status.tasks {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("it does not end: {}", self.unfinished(run).await?);
            }
            sleep(LOOK).await;
        }
    }

    /// What is still to do, for whoever looks for the reason.
    async fn unfinished(&self, run: RunId) -> anyhow::Result<String> {
        let dump = self.store.dump(run).await?.context("the run is gone")?;
        let mut open = Vec::new();
        for (segment, dump) in &dump.segments {
            for (index, task) in (0..).zip(&dump.tasks) {
                if task.state.state() == TaskState::Pending && task.pending == 0 {
                    open.push(format!("{} {:?}", TaskId::new(*segment, index), task.state));
                }
            }
        }
        let records = self.store.workers().await?;
        let busy: Vec<_> = records.iter().map(|(_, record)| &record.in_flight).collect();
        Ok(format!("{:?}; ready: {open:?}; in flight: {busy:?}", dump.status))
    }

    /// The errors of the tasks that have failed.
    async fn failed(&self, run: RunId) -> anyhow::Result<Vec<String>> {
        let dump = self.store.dump(run).await?.context("the run is gone")?;
        let tasks = dump.segments.values().flat_map(|segment| &segment.tasks);
        let failed = tasks.filter(|task| task.state.state() == TaskState::Failed);
        let errors = failed.filter_map(|task| TaskError::decode(task.record.as_ref()?));
        Ok(errors.map(|error| error.to_string()).collect())
    }

    /// The outcome of an output. A held result whose holder is gone is computed again.
    async fn outcome(&self, run: RunId, task: TaskId) -> anyhow::Result<(TaskStatus, Bytes)> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let status = statuses(&self.store, run, &[task]).await?.remove(0);
            if status.state.state() == TaskState::Done {
                match status.locator {
                    Locator::Held { worker, .. } => {
                        let record = status.record.clone().context("a record")?;
                        let record = HeldRecord::from_bytes(&record)?;
                        let generation = status.state.generation();
                        let key = ResultKey { run, task, generation, nonce: record.nonce };
                        let holder = self.workers.iter().find(|one| one.index() == worker);
                        if let Some(holder) = holder {
                            let held = holder.held().serve(&key).await;
                            let value = held.with_context(|| format!("{task} is not held"))?;
                            return Ok((status, value.bytes));
                        }
                        self.rearm(run, task, status.locator).await?;
                    }
                    locator => {
                        let value = locator.value().or(status.record.clone()).context("a value")?;
                        return Ok((status, value));
                    }
                }
            } else if status.state.state() != TaskState::Pending {
                return Ok((status, Bytes::new()));
            }
            sleep(LOOK).await;
        }
        bail!("{task} does not come back: {}", self.unfinished(run).await?)
    }

    async fn rearm(&self, run: RunId, task: TaskId, locator: Locator) -> anyhow::Result<()> {
        let number = u32::from(task.index()) / u32::try_from(CHUNK_TASKS)?;
        let chunk = self.store.chunks(run, &[(task.segment(), number)]).await?.remove(0);
        let chunk = Chunk::decode(&chunk.context("descriptors")?, task.segment())?;
        let descriptor = chunk.task(task.index()).context("a descriptor")?;
        let (inputs, successors) = (descriptor.inputs.clone(), descriptor.successors.clone());
        let lost = Lost { task, locator, inputs, successors };
        if self.store.rearm(run, &[lost]).await? == [Rearmed::Pending(0)] {
            let none = |_: TaskId| None;
            let again = Parcel::pack(run, &Epoch(String::new()), &[Ready::first(task)], none, 1)?;
            let route = Route::hi(&QueueName::default());
            for body in again {
                self.queue.publish(&route, body).await?;
            }
        }
        Ok(())
    }

    /// Waits until what `left` counts is nothing.
    async fn until_none(
        &self,
        what: &str,
        left: impl AsyncFn(&Self) -> anyhow::Result<u64>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count = left(self).await?;
            if count == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{count} {what} are left");
            sleep(LOOK).await;
        }
    }

    /// Waits until no message is left, with a consumer or without, and drains the workers. A
    /// reminder that comes in between is given back and has another round.
    async fn drain_all(&mut self) -> anyhow::Result<()> {
        for _ in 0..10 {
            self.until_none("messages", async |c: &Self| c.messages().await).await?;
            for worker in std::mem::take(&mut self.workers) {
                ensure!(worker.drain(PATIENCE).await, "a drain did not end");
            }
            if self.messages().await? == 0 {
                return Ok(());
            }
            self.add().await?;
        }
        bail!("messages come back for ever")
    }

    async fn messages(&self) -> anyhow::Result<u64> {
        let name = QueueName::default();
        let held = self.broker.unsettled() as u64;
        let (hi, lo) = (Route::hi(&name), Route::lo(&name));
        Ok(held + u64::from(self.queue.depth(&hi).await? + self.queue.depth(&lo).await?))
    }
}

/// Whether a result is the one of the sequential run.
fn compare(
    place: usize,
    expected: &Result<Value, SequentialError>,
    status: &TaskStatus,
    value: &Bytes,
) -> anyhow::Result<()> {
    let state = status.state.state();
    let error = || status.record.as_ref().and_then(|record| TaskError::decode(record));
    match expected {
        Ok(expected) => {
            ensure!(state == TaskState::Done, "output {place} is {state:?}: {:?}", error());
            ensure!(*value == expected.bytes, "output {place} has another value");
        }
        Err(SequentialError::Skipped { .. }) => {
            ensure!(state == TaskState::Skipped, "output {place} is {state:?}, not skipped");
        }
        Err(expected) => {
            ensure!(state == TaskState::Failed, "output {place} is {state:?}, not failed");
            let kind = error().context("an error")?.kind;
            let same = match expected {
                SequentialError::Failed { .. } => kind == TaskErrorKind::User,
                SequentialError::Panicked { .. } => kind == TaskErrorKind::Panic,
                _ => false,
            };
            ensure!(same, "output {place} failed as {kind:?}: {:?}", error());
        }
    }
    Ok(())
}

async fn case(seed: u64, faults: bool) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let dag = Dag::random(&mut random);
    let calls = dag.calls();
    let outputs: Vec<&dyn AnyDelayed> = calls.iter().map(|call| call as &dyn AnyDelayed).collect();
    let captured = capture(&outputs)?;
    let expected = run_sequential(&captured);
    let faults = if faults { random.below(6) } else { 0 };
    let mut cluster = Cluster::start(random).await?;
    let policy = FailurePolicy::Continue;
    let (run, tasks) = submit_open(&cluster.store, &cluster.queue, captured, policy).await?;
    cluster.finish(run, faults).await?;
    for (place, (task, expected)) in tasks.iter().zip(&expected).enumerate() {
        let (status, value) = cluster.outcome(run, *task).await?;
        if let Err(error) = compare(place, expected, &status, &value) {
            let failed = cluster.failed(run).await?;
            return Err(error.context(format!("failed: {failed:?}")));
        }
    }
    // What was computed again may have released others, which are dropped in their own time.
    cluster.finish(run, 0).await?;
    // Those of the dead are published by the living once they are sure; the end deletes them too.
    let entries = async |c: &Cluster| {
        let living = |id: &OutboxId| c.workers.iter().any(|one| one.incarnation() == id.owner);
        Ok(c.store.outbox(run).await?.iter().filter(|(id, _)| living(id)).count() as u64)
    };
    cluster.until_none("outbox entries", entries).await?;
    cluster.store.unpin(run, &tasks).await?;
    let dump = cluster.store.dump(run).await?.context("the run is gone")?;
    dump.check(&BTreeSet::new()).map_err(anyhow::Error::msg)?;
    cluster.store.close(run).await?;
    cluster.store.purge(run).await?;
    let held = async |c: &Cluster| {
        Ok(c.workers.iter().map(|worker| worker.held().stats().count).sum::<u64>())
    };
    cluster.until_none("held results", held).await?;
    cluster.drain_all().await
}

/// The seeds to try: those of the environment, or as many as take some seconds.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("ORACLE_SEEDS") else { return 0..count };
    let (from, to) = text.split_once("..").unwrap_or((&text, ""));
    let from = from.parse().unwrap();
    from..to.parse().unwrap_or(from + 1)
}

async fn all(seeds: std::ops::Range<u64>, faults: bool) {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
    for seed in seeds {
        let began = Instant::now();
        if let Err(error) = case(seed, faults).await {
            panic!("ORACLE_SEEDS={seed}, faults {faults}: {error:#}");
        }
        tracing::info!(seed, took = ?began.elapsed(), "passed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_agree_with_the_sequential_run() {
    all(seeds(15), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_agree_with_the_sequential_run_whatever_goes_wrong() {
    all(seeds(15), true).await;
}
