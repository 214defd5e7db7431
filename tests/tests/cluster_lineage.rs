//! A worker that has results is killed: what is needed of them is computed again, each once, and
//! nothing else. Queues say which worker runs what, so that the numbers are exact.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use anyhow::{Result, bail, ensure};
use bolthole::{Client, Delayed};
use bolthole_broker::id::TaskId;
use bolthole_broker::locator::HeldRecord;
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway, until};
use bolthole_tests::dag::{acts, plain, result};
use bolthole_tests::ledger::{self, LEDGER};
use bolthole_tests::{servers, workload};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// Far more than the store keeps.
const LARGE: usize = 20_000;
/// The id of the task that is waited for.
const LAST: u64 = 1_000;
/// The queues of the worker that is killed and of the one that stays.
const VICTIM: &str = "victim";
const STAYS: &str = "stays";

/// Two workers and a gate before the last task.
struct Scene {
    cluster: Cluster,
    client: Client,
    victim: Member,
    stays: Member,
    gate: PathBuf,
    opened: Delayed<String>,
}

/// A task of the worker that is killed.
fn on_victim(id: u64, inputs: &[Delayed<String>]) -> Delayed<String> {
    plain::delayed(id, LARGE, inputs.to_vec()).queue(VICTIM)
}

/// A task of the worker that stays.
fn on_other(id: u64, inputs: &[Delayed<String>]) -> Delayed<String> {
    plain::delayed(id, LARGE, inputs.to_vec()).queue(STAYS)
}

/// What tasks without inputs and with these have as their results.
fn value(id: u64, inputs: &[String]) -> String {
    result(id, LARGE, inputs)
}

impl Scene {
    async fn set() -> Result<Self> {
        let cluster = Cluster::new(PROGRAM, servers::shared())?;
        let victim = cluster.worker_with("victim", &[("BOLTHOLE_QUEUES", VICTIM)]).await?;
        let stays = cluster.worker_with("stays", &[("BOLTHOLE_QUEUES", STAYS)]).await?;
        let (client, gate) = (cluster.client().await?, cluster.folder().join("gate"));
        let opened = workload::opened::delayed(gate.to_string_lossy().into_owned()).queue(STAYS);
        Ok(Self { cluster, client, victim, stays, gate, opened })
    }

    /// The task that waits for the gate, and then uses these results.
    fn last(&self, id: u64, inputs: &[Delayed<String>]) -> Delayed<String> {
        let inputs: Vec<_> = inputs.iter().chain([&self.opened]).cloned().collect();
        on_other(id, &inputs)
    }

    /// Computes `outputs`, kills the victim when `before` tasks have finished and, if one is to be
    /// `copied`, an output has a copy; then opens the gate. Fails unless the results are `expected` and the bodies were
    /// run as often as `again` says, all others once.
    async fn play(
        self,
        outputs: Vec<Delayed<String>>,
        before: u64,
        copied: bool,
        expected: &[String],
        again: &BTreeMap<String, usize>,
    ) -> Result<()> {
        let folder = self.cluster.folder().join("ledgers");
        fs::create_dir(&folder)?;
        let run = self.client.run("run").header(LEDGER, folder.to_string_lossy());
        let computing = tokio::spawn(run.compute(outputs));
        underway(&self.client, "run", before).await?;
        if copied {
            self.an_output_has_a_copy().await?;
        }
        // Whoever computes again what the victim had.
        let _new = self.cluster.worker_with("new", &[("BOLTHOLE_QUEUES", VICTIM)]).await?;
        self.victim.kill();
        fs::write(&self.gate, "")?;
        let values = timeout(PATIENCE, computing).await???;
        ensure!(values == expected, "they came back different");
        let times = executions(&folder)?;
        let wrong = times.iter().filter(|(label, n)| **n != *again.get(*label).unwrap_or(&1));
        let wrong: Vec<_> = wrong.collect();
        if !wrong.is_empty() {
            let log = self.stays.output()?;
            bail!("run as often as it should not: {wrong:?}; the worker that stays said\n{log}");
        }
        ensure!(again.keys().all(|label| times.contains_key(label)), "{times:?}");
        let status = self.client.attach("run").await?.status().await?;
        ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
        // All but the gate write themselves down.
        ensure!(times.len() as u64 == status.tasks - 1, "{} bodies were run", times.len());
        Ok(())
    }

    /// Waits until some result in the run has a second holder.
    async fn an_output_has_a_copy(&self) -> Result<()> {
        let (store, run) = (self.cluster.store().await?, self.client.attach("run").await?.id());
        until("an output has a copy", async || {
            let tasks: Vec<TaskId> = (0..60).map(|index| TaskId::new(0, index)).collect();
            let statuses = store.inspect(run, &tasks).await?;
            let mut records = statuses.into_iter().flatten().filter_map(|status| status.record);
            let copied = records.any(|record| {
                HeldRecord::from_bytes(&record).is_ok_and(|record| record.copies.worker.is_some())
            });
            Ok(copied.then_some(()))
        })
        .await
    }
}

