//! Clusters whose servers are restarted, killed and robbed while they compute: same answers.

use anyhow::Result;
use bolthole_tests::cluster::{self, Cluster};
use bolthole_tests::servers::Pair;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::block_in_place;

/// Computes while `harm` is done to servers which only the tests here use, one at a time.
async fn survives(harm: impl FnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    static PAIR: OnceCell<Mutex<Pair>> = OnceCell::const_new();
    let start = async || block_in_place(Pair::start).map(Mutex::new);
    let mut servers = PAIR.get_or_try_init(start).await?.lock().await;
    let cluster = Cluster::new(env!("CARGO_BIN_EXE_cluster"), &servers)?;
    cluster::survives(&cluster, "50", 30, || harm(&mut servers)).await
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
