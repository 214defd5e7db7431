//! Clusters whose processes are killed, stopped and started again while they compute: same answers.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bolthole::{Client, RunState};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway, until};
use bolthole_tests::servers;
use bolthole_tests::workload::{self, HOLD};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");

/// How long every task lasts, in milliseconds: long enough to do harm meanwhile.
const SLOWLY: &str = "50";

/// A cluster with two workers.
async fn two_workers() -> Result<(Cluster, [Member; 2])> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let workers = [cluster.worker("one").await?, cluster.worker("two").await?];
    Ok((cluster, workers))
}

/// Fails unless each of a run's tasks is finished, and counted once.
async fn assert_all_finished(client: &Client, name: &str) -> Result<()> {
    let status = client.attach(name).await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_costs_nothing_but_time() -> Result<()> {
    let (cluster, [victim, _other]) = two_workers().await?;
    let client = cluster.client().await?;
    let run = client.run("run").header(HOLD, SLOWLY);
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "run", 30).await?;
    victim.kill();
    let answer = timeout(PATIENCE, computing).await???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    assert_all_finished(&client, "run").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workers_may_be_killed_when_a_new_one_comes() -> Result<()> {
    let (cluster, victims) = two_workers().await?;
    let client = cluster.client().await?;
    let run = client.run("run").header(HOLD, SLOWLY);
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "run", 30).await?;
    victims.into_iter().for_each(Member::kill);
    let _new = cluster.worker("new").await?;
    let answer = timeout(PATIENCE, computing).await???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    assert_all_finished(&client, "run").await
}

/// Computes from results that only one worker has, which `leave` makes go before they are used.
async fn computed_again(leave: impl FnOnce(Member) -> Result<()>) -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let leaving = cluster.worker("leaving").await?;
    let gate = cluster.folder().join("gate");
    let made: Vec<_> = (0..6).map(|seed| workload::make::delayed(100_000, seed)).collect();
    let opened = workload::gate::delayed(7, gate.to_string_lossy().into_owned());
    let digest = workload::plus::delayed(workload::digest::delayed(&made), opened);
    let run = client.run("run").header(HOLD, "1");
    let computing = tokio::spawn(run.compute((digest, made)));
    underway(&client, "run", 6).await?;
    let _new = cluster.worker("new").await?;
    leave(leaving)?;
    fs::write(&gate, "")?;
    let (digest, made) = timeout(PATIENCE, computing).await???;
    let expected: Vec<_> = (0..6).map(|seed| workload::bytes_of(100_000, seed)).collect();
    ensure!(made == expected, "results that were lost came back different");
    ensure!(digest == workload::digest_of(&expected) + 7, "{digest}");
    assert_all_finished(&client, "run").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_a_killed_worker_are_had_again() -> Result<()> {
    computed_again(|worker| {
        worker.kill();
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_a_worker_that_was_told_to_go_are_had_again() -> Result<()> {
    computed_again(|worker| {
        // Longer than it may drain for: a task that it has begun waits for the gate.
        let code = worker.terminate()?;
        ensure!(code == 0, "the worker ended with {code}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_lost_after_the_end_are_had_again() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let only = cluster.worker("only").await?;
    let made = workload::make::delayed(100_000, workload::square::delayed(3));
    let handle = client.run("run").submit(&made).await?;
    let status = timeout(PATIENCE, handle.in_run().wait()).await??;
    ensure!(status.state == RunState::Done, "{status:?}");
    only.kill();
    let _new = cluster.worker("new").await?;
    let result = timeout(PATIENCE, handle.result()).await??;
    ensure!(result == workload::bytes_of(100_000, 9), "it came back different");
    let status = timeout(PATIENCE, handle.in_run().wait()).await??;
    ensure!(status.state == RunState::Done, "{status:?}");
    assert_all_finished(&client, "run").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_client_is_replaced_by_another_process() -> Result<()> {
    let (cluster, _workers) = two_workers().await?;
    let observer = cluster.client().await?;
    let first = cluster.start("first", &["client", "run", SLOWLY], &[])?;
    underway(&observer, "run", 30).await?;
    let id = observer.attach("run").await?.id();
    first.kill();
    let second = cluster.start("second", &["client", "run", SLOWLY], &[])?;
    ensure!(Some(second.answer()?) == workload::etl_answer());
    ensure!(observer.attach("run").await?.id() == id, "it was computed in another run");
    ensure!(observer.runs().await? == [id]);
    assert_all_finished(&observer, "run").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_up_after_its_lease_does_no_harm() -> Result<()> {
    let (cluster, [sleeper, _other]) = two_workers().await?;
    let client = cluster.client().await?;
    let store = cluster.store().await?;
    let gate = cluster.folder().join("gate");
    let best = workload::etl();
    let opened = workload::gate::delayed(1, gate.to_string_lossy().into_owned());
    let run = client.run("run").header(HOLD, SLOWLY);
    let computing = tokio::spawn(run.compute((best, opened)));
    underway(&client, "run", 30).await?;
    sleeper.signal("STOP")?;
    let living = async |count| {
        until("that many workers are alive", async || {
            Ok((store.workers().await?.len() == count).then_some(()))
        })
        .await
    };
    living(1).await.context("after it was stopped")?;
    sleeper.signal("CONT")?;
    living(2).await.context("after it went on")?;
    fs::write(&gate, "")?;
    let (best, opened) = timeout(PATIENCE, computing).await???;
    ensure!(best == workload::etl_answer() && opened == 1, "{best:?}, {opened}");
    assert_all_finished(&client, "run").await
}
