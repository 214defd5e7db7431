//! Servers that are taken away while tasks run: what runs twice, and how soon work goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use bolthole::{Client, Delayed, Run};
use bolthole_broker::clock;
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, until};
use bolthole_tests::recovery::{Ledger, hold};
use bolthole_tests::servers::Pair;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use crate::table::Table;

/// Tasks that run while a server is away.
const TASKS: u64 = 100;
/// How long Redis is away, and how long the broker is short of memory.
const AWAY: Duration = Duration::from_secs(30);

/// A pair of servers, two workers that run a hundred tasks at a time, and a client.
struct Stage {
    pair: Pair,
    cluster: Cluster,
    ledger: Ledger,
    client: Client,
    _workers: [Member; 2],
}

impl Stage {
    async fn new(prepare: impl FnOnce(&Pair) -> Result<()>) -> Result<Self> {
        let pair = block_in_place(Pair::start)?;
        block_in_place(|| prepare(&pair))?;
        let cluster = Cluster::new(std::env::current_exe()?, &pair)?;
        let slots = [("BOLTHOLE_SLOTS", "50")];
        let workers =
            [cluster.worker_with("one", &slots).await?, cluster.worker_with("two", &slots).await?];
        let ledger = Ledger::new(cluster.folder());
        let client = cluster.client().await?;
        Ok(Self { pair, cluster, ledger, client, _workers: workers })
    }

    /// So many tasks at once, of which every second lasts the longer time.
    async fn begin(&self, tasks: u64, millis: [u64; 2]) -> Result<Run> {
        let path = self.ledger.path();
        let last = |number| if number % 2 == 0 { millis[0] } else { millis[1] };
        let tasks: Vec<Delayed<u64>> =
            (0..tasks).map(|number| hold::delayed(number, last(number), &*path)).collect();
        let handles = self.client.submit(&tasks).await?;
        self.ledger.started(tasks.len()).await?;
        Ok(handles[0].in_run().clone())
    }

    async fn end(&self, run: &Run, tasks: u64) -> Result<usize> {
        let status = timeout(2 * PATIENCE, run.wait()).await??;
        ensure!(status.finished == tasks && status.failed == 0, "{status:?}");
        self.ledger.duplicates()
    }
}

/// All outages.
pub(crate) async fn all(table: &mut Table) -> Result<()> {
    restarted(table).await?;
    redis_away(table).await?;
    alarm(table).await?;
    acknowledgement_timeout(table).await
}

async fn restarted(table: &mut Table) -> Result<()> {
    for (what, young) in [("5 s old", false), ("just started", true)] {
        let mut stage = Stage::new(|_| Ok(())).await?;
        let run = stage.begin(TASKS, [25_000, 30_000]).await?;
        if !young {
            sleep(Duration::from_secs(5)).await;
        }
        block_in_place(|| {
            if young {
                stage.pair.rabbit.kill();
            }
            stage.pair.rabbit.restart()
        })?;
        let twice = stage.end(&run, TASKS).await?;
        let what = format!("RabbitMQ restarted, tasks {what}: run twice");
        table.count(&what, twice, usize::try_from(TASKS)?, 0);
    }
    Ok(())
}

async fn redis_away(table: &mut Table) -> Result<()> {
    let mut stage = Stage::new(|_| Ok(())).await?;
    // Half of them end while nobody can be told, the others long after.
    let run = stage.begin(TASKS, [15_000, 75_000]).await?;
    sleep(Duration::from_secs(5)).await;
    block_in_place(|| stage.pair.redis.stop())?;
    sleep(AWAY).await;
    block_in_place(|| stage.pair.redis.restart())?;
    let twice = stage.end(&run, TASKS).await?;
    table.count("Redis away for 30 s: run twice", twice, usize::try_from(TASKS)?, 0);
    Ok(())
}

async fn alarm(table: &mut Table) -> Result<()> {
    let stage = Stage::new(|_| Ok(())).await?;
    let run = stage.begin(TASKS, [10_000, 15_000]).await?;
    block_in_place(|| stage.pair.rabbit.ctl(["set_vm_memory_high_watermark", "0.000001"]))?;
    // Commits and acknowledgements go on: the run ends under the alarm, and nothing stays unacknowledged.
    let twice = stage.end(&run, TASKS).await?;
    until("every delivery is acknowledged", async || {
        let messages = stage.cluster.messages(&stage.pair)?;
        Ok(messages.values().all(|count| *count == 0).then_some(()))
    })
    .await?;
    table.count("memory alarm: run twice", twice, usize::try_from(TASKS)?, 0);
    // What is submitted now waits for the end of the alarm.
    let (client, path) = (stage.client.clone(), stage.ledger.path());
    let waiting = tokio::spawn(async move { client.compute(hold::delayed(TASKS, 1, path)).await });
    sleep(AWAY.saturating_sub(Duration::from_secs(15))).await;
    block_in_place(|| stage.pair.rabbit.ctl(["set_vm_memory_high_watermark", "0.4"]))?;
    let over_ms = clock::unix_ms();
    timeout(PATIENCE, waiting).await???;
    let starts = stage.ledger.starts()?.remove(&TASKS).unwrap_or_default();
    let times = starts.iter().map(|start| start.at_ms.saturating_sub(over_ms)).collect();
    table.times("memory alarm over: the next start", times, 1_000, 1_000);
    Ok(())
}

async fn acknowledgement_timeout(table: &mut Table) -> Result<()> {
    let set = ["eval", "application:set_env(rabbit, consumer_timeout, 60000)."];
    let stage = Stage::new(|pair| pair.rabbit.ctl(set).map(drop)).await?;
    let tasks = 4;
    let run = stage.begin(tasks, [150_000, 150_000]).await?;
    let twice = stage.end(&run, tasks).await?;
    table.count("timeout 60 s, tasks of 150 s: run twice", twice, usize::try_from(tasks)?, 0);
    Ok(())
}
