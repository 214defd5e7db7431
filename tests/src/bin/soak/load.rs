//! Graphs with known answers, one after the other, many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bolthole::Client;
use bolthole_tests::workload::{self, HOLD};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Graphs under way at one time: more than the load needs while all is well, few enough that an
/// outage leaves no pile behind.
const GRAPHS_MAX: usize = 64;
/// How long each task lasts, in milliseconds, and the time between two graphs: 113 tasks on the six
/// slots of three workers are busy for 0.095 s of it, 70 %.
const TASK_MS: &str = "5";
const PAUSE: Duration = Duration::from_millis(135);
/// Every so many graphs one moves large results between workers.
const LARGE_EVERY: u64 = 4;
/// How long the last graphs may take when all is healed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was computed.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) graphs: u64,
    pub(crate) wrong: u64,
    pub(crate) failed: u64,
    pub(crate) tasks: u64,
}

#[derive(Debug, Default)]
struct Counts {
    graphs: AtomicU64,
    wrong: AtomicU64,
    failed: AtomicU64,
    tasks: AtomicU64,
    stop: AtomicBool,
}

/// The load, until it is finished.
#[derive(Debug)]
pub(crate) struct Load {
    counts: Arc<Counts>,
    places: Arc<Semaphore>,
    running: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(client: Client) -> Self {
        let (counts, places) = (Arc::<Counts>::default(), Arc::new(Semaphore::new(GRAPHS_MAX)));
        let running = tokio::spawn(submit(client, Arc::clone(&counts), Arc::clone(&places)));
        Self { counts, places, running }
    }

    /// Submits no more and waits for what is under way; graphs that do not end count as failed.
    pub(crate) async fn finish(self) -> Result<Done> {
        self.counts.stop.store(true, Ordering::Relaxed);
        self.running.await?;
        let all = self.places.acquire_many(u32::try_from(GRAPHS_MAX)?);
        let hung = tokio::time::timeout(PATIENCE, all).await.is_err();
        let hung = if hung { GRAPHS_MAX - self.places.available_permits() } else { 0 };
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Ok(Done {
            graphs: read(&self.counts.graphs),
            wrong: read(&self.counts.wrong),
            failed: read(&self.counts.failed) + hung as u64,
            tasks: read(&self.counts.tasks),
        })
    }
}

async fn submit(client: Client, counts: Arc<Counts>, places: Arc<Semaphore>) {
    let mut pause = interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    while !counts.stop.load(Ordering::Relaxed) {
        pause.tick().await;
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        number += 1;
        let (client, counts) = (client.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            let (right, tasks) = if number % LARGE_EVERY == 0 {
                (large(&client, number).await, 9)
            } else {
                (small(&client).await, 113)
            };
            counts.graphs.fetch_add(1, Ordering::Relaxed);
            counts.tasks.fetch_add(tasks, Ordering::Relaxed);
            match right {
                Ok(true) => {}
                Ok(false) => drop(counts.wrong.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("{error:#}");
                    report(&error);
                }
            }
            drop(place);
        });
    }
}

#[expect(clippy::print_stderr, reason = "what went wrong, at once")]
fn report(error: &anyhow::Error) {
    eprintln!("a graph failed: {error:#}");
}

async fn small(client: &Client) -> Result<bool> {
    let run = client.unnamed().header(HOLD, TASK_MS);
    Ok(run.compute(workload::etl()).await? == workload::etl_answer())
}

async fn large(client: &Client, seed: u64) -> Result<bool> {
    let seeds = 8 * seed..8 * seed + 8;
    let made: Vec<_> = seeds.clone().map(|seed| workload::make::delayed(200_000, seed)).collect();
    let run = client.unnamed().header(HOLD, TASK_MS);
    let digest = run.compute(workload::digest::delayed(&made)).await?;
    let expected: Vec<_> = seeds.map(|seed| workload::bytes_of(200_000, seed)).collect();
    Ok(digest == workload::digest_of(&expected))
}
