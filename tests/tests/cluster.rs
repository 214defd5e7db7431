//! Whole clusters: workers and clients as processes, on RabbitMQ and Redis.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use bolthole::ErrorKind;
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway, until};
use bolthole_tests::proxy::{Proxy, Way};
use bolthole_tests::servers;
use bolthole_tests::workload::{self, HOLD, JOURNAL};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");

fn cluster() -> Result<Cluster> {
    Cluster::new(PROGRAM, servers::shared())
}

/// A cluster with two workers.
async fn two_workers() -> Result<(Cluster, [Member; 2])> {
    let cluster = cluster()?;
    let workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    Ok((cluster, workers))
}

/// Fails unless every task of a run was started exactly once.
fn assert_started_once(journal: &str, tasks: u64) -> Result<()> {
    let started: Vec<&str> = journal.lines().collect();
    let different: BTreeSet<&str> = started.iter().copied().collect();
    let counts = (started.len() as u64, different.len() as u64);
    ensure!(counts == (tasks, tasks), "{tasks} tasks, (starts, started tasks) = {counts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_find_the_answers_and_leave_nothing_behind() -> Result<()> {
    let (cluster, _workers) = two_workers().await?;
    let client = cluster.client().await?;
    let journal = cluster.folder().join("journal");
    let run = client.run("etl").header(JOURNAL, journal.to_string_lossy());
    let etl = timeout(PATIENCE, run.compute(workload::etl())).await??;
    ensure!(etl == workload::etl_answer(), "{etl:?}");
    let sum = timeout(PATIENCE, client.compute(workload::map_reduce())).await??;
    ensure!(sum == workload::map_reduce_answer(), "{sum}");
    let fib = timeout(PATIENCE, client.compute(workload::fib::delayed(10))).await??;
    // The leaves are squares, and those of 0 and 1 are themselves.
    ensure!(fib == 55, "{fib}");

    let run = client.attach("etl").await?;
    let status = run.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    assert_started_once(&fs::read_to_string(&journal)?, status.tasks)?;
    run.forget().await?;
    until("Redis has forgotten the runs", async || {
        Ok(cluster.keys_of_runs(servers::shared())?.is_empty().then_some(()))
    })
    .await?;
    until("RabbitMQ has no message", async || {
        let messages = cluster.messages(servers::shared())?;
        ensure!(!messages.is_empty(), "no queue of the namespace was found");
        Ok(messages.values().all(|count| *count == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_results_touch_neither_server() -> Result<()> {
    const RESULTS: u64 = 8;
    const BYTES: usize = 5 << 20;
    let servers = servers::shared();
    let rabbit = Proxy::before(servers.rabbit.port()).await?;
    let redis = Proxy::before(servers.redis.port()).await?;
    let (amqp_url, redis_url) =
        (rabbit.through(&servers.rabbit.url()), redis.through(&servers.redis.url()));
    let cluster = Cluster::at(PROGRAM, amqp_url, redis_url)?;
    // Who makes does not read: everything must move from one worker to the other.
    let _maker = cluster.worker_with("maker", &[("BOLTHOLE_QUEUES", "make")]).await?;
    let _reader = cluster.worker_with("reader", &[("BOLTHOLE_QUEUES", "read")]).await?;
    let made: Vec<_> =
        (0..RESULTS).map(|seed| workload::make::delayed(BYTES, seed).queue("make")).collect();
    let digest = workload::digest::delayed(&made).queue("read");
    let client = cluster.client().await?;
    // The client reads one of them, too.
    let (digest, first) = timeout(PATIENCE, client.compute((&digest, &made[0]))).await??;

    let expected: Vec<_> = (0..RESULTS).map(|seed| workload::bytes_of(BYTES, seed)).collect();
    ensure!(digest == workload::digest_of(&expected), "the reader has read something else");
    ensure!(first == expected[0], "the client has read something else");
    let bytes_of = |proxy: &Proxy| proxy.bytes(Way::Up) + proxy.bytes(Way::Down);
    for (name, proxy) in [("RabbitMQ", &rabbit), ("Redis", &redis)] {
        ensure!(bytes_of(proxy) > 1_000, "{name} was not reached through its proxy");
    }
    let bytes = bytes_of(&rabbit) + bytes_of(&redis);
    ensure!(bytes < 2 << 20, "{bytes} bytes went through the servers");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_told_to_go_hands_over_and_repeats_nothing() -> Result<()> {
    let (cluster, [leaving, _staying]) = two_workers().await?;
    let client = cluster.client().await?;
    let journal = cluster.folder().join("journal");
    let run = client.run("drain").header(HOLD, "40").header(JOURNAL, journal.to_string_lossy());
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "drain", 20).await?;
    let code = leaving.terminate()?;
    ensure!(code == 0, "the worker ended with {code}");
    let answer = timeout(PATIENCE, computing).await???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    let status = client.attach("drain").await?.status().await?;
    assert_started_once(&fs::read_to_string(&journal)?, status.tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_share_workers_and_namespaces_share_nothing() -> Result<()> {
    let (here, _workers) = two_workers().await?;
    let there = cluster()?;
    let client = here.client().await?;
    let other = there.client().await?;
    // Nobody works there: what is submitted there waits, and is not seen from here.
    let waiting = other.run("run").header(HOLD, "1").submit(workload::etl()).await?;
    let etl = client.run("etl").header(HOLD, "5").compute(workload::etl());
    let sum = client.run("sum").header(HOLD, "5").compute(workload::map_reduce());
    let (etl, sum) = tokio::join!(timeout(PATIENCE, etl), timeout(PATIENCE, sum));
    ensure!(etl?? == workload::etl_answer());
    ensure!(sum?? == workload::map_reduce_answer());
    ensure!(client.runs().await?.len() == 2, "a run of another namespace is seen");
    ensure!(client.attach("run").await.is_err(), "its name is, too");
    let status = waiting.in_run().status().await?;
    ensure!(status.finished == 0, "a worker of another namespace has run {status:?}");

    let _worker = there.worker("late").await?;
    let answer = timeout(PATIENCE, waiting.result()).await??;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_makes_room_for_others() -> Result<()> {
    let (cluster, _workers) = two_workers().await?;
    let client = cluster.client().await?;
    let never = cluster.folder().join("never").to_string_lossy().into_owned();
    // Twice as many as there are slots, and none of them ends by itself.
    let stuck = (0..8).map(|value| workload::gate::delayed(value, &never[..])).collect::<Vec<_>>();
    let handles = client.run("stuck").submit(&stuck).await?;
    let run = client.attach("stuck").await?;
    run.cancel("the wrong file").await?;
    for handle in &handles {
        let end = timeout(PATIENCE, handle.result()).await.context("the end is not noticed")?;
        let error = end.err().context("it was run")?;
        ensure!(error.kind() == &ErrorKind::Cancelled, "{error:?}");
        ensure!(error.to_string().contains("the wrong file"), "{error}");
    }
    let sum = timeout(PATIENCE, client.compute(workload::map_reduce())).await;
    let sum = sum.context("the workers are still busy")??;
    ensure!(sum == workload::map_reduce_answer(), "{sum}");
    Ok(())
}
