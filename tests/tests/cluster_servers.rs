//! Clusters whose servers are restarted, killed and robbed while they compute: same answers.

use anyhow::{Context as _, Result, ensure};
use bolthole_tests::cluster::{Cluster, PATIENCE, underway};
use bolthole_tests::servers::Pair;
use bolthole_tests::workload::{self, HOLD};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::block_in_place;
use tokio::time::timeout;

/// Computes while `harm` is done to servers which only the tests here use, one at a time.
async fn survives(harm: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    static PAIR: OnceCell<Mutex<Pair>> = OnceCell::const_new();
    let start = async || block_in_place(Pair::start).map(Mutex::new);
    let mut servers = PAIR.get_or_try_init(start).await?.lock().await;
    let cluster = Cluster::new(env!("CARGO_BIN_EXE_cluster"), &servers)?;
    let workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    let client = cluster.client().await?;
    let run = client.run("run").header(HOLD, "50");
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "run", 30).await?;
    block_in_place(|| harm(&mut servers))?;
    let answer = timeout(PATIENCE, computing).await;
    let answer = answer.with_context(|| {
        let logs = workers.iter().map(|worker| worker.output().unwrap_or_default());
        format!("no answer; the workers wrote:\n{}", logs.collect::<Vec<_>>().join("\n"))
    })???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    let status = client.attach("run").await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    for mut worker in workers {
        ensure!(worker.is_running()?, "a worker has ended: {}", worker.output()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_restarted() -> Result<()> {
    survives(|servers| servers.redis.restart()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back() -> Result<()> {
    survives(|servers| {
        servers.redis.kill();
        servers.redis.restart()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loses_its_functions() -> Result<()> {
    survives(|servers| servers.redis.cli(["FUNCTION", "FLUSH"]).map(drop)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_restarted() -> Result<()> {
    survives(|servers| servers.rabbit.restart()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_loses_everything() -> Result<()> {
    survives(|servers| servers.rabbit.wipe()).await
}
