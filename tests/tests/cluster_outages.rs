//! Clusters that lose a worker or a server while tasks run: nothing runs twice that need not, and
//! what a lost worker had runs once more.

use std::time::Duration;

use anyhow::{Result, ensure};
use bolthole::{Client, Delayed, Run};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, until};
use bolthole_tests::recovery::{Ledger, hold};
use bolthole_tests::servers::Pair;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// Tasks that run at the same time.
const TASKS: u64 = 16;

/// Servers of a test's own, two workers with a short lease and room for all tasks, a client.
struct Scene {
    pair: Pair,
    cluster: Cluster,
    ledger: Ledger,
    client: Client,
    workers: [Member; 2],
}

impl Scene {
    async fn new() -> Result<Self> {
        let pair = block_in_place(Pair::start)?;
        let cluster = Cluster::new(PROGRAM, &pair)?;
        let environment = [("BOLTHOLE_SLOTS", "16"), ("BOLTHOLE_LEASE", "2s")];
        let workers = [
            cluster.worker_with("one", &environment).await?,
            cluster.worker_with("two", &environment).await?,
        ];
        let (ledger, client) = (Ledger::new(cluster.folder()), cluster.client().await?);
        Ok(Self { pair, cluster, ledger, client, workers })
    }

    /// Tasks that last so long, all of them started.
    async fn begin(&self, millis: u64) -> Result<Run> {
        let path = self.ledger.path();
        let tasks: Vec<Delayed<u64>> =
            (0..TASKS).map(|number| hold::delayed(number, millis, &*path)).collect();
        let handles = self.client.submit(&tasks).await?;
        self.ledger.started(tasks.len()).await?;
        Ok(handles[0].in_run().clone())
    }

    /// Waits for the end of the run; how many starts there were beyond one of each task.
    async fn end(&self, run: &Run) -> Result<usize> {
        let status = timeout(PATIENCE, run.wait()).await??;
        ensure!(status.finished == TASKS && status.failed == 0, "{status:?}");
        self.ledger.duplicates()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_rabbitmq_repeats_nothing() -> Result<()> {
    let mut scene = Scene::new().await?;
    let run = scene.begin(20_000).await?;
    block_in_place(|| scene.pair.rabbit.restart())?;
    let twice = scene.end(&run).await?;
    ensure!(twice == 0, "{twice} tasks were run twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_redis_repeats_nothing() -> Result<()> {
    let mut scene = Scene::new().await?;
    let run = scene.begin(15_000).await?;
    block_in_place(|| scene.pair.redis.stop())?;
    // Every record and every lease runs out meanwhile.
    sleep(Duration::from_secs(5)).await;
    block_in_place(|| scene.pair.redis.restart())?;
    let twice = scene.end(&run).await?;
    ensure!(twice == 0, "{twice} tasks were run twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_worker_had_is_started_again_once() -> Result<()> {
    let scene = Scene::new().await?;
    let run = scene.begin(10_000).await?;
    let [victim, other] = scene.workers;
    let process = victim.id();
    let starts = scene.ledger.starts()?;
    let lost = starts.values().filter(|starts| starts[0].process == process).count();
    victim.kill();
    until("what it had was started again", async || {
        Ok((scene.ledger.duplicates()? >= lost).then_some(()))
    })
    .await?;
    let status = timeout(PATIENCE, run.wait()).await??;
    ensure!(status.finished == TASKS && status.failed == 0, "{status:?}");
    let twice = scene.ledger.duplicates()?;
    ensure!(twice == lost, "{lost} tasks were lost, {twice} run twice");
    drop((other, scene.cluster));
    Ok(())
}
