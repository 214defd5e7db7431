//! Tasks that bring down the process they run in, on whole clusters: they are found out, and no
//! other task pays for it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolthole::{Delayed, Error, ErrorKind, FailurePolicy, TaskError, TaskErrorKind};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, until};
use bolthole_tests::workload::{self, HOLD, JOURNAL};
use bolthole_tests::{poison, servers};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// Tasks that harm nobody, and how often one may bring down a process of its own.
const INNOCENTS: u64 = 200;
const CRASHES: usize = 3;

fn cluster() -> Result<Cluster> {
    Cluster::new(PROGRAM, servers::shared())
}

/// A worker all of whose tasks run in children.
async fn isolating(cluster: &Cluster, name: &str) -> Result<Member> {
    cluster.worker_with(name, &[("BOLTHOLE_ISOLATE", "*")]).await
}

/// The failure of a task.
fn failure<T: std::fmt::Debug>(result: Result<T, Error>) -> Result<TaskError> {
    let error = result.err().context("it has a result")?;
    match error.kind() {
        ErrorKind::Task(error) => Ok((**error).clone()),
        _ => Err(error.into()),
    }
}

/// Two workers and whoever starts them again.
struct Fleet {
    cluster: Cluster,
    workers: Vec<Member>,
    deaths: usize,
}

impl Fleet {
    async fn new() -> Result<Self> {
        let cluster = cluster()?;
        let workers = vec![cluster.worker("first").await?, cluster.worker("second").await?];
        Ok(Self { cluster, workers, deaths: 0 })
    }

    /// Starts as many workers as have ended.
    async fn look_after(&mut self) -> Result<()> {
        for place in 0..self.workers.len() {
            if !self.workers[place].is_running()? {
                self.deaths += 1;
                let name = format!("{}th after a death", self.deaths);
                self.workers[place] = self.cluster.worker(&name).await?;
            }
        }
        Ok(())
    }
}