/// How often each body was run, as the ledgers in this folder say.
fn executions(folder: &Path) -> Result<BTreeMap<String, usize>> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for execution in ledger::read(folder)? {
        *times.entry(execution.act.label).or_default() += 1;
    }
    Ok(times)
}

/// The bodies of these plain tasks are run twice.
fn twice(ids: impl IntoIterator<Item = u64>) -> BTreeMap<String, usize> {
    ids.into_iter().map(|id| (format!("plain/{id}"), 2)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_diamond_only_the_lost_side_and_what_it_came_from() -> Result<()> {
    let scene = Scene::set().await?;
    let top = on_victim(0, &[]);
    let sides = [on_victim(1, from_ref(&top)), on_other(2, &[top])];
    let last = scene.last(LAST, &sides);
    let top = value(0, &[]);
    let sides = [value(1, from_ref(&top)), value(2, &[top])];
    let expected = value(LAST, &[sides[0].clone(), sides[1].clone(), "open".to_owned()]);
    scene.play(vec![last], 3, false, &[expected], &twice([0, 1])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_lost_results_came_from_is_computed_again_once() -> Result<()> {
    let scene = Scene::set().await?;
    let top = on_victim(0, &[]);
    let sides: Vec<_> = (1..=12).map(|id| on_victim(id, from_ref(&top))).collect();
    let lasts: Vec<_> = sides
        .iter()
        .zip(LAST..)
        .map(|(side, id)| scene.last(id, &[side.clone(), sides[0].clone()]))
        .collect();
    let top = value(0, &[]);
    let sides: Vec<_> = (1..=12).map(|id| value(id, from_ref(&top))).collect();
    let expected: Vec<_> = sides
        .iter()
        .zip(LAST..)
        .map(|(side, id)| {
            // The same result twice is one edge, but two arguments.
            value(id, &[side.clone(), sides[0].clone(), "open".to_owned()])
        })
        .collect();
    scene.play(lasts, 13, false, &expected, &twice(0..=12)).await
}

/// Links of a chain, and their values.
fn chain(length: u64) -> (Vec<Delayed<String>>, Vec<String>) {
    let (mut links, mut values) = (vec![on_victim(0, &[])], vec![value(0, &[])]);
    for id in 1..length {
        links.push(on_victim(id, &links[links.len() - 1..]));
        values.push(value(id, &values[values.len() - 1..]));
    }
    (links, values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_chain_all_of_which_is_gone_is_computed_again_once() -> Result<()> {
    let scene = Scene::set().await?;
    let (links, values) = chain(50);
    let last = scene.last(LAST, &links[49..]);
    let expected = value(LAST, &[values[49].clone(), "open".to_owned()]);
    scene.play(vec![last], 50, false, &[expected], &twice(0..50)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_chain_is_computed_again_from_the_link_that_is_left() -> Result<()> {
    let scene = Scene::set().await?;
    let (links, values) = chain(50);
    let last = scene.last(LAST, &links[49..]);
    let expected = value(LAST, &[values[49].clone(), "open".to_owned()]);
    let outputs = vec![last, links[24].clone()];
    scene.play(outputs, 50, true, &[expected, values[24].clone()], &twice(25..50)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_is_not_run_again() -> Result<()> {
    let scene = Scene::set().await?;
    let effect = acts::delayed(7, LARGE, Vec::<String>::new()).queue(VICTIM);
    let after = on_victim(1, &[effect]);
    let last = scene.last(LAST, &[after]);
    let after = value(1, &[value(7, &[])]);
    let expected = value(LAST, &[after, "open".to_owned()]);
    let again = [("acts/7".to_owned(), 1), ("plain/1".to_owned(), 2)].into();
    scene.play(vec![last], 2, false, &[expected], &again).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_reads_one_by_one_is_computed_again_once() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let folder = cluster.folder().join("ledgers");
    fs::create_dir(&folder)?;
    let only = cluster.worker("only").await?;
    let client = cluster.client().await?;
    let top = plain::delayed(0, LARGE, Vec::<String>::new());
    let outputs: Vec<_> = (1..=8).map(|id| plain::delayed(id, LARGE, vec![top.clone()])).collect();
    let run = client.run("run").header(LEDGER, folder.to_string_lossy());
    let handles = run.submit(outputs).await?;
    timeout(PATIENCE, handles[0].in_run().wait()).await??;
    only.kill();
    let _new = cluster.worker("new").await?;
    for (handle, id) in handles.iter().zip(1..) {
        let read = timeout(PATIENCE, handle.result()).await??;
        ensure!(read == value(id, &[value(0, &[])]), "output {id} came back different");
    }
    let (times, expected) = (executions(&folder)?, twice(0..=8));
    ensure!(times == expected, "run as often as it should not: {times:?}");
    Ok(())
}
