//! Two builds of one program in one cluster: what a build cannot run waits for one that can, and
//! workers are replaced under load, forth and back, without a failure.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bolthole::{Client, RunState};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, until};
use bolthole_tests::servers;
use bolthole_tests::workload::{self, HOLD};
use tokio::sync::watch;
use tokio::time::timeout;

/// The build before, which knows `scale(value)`.
const BEFORE: &str = env!("CARGO_BIN_EXE_cluster");
/// The next build, which knows `scale(value, factor)` and `next(value)`.
const NEXT: &str = env!("CARGO_BIN_EXE_cluster_next");

/// Both builds in one namespace.
fn both() -> Result<[Cluster; 2]> {
    let before = Cluster::new(BEFORE, servers::shared())?;
    let next = before.beside(NEXT)?;
    Ok([before, next])
}

/// A run whose last tasks only `capable` workers can run waits while there are only others, with a
/// reason that names `reason`, and finishes with `answer` once such a worker comes.
async fn waits_for_a_capable_worker(
    [incapable, capable]: &[Cluster; 2],
    client: &[&str],
    reason: &[&str],
    answer: u64,
) -> Result<()> {
    // Nobody serves the queue yet: otherwise the client would refuse at once.
    let client = capable.start("client", client, &[])?;
    let observer = incapable.client().await?;
    until("the run is accepted", async || {
        let Ok(run) = observer.attach("run").await else { return Ok(None) };
        Ok(Some(run.status().await?).filter(|status| status.tasks >= 2))
    })
    .await?;
    let other = incapable.worker("other").await?;
    let said = async || {
        let output = other.output()?;
        Ok(reason.iter().all(|word| output.contains(word)).then_some(()))
    };
    until("the worker says why it does not run it", said).await?;
    let run = observer.attach("run").await?;
    let finished = async || Ok(Some(run.status().await?).filter(|status| status.finished == 1));
    let status = until("what it can run is finished", finished).await?;
    ensure!(status.state != RunState::Failed && status.failed == 0, "{status:?}");
    let _capable = capable.worker("capable").await?;
    ensure!(client.answer()? == answer, "another answer");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_tasks_wait_for_the_next_build() -> Result<()> {
    let reason = ["upgrade::scale", "(u64, u64) -> u64"];
    waits_for_a_capable_worker(&both()?, &["client", "run"], &reason, 3 * 3 * 5 + 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_in_their_old_form_wait_for_the_build_before() -> Result<()> {
    let [before, next] = both()?;
    let reason = ["upgrade::scale", "(u64, u64) -> u64"];
    waits_for_a_capable_worker(&[next, before], &["scale", "run"], &reason, 3 * 3 * 2).await
}

/// Computes one graph after the other until it is told to stop; counts them.
async fn load(
    client: Client,
    count: Arc<watch::Sender<usize>>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    while !*stop.borrow() {
        let run = client.run(format!("load {}", *count.borrow())).header(HOLD, "10");
        let answer = timeout(PATIENCE, run.compute(workload::etl())).await??;
        ensure!(answer == workload::etl_answer(), "{answer:?}");
        count.send_modify(|count| *count += 1);
    }
    Ok(())
}

/// Replaces workers one by one by those of another build.
async fn replace(workers: Vec<Member>, by: &Cluster) -> Result<Vec<Member>> {
    let mut new = Vec::new();
    for (number, worker) in workers.into_iter().enumerate() {
        new.push(by.worker(&format!("new {number}")).await?);
        let code = worker.terminate()?;
        ensure!(code == 0, "the worker that was replaced ended with {code}");
    }
    Ok(new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_replaced_under_load_forth_and_back() -> Result<()> {
    let [before, next] = both()?;
    let mut workers = vec![before.worker("one").await?, before.worker("two").await?];
    let count = Arc::new(watch::Sender::new(0));
    let (stop, stopped) = watch::channel(false);
    let loading = tokio::spawn(load(before.client().await?, Arc::clone(&count), stopped));
    let some_more = async || {
        let (mut finished, goal) = (count.subscribe(), *count.borrow() + 2);
        timeout(PATIENCE, finished.wait_for(|count| *count >= goal))
            .await
            .is_ok_and(|it| it.is_ok())
    };
    for (to, client, answer) in [(&next, "client", 46), (&before, "scale", 18)] {
        ensure!(some_more().await, "the load has stopped: {:?}", loading.await?);
        workers = replace(workers, to).await?;
        let own = to.start(client, &[client, client], &[])?;
        ensure!(own.answer()? == answer, "another answer");
    }
    ensure!(some_more().await, "the load has stopped: {:?}", loading.await?);
    stop.send(true)?;
    loading.await??;
    drop(workers);
    Ok(())
}
