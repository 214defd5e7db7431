//! A worker that cannot reach another one, which lives: nothing that is there is computed again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway};
use bolthole_tests::proxy::{Proxy, Way};
use bolthole_tests::servers;
use bolthole_tests::workload::{self, HOLD, JOURNAL};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// Results that one worker has when its link fails.
const MADE: u64 = 4;
/// Tasks that need one of them each.
const CONSUMERS: usize = 60;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    /// What the holder answers.
    Answers,
    /// Every way to the holder, and every way to the other worker.
    All,
}

/// Two workers, the first of which has large results; and their links.
struct Scene {
    cluster: Cluster,
    holder: (Member, Proxy),
    other: (Member, Proxy),
    journal: PathBuf,
}

/// Computes from results of `bytes` bytes, `hold` milliseconds a task, with one worker while another
/// cannot reach it. Fails unless every task was started once.
async fn across(bad: Bad, bytes: usize, hold: &str) -> Result<Scene> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let holder = cluster.worker_behind_proxy("holder").await?;
    let journal = cluster.folder().join("journal");
    let gate = cluster.folder().join("gate");
    let opened = workload::gate::delayed(MADE, gate.to_string_lossy().into_owned());
    let mut made: Vec<_> = (0..MADE).map(|seed| workload::make::delayed(bytes, seed)).collect();
    made.push(workload::make::delayed(bytes, opened));
    let last = usize::try_from(MADE)?;
    let digests: Vec<_> = (0..CONSUMERS)
        .map(|place| workload::digest::delayed(&[made[place % last].clone(), made[last].clone()]))
        .collect();
    let best = workload::best::delayed(digests);
    let run = client.run("run").header(HOLD, hold).header(JOURNAL, journal.to_string_lossy());
    let computing = tokio::spawn(run.compute(best));
    underway(&client, "run", MADE).await?;
    let other = cluster.worker_behind_proxy("other").await?;
    holder.1.blackhole(Way::Down, true);
    if bad == Bad::All {
        holder.1.blackhole(Way::Up, true);
        for way in Way::BOTH {
            other.1.blackhole(way, true);
        }
    }
    fs::write(&gate, "")?;
    let best = timeout(PATIENCE, computing).await???;
    let all: Vec<_> = (0..=MADE).map(|seed| workload::bytes_of(bytes, seed)).collect();
    let digest = |place: usize| workload::digest_of(&[all[place].clone(), all[last].clone()]);
    ensure!(best == (0..last).map(digest).max(), "{best:?}");
    let status = client.attach("run").await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    // All but the gate write themselves down.
    let mut starts: BTreeMap<String, u32> = BTreeMap::new();
    for line in fs::read_to_string(&journal)?.lines() {
        *starts.entry(line.to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = starts.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(twice.is_empty(), "started more than once: {twice:?}");
    ensure!(starts.len() as u64 == status.tasks - 1, "{} tasks were started", starts.len());
    Ok(Scene { cluster, holder, other, journal })
}

/// Fails unless the fault was met.
fn assert_met(scene: &Scene) -> Result<()> {
    let log = scene.other.0.output()?;
    ensure!(log.contains("asks for a relay"), "nothing had to be handed back: {log}");
    ensure!(!log.contains("it cannot be reached: computed again"), "{log}");
    ensure!(scene.journal.exists() && scene.cluster.folder().exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_brings_what_cannot_be_fetched() -> Result<()> {
    // Long enough for a handshake that is not answered, and for the relay: else all is over before.
    let scene = across(Bad::Answers, 10_000_000, "600").await?;
    assert_met(&scene)?;
    let log = scene.holder.0.output()?;
    ensure!(log.contains("relayed"), "{log}\n{}", scene.other.0.output()?);
    ensure!(scene.other.1.connections() > 0, "it was not brought");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_small_enough_is_relayed_through_the_store() -> Result<()> {
    // The holder finds out first that it cannot bring them: a handshake that is not answered.
    let scene = across(Bad::All, 100_000, "500").await?;
    assert_met(&scene)?;
    let log = scene.holder.0.output()?;
    ensure!(log.contains("store: true"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_relay_carries_is_used_where_it_is() -> Result<()> {
    let scene = across(Bad::All, 10_000_000, "50").await?;
    assert_met(&scene)?;
    let log = scene.holder.0.output()?;
    ensure!(!log.contains("relayed"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_run_has_is_not_given_up_for_a_link_that_fails_for_a_moment() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let (_holder, link) = cluster.worker_behind_proxy("holder").await?;
    let run = client.run("run").open().await?;
    let made = workload::make::submit(&run, 100_000, 7).await?;
    timeout(PATIENCE, made.wait()).await??;
    // Something has failed, and something will never run: nothing is computed again in such a run.
    let never = workload::make::delayed(10, workload::gate::delayed(1, "/never".to_owned()));
    let _never = run.persist(&never).await?;
    let failed = workload::refuse::submit(&run, "no".to_owned()).await?;
    ensure!(timeout(PATIENCE, failed.result()).await?.is_err());
    link.refuse(true).await;
    let early = timeout(Duration::from_millis(300), made.result()).await;
    ensure!(early.is_err(), "whether its holder comes back was not waited for: {early:?}");
    link.refuse(false).await;
    let value = timeout(PATIENCE, made.result()).await??;
    ensure!(value == workload::bytes_of(100_000, 7));
    Ok(())
}