/// Runs one task that brings down its process among many that do not; its failure.
async fn among_innocents(poisoned: Delayed<u64>) -> Result<TaskError> {
    let mut fleet = Fleet::new().await?;
    let client = fleet.cluster.client().await?;
    let journal = fleet.cluster.folder().join("journal");
    let mut calls: Vec<Delayed<u64>> = (0..INNOCENTS).map(workload::square::delayed).collect();
    calls.insert(80, poisoned.clone());
    let run = client.run("innocents").header(HOLD, "2").policy(FailurePolicy::Continue);
    let run = run.header(JOURNAL, journal.to_string_lossy());
    let handles = run.submit(&calls).await?;
    let status = until("the run is over", async || {
        fleet.look_after().await?;
        let status = handles[0].in_run().status().await?;
        Ok((!status.state.is_running()).then_some(status))
    })
    .await?;
    ensure!(status.failed == 1, "innocents were condemned: {status:?}");
    let mut innocents = handles;
    let guilty = innocents.remove(80);
    for (value, handle) in (0..INNOCENTS).zip(&innocents) {
        ensure!(timeout(PATIENCE, handle.result()).await?? == value * value);
    }
    let error = failure(timeout(PATIENCE, guilty.result()).await?)?;
    ensure!(error.kind == TaskErrorKind::Crashed, "{error}");
    ensure!(error.task == guilty.task(), "{error}");

    let mut starts: HashMap<String, usize> = HashMap::new();
    for line in fs::read_to_string(&journal)?.lines() {
        *starts.entry(line.to_owned()).or_default() += 1;
    }
    let guilty = starts.remove(&guilty.task().to_string()).unwrap_or(0);
    ensure!(fleet.deaths == 1, "{} workers died", fleet.deaths);
    ensure!(guilty == fleet.deaths + CRASHES, "{guilty} starts, {} deaths", fleet.deaths);
    for worker in &mut fleet.workers {
        ensure!(worker.is_running()?, "a worker is down");
    }
    let sum = timeout(PATIENCE, client.compute(workload::map_reduce())).await??;
    ensure!(sum == workload::map_reduce_answer(), "{sum}");
    Ok(error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_aborts_is_found_out() -> Result<()> {
    let error = among_innocents(poison::aborts::delayed()).await?;
    ensure!(error.to_string().contains("aborted"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_overflows_its_stack_is_found_out() -> Result<()> {
    let error = among_innocents(poison::overflows::delayed()).await?;
    ensure!(error.to_string().contains("stack overflowed"), "{error}");
    // What it wrote at last.
    ensure!(error.to_string().contains("has overflowed its stack"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_killed_is_found_out() -> Result<()> {
    let error = among_innocents(poison::is_killed::delayed()).await?;
    ensure!(error.to_string().contains("SIGKILL"), "{error}");
    Ok(())
}

/// A worker runs on along a chain and commits it later: all of it is lost with the worker, and what
/// brought it down is the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_at_the_end_of_a_chain_is_found_out_as_fast() -> Result<()> {
    let chain =
        (0..20).fold(workload::square::delayed(1), |last, _| workload::square::delayed(&last));
    let error = among_innocents(poison::aborts_on::delayed(&chain)).await?;
    ensure!(error.to_string().contains("aborted"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_tasks_do_all_that_others_do() -> Result<()> {
    let cluster = cluster()?;
    let _workers = [isolating(&cluster, "one").await?, isolating(&cluster, "two").await?];
    let client = cluster.client().await?;
    let etl = timeout(PATIENCE, client.compute(workload::etl())).await??;
    ensure!(etl == workload::etl_answer(), "{etl:?}");
    let fib = timeout(PATIENCE, client.compute(workload::fib::delayed(8))).await??;
    ensure!(fib == 21, "tasks that hand on: {fib}");
    let on = timeout(PATIENCE, client.compute(poison::hands_on::delayed(7))).await??;
    ensure!(on == 49, "{on}");

    let made: Vec<_> = (0..3).map(|seed| workload::make::delayed(5 << 20, seed)).collect();
    let digest = workload::digest::delayed(&made);
    let digest = timeout(PATIENCE, client.compute(digest)).await??;
    let expected: Vec<_> = (0..3).map(|seed| workload::bytes_of(5 << 20, seed)).collect();
    ensure!(digest == workload::digest_of(&expected), "large inputs and results differ");
    let blob = workload::bytes_of(1 << 20, 9);
    let digest = timeout(PATIENCE, client.compute(workload::digest::delayed(vec![blob.clone()])));
    ensure!(digest.await?? == workload::digest_of(&[blob]), "large arguments differ");

    let file = cluster.folder().join("submitted");
    let submits = poison::submits::delayed(file.to_string_lossy().into_owned());
    // An unnamed run would be deleted as soon as its result is read.
    let handle = client.run("submits").submit(&submits).await?;
    ensure!(timeout(PATIENCE, handle.result()).await?? == 3);
    timeout(PATIENCE, handle.in_run().wait()).await??;
    ensure!(file.exists(), "the submitted task has not run");

    let error = failure(client.compute(workload::refuse::delayed("because")).await)?;
    ensure!(error.kind == TaskErrorKind::User && error.chain == ["because"], "{error:?}");
    let error = failure(client.compute(workload::break_down::delayed()).await)?;
    ensure!(error.kind == TaskErrorKind::Panic, "{error:?}");
    ensure!(error.chain == ["broken on purpose"], "{error:?}");
    ensure!(error.backtrace.is_some_and(|trace| trace.contains("workload.rs")));
    let (kept, pid) = timeout(PATIENCE, client.compute(poison::keeps::delayed())).await??;
    ensure!(kept == format!("made by {pid}"), "{kept} in {pid}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_asks_for_it_runs_in_a_process_of_its_own_which_is_kept() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker_with("only", &[("BOLTHOLE_SLOTS", "1")]).await?;
    let client = cluster.client().await?;
    let here = timeout(PATIENCE, client.compute(poison::pid::delayed())).await??;
    let first = timeout(PATIENCE, client.compute(poison::pid::delayed().isolated())).await??;
    let again = timeout(PATIENCE, client.compute(poison::pid::delayed().isolated())).await??;
    ensure!(first != here && again == first, "{here}, {first}, {again}");

    let crashes = [
        (poison::aborts::delayed().isolated(), "SIGABRT"),
        (poison::exits::delayed(7).isolated(), "code 7"),
    ];
    for (call, how) in crashes {
        let error = failure(timeout(PATIENCE, client.compute(call)).await?)?;
        ensure!(error.kind == TaskErrorKind::Crashed, "{error:?}");
        ensure!(error.to_string().contains(how), "{error}");
    }
    let error = failure(client.compute(poison::exits::delayed(8).isolated()).await)?;
    ensure!(error.to_string().contains("leaving with 8"), "its last words: {error}");
    let still = timeout(PATIENCE, client.compute(poison::pid::delayed())).await??;
    ensure!(still == here, "the worker has died of it");
    Ok(())
}

/// Whether a process is there, dead but not waited for ones aside.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z")))
}

/// The processes that a spinning task has said it consists of.
async fn spinning(file: &Path) -> Result<[String; 2]> {
    let both = until("it spins", async || Ok(fs::read_to_string(file).ok())).await?;
    let (own, other) = both.split_once(' ').context("two numbers")?;
    let both = [own.to_owned(), other.to_owned()];
    ensure!(both.iter().all(|pid| is_alive(pid)), "{both:?}");
    Ok(both)
}

async fn gone(processes: &[String]) -> Result<()> {
    until("no process is left", async || {
        Ok(processes.iter().all(|pid| !is_alive(pid)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_limit_kills_the_process_of_an_isolated_task() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("only").await?;
    let client = cluster.client().await?;
    let file = cluster.folder().join("spins");
    let spins = poison::spins::delayed(file.to_string_lossy().into_owned()).isolated();
    let spins = spins.timeout(Duration::from_secs(1));
    let handle = client.submit(&spins).await?;
    let processes = spinning(&file).await?;
    let error = failure(timeout(PATIENCE, handle.result()).await?)?;
    ensure!(error.kind == TaskErrorKind::Timeout, "{error}");
    gone(&processes).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_kills_the_processes_of_its_isolated_tasks() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("only").await?;
    let client = cluster.client().await?;
    let file = cluster.folder().join("spins");
    let spins = poison::spins::delayed(file.to_string_lossy().into_owned()).isolated();
    let handle = client.run("spins").submit(&spins).await?;
    let processes = spinning(&file).await?;
    handle.in_run().cancel("enough").await?;
    gone(&processes).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_outlives_its_worker() -> Result<()> {
    let cluster = cluster()?;
    let client = cluster.client().await?;
    for how in ["KILL", "TERM"] {
        let worker = cluster.worker(how).await?;
        let file = cluster.folder().join(format!("spins-{how}"));
        let spins = poison::spins::delayed(file.to_string_lossy().into_owned()).isolated();
        let handle = client.run(how).submit(&spins).await?;
        let processes = spinning(&file).await?;
        handle.in_run().cancel("so that no other worker takes it").await?;
        match how {
            "KILL" => worker.kill(),
            _ => drop(worker.terminate()?),
        }
        gone(&processes).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_is_given_no_more_memory_than_it_may_have() -> Result<()> {
    let cluster = cluster()?;
    let limited = [("BOLTHOLE_CHILD_MEMORY", "268435456")];
    let mut worker = cluster.worker_with("limited", &limited).await?;
    let client = cluster.client().await?;
    let error = failure(client.compute(poison::devours::delayed().isolated()).await)?;
    ensure!(error.kind == TaskErrorKind::Crashed, "{error}");
    ensure!(error.to_string().contains("no more memory"), "{error}");
    ensure!(worker.is_running()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stuck_in_a_thread_is_tried_again_in_a_process() -> Result<()> {
    let cluster = cluster()?;
    let _worker = cluster.worker("only").await?;
    let client = cluster.client().await?;
    let here = timeout(PATIENCE, client.compute(poison::pid::delayed())).await??;
    let file = cluster.folder().join("stuck");
    let stuck = poison::gets_stuck::delayed(file.to_string_lossy().into_owned());
    let stuck = stuck.timeout(Duration::from_millis(500)).retries(1);
    let there = timeout(PATIENCE, client.compute(stuck)).await??;
    ensure!(there != here, "it ran in the worker again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_too_many_stuck_threads_goes_and_says_why() -> Result<()> {
    let cluster = cluster()?;
    let worker = cluster.worker_with("worn", &[("BOLTHOLE_SLOTS", "1")]).await?;
    let client = cluster.client().await?;
    let folder = cluster.folder().to_owned();
    let stuck = (0..5).map(|number| {
        let file = folder.join(format!("stuck-{number}")).to_string_lossy().into_owned();
        poison::gets_stuck::delayed(file).timeout(Duration::from_millis(100))
    });
    let stuck: Vec<_> = stuck.collect();
    let run = client.run("stuck").policy(FailurePolicy::Continue);
    let handles = run.submit(&stuck).await?;
    let (code, output) = worker.finish()?;
    ensure!(code != 0 && output.contains("too many threads are stuck"), "{code}: {output}");
    for handle in &handles {
        let error = failure(timeout(PATIENCE, handle.result()).await?)?;
        ensure!(error.kind == TaskErrorKind::Timeout, "{error}");
    }
    Ok(())
}

#[test]
fn a_program_that_computes_by_itself_lets_children_in_or_says_that_it_does_not() -> Result<()> {
    let cluster = cluster()?;
    let starts = cluster.folder().join("starts");
    let file = starts.to_string_lossy().into_owned();
    let (code, output) = cluster.start("closed", &["alone", &file], &[])?.finish()?;
    ensure!(code == 0 && output.contains("serve_as_child"), "{code}: {output}");
    ensure!(fs::read_to_string(&starts)?.lines().count() == 1, "main was run again");

    fs::remove_file(&starts)?;
    let (code, output) = cluster.start("open", &["alone", &file, "open"], &[])?.finish()?;
    ensure!(code == 0 && output.contains("answer 1"), "{code}: {output}");
    ensure!(fs::read_to_string(&starts)?.lines().count() == 1, "main was run again");
    Ok(())
}
