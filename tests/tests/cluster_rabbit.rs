//! Workers on a cluster of RabbitMQ, of which the node dies that has the lanes: same answers.

use anyhow::{Result, ensure};
use bolthole_tests::cluster::{self, Cluster};
use bolthole_tests::servers::{RabbitCluster, shared_redis};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::task::block_in_place;

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
    cluster::survives(&cluster, "200", 5, || {
        let lane = format!("{}.bh.v1.default.hi", cluster.namespace());
        let (found, home) = rabbit.host(&lane)?;
        ensure!(found == kind, "{found} queues instead of {kind}");
        rabbit.nodes[home].kill();
        then(&mut rabbit, home)
    })
    .await
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
