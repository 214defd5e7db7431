//! Workers that are told to go, as processes: nothing that fits is run twice, results that only they
//! had are found with others, and nobody waits for a lease of theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use bolthole::{Client, ErrorKind};
use bolthole_broker::id::TaskId;
use bolthole_broker::locator::HeldRecord;
use bolthole_broker::store::Store;
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway, until};
use bolthole_tests::servers;
use bolthole_tests::workload::{self, HOLD, JOURNAL};
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// Far larger than what the store keeps inline.
const LARGE: usize = 100_000;

fn journal(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("journal")
}

/// How often each task was started.
fn starts(journal: &Path) -> Result<BTreeMap<String, u32>> {
    let mut starts = BTreeMap::new();
    for line in fs::read_to_string(journal)?.lines() {
        *starts.entry(line.to_owned()).or_insert(0) += 1;
    }
    Ok(starts)
}

/// Fails unless so many tasks were started, each once.
fn assert_started_once(journal: &Path, tasks: usize) -> Result<()> {
    let starts = starts(journal)?;
    let twice: Vec<_> = starts.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(twice.is_empty(), "started more than once: {twice:?}");
    ensure!(starts.len() == tasks, "{} of {tasks} tasks were started", starts.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_goes_under_load_repeats_nothing() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let workers = [cluster.worker("leaving").await?, cluster.worker("staying").await?];
    let client = cluster.client().await?;
    let file = journal(&cluster);
    let run = client.run("run").header(HOLD, "50").header(JOURNAL, file.to_string_lossy());
    let computing = tokio::spawn(run.compute(workload::etl()));
    underway(&client, "run", 20).await?;
    let [leaving, _staying] = workers;
    ensure!(leaving.terminate()? == 0);
    let answer = timeout(PATIENCE, computing).await???;
    ensure!(answer == workload::etl_answer(), "{answer:?}");
    let status = client.attach("run").await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    assert_started_once(&file, usize::try_from(status.tasks)?)
}

/// Large results with a worker that runs a task without end; what is computed from them waits for
/// that task.
struct Scene {
    cluster: Cluster,
    client: Client,
    store: Store,
    gate: PathBuf,
    computing: JoinHandle<bolthole::Result<(u64, Vec<Bytes>)>>,
}

/// Results that are there before the gate opens.
const MADE: u64 = 6;

impl Scene {
    /// With its first worker, which has made the results.
    async fn set(environment: &[(&str, &str)]) -> Result<(Self, Member)> {
        let cluster = Cluster::new(PROGRAM, servers::shared())?;
        let (client, store) = (cluster.client().await?, cluster.store().await?);
        let worker = cluster.worker_with("leaving", environment).await?;
        let gate = cluster.folder().join("gate");
        let made: Vec<_> = (0..MADE).map(|seed| workload::make::delayed(LARGE, seed)).collect();
        let opened = workload::gate::delayed(MADE, gate.to_string_lossy().into_owned());
        let mut parts = made.clone();
        parts.push(workload::make::delayed(LARGE, opened));
        let digest = workload::digest::delayed(parts);
        let run = client.run("run").header(JOURNAL, journal(&cluster).to_string_lossy());
        let computing = tokio::spawn(run.compute((digest, made)));
        underway(&client, "run", MADE).await?;
        let scene = Self { cluster, client, store, gate, computing };
        scene.leased().await?;
        Ok((scene, worker))
    }

    /// Waits until the task without end has a lease: nobody else may have it then.
    async fn leased(&self) -> Result<()> {
        let run = self.client.attach("run").await?.id();
        until("the gate is leased", async || {
            Ok(self.store.ready(run, 0).await?.is_empty().then_some(()))
        })
        .await
    }

    /// Opens the gate and compares what comes of it.
    async fn finish(self) -> Result<()> {
        fs::write(&self.gate, "")?;
        let (digest, made) = timeout(PATIENCE, self.computing).await???;
        let bytes = |seed| workload::bytes_of(LARGE, seed);
        let expected: Vec<_> = (0..MADE).map(bytes).collect();
        ensure!(made == expected, "results that moved came back different");
        let parts: Vec<_> = (0..=MADE).map(bytes).collect();
        ensure!(digest == workload::digest_of(&parts), "{digest}");
        let status = self.client.attach("run").await?.status().await?;
        ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
        // Those that make and the one that digests; the gate does not write itself down.
        assert_started_once(&journal(&self.cluster), usize::try_from(MADE)? + 2)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_a_worker_that_goes_are_found_with_its_peer() -> Result<()> {
    // Nobody can take the lease of what it runs but by its leave: it lasts longer than this test.
    let (scene, leaving) = Scene::set(&[("BOLTHOLE_LEASE", "15s")]).await?;
    let _staying = scene.cluster.worker_with("staying", &[("BOLTHOLE_LEASE", "15s")]).await?;
    leaving.signal("TERM")?;
    let (code, log) = leaving.finish()?;
    ensure!(code == 0, "it ended with {code}: {log}");
    ensure!(log.contains("moved=6 "), "{log}");
    ensure!(log.contains("not finished in time: others run these"), "{log}");
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_twice_goes_at_once() -> Result<()> {
    let environment = [("BOLTHOLE_DRAIN", "1h"), ("BOLTHOLE_LEASE", "15s")];
    let (scene, leaving) = Scene::set(&environment).await?;
    leaving.signal("TERM")?;
    until("it drains", async || {
        Ok(leaving.output()?.contains("draining: no new work").then_some(()))
    })
    .await?;
    leaving.signal("INT")?;
    let (code, log) = leaving.finish()?;
    ensure!(code == 0 && log.contains("told again: stopping at once"), "{code}: {log}");
    ensure!(scene.store.workers().await?.is_empty(), "its record is left");
    let run = scene.client.attach("run").await?.id();
    ensure!(scene.store.ready(run, 0).await?.len() == 1, "its lease is left");
    let _new = scene.cluster.worker("new").await?;
    fs::write(&scene.gate, "")?;
    let (_, made) = timeout(PATIENCE, scene.computing).await???;
    ensure!(made.len() == 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_outlive_the_last_worker() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let only = cluster.worker("only").await?;
    let small: Vec<_> = (0..3).map(|seed| workload::make::delayed(LARGE, seed)).collect();
    // More than the store is given.
    let large = workload::make::delayed(10_000_000, 9);
    let (small, large) = client.run("run").submit((small, large)).await?;
    timeout(PATIENCE, large.in_run().wait()).await??;
    only.signal("TERM")?;
    let (code, log) = only.finish()?;
    ensure!(code == 0 && log.contains("stored=3 "), "{code}: {log}");
    ensure!(log.contains("left=1 "), "{log}");
    let values = timeout(PATIENCE, client.gather(&small)).await??;
    let expected: Vec<_> = (0..3).map(|seed| workload::bytes_of(LARGE, seed)).collect();
    ensure!(values == expected, "they came back different");
    let Err(error) = timeout(PATIENCE, large.result()).await? else { bail!("it is lost") };
    ensure!(*error.kind() == ErrorKind::Lost && error.is_retryable(), "{error:?}");
    ensure!(error.to_string().contains("no worker is there"), "{error}");
    let _new = cluster.worker("new").await?;
    let value = timeout(PATIENCE, large.result()).await??;
    ensure!(value == workload::bytes_of(10_000_000, 9), "it came back different");
    Ok(())
}

/// Computes one large output on a worker that is killed once its record names a copy; a
/// client must read it all the same, without its being made again.
async fn read_after_a_kill(durable: Option<&str>, peer: bool) -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let folder = cluster.folder().join("results");
    fs::create_dir(&folder)?;
    let url = format!("file://{}", folder.display());
    let environment = durable.map(|name| (name, url.as_str()));
    let client = cluster.client_with(durable.map(|_| url.as_str())).await?;
    let maker = cluster.worker_with("maker", environment.as_slice()).await?;
    let store = cluster.store().await?;
    let file = journal(&cluster);
    let run = client.run("run").header(JOURNAL, file.to_string_lossy());
    let made = run.submit(workload::make::delayed(LARGE, 5)).await?;
    timeout(PATIENCE, made.in_run().wait()).await??;
    let _peer = if peer { Some(cluster.worker("peer").await?) } else { None };
    let (run, task) = (made.in_run().id(), TaskId::new(0, 0));
    until("the output has a copy", async || {
        let status = store.inspect(run, &[task]).await?.remove(0);
        let record = status.and_then(|status| status.record).unwrap_or_default();
        let copies = HeldRecord::from_bytes(&record)?.copies;
        Ok((copies.worker.is_some() == peer && copies.folder != peer).then_some(()))
    })
    .await?;
    maker.kill();
    let value = timeout(PATIENCE, made.result()).await??;
    ensure!(value == workload::bytes_of(LARGE, 5), "it came back different");
    assert_started_once(&file, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_has_a_second_holder() -> Result<()> {
    read_after_a_kill(None, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_in_the_result_folder_needs_no_worker() -> Result<()> {
    read_after_a_kill(Some("BOLTHOLE_DURABLE"), false).await
}
