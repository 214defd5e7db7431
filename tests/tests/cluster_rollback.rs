//! Clusters whose store comes back without what happened last, or empty, while they compute: a client
//! that lives gets the same answers, one that has gone finds out when it asks again.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolthole::{Client, ErrorKind};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway};
use bolthole_tests::servers::{Pair, RedisServer};
use bolthole_tests::workload::{self, HOLD};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::block_in_place;
use tokio::time::timeout;

/// Servers that only the tests here use, one at a time: they are robbed.
async fn servers() -> Result<tokio::sync::MutexGuard<'static, Pair>> {
    static PAIR: OnceCell<Mutex<Pair>> = OnceCell::const_new();
    let start = async || block_in_place(Pair::start).map(Mutex::new);
    Ok(PAIR.get_or_try_init(start).await?.lock().await)
}

async fn two_workers(servers: &Pair) -> Result<(Cluster, [Member; 2])> {
    let cluster = Cluster::new(env!("CARGO_BIN_EXE_cluster"), servers)?;
    let workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    Ok((cluster, workers))
}

fn logs(workers: &[Member]) -> String {
    let logs = workers.iter().map(|worker| worker.output().unwrap_or_default());
    format!("no answer; the workers wrote:\n{}", logs.collect::<Vec<_>>().join("\n"))
}

/// What nobody waits for any more is found when the run is scanned.
async fn assert_all_finished(client: &Client, name: &str) -> Result<()> {
    let status = client.attach(name).await?.wait_within(PATIENCE).await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    Ok(())
}

/// Computes while the store loses something.
async fn survives(lose: impl FnOnce(&mut RedisServer) -> Result<()>) -> Result<()> {
    let mut servers = servers().await?;
    let (cluster, workers) = two_workers(&servers).await?;
    let client = cluster.client().await?;
    let run = client.run("run").header(HOLD, "50");
    let computing = tokio::spawn(run.compute((workload::etl(), workload::mixed())));
    underway(&client, "run", 30).await?;
    block_in_place(|| lose(&mut servers.redis))?;
    let answer = timeout(PATIENCE, computing).await.with_context(|| logs(&workers))???;
    let (etl, (mixed, bytes)) = answer;
    ensure!(
        etl == workload::etl_answer() && mixed == workload::mixed_answer(),
        "{etl:?} {mixed:?}"
    );
    ensure!(!bytes.is_empty());
    assert_all_finished(&client, "run").await?;
    client.attach("run").await?.forget().await?;
    ensure!(cluster.keys_of_runs(&servers)?.is_empty(), "{:?}", cluster.keys_of_runs(&servers)?);
    for mut worker in workers {
        ensure!(worker.is_running()?, "a worker has ended: {}", worker.output()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_commands_are_lost() -> Result<()> {
    survives(|redis| redis.roll_back(25)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_of_the_run_is_lost() -> Result<()> {
    survives(|redis| redis.roll_back(200)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_lost() -> Result<()> {
    survives(RedisServer::wipe).await
}

/// Calls are submitted one by one; what the store loses lies between the segments they make.
async fn stream_survives(lose: impl FnOnce(&mut RedisServer) -> Result<()>) -> Result<()> {
    let mut servers = servers().await?;
    let (cluster, workers) = two_workers(&servers).await?;
    let client = cluster.client().await?;
    let run = client.run("stream").header(HOLD, "20").open().await?;
    let mut squares = Vec::new();
    let mut sums = Vec::new();
    for value in 0..120 {
        squares.push(workload::square::submit(&run, value).await?);
        if value % 4 == 3 {
            sums.push(workload::sum::submit(&run, &squares[squares.len() - 4..]).await?);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    drop(squares.split_off(60));
    block_in_place(|| lose(&mut servers.redis))?;
    // Calls that come while the store lacks what they use.
    let total = workload::sum::submit(&run, &sums).await?;
    let total = timeout(PATIENCE, total.result()).await.with_context(|| logs(&workers))??;
    let mut expected = Vec::new();
    for first in (0..120_u64).step_by(4) {
        expected.push((first..first + 4).map(|value| value * value).sum::<u64>());
    }
    ensure!(total == expected.iter().sum::<u64>(), "{total}");
    let found = timeout(PATIENCE, client.gather(&sums)).await.with_context(|| logs(&workers))??;
    ensure!(found == expected, "{found:?}");
    run.close().await?;
    let status = timeout(PATIENCE, run.wait()).await.with_context(|| logs(&workers))??;
    ensure!(status.finished == status.tasks && status.tasks == 151, "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_loses_its_last_segments() -> Result<()> {
    stream_survives(|redis| redis.roll_back(40)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_loses_everything() -> Result<()> {
    stream_survives(RedisServer::wipe).await
}

/// Nobody stages it again; who asks is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_client_a_lost_run_is_gone() -> Result<()> {
    let mut servers = servers().await?;
    let (cluster, mut workers) = two_workers(&servers).await?;
    let client = cluster.client().await?;
    let gate = cluster.folder().join("gate");
    let call = workload::gate::delayed(7, gate.to_string_lossy().into_owned());
    let handle = client.run("run").submit(call).await?;
    let id = handle.run();
    drop((handle, client));
    block_in_place(|| servers.redis.wipe())?;
    fs::write(&gate, "")?;
    let client = cluster.client().await?;
    let error = client.attach("run").await.map(drop).unwrap_err();
    ensure!(
        *error.kind() == ErrorKind::Gone && error.to_string().contains("lost its data"),
        "{error}"
    );
    let error = timeout(PATIENCE, client.attach_id(id).wait()).await?.unwrap_err();
    ensure!(
        *error.kind() == ErrorKind::Gone && error.to_string().contains("lost its data"),
        "{error}"
    );
    // The workers go on, and so does the name.
    let call = workload::square::delayed(9);
    let answer = timeout(PATIENCE, client.run("run").compute(call)).await;
    ensure!(answer.with_context(|| logs(&workers))?? == 81);
    for worker in &mut workers {
        ensure!(worker.is_running()?, "a worker has ended: {}", worker.output()?);
    }
    Ok(())
}

/// A client keeps the last 16 MiB of what it has staged of a run. When all is lost, what is older
/// cannot be staged again, and whoever waits for the run is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_to_be_staged_again_is_lost_and_says_so() -> Result<()> {
    let mut servers = servers().await?;
    let (cluster, workers) = two_workers(&servers).await?;
    let client = cluster.client().await?;
    let run = client.run("large").open().await?;
    // No file has such a name: the calls wait for ever.
    let mut waiting = Vec::new();
    for _ in 0..300 {
        waiting.push(workload::opened::submit(&run, "x".repeat(60 << 10)).await?);
    }
    let attached = client.attach("large").await?;
    timeout(PATIENCE, async {
        while attached.status().await?.tasks < 300 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    block_in_place(|| servers.redis.wipe())?;
    let lost = timeout(PATIENCE, waiting[0].result()).await.with_context(|| logs(&workers))?;
    let error = lost.err().context("a result came of nothing")?;
    ensure!(
        *error.kind() == ErrorKind::StoreLost && error.to_string().contains("submit the graph"),
        "{error}"
    );
    let error = timeout(PATIENCE, run.close()).await?.err().context("a lost run was closed")?;
    ensure!(*error.kind() == ErrorKind::StoreLost, "{error}");
    Ok(())
}
