//! Workers that are short of memory, of space on their disk, of files: nothing is lost or run twice,
//! and what can never be held fails with an error that says so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use bolthole::{Delayed, ErrorKind, TaskErrorKind};
use bolthole_tests::cluster::{Cluster, Member, PATIENCE, underway, until};
use bolthole_tests::servers;
use bolthole_tests::workload::{self, HOLD, JOURNAL};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
/// The memory of a worker, and results of which it holds two.
const MEMORY: &str = "20000000";
const LARGE: usize = 8_000_000;
/// Results that are needed at once.
const MADE: u64 = 6;

fn made() -> Vec<Delayed<Bytes>> {
    (0..MADE).map(|seed| workload::make::delayed(LARGE, seed)).collect()
}

fn digest_of_made() -> u64 {
    let made: Vec<Bytes> = (0..MADE).map(|seed| workload::bytes_of(LARGE, seed)).collect();
    workload::digest_of(&made)
}

/// Fails unless so many tasks were started, each once.
fn assert_started_once(journal: &Path, tasks: usize) -> Result<()> {
    let mut starts: BTreeMap<String, u32> = BTreeMap::new();
    for line in fs::read_to_string(journal)?.lines() {
        *starts.entry(line.to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = starts.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(twice.is_empty(), "started more than once: {twice:?}");
    ensure!(starts.len() == tasks, "{} of {tasks} tasks were started", starts.len());
    Ok(())
}

/// A connection to the health endpoint of a worker, made while it has files for one.
struct Probe(TcpStream);

impl Probe {
    async fn of(worker: &Member, address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await;
        stream.with_context(|| worker.output().unwrap_or_default()).map(Self)
    }

    /// The status and the body of an answer.
    async fn ask(&mut self, path: &str) -> Result<(u16, String)> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: worker\r\n\r\n");
        self.0.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        let asking = async {
            loop {
                let mut part = [0; 4096];
                let count = self.0.read(&mut part).await?;
                ensure!(count > 0, "it has closed the connection");
                answer.extend_from_slice(&part[..count]);
                let text = String::from_utf8_lossy(&answer).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.context("it has a length")?.parse()? {
                    return Ok((head[9..12].parse()?, body.to_owned()));
                }
            }
        };
        timeout(PATIENCE, asking).await?
    }

    /// Waits until the worker is ready, or is not, and for this reason.
    async fn until_ready(&mut self, ready: bool, reason: &str) -> Result<()> {
        let status = if ready { 200 } else { 503 };
        until("its readiness has changed", async || {
            let (code, text) = self.ask("/readyz").await?;
            Ok((code == status && text.contains(reason)).then_some(()))
        })
        .await
    }

    /// How often the system has refused something.
    async fn refusals(&mut self) -> Result<u64> {
        let (_, text) = self.ask("/metrics").await?;
        let count = text.lines().find_map(|line| line.strip_prefix("bolthole_refusals "));
        Ok(count.context(text.clone())?.parse()?)
    }
}

/// An address for a health endpoint.
fn health() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn count(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_held_fails_and_says_why() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let environment = [
        ("BOLTHOLE_MEMORY", MEMORY),
        ("BOLTHOLE_MEMORY_WAIT", "3s"),
        ("BOLTHOLE_FAILPOINTS", "spill.write=error(ENOSPC)@*"),
    ];
    let worker = cluster.worker_with("worker", &environment).await?;
    let computing = client.run("run").compute(workload::digest::delayed(made()));
    let Err(error) = timeout(PATIENCE, computing).await? else { bail!("it was held") };
    let ErrorKind::Task(failure) = error.kind() else { bail!("{error:?}") };
    ensure!(failure.kind == TaskErrorKind::OutOfMemory, "{failure:?}");
    let text = failure.to_string();
    for part in ["cannot be held", "of this worker's 20000000 bytes", "nor could anything be moved"]
    {
        ensure!(text.contains(part), "{text}");
    }
    let bytes = text.split_once("its result of ").and_then(|(_, rest)| rest.split_once(' '));
    let bytes: usize = bytes.context("it names the size")?.0.parse()?;
    ensure!((LARGE..LARGE + 100).contains(&bytes), "{text}");
    let log = worker.output()?;
    ensure!(count(&log, "the system refuses to move a result to disk") == 1, "{log}");
    // The worker goes on, also with what uses memory: the results of the run that failed go.
    drop(client.attach("run").await?);
    let square = client.compute(workload::square::delayed(7));
    ensure!(timeout(PATIENCE, square).await?? == 49);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_for_a_while_costs_nothing_but_time() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let rules: Vec<_> = (1..=8).map(|hit| format!("spill.write=error(ENOSPC)@{hit}")).collect();
    let (rules, health) = (rules.join(";"), health()?);
    let faults = cluster.folder().join("faults");
    let environment = [
        ("BOLTHOLE_MEMORY", MEMORY),
        ("BOLTHOLE_FAILPOINTS", &rules),
        ("BOLTHOLE_FAILPOINTS_LOG", &faults.to_string_lossy()),
        ("BOLTHOLE_HEALTH", &health),
    ];
    let worker = cluster.worker_with("worker", &environment).await?;
    let journal = cluster.folder().join("journal");
    let run = client.run("run").header(HOLD, "1").header(JOURNAL, journal.to_string_lossy());
    let computing = tokio::spawn(run.compute(workload::digest::delayed(made())));
    let mut probe = Probe::of(&worker, &health).await?;
    probe.until_ready(false, "the system refuses to move a result to disk").await?;
    let digest = timeout(PATIENCE, computing).await???;
    ensure!(digest == digest_of_made(), "{digest}");
    ensure!(fs::read_to_string(&faults)?.lines().count() == 8, "the faults have not happened");
    let log = worker.output()?;
    ensure!(count(&log, "move a result to disk") == 1, "logged for every value: {log}");
    ensure!(log.contains("waits for memory"), "{log}");
    assert_started_once(&journal, usize::try_from(MADE)? + 1)?;
    probe.until_ready(true, "ok").await
}

/// Lets a process open files with numbers below this only.
fn limit_files(process: u32, below: usize) -> Result<()> {
    let mut command = Command::new("prlimit");
    let command = command.args(["--pid", &process.to_string(), &format!("--nofile={below}:")]);
    ensure!(command.status().context("prlimit of util-linux is needed")?.success());
    Ok(())
}

/// The lowest number that none of the open files of a process has.
fn next_file(process: u32) -> Result<usize> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        numbers.push(entry?.file_name().to_string_lossy().parse::<usize>()?);
    }
    Ok((0..=numbers.len()).find(|number| !numbers.contains(number)).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_open_files_lose_nothing_and_keep_nobody_busy() -> Result<()> {
    let cluster = Cluster::new(PROGRAM, servers::shared())?;
    let client = cluster.client().await?;
    let health = health()?;
    let environment = [("BOLTHOLE_MEMORY", MEMORY), ("BOLTHOLE_HEALTH", &health)];
    let short = cluster.worker_with("short", &environment).await?;
    let (journal, gate) = (cluster.folder().join("journal"), cluster.folder().join("gate"));
    let opened = workload::gate::delayed(MADE, gate.to_string_lossy().into_owned());
    let all = made();
    let after = workload::make::delayed(64, opened);
    let digests: Vec<_> = all
        .iter()
        .map(|one| workload::digest::delayed(&[one.clone(), after.clone()]))
        .chain([workload::digest::delayed(&all)])
        .collect();
    let best = workload::best::delayed(digests);
    let run = client.run("run").header(HOLD, "1").header(JOURNAL, journal.to_string_lossy());
    let computing = tokio::spawn(run.compute((best, workload::digest::delayed(all))));
    underway(&client, "run", MADE).await?;
    let mut probe = Probe::of(&short, &health).await?;
    probe.ask("/readyz").await?;
    let mut taken = next_file(short.id())?;
    limit_files(short.id(), taken)?;
    // What it has closed meanwhile it could open again.
    while next_file(short.id())? < taken {
        taken = next_file(short.id())?;
        limit_files(short.id(), taken)?;
    }
    let _other = cluster.worker("other").await?;
    fs::write(&gate, "")?;
    probe.until_ready(false, "the system refuses").await?;
    let refused = probe.refusals().await?;
    until("it was refused more", async || {
        Ok((probe.refusals().await? >= refused + 3).then_some(()))
    })
    .await?;
    limit_files(short.id(), 1_024)?;
    let (best, digest) = timeout(PATIENCE, computing).await???;
    let after = workload::bytes_of(64, MADE);
    let each = (0..MADE)
        .map(|seed| workload::digest_of(&[workload::bytes_of(LARGE, seed), after.clone()]));
    ensure!(digest == digest_of_made(), "{digest}");
    ensure!(best == each.chain([digest]).max(), "{best:?}");
    let status = client.attach("run").await?.status().await?;
    ensure!(status.finished == status.tasks && status.failed == 0, "{status:?}");
    // All but the gate write themselves down.
    assert_started_once(&journal, usize::try_from(status.tasks)? - 1)?;
    probe.until_ready(true, "ok").await?;
    // Whoever tries again without a pause is refused some hundred thousand times a second.
    let refused = probe.refusals().await?;
    ensure!(refused < 10_000, "it was refused {refused} times");
    let log = short.output()?;
    let said = count(&log, "the system refuses") + count(&log, "the system still refuses");
    ensure!((1..20).contains(&said), "said {said} times: {log}");
    Ok(())
}
