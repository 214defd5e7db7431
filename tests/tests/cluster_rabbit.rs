//! Workers on a cluster of RabbitMQ, of which the node dies that has the lanes: same answers.

use anyhow::{Context as _, Result, ensure};
use bolthole_tests::cluster::{Cluster, PATIENCE, underway};
use bolthole_tests::servers::{RabbitCluster, shared_redis};
use bolthole_tests::workload::{self, HOLD};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::task::block_in_place;
use tokio::time::timeout;

/// The broker that the tests here harm, one at a time. It is whole when taken.
async fn rabbit() -> Result<MutexGuard<'static, RabbitCluster>> {
    static RABBIT: OnceCell<Mutex<RabbitCluster>> = OnceCell::const_new();
    let start = async || block_in_place(RabbitCluster::start).map(Mutex::new);
    let mut rabbit = RABBIT.get_or_try_init(start).await?.lock().await;
    block_in_place(|| {
        for node in rabbit.nodes.iter_mut().filter(|node| node.pid().is_none()) {
            node.restart()?;
        }
        rabbit.wait_ok()
    })?;
    Ok(rabbit)
}

/// Computes while the node that has the lanes is killed (SIGKILL), and whatever `then` does. The lanes
/// are of this kind.
async fn survives(
    query: &str,
    kind: &str,
    then: impl FnOnce(&mut RabbitCluster, usize) -> Result<()>,
) -> Result<()> {
    let mut rabbit = rabbit().await?;
    let redis = block_in_place(shared_redis).url();
    let cluster = Cluster::at(env!("CARGO_BIN_EXE_cluster"), rabbit.url(query), redis)?;
    let mut workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    let client = cluster.client().await?;
    let run = client.run("run").header(HOLD, "200");
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "run", 5).await?;
    block_in_place(|| {
        let lane = format!("{}.bh.v1.default.hi", cluster.namespace());
        let (found, home) = rabbit.host(&lane)?;
        ensure!(found == kind, "{found} queues instead of {kind}");
        rabbit.nodes[home].kill();
        then(&mut rabbit, home)
    })?;
    let answer = timeout(PATIENCE, computing).await;
    let answer = answer.with_context(|| {
        let logs = workers.iter().map(|worker| worker.output().unwrap_or_default());
        format!("no answer; the workers wrote:\n{}", logs.collect::<Vec<_>>().join("\n"))
    })???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    // What is submitted now needs the lanes.
    let more = client.run("more").compute(workload::map_reduce());
    ensure!(timeout(PATIENCE, more).await?? == workload::map_reduce_answer());
    let status = client.attach("run").await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    for worker in &mut workers {
        ensure!(worker.is_running()?, "a worker has ended: {}", worker.output()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_with_the_lanes_of_a_node_that_died() -> Result<()> {
    survives("", "quorum", |_, _| Ok(())).await
}

/// Classic lanes are on one node alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classic_lanes_are_waited_for_until_their_node_is_back() -> Result<()> {
    survives("queues=classic", "classic", |rabbit, home| rabbit.nodes[home].restart()).await
}
